"""Pipeline of a sentence-transformers model, read from its modules; options can change it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lirdrec.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken", "max": "max"}  # ours → the library's


def set_pooling(model: SentenceTransformer, pooling: str) -> None:
    """Put another pooling in the place of the model's own.

    Raises:
        ConfigError: the model does not pool tokens, or what follows needs the vectors of its own pooling.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    modules = list(model.children())
    at = next((at for at, module in enumerate(modules) if isinstance(module, Pooling)), None)
    if at is None:
        raise ConfigError(f"pooling='{pooling}': this model gives one vector a text by itself; leave pooling out")
    old = modules[at]
    if not isinstance(old.pooling_mode, str) and any(not isinstance(later, Normalize) for later in modules[at + 1 :]):
        raise ConfigError(f"pooling='{pooling}': this model's last layers need its own pooling; leave pooling out")
    model[at] = Pooling(old.embedding_dimension, POOLINGS[pooling], include_prompt=old.include_prompt)


def set_normalize(model: SentenceTransformer, normalize: bool) -> None:
    """Let the vectors have length 1, or let them have the length that the layers give."""
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
    """The pooling, several joined with "+"; None where the model gives one vector a text by itself."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    ours = {library: name for name, library in POOLINGS.items()}
    for module in model.children():
        if isinstance(module, Pooling):
            modes = (module.pooling_mode,) if isinstance(module.pooling_mode, str) else module.pooling_mode
            return "+".join(ours.get(mode, mode) for mode in modes)
    return None


def pools_prompt(model: SentenceTransformer) -> bool:
    """Whether the tokens of the prompt count in the pooling (they do in most models)."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    return all(module.include_prompt for module in model.children() if isinstance(module, Pooling))


def takes_tokens(model: SentenceTransformer) -> bool:
    """Whether the model takes a tokeniser's plain output, so that we may tokenise and pad; else the library does it.

    False for chat templates, processors of pictures and texts, and modules other than a transformer.
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
        ConfigError: more is asked for than the model has positions.
    """
    positions = _positions(model)
    if asked is not None:
        if positions is not None and asked > positions:
            raise ConfigError(f"--max-length is {asked:,}, and this model has positions for {positions:,} tokens")
        return asked
    own = model.max_seq_length
    own = None if own is None or own > 10**9 else int(own)  # tokenisers without a limit have a very large one
    return min((limit for limit in (own, positions) if limit is not None), default=None)


def prompt_of(model: SentenceTransformer, asked: str | None) -> str:
    """The text that is put before each input.

    Args:
        model: whose configuration may name prompts.
        asked: a name of the configuration, or the prompt itself, or None for the model's default.

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
    for name, module in backbone.named_modules():
        tables = ("position_embeddings", "position_embedding")  # the latter in CLIP, whose pictures have one as well
        if name.endswith(tables) and "vision" not in name and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from behind the padding index
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    known = getattr(backbone.config, "max_position_embeddings", None)
    return known if known and known > 0 else None
