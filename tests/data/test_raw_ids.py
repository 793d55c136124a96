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
from lirdrec.interface import command_line


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
    ("ids", "options", "told"),
    [
        ([1.0, 2.0, 3.0], {}, "here: 3 user ids are decimal numbers, read as integers"),
        (objects(Decimal("1.0"), Decimal(2)), {}, "here: 2 user ids are decimal numbers, read as integers"),
        (
            pl.Series(["1.0", "2"]),
            {"text": True},
            "here: 1 id written with a decimal point, such as 1.0, read as integers",
        ),
        (
            ["a", "b ", " c"],
            {},
            "here: blanks around 2 user ids taken off, for instance 'b ' in row 1 (counted from 0)",
        ),
    ],
)
def test_what_is_changed_is_counted(ids, options, told, caplog):
    with caplog.at_level(logging.WARNING):
        read_ids(ids, "here", "user", **options)
    assert [record.getMessage() for record in caplog.records] == [told]


@pytest.mark.parametrize(
    ("ids", "options", "sentence"),
    [
        (objects(1, "a"), {}, r"of type a mix of types \(int, str\).*string_ids=True"),
        ([True, False], {"string_ids": True}, "ids of type Boolean"),
        (pl.Series(["2020-01-01"]).str.to_date(), {}, "ids of type Date"),
        ([1.0, float("nan")], {}, "no user id in row 1"),
        (["a", "  "], {}, "the user id is empty in row 1"),
        ([2.0**60], {}, "is not a whole number below 2^53".replace("^", r"\^")),
        (pl.Series(["1", "nan", "2.0"]), {"text": True}, "no user id in row 1 .*'nan'"),
        (pl.Series(["2", "1.5e+18"]), {"text": True}, r"user id 1.5e\+18 in row 1 .* is a decimal number"),
    ],
)
def test_other_ids_are_refused_with_their_place(ids, options, sentence):
    with pytest.raises(DataError, match=f"^here: .*{sentence}"):
        read_ids(ids, "here", "user", **options)


def test_messages_name_the_option_as_the_person_would_write_it():
    frame = pl.DataFrame({"user": [-1], "item": ["x"]})
    with pytest.raises(DataError, match="string_ids=True"):
        Dataset.from_frames(frame)
    with command_line(), pytest.raises(DataError, match="--string-ids"):
        Dataset.from_frames(frame)
    with pytest.raises(DataError, match="timestamp='COLUMN'"):
        Dataset.from_frames(pl.DataFrame({"user": ["a"], "item": ["x"]}), split="temporal")
