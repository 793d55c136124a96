"""Tiny language models with a word tokenizer, and what the library itself computes with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoders.sentence_encoder import SentenceEncoder

from . import tiny_models

WORDS = ["red", "blue", "boots", "tent", "lamp", "bike", "for", "two", "persons", "with", "and", "a", "the", "in", "of"]
WORDS += ["steel", "light", "rope"]
TEXTS = [
    "red boots",
    "a tent for two persons with light steel rope in the red bike lamp",
    "lamp",
    "bike bike bike",
    "the steel rope of a blue tent",
    "blue boots for the bike and a lamp for the tent and the rope",
]


def tokenizer(kind: str, padding_side: str = "right"):
    """A word tokenizer with BERT's special tokens, or with the beginning and end of e5-mistral."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    first, last = ("[CLS]", "[SEP]") if kind == "bert" else ("<s>", "</s>")
    names = ["[PAD]", "[UNK]", first, last, "Instruct", "Query", ":", "find", *WORDS]
    vocabulary = {name: at for at, name in enumerate(names)}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])]
    )
    special = {"cls_token": first, "sep_token": last} if kind == "bert" else {"bos_token": first, "eos_token": last}
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token="[UNK]",
        pad_token="[PAD]",
        padding_side=padding_side,
        model_max_length=64,
        **special,
    )


def bert(folder: Path, **options) -> Path:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        **options,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer("bert").save_pretrained(folder)
    return folder


def mistral(folder: Path, padding_side: str = "right") -> Path:
    return tiny_models.mistral(folder, tokenizer("mistral", padding_side))


def modules(folder: Path, *names: str, pooling: str = "mean", prompts: dict | None = None, **settings) -> Path:
    """The configuration of sentence-transformers beside a bare model."""
    listed = []
    for at, name in enumerate(names):
        path = "" if at == 0 else f"{at}_{name}"
        listed.append({"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"})
        (folder / path).mkdir(exist_ok=True)
        if name == "Pooling":
            hidden = json.loads((folder / "config.json").read_text())["hidden_size"]
            modes = {
                f"pooling_mode_{one}": one.startswith(pooling) for one in ("cls_token", "mean_tokens", "lasttoken")
            }
            settings_ = {
                "word_embedding_dimension": hidden,
                **modes,
                "include_prompt": settings.get("include_prompt", True),
            }
            (folder / path / "config.json").write_text(json.dumps(settings_))
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}))
    return folder


def alone(encoder: SentenceEncoder, texts: list[str]) -> np.ndarray:
    return np.stack([encode_rows(encoder, [text], 1).vectors[0] for text in texts])


def library(folder: Path, texts: list[str], **options) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, **options)


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
