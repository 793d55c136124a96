"""Read and change the pipeline of a sentence-transformers model: pooling, normalization, length limit, prompt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lirdrec.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken", "max": "max"}  # ours → the library's


def set_pooling(model: SentenceTransformer, pooling: str) -> None:
    """Replace the model's pooling.

    Raises:
        ConfigError: the model does not pool tokens, or later layers need its own pooling.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    poolings = _poolings(model)
    if not poolings:
        raise ConfigError(f"pooling='{pooling}': this model gives one vector a text by itself; leave pooling out")
    at, old = poolings[0]
    later = list(model.children())[at + 1 :]
    if not isinstance(old.pooling_mode, str) and any(not isinstance(module, Normalize) for module in later):
        raise ConfigError(f"pooling='{pooling}': this model's last layers need its own pooling; leave pooling out")
    model[at] = Pooling(old.embedding_dimension, POOLINGS[pooling], include_prompt=old.include_prompt)


def set_normalize(model: SentenceTransformer, normalize: bool) -> None:
    """Scale vectors to length 1, or remove that step."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    if normalize and not normalizes(model):
        model.append(Normalize())
    if not normalize:
        for at in reversed([at for at, module in enumerate(model.children()) if isinstance(module, Normalize)]):
            del model[at]


def normalizes(model: SentenceTransformer) -> bool:
    """Whether the vectors have length 1."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    return isinstance(model[-1], Normalize)


def pooling_of(model: SentenceTransformer) -> str | None:
    """The pooling, several joined with "+"; None if the model gives one vector a text by itself."""
    names = {library: name for name, library in POOLINGS.items()}
    for _, module in _poolings(model):
        modes = (module.pooling_mode,) if isinstance(module.pooling_mode, str) else module.pooling_mode
        return "+".join(names.get(mode, mode) for mode in modes)
    return None


def pools_prompt(model: SentenceTransformer) -> bool:
    """Whether the tokens of the prompt are pooled (in most models they are)."""
    return all(module.include_prompt for _, module in _poolings(model))


def _poolings(model: SentenceTransformer) -> list[tuple[int, Pooling]]:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return [(at, module) for at, module in enumerate(model.children()) if isinstance(module, Pooling)]


def takes_tokens(model: SentenceTransformer) -> bool:
    """Whether the model takes the plain output of a tokenizer, which we pad ourselves; else the library does it.

    False for chat templates, processors of images and texts, and modules other than a transformer.
    """
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import PreTrainedTokenizerBase

    first = model[0]
    return (
        isinstance(first, Transformer)
        and isinstance(first.processor, PreTrainedTokenizerBase)
        and "text" in first.modality_config
        and "message" not in first.modality_config
        and not first.processing_kwargs
    )


def limit_of(model: SentenceTransformer, asked: int | None) -> int | None:
    """Tokens of a text, prompt and special tokens included; None for no limit.

    Raises:
        ConfigError: `asked` is more than the model has positions.
    """
    positions = _positions(model)
    if asked is not None:
        if positions is not None and asked > positions:
            raise ConfigError(f"--max-length is {asked:,}, and this model has positions for {positions:,} tokens")
        return asked
    limits = (model.max_seq_length, positions)
    # tokenizers without a limit have a very large one
    return min((int(limit) for limit in limits if limit is not None and limit <= 10**9), default=None)


def prompt_of(model: SentenceTransformer, asked: str | None) -> str:
    """The text put before each input: `asked`, or the model's prompt of that name; None is the model's default.

    Raises:
        ConfigError: `asked` is a single word, as names are, and the model has no prompt of that name.
    """
    named = {name: prompt for name, prompt in model.prompts.items() if prompt}
    if asked is None:
        return named.get(model.default_prompt_name or "", "")
    if named and asked in model.prompts:
        return model.prompts[asked] or ""
    if re.fullmatch(r"[\w-]+", asked):
        has = f"it has {', '.join(repr(name) for name in named)}" if named else "it has none"
        raise ConfigError(f"this model has no prompt named '{asked}' ({has}); write a prompt out, as 'query: '")
    return asked


def _positions(model: SentenceTransformer) -> int | None:
    from torch import nn

    backbone = model.transformers_model
    if backbone is None:
        return None
    tables = ("position_embeddings", "position_embedding")  # the latter in CLIP, which has one for images, too
    for name, module in backbone.named_modules():
        if name.endswith(tables) and "vision" not in name and isinstance(module, nn.Embedding):
            # RoBERTa and similar models count positions from behind the padding index
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    positions = getattr(backbone.config, "max_position_embeddings", None)
    return positions if positions and positions > 0 else None
