"""Matrices and columns that join a prepared folder, at every step the old or the new; vectors of files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lirdrec.data.dataset import Dataset
from lirdrec.data.storage import read_manifest
from lirdrec.data.transaction import recover
from lirdrec.errors import ConfigError, DataError, RunFolderError
from lirdrec.features.dataset_writer import KEYS, MASK, PROBLEMS, VALUES, FeatureResult, add_features, set_item_columns
from lirdrec.features.encoder_specs import load_encoder
from lirdrec.features.import_vectors import add_file, check_file
from lirdrec.features.job_parsing import parse_jobs
from lirdrec.features.pipeline import make_features
from lirdrec.files.atomic import sha256

from ..helpers import assert_error, assert_mentions

N = 8


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight items: `text` covers the first half, `image` the second, so neither can be missed."""
    values = {name: np.zeros((N, 3), dtype=np.float32) for name in ("text", "image")}
    values["text"][:4], values["image"][4:] = 1, 2
    pairs = pl.DataFrame({"user": [0] * N, "item": [f"i{at}" for at in range(N)]})
    table = pairs.select("item", title=pl.format("Film {}", "item"), price=pl.int_range(0, N))
    dataset = Dataset.from_frames(pairs, items=table, features=values, split="none", info={"licence": "CC0"})
    return dataset.save(tmp_path / "data")


def matrix(place: Path, value: float, present: slice = slice(0, 4), more: tuple[str, ...] = ()) -> FeatureResult:
    values, mask = np.zeros((N, 5), dtype=np.float32), np.zeros(N, dtype=bool)
    values[present], mask[present] = value, True
    place.mkdir(exist_ok=True)
    files = {ending: place / f"matrix{ending}" for ending in (VALUES, MASK, *more)}
    np.save(files[VALUES], values)
    np.save(files[MASK], mask)
    for ending in more:
        files[ending].write_bytes(ending.encode() * int(value))
    return FeatureResult(files, 5, "float32", mask)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class Killed(BaseException):
    """Nothing catches it."""


