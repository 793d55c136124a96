"""A model is known by its content, wherever it lies, and by its commit where it came from the hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.encoders.model_loading import fingerprint, model_folder

from ..helpers import assert_error

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
    for name in ("README.md", "picture.png", "pytorch_model.bin", "onnx/model.json", ".cache/one.json"):
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
