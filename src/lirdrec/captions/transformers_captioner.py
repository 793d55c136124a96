"""A captioner that runs a Hugging Face model in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lirdrec.captions.captioner import SIDE, Answer, Captioner, open_scaled
from lirdrec.config import check_minimum, validated
from lirdrec.data.frames import first_line
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError, DataError, TrainingError
from lirdrec.features.encoder import give_memory_back, out_of_memory
from lirdrec.features.encoders.model_loading import fingerprint, model_folder
from lirdrec.option_names import option_name, option_text

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

MODEL = "meta-llama/Llama-3.2-11B-Vision-Instruct"  # the model of the paper
Precision = Literal["bfloat16", "float16", "float32"]


@dataclass(eq=False)
@validated
class TransformersCaptioner(Captioner):
    """Captioner that runs a model of `AutoModelForImageTextToText` in this process: Mllama, LLaVA, Qwen-VL, SmolVLM …

    Answers are decoded greedily. If memory runs out, the batch size is halved permanently.

    Args:
        prompt: the text that is given with every image.
        model: name on the Hugging Face hub, or path of a folder; the attribute `model` is then the folder's name.
        revision: commit, tag or branch; default main.
        device: "auto", "cpu", "cuda", …; ignored if `device_map` is given.
        precision: of weights and activations.
        device_map: distributes a large model over several devices ("auto"); needs accelerate.
        batch_size: images of a batch.
        max_tokens: maximum tokens of an answer.
        side: maximum pixels of an image's longer side, before the model's own processor.

    Raises:
        ConfigError: an unknown precision, or a number out of range. At the first use: the model cannot be loaded.
    """

    prompt: str
    model: str = MODEL
    revision: str | None = None
    device: str = "auto"
    precision: Precision = "bfloat16"
    device_map: str | None = None
    batch_size: int = 8
    max_tokens: int = 400
    side: int = SIDE

    def __post_init__(self) -> None:
        check_minimum(self, 1, "batch_size", "max_tokens", "side")
        self.source = self.model
        if Path(self.model).is_dir():
            self.model = Path(self.model).resolve().name

    @property
    def identity(self) -> Mapping[str, Any]:
        settings = {name: getattr(self, name) for name in ("prompt", "precision", "max_tokens", "side")}
        return {"captioner": "transformers", **self._weights, **settings}

    @property
    def location(self) -> str:
        return "this machine"

    def answers(self, images: Sequence[Path]) -> Iterator[tuple[int, Answer]]:
        batch: list[tuple[int, Image]] = []
        for index, path in enumerate(images):
            try:
                batch.append((index, open_scaled(path, self.side)))
            except DataError as error:
                yield index, Answer(None, str(error), is_image_problem=True)
            if len(batch) >= self.batch_size:
                yield from self._answer_batch(batch)
                batch = []
        yield from self._answer_batch(batch)

    def _answer_batch(self, images: list[tuple[int, Image]]) -> Iterator[tuple[int, Answer]]:
        """Yield the index and the answer of each opened image; if memory runs out, the batch size is halved.

        Raises a TrainingError if one image alone does not fit.
        """
        while images:
            batch = images[: self.batch_size]
            try:
                answers = self._generate([image for _, image in batch])
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise TrainingError(
                        "there is not enough memory for one image: use a smaller model,"
                        f" {option_text('precision', 'bfloat16')}, {option_text('device_map', 'auto')}, or a server"
                        f" ({option_name('endpoint')})"
                    ) from error
                self.batch_size = len(batch) // 2
                logger.warning(
                    "out of memory with a batch of %d images; continuing with batches of %d",
                    len(batch),
                    self.batch_size,
                )
                give_memory_back()
                continue
            yield from zip((index for index, _ in batch), answers, strict=True)
            images = images[len(batch) :]

    @cached_property
    def _weights(self) -> dict[str, str]:
        """The part of `identity` about the weights: a hash of their folder, or the model's name and its commit."""
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
            raise ConfigError(f"{self.model} does not accept texts, so it cannot be prompted; choose another model")
        tokenizer.padding_side = "left"  # answers begin where the prompts end
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return processor

    @cached_property
    def _loaded(self) -> Any:
        import torch

        options = {"dtype": getattr(torch, self.precision), "device_map": self.device_map}
        model = self._from_hub("AutoModelForImageTextToText", **options)
        if self.device_map is None:
            model = model.to(resolve_device(self.device))
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
                f"{option_text('model', self.source)} cannot be loaded ({first_line(error)}); give a model that accepts"
                " images and texts (run `hf auth login` first if its license must be accepted), or the path of its"
                " folder"
            ) from error

    @cached_property
    def _text(self) -> str:
        """The prompt in the model's chat format, with the placeholder of the image."""
        if getattr(self._processor, "chat_template", None):
            message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.prompt}]}
            return str(self._processor.apply_chat_template([message], add_generation_prompt=True))
        placeholder = getattr(self._processor, "image_token", None)
        return f"{placeholder}\n{self.prompt}\n" if placeholder else self.prompt

    def _generate(self, images: Sequence[Image]) -> list[Answer]:
        import torch

        model, tokenizer = self._loaded, self._processor.tokenizer
        started = time.monotonic()
        bos = tokenizer.bos_token
        inputs = self._processor(
            images=[[image] for image in images],
            text=[self._text] * len(images),
            padding=True,
            return_tensors="pt",
            add_special_tokens=not (bos and self._text.startswith(bos)),  # a chat template has its own
        ).to(model.device, dtype=model.dtype)  # integers keep their dtype
        with torch.inference_mode():
            tokens = model.generate(
                **inputs,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=self.max_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        if not model.config.is_encoder_decoder:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        n_in = inputs["attention_mask"].sum(dim=1).tolist()
        n_out = (tokens != tokenizer.pad_token_id).sum(dim=1).tolist()
        seconds = (time.monotonic() - started) / len(images)
        return [
            Answer(text, tokens_in=read, tokens_out=written, seconds=seconds)
            for text, read, written in zip(texts, n_in, n_out, strict=True)
        ]
