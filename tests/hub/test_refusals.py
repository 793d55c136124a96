"""What is not sent, and what is not taken: damage, foreign files, pickles, names that leave the folder."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.errors import ConfigError, DataError, RunFolderError
from lirdrec.hub import HubError, from_hub, pull, push

from ..helpers import assert_error
from .hub import READER, Hub


@pytest.fixture
def data(shelf, tmp_path) -> Path:
    """A copy of the prepared folder, to spoil."""
    return Path(shutil.copytree(shelf, tmp_path / "data"))


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def listed(folder: Path, name: str, content: bytes) -> None:
    """Put a file into a folder and its manifest, with the right checksum."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(hub: Hub, tmp_path: Path, *facts: object) -> None:
    """Neither `pull` nor `from_hub` takes what is on the hub; nothing is left here."""
    before = sorted(tmp_path.iterdir())
    for take in (lambda: pull("me/films", tmp_path / "got"), lambda: from_hub("me/films")):
        with assert_error(HubError, mentions=["me/films", *facts]) as caught:
            take()
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


# ---------------------------------------------------------------- push


@pytest.mark.parametrize("name", ["users.parquet", "features/text.npy"])
def test_a_damaged_folder_is_not_sent(hub, login, data, name):
    content = bytearray((data / name).read_bytes())
    content[-3] ^= 1
    (data / name).write_bytes(content)
    with assert_error(RunFolderError, mentions=[data / name]):
        push(data, "me/films")
    assert not hub.requests


def test_a_damaged_run_is_not_sent(hub, login, trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "vectors.safetensors").unlink()
    with assert_error(RunFolderError, mentions=[run / "vectors.safetensors"]):
        push(run, "me/films", license="mit")
    assert not hub.requests


def test_a_run_whose_dataset_is_gone_says_what_to_do(hub, login, trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    features = json.loads((run / "features.json").read_text())
    features["dataset"] |= {"folder": str(tmp_path / "gone"), "relative": "gone"}
    listed(run, "features.json", json.dumps(features).encode())
    with assert_error(RunFolderError, mentions=[run, tmp_path / "gone", "features"]):
        push(run, "me/films")
    push(run, "me/films", features=False)
    assert str(tmp_path).encode() not in hub.repos["me/films"].files()["features.json"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.pkl", b"x"),  # kinds of files that are never shared
        ("features/pipeline.py", b"x"),
        ("../outside.npy", b"x"),  # names that leave the folder, or hide
        ("features/.hidden.npy", b"x"),
        ("features/bad.npy", b"\x80\x04."),  # names of kinds that the content is not
        ("features/bad.safetensors", b"\x80\x04."),
        ("bad.parquet", b"\x80\x04."),
        ("bad.csv", b"\x80\x04."),
    ],
)
def test_strange_files_are_neither_sent_nor_taken(hub, login, data, tmp_path, name, content):
    push(data, "me/films")
    listed(data, name, content)
    with assert_error(RunFolderError, mentions=[data, name]):
        push(data, "me/films")
    files = hub.repos["datasets/me/films"].files()
    files["manifest.json"] = (data / "manifest.json").read_bytes()
    files[name] = content
    refused(hub, tmp_path, name)


@pytest.mark.parametrize("name", ["features/text.npy", "features/text.mask.npy"])
def test_an_array_of_objects_is_a_pickle_and_is_never_opened(hub, login, data, tmp_path, name):
    bomb = Bomb(tmp_path / "bang")
    np.save(tmp_path / "o.npy", np.array([bomb], dtype=object), allow_pickle=True)
    push(data, "me/films")
    listed(data, name, (tmp_path / "o.npy").read_bytes())
    with assert_error(RunFolderError, mentions=[data, name]):
        push(data, "me/other")
    files = hub.repos["datasets/me/films"].files()
    files |= {one: (data / one).read_bytes() for one in (name, "manifest.json")}
    refused(hub, tmp_path, name)
    assert not (tmp_path / "bang").exists()
    pickle.loads(pickle.dumps(bomb))
    assert (tmp_path / "bang").exists()  # it would have gone off


