"""A table of texts as catalogs really hold them: nothing crashes, and each item without a vector is accounted for."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.features.pipeline import FeatureJob, make_features
from lirdrec.features.registry import text_encoder
from lirdrec.features.sources import TextSource

SOUND = ["a red tent for two", "a blue tent for three", "red lamp", "blue lamp", "a lamp for a tent"]
EMPTY = ["", "   ", "\t\n", None]
BROKEN = [
    *("\x00", "\x00\x01\x02", "tent\x00lamp", "\u200b\u200b", "\ufeff", "\u202etent", "\U0010ffff"),
    *("!!!", "....", "-", "1", "a", "🙂🙂🙂", "漢字かな", "é" * 3, "e\u0301" * 3),
    *(
        "x" * 200_000,
        "tent " * 100_000,
        "<b>tent</b> &amp; lamp",
        "NaN",
        "null",
        "{title}",
        "%s %d",
        "\\u0000",
        "'; drop table",
    ),
]
PLAIN = {"hashed", "minilm"}


@pytest.mark.parametrize("model", sorted(PLAIN))
def test_every_text_has_a_vector_or_is_named(model, tmp_path):
    texts = [*SOUND, *BROKEN, *EMPTY]
    ids = [f"i{place}" for place in range(len(texts))]
    folder = tmp_path / "data"
    always = (ids, np.ones((len(ids), 2), dtype=np.float32))
    pairs = pl.DataFrame({"user": ["u"] * len(ids), "item": ids})
    table = pl.DataFrame({"item": ids, "title": texts})
    Dataset.from_frames(pairs, items=table, features={"always": always}, split="none").save(folder)

    job = FeatureJob("text", text_encoder(model), TextSource(folder, "{title}"))
    (made,) = make_features(folder, [job], progress=False)

    matrix = Dataset.load(folder, verify=True).features["text"]
    norms = np.linalg.norm(matrix.values, axis=1)
    assert np.allclose(norms[matrix.present], 1, atol=1e-5) and not norms[~matrix.present].any()
    assert matrix.present[: len(SOUND)].all()
    assert made.missing == len(EMPTY) and not matrix.present[-len(EMPTY) :].any()
    without = {one for one, there in zip(ids[: -len(EMPTY)], matrix.present, strict=False) if not there}
    listed = folder / "features" / "text.problems.csv"
    named = set(pl.read_csv(listed)["item"]) if without else set()
    assert named == without and made.n_problems == len(without)
    long = ids[texts.index("tent " * 100_000)]
    assert bool(matrix.present[ids.index(long)])
    assert made.cut == (1 if model == "minilm" else 0)  # the word without an end is one unknown token
