"""Ids: maps of ids to rows, and ids of any type in files and frames."""

import logging
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lirdrec.data import Dataset
from lirdrec.data.ids import LARGEST, IdMap, text_ids
from lirdrec.data.raw_ids import read_ids
from lirdrec.errors import DataError, UnknownIdError
from lirdrec.option_names import command_line

from ..helpers import assert_error, assert_mentions

integers = st.lists(st.integers(0, LARGEST), unique=True, max_size=30)
strings = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), unique=True, max_size=30)


@given(integers | strings)
def test_rows_are_positions_and_back(ids):
    known = IdMap(ids)
    assert known.rows(ids).tolist() == list(range(len(ids)))
    assert known.ids.tolist() == ids
    assert [known.row(one) for one in ids] == list(range(len(ids)))


@given(integers, st.lists(st.integers(-5, LARGEST)))
def test_unknown_integers_are_minus_one(ids, asked):
    expected = [ids.index(one) if one in ids else -1 for one in asked]
    assert IdMap(ids).rows(asked).tolist() == expected


def test_ids_of_another_type_are_unknown():
    assert IdMap([3, 4]).rows(["3", "4"]).tolist() == [-1, -1]
    assert IdMap(["3", "4"]).rows([3, 4]).tolist() == [-1, -1]
    assert IdMap([0, 1]).rows([True]).tolist() == [-1]
    assert IdMap([3, 4]).rows([4.0, 3.5, float("nan")]).tolist() == [1, -1, -1]
    assert IdMap(["a"]).rows([None, "a", 7]).tolist() == [-1, 0, -1]
    assert IdMap([1, 0]).rows([2**70, -1, 0]).tolist() == [-1, -1, 1]


@pytest.mark.parametrize(
    "ids",
    [
        [7, 2],
        (7, 2),
        np.array([7, 2], dtype=np.uint8),
        pd.Series([7, 2]),
        pl.Series([7, 2]),
        np.array([7.0, 2.0]),
        pd.array([7, 2], dtype="Int64"),
    ],
)
def test_every_container_gives_the_same(ids):
    assert IdMap(ids) == IdMap([7, 2])
    assert IdMap(ids).ids.dtype == np.int64


def test_one_unknown_id_says_what_is_known():
    with assert_error(UnknownIdError, mentions=["user", "'c'", "2", "strings"]):
        IdMap(["a", "b"], "user").row("c")


@pytest.mark.parametrize(
    ("ids", "facts"),
    [
        ([4, -2], ["user id", -2, "row 1", "string_ids=True"]),
        ([2**63], ["user id", 2**63, "row 0", 2**63 - 1, "string_ids=True"]),
        ([1, 2**70], ["user id", 2**70, "row 1", 2**63 - 1, "string_ids=True"]),
        ([1.5, 2.0], ["user id", 1.5, "row 0"]),
        ([1.0, float("inf")], ["user id", "inf", "row 1"]),
        ([True, False], ["user id", "Boolean"]),
        ([1, "a"], ["user id"]),
        (["a", None], ["user id", "row 1"]),
        (["a", ""], ["user id", "row 1"]),
        (["a", "b", "b"], ["user id", "'b'", "row 1"]),
        (np.zeros((2, 2), dtype=int), ["(2, 2)"]),
    ],
)
def test_ids_that_cannot_be(ids, facts):
    with assert_error(DataError, mentions=facts):
        IdMap(ids, "user")


def test_texts_are_integers_only_if_all_of_them_are_written_so():
    assert text_ids(pl.Series(["1", "20"]), "f", "item", lambda row: f"line {row + 2}").to_list() == [1, 20]
    assert text_ids(pl.Series(["1", "B2"]), "f", "item", lambda row: f"line {row + 2}").to_list() == ["1", "B2"]
    assert text_ids(pl.Series(["01", "2"]), "f", "item", lambda row: f"line {row + 2}").to_list() == ["01", "2"]
    with assert_error(DataError, mentions=["f", "item id", -4, "line 3", "string_ids=True"]):
        text_ids(pl.Series(["1", "-4"]), "f", "item", lambda row: f"line {row + 2}")
    with assert_error(DataError, mentions=["f", "item id", 2**63, "line 2", 2**63 - 1, "string_ids=True"]):
        text_ids(pl.Series([str(2**63), "1"]), "f", "item", lambda row: f"line {row + 2}")


