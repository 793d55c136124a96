from __future__ import annotations

import logging

import numpy as np
import polars as pl
import pytest

from lirdrec.errors import ConfigError, DataError
from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoders import tfidf
from lirdrec.features.encoders.tfidf import TfidfEncoder

from ..helpers import assert_error, assert_mentions

TOPICS = {
    "fishing": "fishing rod reel lure bait hook line trout bass tackle",
    "cycling": "bicycle pedal saddle chain brake helmet wheel tyre spoke derailleur",
    "camping": "tent sleeping bag stove lantern hammock mattress campfire backpack tarp",
}


def planted(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of five words of one topic each."""
    generator = np.random.default_rng(seed)
    topics = generator.integers(0, 3, n)
    words = [topic.split() for topic in TOPICS.values()]
    return [" ".join(generator.choice(words[topic], 5)) for topic in topics], topics


def vectors(encoder: TfidfEncoder, texts: list[str], batch_size: int = 64) -> np.ndarray:
    return encode_rows(encoder, texts, batch_size).vectors


def test_texts_of_a_topic_lie_together_new_ones_too():
    texts, topics = planted(300)
    encoder = TfidfEncoder(dims=16)
    encoder.fit(texts)
    known = vectors(encoder, texts)
    assert np.allclose(np.linalg.norm(known, axis=1), 1, atol=1e-6)
    new, their_topics = planted(100, seed=1)
    nearest = (vectors(encoder, new) @ known.T).argmax(axis=1)
    assert (topics[nearest] == their_topics).mean() > 0.97
    # parts of words: forms that no text of the sample has
    forms = vectors(encoder, ["bicyclist pedalling", "fisherman's hooks and lines"])
    assert topics[(forms @ known.T).argmax(axis=1)].tolist() == [1, 0]


def test_the_vectors_are_those_of_scikit_learn_alone():
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    texts, _ = planted(200)
    encoder = TfidfEncoder(dims=8)
    encoder.fit(texts)
    plain = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), sublinear_tf=True, min_df=2).fit_transform(texts)
    expected = normalize(TruncatedSVD(8, random_state=3, n_iter=20).fit_transform(plain))
    ours = vectors(encoder, texts)
    # the same angles; a projection is known but for its signs
    assert np.abs(ours @ ours.T - expected @ expected.T).max() < 0.02


def test_the_same_bits_again_and_from_the_state_in_any_batches():
    texts, _ = planted(150)
    first, second = TfidfEncoder(dims=12), TfidfEncoder(dims=12)
    first.fit(texts)
    second.fit(texts)
    whole = vectors(first, texts)
    assert vectors(second, texts).tobytes() == whole.tobytes()
    third = TfidfEncoder(dims=12)
    third.load_state({name: array.copy() for name, array in first.state().items()})
    assert vectors(third, texts, batch_size=7).tobytes() == whole.tobytes()
    assert np.stack([vectors(third, [text])[0] for text in texts[:20]]).tobytes() == whole[:20].tobytes()
    assert {name: array.dtype for name, array in first.state().items()} == {
        "columns": np.int32,
        "idf": np.float32,
        "components": np.float32,
    }
    third.fit(texts[:50])  # a new fit takes the place of the old one
    assert np.abs(vectors(third, texts)[:, :5] - whole[:, :5]).max() > 0.01


def test_more_columns_than_the_texts_have_directions(caplog):
    encoder = TfidfEncoder(dims=256)
    assert encoder.dims == 256
    with caplog.at_level(logging.WARNING):
        encoder.fit(["red tent", "red tent", "blue boots", "red tent blue boots"])
    assert 2 <= encoder.dims <= 3
    (warned,) = caplog.messages
    assert_mentions(warned, ["dims", encoder.dims, 256])
    rows = vectors(encoder, ["red tent", "blue boots"])
    assert rows.shape == (2, encoder.dims) and rows[0] @ rows[1] < 0.5


def test_texts_that_share_nothing_with_the_sample_are_problems():
    encoder = TfidfEncoder(dims=4, n_features=2**20)
    encoder.fit(planted(50)[0])
    rows = encode_rows(encoder, ["tent", "中文 字", "", " \n"], 4)
    assert list(rows.problems) == [1, 2, 3] and all(rows.problems.values())
    assert (rows.vectors[1:] == 0).all() and rows.vectors[0].any()
    with assert_error(DataError):
        TfidfEncoder().fit(["", "  "])


def test_any_script():
    encoder = TfidfEncoder(dims=4)
    texts = ["красная палатка", "синяя палатка", "красные ботинки", "синие ботинки"] * 3
    encoder.fit(texts)
    rows = vectors(encoder, ["КРАСНАЯ ПАЛАТКА", *texts[:4]])
    assert np.abs(rows[0] - rows[1]).max() < 1e-6
    assert (rows[0] @ rows[1:].T).argmin() == 3


def test_the_sample_and_the_columns_are_bounded(monkeypatch):
    texts, _ = planted(400)
    monkeypatch.setattr(tfidf, "FIT_TEXTS", 100)
    monkeypatch.setattr(tfidf, "COLUMNS", 50)
    monkeypatch.setattr(tfidf, "BLOCK", 32)
    encoder = TfidfEncoder(dims=10)
    seen = []
    hashing = encoder._hashed
    monkeypatch.setattr(encoder, "_hashed", lambda some: seen.append(some) or hashing(some))
    encoder.fit(texts)
    assert [len(some) for some in seen] == [100, 100]  # frequencies, then counts: of the same texts
    assert seen[0] == seen[1]
    assert encoder.state()["components"].shape == (10, 50)


@pytest.mark.parametrize(
    "options", [{"dims": 0}, {"n_features": 0}, {"characters": (3, 2)}, {"characters": (0, 2)}, {"seed": -1}]
)
def test_options_out_of_range(options):
    ((name, value),) = options.items()
    with assert_error(ConfigError, mentions=[name, value]):
        TfidfEncoder(**options)


def test_a_state_of_something_else_is_refused():
    encoder = TfidfEncoder(dims=4)
    encoder.fit(planted(50)[0])
    state = encoder.state()
    for wrong, facts in (
        ({}, ["'columns'"]),
        ({**state, "idf": state["idf"][:-1]}, []),
        ({**state, "columns": state["columns"] + 2**18}, []),
    ):
        with assert_error(DataError, mentions=facts):
            TfidfEncoder(dims=4).load_state(wrong)


@pytest.mark.slow
def test_neighbors_of_sports_are_mostly_sensible(real_data):
    """The figure of the docstring: how many of ten neighbors are those of all-MiniLM-L6-v2."""
    table = pl.read_csv(real_data / "sports" / "items.tsv", separator="\t", quote_char=None)
    texts = table["text"].fill_null("").to_list()
    published = np.load(real_data / "sports" / "text_feat.npy")
    encoder = TfidfEncoder()
    encoder.fit(texts)
    asked = np.random.default_rng(0).choice(len(texts), 2000, replace=False)

    def neighbors(matrix: np.ndarray) -> np.ndarray:
        scores = matrix[asked] @ matrix.T
        scores[np.arange(len(asked)), asked] = -np.inf
        return np.argpartition(-scores, 10, axis=1)[:, :10]

    ours, theirs = neighbors(vectors(encoder, texts, 1024)), neighbors(published)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ours, theirs, strict=True)])
    assert 0.37 < shared < 0.41
