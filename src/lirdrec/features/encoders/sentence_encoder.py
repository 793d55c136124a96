"""Text encoder for sentence-transformers and Hugging Face models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lirdrec.errors import ConfigError
from lirdrec.features.encoder import Encoded, Encoder, Input, Kind, Prepared
from lirdrec.features.encoders.model_loading import SentenceModel, check_choice
from lirdrec.option_names import option_name
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken", "max": "max"}  # ours → the library's


class SentenceEncoder(SentenceModel, Encoder):
    """Text encoder by a language model.

    The model's own configuration gives the pooling (how the vectors of tokens become one), the prompt, the length limit
    and the normalization that the arguments leave open.

    The vectors are those of `SentenceTransformer.encode`, but a shard is tokenized once, batches are formed by the
    number of tokens, and truncated texts are counted. Padding is always put after the tokens, so that positions do not
    depend on the other texts of a batch.

    Args:
        model: a folder, or a name on the Hugging Face hub. Its `modules.json` is used if there is one; otherwise an
            encoder model gets mean pooling, and a decoder model (`…ForCausalLM`) pooling by the last token.
        pooling: "mean", "cls", "last" or "max" instead of the model's own.
        prompt: text to put before each input: the name of a prompt in the model's configuration, or the prompt itself,
            such as "passage: " or "Instruct: Find similar products\\nQuery: ". None is the model's default prompt, ""
            is no prompt.
        max_length: maximum number of tokens of a text, prompt included; by default the model's own limit.
        device, precision, revision: see `SentenceModel`.
        normalize: whether vectors are scaled to length 1; by default as the model does.

    Raises:
        ConfigError: an argument is out of range. At the first use: there is no such model, or it does not allow an
            argument.
    """

    kind: ClassVar[Kind] = "text"
    shard_rows: ClassVar[int] = 512

    def __init__(
        self,
        model: str | Path,
        *,
        pooling: str | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        device: str = "auto",
        precision: str = "float32",
        revision: str | None = None,
        normalize: bool | None = None,
    ):
        if pooling is not None:
            check_choice("pooling", pooling, POOLINGS)
        super().__init__(model, device, precision, revision)
        if max_length is not None and max_length < 1:
            raise ConfigError(f"{option_name('max_length')} is {max_length}; it must be 1 or more")
        self.pooling, self.prompt, self.max_length, self.normalize = pooling, prompt, max_length, normalize

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The settings that determine the vectors, and the model's name and commit, or the hash of its folder."""
        return {
            "encoder": "sentence-transformers",
            **self.origin,
            "pooling": pooling_of(self.outline),
            "prompt": self._prompt,
            "max_length": self._limit,
            "normalise": normalizes(self.outline),
            "precision": self.precision,
        }

    def prepare(self, inputs: Sequence[Input]) -> list[Prepared]:
        """Return the token ids of the texts, prompt included; `cut` is set for texts that are truncated to the limit.

        If the library tokenizes (see `_takes_tokens`), the texts are returned unchanged.
        """
        texts = [str(value) for value in inputs]
        if not texts:
            return []
        if not self._takes_tokens:
            return [Prepared(text, len(text)) for text in texts]
        texts = [self._prompt + text for text in texts]
        tokens, limit = self._tokenize(texts, None), self._limit
        cut = [index for index, ids in enumerate(tokens["input_ids"]) if limit is not None and len(ids) > limit]
        if cut:
            shorter = self._tokenize([texts[index] for index in cut], limit)
            for name, lists in tokens.items():
                for index, ids in zip(cut, shorter[name], strict=True):
                    lists[index] = ids
        was_cut = set(cut)
        prepared = []
        for index, ids in enumerate(tokens["input_ids"]):
            arrays = {name: np.asarray(lists[index], dtype=np.int32) for name, lists in tokens.items()}
            prepared.append(Prepared(arrays, len(ids), index in was_cut))
        return prepared

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors `(B, d)` of B texts; texts without a token or a finite vector are listed in `problems`."""
        import torch

        model, vectors = self._model, np.zeros((len(batch), self.dims), dtype=np.float32)
        empty = [index for index, prepared in enumerate(batch) if prepared.length == 0]
        rows = [index for index, prepared in enumerate(batch) if prepared.length > 0]
        if rows:
            values = [batch[index].value for index in rows]
            prompt = self._prompt or None
            features = self._padded(values) if self._takes_tokens else model.preprocess(values, prompt=prompt)
            for name, value in features.items():
                features[name] = value.to(model.device) if isinstance(value, torch.Tensor) else value
            with torch.inference_mode():
                output = model(features)["sentence_embedding"]
            vectors[rows] = output[:, : self.dims].float().cpu().numpy()  # the model may be set to its first columns
        infinite = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
        problems = dict.fromkeys(infinite, f"the vector is not finite in {self.precision}; try precision 'float32'")
        problems |= dict.fromkeys(empty, "the model's tokenizer finds nothing in this text")
        vectors[list(problems)] = 0
        return Encoded(vectors, problems)

    @cached_property
    def _takes_tokens(self) -> bool:
        """Whether the model takes the plain output of a tokenizer, so that this class tokenizes and pads the texts.

        Otherwise the library tokenizes and pads them: for chat templates, processors of images and texts, and modules
        other than a transformer.
        """
        from sentence_transformers.sentence_transformer.modules import Transformer
        from transformers import PreTrainedTokenizerBase

        first = self.outline[0]
        return (
            isinstance(first, Transformer)
            and isinstance(first.processor, PreTrainedTokenizerBase)
            and "text" in first.modality_config
            and "message" not in first.modality_config
            and not first.processing_kwargs
        )

    @cached_property
    def _prompt(self) -> str:
        """The text that is put before each text; raises a ConfigError if it looks like a name that the model lacks."""
        asked, prompts = self.prompt, self.outline.prompts
        named = {name: prompt for name, prompt in prompts.items() if prompt}
        if asked is None:
            return named.get(self.outline.default_prompt_name or "", "")
        if named and asked in prompts:
            return prompts[asked] or ""
        if re.fullmatch(r"[\w-]+", asked):  # a single word, as names are
            has = f"it has {', '.join(repr(name) for name in named)}" if named else "it has none"
            raise ConfigError(
                f"this model has no prompt named '{asked}' ({has}); give the text of the prompt, such as 'query: '"
            )
        return asked

    @cached_property
    def _limit(self) -> int | None:
        limit = limit_of(self.outline, self.max_length)
        if limit is None or not self._takes_tokens:
            return limit
        if self._prompt and self._prompt_tokens + 1 >= limit:
            raise ConfigError(
                f"the prompt takes {self._prompt_tokens} of the {limit} tokens that a text may have; shorten the"
                f" prompt ({option_name('prompt')}), or allow more tokens ({option_name('max_length')})"
            )
        special = len(self._tokenize([""], None)["input_ids"][0])
        if special >= limit:
            raise ConfigError(
                f"{option_name('max_length')} is {limit}, but this model adds {pluralize(special, 'token')} to each"
                f" text; give {special + 1} or more"
            )
        return limit

    @cached_property
    def _prompt_tokens(self) -> int:
        """Number of tokens of the prompt, with special tokens in front of it, without the special token at its end."""
        ids = self._tokenize([self._prompt], None)["input_ids"][0]
        return len(ids) - (len(ids) > 0 and ids[-1] in self.outline.tokenizer.all_special_ids)

    def _load(self, device: str | None, revision: str | None) -> SentenceTransformer:
        model = super()._load(device, revision)
        if self.pooling is not None:
            set_pooling(model, self.pooling)
        if self.normalize is not None:
            set_normalize(model, self.normalize)
        limit = limit_of(model, self.max_length)
        if limit is not None:
            model.max_seq_length = limit
        return model.eval()  # also the layers that were added

    def _tokenize(self, texts: list[str], limit: int | None) -> dict[str, list[list[int]]]:
        tokens = self.outline.tokenizer(
            texts,
            truncation=limit is not None,
            max_length=limit,
            return_attention_mask=False,
            verbose=False,  # no warning about texts above the limit: they are counted
        )
        return {name: lists for name, lists in tokens.items() if name in ("input_ids", "token_type_ids")}

    def _padded(self, tokens: list[dict[str, np.ndarray]]) -> dict[str, Any]:
        """Return a batch as tensors `(B, longest)`, padded after the tokens, with the attention mask."""
        import torch

        tokenizer = self.outline.tokenizer
        fill = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
        lengths = np.array([len(lists["input_ids"]) for lists in tokens])
        mask = np.arange(lengths.max()) < lengths[:, None]
        features: dict[str, Any] = {"attention_mask": torch.from_numpy(mask.astype(np.int64)), "modality": "text"}
        for name in tokens[0]:
            matrix = np.full(mask.shape, fill[name], dtype=np.int64)
            matrix[mask] = np.concatenate([lists[name] for lists in tokens])
            features[name] = torch.from_numpy(matrix)
        if self._prompt and not all(module.include_prompt for _, module in _poolings(self.outline)):
            features["prompt_length"] = self._prompt_tokens
        return features


def set_pooling(model: SentenceTransformer, pooling: str) -> None:
    """Replace the pooling of a model.

    Raises a ConfigError if the model does not pool tokens, or its later layers need the model's own pooling.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    poolings = _poolings(model)
    if not poolings:
        raise ConfigError(
            f"pooling='{pooling}': this model has its own way to make one vector of a text; leave pooling out"
        )
    index, old = poolings[0]
    later = list(model.children())[index + 1 :]
    if not isinstance(old.pooling_mode, str) and any(not isinstance(module, Normalize) for module in later):
        raise ConfigError(f"pooling='{pooling}': this model's last layers need its own pooling; leave pooling out")
    model[index] = Pooling(old.embedding_dimension, POOLINGS[pooling], include_prompt=old.include_prompt)


