"""Captioner for Hugging Face models that run in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lirdrec.captions.captioner import SIDE, Answer, Captioner
from lirdrec.config import check_minimum, suggest_name
from lirdrec.data.frames import first_line
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError, DataError, TrainingError
from lirdrec.features.encoder import give_memory_back, out_of_memory
from lirdrec.features.encoders.weights import fingerprint, model_folder

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

MODEL = "meta-llama/Llama-3.2-11B-Vision-Instruct"  # the paper's
Precision = Literal["bfloat16", "float16", "float32"]


class TransformersCaptioner(Captioner):
    """A model of `AutoModelForImageTextToText` with its processor: Mllama, LLaVA, Qwen-VL, SmolVLM …

    Answers are decoded greedily. A batch that memory cannot hold is halved, and stays so.

    Args:
        prompt: what is asked of every picture.
        model: name on the Hugging Face hub, or a folder.
        revision: commit, tag or branch; default main.
        device: "auto", "cpu", "cuda", …; where `device_map` is given it decides.
        precision: of weights and activations.
        device_map: spreads a large model over several devices ("auto"); needs accelerate.
        batch_size: pictures at once.
        max_tokens: of an answer.
        side: pixels of a picture's longer side at most, before the model's own processor.

    Raises:
        ConfigError: an unknown precision, or a number out of range.
    """

    def __init__(
        self,
        prompt: str,
        model: str = MODEL,
        revision: str | None = None,
        device: str = "auto",
        precision: Precision = "bfloat16",
        device_map: str | None = None,
        batch_size: int = 8,
        max_tokens: int = 400,
        side: int = SIDE,
    ):
        if precision not in get_args(Precision):
            known = get_args(Precision)
            raise ConfigError(
                f"precision '{precision}': {suggest_name(precision, known, 'choose ' + ', '.join(known))}"
            )
        self.prompt, self.revision, self.device = prompt, revision, device
        self.source, self.model = model, Path(model).resolve().name if Path(model).is_dir() else model
        self.precision, self.device_map, self.side = precision, device_map, side
        self.batch_size, self.max_tokens = batch_size, max_tokens
        check_minimum(self, 1, "batch_size", "max_tokens", "side")

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "captioner": "transformers",
            **self._weights,
            "prompt": self.prompt,
            "precision": self.precision,
            "max_tokens": self.max_tokens,
            "side": self.side,
        }

    @property
    def place(self) -> str:
        return "this machine"

    def answers(self, pictures: Sequence[Path]) -> Iterator[tuple[int, Answer]]:
        waiting: list[tuple[int, Image]] = []
        for place, path in enumerate(pictures):
            try:
                waiting.append((place, self._open(path)))
            except DataError as error:
                yield place, Answer(None, str(error), picture=True)
            if len(waiting) >= self.batch_size:
                yield from self._batches(waiting)
                waiting = []
        yield from self._batches(waiting)

    def _batches(self, waiting: list[tuple[int, Image]]) -> Iterator[tuple[int, Answer]]:
        """The answers to opened pictures, in smaller batches where memory runs out."""
        while waiting:
            batch = waiting[: self.batch_size]
            try:
                answers = self._generate([picture for _, picture in batch])
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise TrainingError(
                        "one picture does not fit into memory: take a smaller model, --precision bfloat16,"
                        " --device-map auto, or a server (--endpoint)"
                    ) from error
                self.batch_size = len(batch) // 2
                logger.warning("out of memory with %d pictures; continuing with %d", len(batch), self.batch_size)
                give_memory_back()
                continue
            yield from zip((place for place, _ in batch), answers, strict=True)
            waiting = waiting[len(batch) :]

    @cached_property
    def _weights(self) -> dict[str, str]:
        """What the weights are: the content of a folder, or a name and its commit on the hub."""
        folder = model_folder(self.source, self.revision)
        if folder is not None and folder == Path(self.source):
            return {"fingerprint": fingerprint(folder)}
        if folder is None:
            self._from_hub("AutoConfig")
            folder = model_folder(self.source, self.revision)
        return {"model": self.model, "revision": folder.name if folder is not None else self.revision or "main"}

    @cached_property
    def _processor(self) -> Any:
        processor = self._from_hub("AutoProcessor")
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            raise ConfigError(f"{self.model}: reads no texts, so it cannot be asked for captions; choose another model")
        tokenizer.padding_side = "left"  # answers begin where the prompts end
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return processor

    @cached_property
    def _loaded(self) -> Any:
        import torch

        options: dict[str, Any] = {"dtype": getattr(torch, self.precision)}
        if self.device_map is not None:
            model = self._from_hub("AutoModelForImageTextToText", device_map=self.device_map, **options)
        else:
            device = resolve_device(self.device)
            model = self._from_hub("AutoModelForImageTextToText", **options).to(device)
        return model.eval()

    def _from_hub(self, kind: str, **options: Any) -> Any:
        try:
            import transformers
        except ImportError:
            raise ConfigError(
                'captions by a model on this machine need transformers: pip install "lirdrec[captions]"'
            ) from None
        try:
            return getattr(transformers, kind).from_pretrained(self.source, revision=self.revision, **options)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ConfigError(
                f"--model {self.source}: cannot be loaded ({first_line(error)}); name a model that takes pictures and"
                " texts, with `hf auth login` where its license must be accepted, or a folder"
            ) from error

    def _open(self, path: Path) -> Image:
        from PIL import Image

        from lirdrec.features.images import open_image

        picture = open_image(path)
        picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        return picture

    @cached_property
    def _text(self) -> str:
        """The prompt as the model knows conversations, with the mark where the picture stands."""
        if getattr(self._processor, "chat_template", None):
            said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.prompt}]}]
            text: str = self._processor.apply_chat_template(said, add_generation_prompt=True)
            return text
        mark = getattr(self._processor, "image_token", None)
        return f"{mark}\n{self.prompt}\n" if mark else self.prompt

    def _inputs(self, pictures: Sequence[Image]) -> Any:
        begin = self._processor.tokenizer.bos_token
        return self._processor(
            images=[[one] for one in pictures],
            text=[self._text] * len(pictures),
            padding=True,
            return_tensors="pt",
            add_special_tokens=not (begin and self._text.startswith(begin)),  # chat templates bring theirs
        )

    def _generate(self, pictures: Sequence[Image]) -> list[Answer]:
        import torch

        model, tokenizer = self._loaded, self._processor.tokenizer
        started = time.monotonic()
        inputs = self._inputs(pictures).to(model.device, dtype=model.dtype)  # integers keep their dtype
        with torch.inference_mode():
            made = model.generate(
                **inputs,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=self.max_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        if not model.config.is_encoder_decoder:
            made = made[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(made, skip_special_tokens=True)
        asked = inputs["attention_mask"].sum(dim=1).tolist()
        said = (made != tokenizer.pad_token_id).sum(dim=1).tolist()
        seconds = (time.monotonic() - started) / len(pictures)
        return [
            Answer(text, tokens_in=n_in, tokens_out=n_out, seconds=seconds)
            for text, n_in, n_out in zip(texts, asked, said, strict=True)
        ]
