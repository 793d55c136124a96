"""Vectors of a file beside those that were encoded here."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.import_vectors import add_file
from lirdrec.features.pipeline import make_features
from lirdrec.features.registry import load_encoder, parse_jobs

from ..helpers import assert_error

IDS = ["B000000001", "B000000002", "B000000003"]


@pytest.fixture
def folder(tmp_path):
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


def test_the_published_binary_joins_by_id_and_leaves_the_others_without(folder, tmp_path):
    made = add_file(folder, "image", records(tmp_path / "image_features.b", [IDS[2], "B999999999", IDS[0]]))
    assert made.present == 2
    matrix = Dataset.load(folder, verify=True).features["image"]
    assert matrix.present.tolist() == [True, False, True]
    assert [float(row[0]) for row in matrix.values] == [3.0, 0.0, 1.0]
    assert Dataset.load(folder).features["text"].values.tolist() == np.eye(3).tolist()


def test_a_name_that_is_there_is_replaced_only_when_asked(folder, tmp_path):
    np.savez(tmp_path / "text.npz", ids=np.array(IDS), x=np.full((3, 2), 7.0))
    with assert_error(ConfigError, mentions=[folder, "'text'", "--overwrite"]):
        add_file(folder, "text", tmp_path / "text.npz")
    add_file(folder, "text", tmp_path / "text.npz", replace=True)
    assert Dataset.load(folder, verify=True).features["text"].values.tolist() == [[7.0, 7.0]] * 3


@pytest.mark.parametrize("name", ["a b", "", "../../evil", "sub/x", "/tmp/x", "x.mask"])
def test_names_that_no_file_may_have_are_refused(folder, tmp_path, name):
    np.savez(tmp_path / "v.npz", ids=np.array(IDS), x=np.ones((3, 2)))
    before = sorted(tmp_path.rglob("*"))
    with assert_error(ConfigError, mentions=[f"'{name}'"]):
        add_file(folder, name, tmp_path / "v.npz")
    assert sorted(tmp_path.rglob("*")) == before and list(Dataset.load(folder, verify=True).features) == ["text"]


def test_vectors_in_the_place_of_encoded_ones_are_not_said_to_be_encoded(tmp_path):
    table = pl.DataFrame({"item": range(4), "title": ["red lamp", "red chair", "blue lamp", "blue chair"]})
    pairs = pl.DataFrame({"user": [0] * 4, "item": range(4)})
    folder = Dataset.from_frames(pairs, items=table, split="none").save(tmp_path / "data")
    make_features(folder, parse_jobs(folder, [("text", "hashed"), ("text", "other=hashed")]), progress=False)
    mine = np.arange(8, dtype=np.float32).reshape(4, 2) + 1
    np.save(tmp_path / "mine.npy", mine)
    add_file(folder, "text", tmp_path / "mine.npy", replace=True)
    assert list(Dataset.load(folder).info["encoders"]) == ["other"]
    with assert_error(DataError, mentions=[folder, "'text'"]):
        load_encoder(folder, "text")
    # so they are dear again: what a person gave is not overwritten by the encoder that stood there before
    with assert_error(ConfigError, mentions=[folder, "'text'", "--overwrite"]):
        make_features(folder, parse_jobs(folder, [("text", "hashed")]), progress=False)
    assert Dataset.load(folder, verify=True).features["text"].values.tolist() == mine.tolist()


def test_no_item_is_left_without_any_features(folder, tmp_path):
    np.savez(tmp_path / "text.npz", ids=np.array(IDS[:2]), x=np.ones((2, 2)))
    with assert_error(DataError, mentions=[tmp_path / "text.npz", "1 of 3", folder]):
        add_file(folder, "text", tmp_path / "text.npz", replace=True)
    assert Dataset.load(folder, verify=True).features["text"].dims == 3


def test_ids_of_another_catalog(folder, tmp_path):
    np.savez(tmp_path / "text.npz", ids=np.array(["x", "y"]), x=np.ones((2, 2)))
    with assert_error(DataError, mentions=[tmp_path / "text.npz", folder]):
        add_file(folder, "more", tmp_path / "text.npz")