class Death:
    """From the n-th change of a name in the file system on, nothing happens to the disk any more."""

    CALLS = ("replace", "rename", "link", "unlink", "rmdir", "mkdir")

    def __init__(self, monkeypatch, at: int):
        self.left = at
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._dying(getattr(os, name)))

    def _dying(self, call):
        def either(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return call(*args, **kwargs)

        return either


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_at_any_step_of_adding_leaves_the_old_or_the_new(folder, tmp_path, monkeypatch, links):
    add_features(folder, {"text": matrix(tmp_path / "first", 1, more=(KEYS, PROBLEMS))}, {"text": {"by": 1}})
    if not links:  # a file system without hard links
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    seen, step = [], 0
    while True:
        copy = shutil.copytree(folder, tmp_path / f"copy{step}")
        new = {"text": matrix(tmp_path / "new", 7, more=(KEYS,)), "sound": matrix(tmp_path / "more", 9, slice(0, N))}
        dead = False
        with monkeypatch.context() as patch:
            Death(patch, step)
            try:
                add_features(copy, new, {"text": {"by": 7}, "sound": {"by": 9}})
            except Killed:
                dead = True
        shutil.rmtree(copy / ".switching", ignore_errors=True)  # a lock dies with its process
        loaded = Dataset.load(copy, verify=True)
        value = int(loaded.features["text"].values[0, 0])
        assert loaded.info["encoders"]["text"] == {"by": value}
        assert ("sound" in loaded.features) == (value == 7)
        np.testing.assert_array_equal(loaded.features["image"].values[4:], 2)
        seen.append(value)
        recover(copy)
        assert Dataset.load(copy, verify=True).features["text"].values[0, 0] == value
        files = read_manifest(copy)["files"]
        assert not [name for name in names(copy) if name.endswith(".new")]
        for name, entry in files.items():  # settled, everything lies under its own name
            assert sha256(copy / name) == entry["sha256"]
        if not dead:
            break
        step += 1
    assert seen == sorted(seen) and set(seen) == {1, 7} and step > 15
    assert "features/text.problems.csv" not in names(copy) and "features/text.keys.npy" in names(copy)


def test_a_kill_at_any_step_of_setting_columns_leaves_the_old_or_the_new(folder, tmp_path, monkeypatch):
    seen, step = [], 0
    while True:
        copy = shutil.copytree(folder, tmp_path / f"copy{step}")
        dead = False
        with monkeypatch.context() as patch:
            Death(patch, step)
            try:
                set_item_columns(copy, pl.DataFrame({"item": ["i3"], "caption": ["a film"]}))
            except Killed:
                dead = True
        seen.append("caption" in Dataset.load(copy, verify=True).item_table.columns)
        if not dead:
            break
        step += 1
    assert seen == sorted(seen) and set(seen) == {False, True}


def test_columns_are_added_and_replaced_where_they_were_given(folder):
    before = Dataset.load(folder)
    set_item_columns(
        folder, pl.DataFrame({"item": ["i6", "i1"], "title": ["Alien", None], "caption": ["dark", "bright"]})
    )
    after = Dataset.load(folder, verify=True)
    titles, captions = [f"Film i{at}" for at in range(N)], [None] * N
    titles[6], titles[1], captions[6], captions[1] = "Alien", None, "dark", "bright"
    expected = before.item_table.with_columns(title=pl.Series(titles), caption=pl.Series(captions, dtype=pl.String))
    assert_frame_equal(after.item_table, expected)
    assert after.info == before.info and list(after.features) == list(before.features)


@pytest.mark.parametrize(
    ("frame", "facts"),
    [
        ({"item": ["i1", "no", "nor"], "caption": ["a", "b", "c"]}, ["2", "no, nor"]),
        ({"item": ["i1", "i2", "i1"], "caption": ["a", "b", "c"]}, ["i1"]),
        ({"caption": ["a"]}, ["'item'"]),
    ],
)
def test_columns_of_no_item_are_refused(folder, frame, facts):
    content = (folder / "items.parquet").read_bytes()
    with assert_error(DataError, mentions=[folder, *facts]):
        set_item_columns(folder, pl.DataFrame(frame))
    assert (folder / "items.parquet").read_bytes() == content
    assert not [name for name in names(folder) if name.startswith(".")]


def test_integer_ids_find_their_rows(tmp_path):
    pairs = pl.DataFrame({"user": [0, 0, 0], "item": [30, 10, 20]})
    folder = Dataset.from_frames(pairs, split="none").save(tmp_path / "data")
    set_item_columns(folder, pl.DataFrame({"item": ["20", "30"], "caption": ["b", "c"]}))
    table = Dataset.load(folder).item_table
    assert dict(zip(table["item"], table["caption"], strict=True)) == {30: "c", 10: None, 20: "b"}


def test_a_loaded_dataset_is_saved_with_what_it_knows_of_its_encoders(folder, tmp_path):
    add_features(folder, {"text": matrix(tmp_path / "new", 3, more=(KEYS,))}, {"text": {"identity": {"model": "m"}}})
    again = Dataset.load(Dataset.load(folder).save(tmp_path / "again"), verify=True)
    assert again.info["encoders"] == {"text": {"identity": {"model": "m"}}} and again.info["licence"] == "CC0"
    assert "features/text.keys.npy" not in names(tmp_path / "again")


def test_what_json_cannot_hold_changes_nothing(folder, tmp_path):
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with assert_error(DataError, mentions=[folder, "JSON"]):
        add_features(folder, {"text": matrix(tmp_path / "new", 3)}, {"text": {1, 2}})
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_a_folder_that_is_no_dataset(tmp_path):
    with assert_error(RunFolderError, mentions=[tmp_path]):
        set_item_columns(tmp_path, pl.DataFrame({"item": ["i1"], "caption": ["a"]}))
    assert not list(tmp_path.iterdir())


IDS = ["B000000001", "B000000002", "B000000003"]


@pytest.fixture
def books(tmp_path):
    pairs = pl.DataFrame({"user": ["u", "u", "v", "v"], "item": [IDS[0], IDS[1], IDS[1], IDS[2]]})
    text = (IDS, np.eye(3, dtype=np.float32))
    Dataset.from_frames(pairs, features={"text": text}, split="none").save(tmp_path / "data")
    return tmp_path / "data"


def records(path, ids, dims=4096):
    record = np.dtype([("asin", "S10"), ("values", "<f4", (dims,))])
    rows = np.zeros(len(ids), dtype=record)
    rows["asin"] = [one.encode() for one in ids]
    rows["values"] = np.arange(1, len(ids) + 1)[:, None]
    path.write_bytes(rows.tobytes())
    return path


def test_the_published_binary_joins_by_id_and_leaves_the_others_without(books, tmp_path):
    made = add_file(books, "image", records(tmp_path / "image_features.b", [IDS[2], "B999999999", IDS[0]]))
    assert made.present == 2
    matrix = Dataset.load(books, verify=True).features["image"]
    assert matrix.present.tolist() == [True, False, True]
    assert [float(row[0]) for row in matrix.values] == [3.0, 0.0, 1.0]
    assert Dataset.load(books).features["text"].values.tolist() == np.eye(3).tolist()


def test_a_name_that_is_there_is_replaced_only_when_asked(books, tmp_path):
    np.savez(tmp_path / "text.npz", ids=np.array(IDS), x=np.full((3, 2), 7.0))
    with assert_error(ConfigError, mentions=[books, "'text'", "replace=True"]):
        add_file(books, "text", tmp_path / "text.npz")
    add_file(books, "text", tmp_path / "text.npz", replace=True)
    assert Dataset.load(books, verify=True).features["text"].values.tolist() == [[7.0, 7.0]] * 3


@pytest.mark.parametrize("name", ["a b", "", "../../evil", "sub/x", "/tmp/x", "x.mask"])
def test_names_that_no_file_may_have_are_refused(books, tmp_path, name):
    np.savez(tmp_path / "v.npz", ids=np.array(IDS), x=np.ones((3, 2)))
    before = sorted(tmp_path.rglob("*"))
    with assert_error(ConfigError, mentions=[f"'{name}'"]):
        add_file(books, name, tmp_path / "v.npz")
    assert sorted(tmp_path.rglob("*")) == before and list(Dataset.load(books, verify=True).features) == ["text"]


def test_vectors_in_the_place_of_encoded_ones_are_not_said_to_be_encoded(tmp_path):
    table = pl.DataFrame({"item": range(4), "title": ["red lamp", "red chair", "blue lamp", "blue chair"]})
    pairs = pl.DataFrame({"user": [0] * 4, "item": range(4)})
    books = Dataset.from_frames(pairs, items=table, split="none").save(tmp_path / "data")
    make_features(books, parse_jobs(books, [("text", "hashed"), ("text", "other=hashed")]), progress=False)
    mine = np.arange(8, dtype=np.float32).reshape(4, 2) + 1
    np.save(tmp_path / "mine.npy", mine)
    add_file(books, "text", tmp_path / "mine.npy", replace=True)
    assert list(Dataset.load(books).info["encoders"]) == ["other"]
    with assert_error(DataError, mentions=[books, "'text'"]):
        load_encoder(books, "text")
    # so they are protected again: what a person gave is not overwritten by the encoder that stood there before
    with assert_error(ConfigError, mentions=[books, "'text'", "replace=True"]):
        make_features(books, parse_jobs(books, [("text", "hashed")]), progress=False)
    assert Dataset.load(books, verify=True).features["text"].values.tolist() == mine.tolist()


def test_no_item_is_left_without_any_features(books, tmp_path, caplog):
    np.savez(tmp_path / "text.npz", ids=np.array(IDS[:2]), x=np.ones((2, 2)))
    check_file(books, "more", tmp_path / "text.npz")
    assert not caplog.messages
    check_file(books, "text", tmp_path / "text.npz", replace=True)  # another new matrix may have features of the third
    (said,) = caplog.messages
    assert_mentions(said, [tmp_path / "text.npz", "1 of 3", "'text'"])
    with assert_error(DataError, mentions=[tmp_path / "text.npz", "1 of 3", books]):
        add_file(books, "text", tmp_path / "text.npz", replace=True)
    assert Dataset.load(books, verify=True).features["text"].dims == 3


def test_ids_of_another_catalog(books, tmp_path):
    np.savez(tmp_path / "text.npz", ids=np.array(["x", "y"]), x=np.ones((2, 2)))
    with assert_error(DataError, mentions=[tmp_path / "text.npz", books]):
        add_file(books, "more", tmp_path / "text.npz")
