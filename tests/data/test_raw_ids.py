"""Ids of whatever type become integers or strings, with a warning that counts what was changed."""

import logging
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.raw_ids import read_ids
from lirdrec.errors import DataError
from lirdrec.option_names import command_line

from ..helpers import assert_error, assert_mentions


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
