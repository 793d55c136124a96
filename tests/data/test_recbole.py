"""Atomic files of RecBole: columns, ready splits, words, vectors, and their faults."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lirdrec.data.readers import read_any, read_recbole
from lirdrec.data.schema import SPLITS
from lirdrec.errors import DataError

from ..helpers import assert_error, assert_mentions


@pytest.fixture
def recbole(tmp_path):
    folder = tmp_path / "ml"
    folder.mkdir()
    rows = "".join(f"{n % 3}\t{n}\t{1 + n % 5}\t{100 - n}.0\n" for n in range(15))
    (folder / "ml.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    items = "".join(f"{n}\tFilm {n}\tDrama War\t0.5 {n}\t{1990 + n}\n" for n in range(16))
    header = "item_id:token\ttitle:token\tgenres:token_seq\tpicture:float_seq\tyear:float\n"
    (folder / "ml.item").write_text(header + items)
    return folder


def test_recbole_atomic_files(recbole):
    dataset = read_recbole(recbole, vectors=["picture"], split="leave_last_out", rating="rating", min_rating=2)
    assert dataset.frame("test").rows() == [(0, 3, 97), (1, 1, 99), (2, 2, 98)]  # the least n has the latest time
    assert dataset.items.ids.tolist() == list(range(16))
    assert dataset.item_table.columns == ["item", "title", "genres", "year"]
    assert dataset.item_table.row(1) == (1, "Film 1", "Drama War", 1991.0)
    np.testing.assert_array_equal(dataset.features["picture"].values[3], [0.5, 3])
    found, again = read_any(recbole), read_recbole(recbole)
    for name in SPLITS:
        assert_frame_equal(found.frame(name), again.frame(name))
    assert_frame_equal(found.item_table, again.item_table)


def test_recbole_says_what_it_does_not_read(recbole, caplog):
    for name in ("ml.user", "ml.kg", "ml.link"):
        (recbole / name).write_text("user_id:token\n1\n")
    read_recbole(recbole)
    assert_mentions(caplog.text, ["ml.kg, ml.link, ml.user", "vectors='picture'"])


@pytest.mark.parametrize("title", ["", " "])
def test_words_of_recbole_are_a_text(recbole, title):
    path = recbole / "ml.item"
    path.write_text(path.read_text().replace("Drama War", " Drama   War ", 1).replace("Drama War", title, 1))
    dataset = read_recbole(recbole)
    assert dataset.item_table["genres"].to_list()[:3] == ["Drama War", None, "Drama War"]
    assert dataset.item_table.schema["picture"] == pl.List(pl.Float32)
    path.write_text(path.read_text().replace("0.5 3", "0.5 x3"))
    with assert_error(DataError, mentions=[path, "'picture'", "'x3'", "line 5"]):
        read_recbole(recbole)


def test_recbole_ready_splits(recbole, tmp_path):
    header, *rows = (recbole / "ml.inter").read_text().splitlines(keepends=True)
    (recbole / "ml.inter").unlink()
    for name, some in (("train", rows[:9]), ("valid", rows[9:12]), ("test", rows[12:])):
        (recbole / f"ml.{name}.inter").write_text(header + "".join(some))
    dataset = read_any(recbole)
    assert [dataset.frame(name)["item"].sort().to_list() for name in SPLITS] == [
        list(range(9)),
        [9, 10, 11],
        [12, 13, 14],
    ]


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        ("item_id:token\trating", "item_id\trating", ["'item_id'", "NAME:TYPE", "token, token_seq, float, float_seq"]),
        ("user_id:token", "uid:token", ["'user_id'", "uid, item_id, rating, timestamp", "'uid'"]),
        ("\t5\t", "\tfive\t", ["'rating'", "'five'", "line 6"]),
    ],
)
def test_recbole_files_with_faults(recbole, old, new, facts):
    path = recbole / "ml.inter"
    path.write_text(path.read_text().replace(old, new, 1))
    with assert_error(DataError, mentions=[path, *facts]):
        read_recbole(recbole)


def test_vectors_of_different_lengths(recbole):
    path = recbole / "ml.item"
    path.write_text(path.read_text().replace("0.5 7", "0.5 7 8"))
    with assert_error(DataError, mentions=[path, "'picture'", "'7'", "3 numbers"]):
        read_recbole(recbole, vectors=["picture"])