def set_normalize(model: SentenceTransformer, normalize: bool) -> None:
    """Make a model scale its vectors to length 1, or not: add the layer that does so, or remove it."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    if normalize and not normalizes(model):
        model.append(Normalize())
    if not normalize:
        for index in reversed(
            [index for index, module in enumerate(model.children()) if isinstance(module, Normalize)]
        ):
            del model[index]


def normalizes(model: SentenceTransformer) -> bool:
    """Return whether the last layer of a model scales its vectors to length 1."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    return isinstance(model[-1], Normalize)


def pooling_of(model: SentenceTransformer) -> str | None:
    """Return the names of the model's poolings, joined by "+"; None if the model has no pooling layer."""
    names = {library: name for name, library in POOLINGS.items()}
    for _, module in _poolings(model):
        modes = (module.pooling_mode,) if isinstance(module.pooling_mode, str) else module.pooling_mode
        return "+".join(names.get(mode, mode) for mode in modes)
    return None


def _poolings(model: SentenceTransformer) -> list[tuple[int, Pooling]]:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return [(index, module) for index, module in enumerate(model.children()) if isinstance(module, Pooling)]


def limit_of(model: SentenceTransformer, asked: int | None) -> int | None:
    """Return the maximum number of tokens of a text, prompt and special tokens included; None if there is no limit.

    Raises a ConfigError if `asked` is more than the number of positions that the model has.
    """
    positions = _positions(model)
    if asked is not None:
        if positions is not None and asked > positions:
            raise ConfigError(
                f"{option_name('max_length')} is {asked:,}, but this model has positions for only {positions:,} tokens"
            )
        return asked
    limits = (model.max_seq_length, positions)
    # tokenizers without a limit have a very large one
    return min((int(limit) for limit in limits if limit is not None and limit <= 10**9), default=None)


def _positions(model: SentenceTransformer) -> int | None:
    from torch import nn

    backbone = model.transformers_model
    if backbone is None:
        return None
    tables = ("position_embeddings", "position_embedding")  # the second one in CLIP, which has one for images, too
    for name, module in backbone.named_modules():
        if name.endswith(tables) and "vision" not in name and isinstance(module, nn.Embedding):
            # RoBERTa and similar models start counting positions after the padding index
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    positions = getattr(backbone.config, "max_position_embeddings", None)
    return positions if positions and positions > 0 else None