def test_an_item_table_with_paths_of_this_machine_is_not_sent(hub, login, films, tmp_path):
    table = films.item_table.with_columns(image=pl.lit("posters/1.jpg"))
    table = table.with_columns(image=pl.when(pl.col("item") == 20).then(pl.lit("/home/ann/1.jpg")).otherwise("image"))
    parts = (films.users, films.items, films.train, films.valid, films.test, films.features)
    films = type(films)("films", *parts, item_table=table, info=films.info)
    with assert_error(DataError, mentions=["items.parquet", "'image'", "row 3", "/home/ann/1.jpg"]):
        push(films.save(tmp_path / "films"), "me/films")
    assert not hub.requests


def test_neither_a_dataset_nor_a_run(hub, login, tmp_path):
    with assert_error(ConfigError, mentions=[tmp_path / "nowhere"]):
        push(tmp_path / "nowhere", "me/films")
    with assert_error(RunFolderError, mentions=[tmp_path, "manifest.json"]):
        push(tmp_path, "me/films")
    (tmp_path / "checkpoint").mkdir()
    with assert_error(RunFolderError, mentions=[tmp_path, "resume"]):
        push(tmp_path, "me/films")


BAD = [
    ("films", {}, ["'films'", "OWNER/NAME"]),
    ("me/../films", {}, ["'me/../films'", "OWNER/NAME"]),
    ("https://huggingface.co/me/films", {}, ["'https://huggingface.co/me/films'", "OWNER/NAME"]),
    ("me/films", {"token": f"{READER}\n"}, ["token"]),
    ("me/films", {"revision": "../x"}, ["revision", "'../x'"]),
    ("me/films", {"revision": "0" * 40}, ["revision", "0" * 40]),
    ("me/films", {"endpoint": "huggingface.co"}, ["endpoint", "https://huggingface.co"]),
    ("me/films", {"license": "mitt"}, ["'mitt'", "'mit'"]),
    ("me/films", {"license": "mit"}, ["'cc-by-4.0'", "'mit'"]),
]


@pytest.mark.parametrize(("name", "options", "facts"), BAD)
def test_bad_names_and_options(hub, login, shelf, name, options, facts):
    with assert_error(ConfigError, mentions=facts) as caught:
        push(shelf, name, **options)
    assert READER not in str(caught.value)
    assert not hub.requests


def test_a_run_does_not_go_to_a_dataset(hub, login, trained):
    with assert_error(ConfigError, mentions=[trained, "me/films", "datasets/"]):
        push(trained, "datasets/me/films")


