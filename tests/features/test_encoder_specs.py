"""Encoders by name, options that fit them, models known by their content, and encoders of finished matrices."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoder_specs import EncoderSpec, image_encoder, load_encoder, text_encoder
from lirdrec.features.encoders.model_loading import fingerprint, model_folder
from lirdrec.features.job_parsing import named, parse_jobs
from lirdrec.features.pipeline import FeatureJob, make_features
from lirdrec.features.sources import TextSource

from ..helpers import assert_error

TITLES = ["a red chair", "a blue chair", "the old lamp", "a new lamp of glass", "garden table", "table lamp, red"]
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


@pytest.fixture
def folder(tmp_path) -> Path:
    table = pl.DataFrame({"item": range(6), "title": TITLES, "caption": [f"shows {title}" for title in TITLES]})
    pairs = pl.DataFrame({"user": [0] * 6, "item": range(6)})
    return Dataset.from_frames(pairs, items=table, split="none").save(tmp_path / "data")


def test_the_encoder_of_a_matrix_encodes_new_items_as_it_did_the_old(folder, tmp_path):
    jobs = parse_jobs(folder, [("text", "hashed"), ("caption", "hashed")])
    assert [job.name for job in jobs] == ["text", "caption"]
    make_features(folder, jobs, progress=False)
    moved = shutil.move(folder, tmp_path / "elsewhere")
    for name, texts in (("text", TITLES), ("caption", [f"shows {title}" for title in TITLES])):
        vectors = encode_rows(load_encoder(moved, name), texts, 2).vectors
        np.testing.assert_allclose(vectors, np.load(moved / f"features/{name}.npy"), atol=1e-6)
    other = encode_rows(load_encoder(moved, "caption"), TITLES, 2).vectors
    assert other.shape != vectors.shape or not np.allclose(other, np.load(moved / "features/text.npy"))


def test_an_encoder_that_is_not_the_one_that_made_the_matrix_is_refused(folder, tmp_path):
    make_features(folder, parse_jobs(folder, [("text", "hashed")]), progress=False)
    copy = Dataset.load(folder).save(tmp_path / "copy")  # a copy keeps the vectors, not what was learned
    with assert_error(DataError, mentions=[copy, "'text'"]):
        load_encoder(copy, "text")
    with assert_error(DataError, mentions=[folder, "'image'"]):
        load_encoder(folder, "image")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["info"]["encoders"]["text"]["identity"]["fitted"] = "0"
    path.write_text(json.dumps(manifest))
    with assert_error(ConfigError, mentions=[folder, "'text'", "hashed"]):
        load_encoder(folder, "text")


@pytest.mark.parametrize(
    ("make", "name", "options", "facts"),
    [
        (text_encoder, "hashd", {}, ["'hashd'", "'hashed'"]),
        (text_encoder, "MiniLM", {}, ["'MiniLM'", "'minilm'"]),
        (image_encoder, "discriptor", {}, ["'discriptor'", "'descriptor'"]),
        (text_encoder, "", {}, ["hashed, minilm"]),
        (text_encoder, "hashed", {"prompt": "query: "}, ["'hashed'", "prompt", "dims"]),
        (image_encoder, "descriptor", {"max_length": 3}, ["'descriptor'", "max", "length"]),
        (text_encoder, "endpoint:http://localhost", {}, ["endpoint:http://localhost", "endpoint:URL#MODEL"]),
        (image_encoder, "endpoint:http://localhost#m", {}, ["lirdrec caption"]),
    ],
)
def test_what_cannot_be_chosen(make, name, options, facts):
    with assert_error(ConfigError, mentions=facts):
        make(name, **options)


def test_a_server_is_named_with_its_model():
    encoder = text_encoder("endpoint:http://localhost:8000#some/model", prompt="query: ", dims=7)
    assert encoder.identity["model"] == "some/model" and encoder.identity["prompt"] == "query: " and encoder.dims == 7


def test_what_is_noted_makes_the_same_again_wherever_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    choice = EncoderSpec("text", "model", {"prompt": "query: ", "device": "cpu", "pooling": None})
    assert choice.origin == {"kind": "text", "model": str(tmp_path / "model"), "options": {"prompt": "query: "}}
    assert EncoderSpec("text", "some/model").origin["model"] == "some/model"


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("minilm", ("text", "minilm")),
        ("mine=minilm", ("mine", "minilm")),
        ("endpoint:http://h/v1?a=b#m", ("text", "endpoint:http://h/v1?a=b#m")),
        ("a-b_2=endpoint:http://h#m=n", ("a-b_2", "endpoint:http://h#m=n")),
        ("./models/x=y", ("text", "./models/x=y")),
    ],
)
def test_names_before_models(text, pair):
    assert named(text, "text") == pair


def test_options_go_to_the_encoders_that_take_them(folder):
    wanted = [("text", "hashed"), ("caption", "endpoint:http://localhost#m")]
    jobs = parse_jobs(folder, wanted, options={"prompt": "query: ", "pooling": None})
    assert jobs[1].encoder.identity["prompt"] == "query: " and "prompt" not in jobs[0].origin["options"]
    with assert_error(ConfigError, mentions=["max", "length", "hashed, endpoint:http://localhost#m"]):
        parse_jobs(folder, wanted, options={"max_length": 3})


def test_without_a_wish_there_is_what_the_dataset_has(folder, tmp_path):
    assert [(job.name, job.origin["model"]) for job in parse_jobs(folder, [])] == [("text", "hashed")]
    (tmp_path / "covers").mkdir()
    for item in (0, 3):
        (tmp_path / "covers" / f"{item}.jpg").write_bytes(b"an image")
    jobs = parse_jobs(folder, [], images=tmp_path / "covers")  # files named after items
    assert [(job.name, job.origin["model"]) for job in jobs] == [("text", "hashed"), ("image", "descriptor")]
    assert [item.source for item in jobs[1].source.read(0, 6)] == ["0.jpg", "", "", "3.jpg", "", ""]
    bare = Dataset.from_frames(pl.DataFrame({"user": [0], "item": [0]}), split="none").save(tmp_path / "bare")
    with assert_error(ConfigError, mentions=[bare, "item", "{title}"]):
        parse_jobs(bare, [])


@pytest.mark.parametrize("model", sorted(PLAIN))
def test_every_text_has_a_vector_or_is_named(model, tmp_path):
    """Texts as catalogs really have them: nothing crashes, and each item without a vector is listed."""
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


CHILD = """
import json, sys
from lirdrec.features.encoders.transformers_vision import VisionEncoder
from lirdrec.features.encoders.model_loading import model_folder

