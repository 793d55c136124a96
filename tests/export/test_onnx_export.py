"""onnxruntime gives a new item the vectors that `add_items` gives it."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.export.export import export
from lirdrec.models.base import Features
from lirdrec.models.vbpr import VBPR, VBPRConfig
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.new_item_encoder import NewItemEncoder
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_error
from .conftest import compare
from .test_vectors import run_readme

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

N = 9
ATOL = 1e-5


@pytest.fixture(scope="module")
def features(data) -> dict[str, np.ndarray]:
    """New items beside those that are there: some lack a modality, one is an exact copy of a known item."""
    draw = np.random.default_rng(5)
    near = draw.integers(0, data.n_items, N)
    found = {}
    for name, matrix in data.features.items():
        found[name] = (matrix.values[near] + draw.normal(size=(N, matrix.dims))).astype(np.float32)
    found["image"][[1, 4]] = 0
    found["text"][2] = 0
    for name, matrix in data.features.items():
        found[name][5] = matrix.values[data.features["image"].present.argmax()]
    return found


def alone(recommender, features: dict[str, np.ndarray], row: int) -> np.ndarray:
    """What `add_items` gives to one item, added to the recommender as it is."""
    before = recommender.scorer, recommender.items, recommender.item_table, list(recommender.features.added)
    recommender.add_items(10_000 + row, {name: matrix[row : row + 1] for name, matrix in features.items()})
    vector = recommender.scorer.item_vectors[-1].numpy()
    recommender.scorer, recommender.items, recommender.item_table, recommender.features.added = before
    return vector


OPTIONS = [
    {},
    {"n_item_layers": 2, "n_layers": 0},
    {"n_item_layers": 0},
    {"n_neighbors": 1},
    {"n_neighbors": 100},  # more than there are
    {"n_neighbors": 55},  # more than have an image
    {"dct": None},
    {"loss": "softmax", "scoring": "cosine", "temperature": 0.2},
    {"n_layers": 2, "layer_weights": (0.5, 1.0, 0.25)},
    {"feature_columns": 3},
    {"feature_size": 5},
    {"feature_size": {"image": 4}, "whiten": True, "modalities": ("image",)},
    {"modalities": ("text",)},
    {"modality_weights": {"image": 0.0, "text": 1.0}},
    {"modality_weights": {"image": 3.0, "text": 0.5}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_vectors_are_those_of_add_items(made, features, tmp_path, options, monkeypatch):
    recommender = made(**options)
    chosen = {name: features[name] for name in options.get("modalities", features)}
    rows = np.flatnonzero(np.any([matrix.any(axis=1) for matrix in chosen.values()], axis=0))
    asked = {name: matrix[rows] for name, matrix in chosen.items()}
    folder = export(recommender, "onnx", tmp_path / "out")
    outputs = run_readme(folder, "import onnxruntime", monkeypatch, features=asked)
    expected = np.stack([alone(recommender, features, row) for row in rows])
    np.testing.assert_allclose(outputs["vector"], expected, atol=ATOL, rtol=0)


ENCODERS = [
    ({}, NewItemEncoder(0.5, 5, 0.1)),
    ({"modalities": ("image",)}, NewItemEncoder(0.0, 50, 0.1)),  # more neighbors than have an image
    ({"loss": "softmax", "scoring": "cosine", "temperature": 0.2}, NewItemEncoder(0.3, 100, -0.2)),
    ({"n_item_layers": 0, "layer_weights": (0.5, 1.0, 0.25)}, NewItemEncoder(0.7, 3, 0.0)),
    ({"modality_weights": {"image": 0.0, "text": 1.0}}, NewItemEncoder(0.5, 7, 0.1)),
    ({}, NewItemEncoder(1.0, 0, 0.25)),
    ({}, NewItemEncoder(0.3, 5, 0.1, similarity=0.35, scale=2.5)),
    ({"content_columns": 3, "modalities": ("text",)}, NewItemEncoder(1.0, 0, 0.1, similarity=0.35)),
    ({"content_columns": 0}, NewItemEncoder(0.3, 5, 0.1)),
    ({"feature_size": 4, "whiten": True}, NewItemEncoder(0.3, 6, 0.1, similarity=0.5)),
]


@pytest.mark.parametrize("added", [0, 2])
@pytest.mark.parametrize(("options", "encoder"), ENCODERS, ids=str)
def test_vectors_are_mixed_as_add_items_mixes_them(made, features, tmp_path, options, encoder, added):
    recommender = made(**options)
    recommender.info["new_items"] = encoder.to_info()
    if added:
        recommender.add_items([500, 501], {name: matrix[6:8] for name, matrix in features.items()})
    chosen = {name: features[name] for name in options.get("modalities", features)}
    rows = np.flatnonzero(np.any([matrix.any(axis=1) for matrix in chosen.values()], axis=0))
    folder = export(recommender, "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(folder / "item_vector.onnx")
    (vectors,) = session.run(["vector"], {name: matrix[rows] for name, matrix in chosen.items()})
    expected = np.stack([alone(recommender, features, row) for row in rows])
    np.testing.assert_allclose(vectors, expected, atol=ATOL, rtol=0)
    assert float(session.get_modelmeta().custom_metadata_map["offset"]) == encoder.offset


def test_a_new_row_with_its_offset_has_the_scores_of_lirdrec(recommender, features, tmp_path, monkeypatch):
    recommender.info["new_items"] = NewItemEncoder(0.5, 5, 0.125).to_info()
    one = {name: matrix[:1] for name, matrix in features.items()}
    folder = export(recommender, "onnx", tmp_path / "encoder")
    export(recommender, "npy", tmp_path / "vectors")
    outputs = run_readme(folder, "import onnxruntime", monkeypatch, features=one)
    row = run_readme(folder, "import numpy", monkeypatch, **outputs)["row"]
    scores = np.load(tmp_path / "vectors" / "users.npy") @ row[0]
    recommender.add_items(10_000, one)
    expected = recommender.score([(user, 10_000) for user in recommender.users.series])["score"].to_numpy()
    np.testing.assert_allclose(scores, expected, atol=ATOL, rtol=0)


def test_branches_are_those_of_the_model(recommender, features, tmp_path):
    import torch

    folder = export(recommender, "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(folder / "item_branches.onnx")
    model = recommender.model()
    given = [torch.from_numpy(features[m]) for m in model.modalities]
    with torch.no_grad():
        expected = model.item_branches([Features(x, x.any(1)) for x in given]).numpy()
    (branches,) = session.run(["branches"], features)
    np.testing.assert_allclose(branches, expected, atol=ATOL, rtol=0)
    whole = onnxruntime.InferenceSession(folder / "item_vector.onnx").run(["branches"], features)[0]
    np.testing.assert_array_equal(whole, branches)


def test_items_that_were_added_before_are_neighbors(recommender, features, tmp_path):
    recommender.add_items([500, 501], {name: matrix[6:8] for name, matrix in features.items()})
    recommender.add_items([502], {"text": features["text"][8:]})
    copies = {name: matrix[6:] * 2 for name, matrix in features.items()}  # they lie nearest to those
    folder = export(recommender, "onnx", tmp_path / "out")
    (vectors,) = onnxruntime.InferenceSession(folder / "item_vector.onnx").run(["vector"], copies)
    for row in range(3):
        np.testing.assert_allclose(vectors[row], alone(recommender, copies, row), atol=ATOL, rtol=0)


def test_a_run_from_disk_gives_the_same_bytes(recommender, tmp_path):
    first = export(recommender, "onnx", tmp_path / "first")
    second = export(Recommender.load(recommender.save(tmp_path / "run")), "onnx", tmp_path / "second")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_what_has_no_encoder_is_reported(made, data, tmp_path, recommender):
    other = Recommender.from_training(VBPR(make_model_inputs(data, "cpu", seed=3), VBPRConfig(embedding_size=8)), data)
    slim = Recommender.load(recommender.slim(tmp_path / "slim"))
    for who, fact in ((other, "vbpr"), (made(dct="matrix"), 'dct="matrix"'), (slim, "slim")):
        with assert_error(CapabilityError, mentions=[fact]):
            export(who, "onnx", tmp_path / "out")
    assert os.listdir(tmp_path) == ["slim"]


def test_onnx_that_is_missing_is_named(recommender, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with assert_error(ConfigError, mentions=['pip install "lirdrec[onnx]"']):
        export(recommender, "onnx", tmp_path / "out")


def test_a_vector_put_into_an_index_is_found_where_lirdrec_ranks_the_item(recommender, features, tmp_path):
    faiss = pytest.importorskip("faiss")
    one = {name: matrix[:1] for name, matrix in features.items()}
    export(recommender, "onnx", tmp_path / "encoder")
    export(recommender, "faiss", tmp_path / "vectors")
    index = faiss.read_index(str(tmp_path / "vectors" / "items.faiss"))
    index.add(onnxruntime.InferenceSession(tmp_path / "encoder" / "item_vector.onnx").run(["vector"], one)[0])
    _, rows = index.search(np.load(tmp_path / "vectors" / "users.npy"), 40)
    recommender.add_items(10_000, one)
    ids = recommender.items.ids
    compare({user: (ids[rows[u]].tolist(), None) for u, user in enumerate(recommender.users.ids)}, recommender, 40)
    assert (rows == recommender.n_items - 1).any()  # someone gets it