@pytest.mark.parametrize(
    ("ids", "asked", "expected"),
    [
        (["00012", "00013"], "12", "00012"),
        (["00012", "00013"], "013", "00013"),
        (["00012", "00013"], 12, "00012"),
        (["12", "x"], "0012", "12"),
        (["12", "x"], "12.0", "12"),
        (["0", "x"], "000", "0"),
        (["x1"], "1", None),
        (["00012"], "120", None),
        (["00012"], True, None),
        ([12, 13], "12", 12),
        ([12, 13], "0013", 13),
        ([12, 13], "13.0", 13),
        ([12, 13], "x", None),
        ([12, 13], 14, None),
        ([], "1", None),
    ],
)
def test_the_id_that_is_likely_meant(ids, asked, expected):
    assert IdMap(ids, "item").alike(asked) == expected


def objects(*values):
    return np.array(values, dtype=object)


@pytest.mark.parametrize(
    ("ids", "options", "expected"),
    [
        (objects("a", b"b"), {}, ["a", "b"]),
        (objects(1, 2**63 - 1), {}, [1, 2**63 - 1]),
        (objects(1, "a"), {"string_ids": True}, ["1", "a"]),
        (objects(np.int64(3), 4), {}, [3, 4]),
        (np.array(["1", "02"], dtype=np.dtypes.StringDType()), {"text": True}, ["1", "02"]),
        (pd.Series(["x", "y"], dtype="str"), {}, ["x", "y"]),
        (pd.Series(["x", "y"], dtype="category"), {}, ["x", "y"]),
        (np.array([b"x", b"y"]), {}, ["x", "y"]),
        (pl.Series(["9223372036854775807.0", "5"]), {"text": True}, [2**63 - 1, 5]),
        (pl.Series(["1.0", "2.5"]), {"text": True, "string_ids": True}, ["1.0", "2.5"]),
    ],
)
def test_ids_of_every_type(ids, options, expected):
    assert read_ids(ids, "here", **options).to_list() == expected


@pytest.mark.parametrize(
    ("ids", "options", "facts"),
    [
        ([1.0, 2.0, 3.0], {}, ["3 user ids"]),
        (objects(Decimal("1.0"), Decimal(2)), {}, ["2 user ids"]),
        (pl.Series(["1.0", "2"]), {"text": True}, ["1 id", "1.0"]),
        (["a", "b ", " c"], {}, ["2 user ids", "'b '", "row 1"]),
    ],
)
def test_what_is_changed_is_counted(ids, options, facts, caplog):
    with caplog.at_level(logging.WARNING):
        read_ids(ids, "here", "user", **options)
    (message,) = caplog.messages
    assert_mentions(message, ["here", *facts])


@pytest.mark.parametrize(
    ("ids", "options", "facts"),
    [
        (objects(1, "a"), {}, ["int, str", "string_ids=True"]),
        ([True, False], {"string_ids": True}, ["Boolean"]),
        (pl.Series(["2020-01-01"]).str.to_date(), {}, ["Date"]),
        ([1.0, float("nan")], {}, ["row 1"]),
        (["a", "  "], {}, ["row 1"]),
        ([2.0**60], {}, [2.0**60, "row 0", "2^53"]),
        (pl.Series(["1", "nan", "2.0"]), {"text": True}, ["row 1", "'nan'"]),
        (pl.Series(["2", "1.5e+18"]), {"text": True}, ["1.5e+18", "row 1", "string_ids=True"]),
    ],
)
def test_other_ids_are_refused_with_their_place(ids, options, facts):
    with assert_error(DataError, mentions=["here", "user id", *facts]):
        read_ids(ids, "here", "user", **options)


def test_messages_name_the_option_as_the_person_would_write_it():
    frame = pl.DataFrame({"user": [-1], "item": ["x"]})
    with assert_error(DataError, mentions=["'user'", -1, "row 0", "string_ids=True"]):
        Dataset.from_frames(frame)
    with command_line(), assert_error(DataError, mentions=["'user'", -1, "row 0", "--string-ids"]):
        Dataset.from_frames(frame)
    with assert_error(DataError, mentions=["'temporal'", "timestamp='COLUMN'"]):
        Dataset.from_frames(pl.DataFrame({"user": ["a"], "item": ["x"]}), split="temporal")