def test_without_the_client_the_sentence_names_the_extra(shelf, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    for act in (lambda: push(shelf, "me/films"), lambda: pull("me/films", tmp_path / "got")):
        with assert_error(ConfigError, mentions=['pip install "lirdrec[hub]"']):
            act()


# ---------------------------------------------------------------- the repository


def test_a_public_repository_is_not_written_to_by_the_way(hub, login, shelf):
    push(shelf, "me/films", private=False)
    assert not hub.repos["datasets/me/films"].private
    with assert_error(HubError, mentions=["datasets/me/films", "private"]):
        push(shelf, "me/films")
    push(shelf, "me/films", private=False)
    push(shelf, "me/mine")
    assert hub.repos["datasets/me/mine"].private


@pytest.mark.parametrize(("name", "foreign"), [("model.bin", "model.bin"), ("users.parquet", "tokenizer.json")])
def test_a_repository_of_something_else_is_left_alone(hub, login, shelf, name, foreign):
    hub.repos["datasets/me/films"] = repo = hub_repo({"README.md": b"mine", name: b"x", "tokenizer.json": b"{}"})
    with assert_error(HubError, mentions=["datasets/me/films", foreign]):
        push(shelf, "me/films")
    assert len(repo.commits) == 1


def test_a_change_in_between_is_not_overwritten(hub, login, shelf):
    hub.fail("POST", "/commit/", status=412)
    with assert_error(HubError, mentions=["datasets/me/films"]):
        push(shelf, "me/films")


def hub_repo(files: dict[str, bytes]):
    from .hub import Repo

    repo = Repo(private=True)
    repo.commit("main", files, "initial commit")
    return repo


# ---------------------------------------------------------------- pull


@pytest.mark.parametrize("name", ["features/text.npy", "items.parquet", "manifest.json"])
def test_damage_on_the_hub_is_found(hub, login, shelf, tmp_path, name):
    push(shelf, "me/films")
    files = hub.repos["datasets/me/films"].files()
    content = bytearray(files[name])
    content[-3] ^= 1
    files[name] = bytes(content)
    refused(hub, tmp_path, *([] if name == "manifest.json" else [name]))  # without its manifest it is no dataset


def test_damage_in_the_cache_is_repaired(hub, login, shelf, tmp_path):
    from huggingface_hub import constants

    push(shelf, "me/films")
    pull("me/films", tmp_path / "one")
    blobs = [path for path in Path(constants.HF_HUB_CACHE).glob("*/blobs/*") if path.stat().st_size > 300]
    for path in blobs:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert blobs
    for path in Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/manifest.json"):
        path.resolve().write_bytes((tmp_path / "one" / "manifest.json").read_bytes())
    got = pull("me/films", tmp_path / "two")
    assert (got / "features" / "text.npy").read_bytes() == (tmp_path / "one" / "features" / "text.npy").read_bytes()


def test_a_file_that_the_manifest_does_not_list_is_refused(hub, login, shelf, tmp_path):
    push(shelf, "me/films")
    repo = hub.repos["datasets/me/films"]
    repo.files()["LICENSE"] = b"documents are fine, and stay there"
    assert not (pull("me/films", tmp_path / "good") / "LICENSE").exists()
    repo.commit("main", repo.files() | {"modeling.py": b"import os"}, "evil")
    refused(hub, tmp_path, "'modeling.py'", "manifest.json")
    assert not any("modeling.py" in path for method, path, _ in hub.requests)


def test_a_file_that_the_manifest_lists_is_missing(hub, login, shelf, tmp_path):
    push(shelf, "me/films")
    del hub.repos["datasets/me/films"].files()["features/text.npy"]
    refused(hub, tmp_path)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"format_version": 2}, [2, 1]),
        ({"format": "other"}, []),
        ({"files": []}, []),
        ({"files": {"users.parquet": {"bytes": 1}}}, ["users.parquet"]),
        ({"features": {"../../../home/ann/x": {}}}, ["'../../../home/ann/x'"]),
        ({"files": {7 * "a/" + "x.npy": {}}}, [7 * "a/" + "x.npy"]),
        ({"files": {"C:x.npy": {}}}, ["'C:x.npy'"]),
    ],
)
def test_manifests_that_are_not_to_be_trusted(hub, login, shelf, tmp_path, change, facts):
    push(shelf, "me/films")
    files = hub.repos["datasets/me/films"].files()
    files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | change).encode()
    refused(hub, tmp_path, *facts)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": {"folder": "/home/ann", "relative": "x", "files": {}}},
        {"dataset": {"folder": "x", "relative": "../../home", "files": {}}},
        {"dataset": {"folder": "x", "relative": "x", "files": {"text.values": {"file": "../../y.npy"}}}},
        {"names": ["../../x"]},
        {"added_blocks": ["../x"]},
        {"names": 3},
    ],
)
def test_a_run_does_not_lead_outside_of_its_folder(hub, login, trained, tmp_path, change):
    push(trained, "me/films")
    files = hub.repos["me/films"].files()
    content = json.dumps(json.loads(files["features.json"]) | change).encode()
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["features.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files |= {"features.json": content, "manifest.json": json.dumps(manifest).encode()}
    refused(hub, tmp_path, "features.json")


def test_a_folder_that_is_taken_is_left_alone(hub, login, shelf, tmp_path):
    push(shelf, "me/films")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter").write_text("kept")
    with assert_error(RunFolderError, mentions=[tmp_path / "taken", "overwrit"]):
        pull("me/films", tmp_path / "taken")
    assert (tmp_path / "taken" / "letter").read_text() == "kept"
    with assert_error(RunFolderError, mentions=[tmp_path / "taken", "'letter'"]):
        pull("me/films", tmp_path / "taken", overwrite=True)
    (tmp_path / "taken" / "letter").unlink()
    for _ in range(2):  # over nothing, and over what it was
        pull("me/films", tmp_path / "taken", overwrite=True)