print(json.dumps([VisionEncoder("someone/tiny").dims, dict(VisionEncoder("someone/tiny").identity),
    dict(VisionEncoder("someone/tiny", revision="old").identity), str(model_folder("someone/other"))]))
"""


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "1_Pooling/config.json", "vocab.txt"):
        (folder / name).write_text(f"content of {name}")
    return folder


def test_fingerprint_by_hand(model):
    lines = ""
    for name in ("1_Pooling/config.json", "config.json", "model.safetensors", "vocab.txt"):
        lines += f"{hashlib.sha256(f'content of {name}'.encode()).hexdigest()} {name}\n"
    assert fingerprint(model) == hashlib.sha256(lines.encode()).hexdigest()


def test_what_counts(model, tmp_path):
    before = fingerprint(model)
    for name in ("README.md", "image.png", "pytorch_model.bin", "onnx/model.json", ".cache/one.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("something")
    assert fingerprint(model.rename(tmp_path / "moved")) == before
    (tmp_path / "moved" / "1_Pooling" / "config.json").write_text("other")
    assert fingerprint(tmp_path / "moved") != before


def test_pickled_weights_count_where_there_are_no_others(model):
    (model / "model.safetensors").unlink()
    before = fingerprint(model)
    (model / "pytorch_model.bin").write_text("weights")
    assert fingerprint(model) != before


def test_no_model(tmp_path):
    with assert_error(DataError, mentions=[tmp_path]):
        fingerprint(tmp_path)


def test_folder_and_no_folder(model):
    assert model_folder(str(model)) == model
    assert model_folder("no/such/name/at all") is None


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path):
    """The cache as the hub's client lays it out, two revisions, no network."""
    t = pytest.importorskip("transformers")
    commits = {"main": "a" * 40, "old": "b" * 40}
    place = tmp_path / "models--someone--tiny"
    (place / "refs").mkdir(parents=True)
    for name, commit in commits.items():
        (place / "refs" / name).write_text(commit)
        t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(
            place / "snapshots" / commit
        )
        t.ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(place / "snapshots" / commit)
    offline = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, env=offline, check=False)
    assert child.returncode == 0, child.stderr
    dims, main, old, other = json.loads(child.stdout)
    assert (dims, other) == (8, "None")
    assert (main["model"], main["revision"]) == ("someone/tiny", commits["main"])
    assert old == {**main, "revision": commits["old"]}


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("cuda:99", "warp"):
        with assert_error(ConfigError, mentions=["device", f"'{name}'"]):
            resolve_device(name)
