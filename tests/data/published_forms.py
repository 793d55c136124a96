"""Forms of published data sets for the table of `test_kinds.py`: how each writes a kind, and what it answers.

To add a reader: one entry of `FORMS`. By default it must answer a kind as tables do: the same pairs, in its own numbers
or codes, or an error with file and line. `OTHERWISE` lists where the form answers something else, and which pairs of
kind and form cannot exist, each with its reason.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse

from lirdrec.data import Dataset
from lirdrec.data.readers import (
    lightgcn,
    read_amazon,
    read_lightgcn,
    read_matrices,
    read_microlens,
    read_mmrec,
    read_movielens,
)
from lirdrec.data.readers.detect import options_of

NUMBERED = str.maketrans({"a": "1", "b": "2", "c": "3", "d": "4", "x": "10", "y": "11"})
ASINS = {"x": "B00000000X", "y": "B00000000Y"}


@dataclass(frozen=True)
class Refused:
    """What a form answers instead of rows: an error that names its file and, unless None, this line."""

    line: int | None


@dataclass(frozen=True)
class Never:
    """Why a form has no such kind."""

    reason: str


@dataclass(frozen=True)
class Form:
    """The form of a published data set.

    Attributes:
        kind: the name of its reader in `lirdrec.data.readers.detect.FORMATS`.
        file: the name of the file of interactions.
        content: the bytes of this file, made of the table of a kind.
        reader: of the source.
        header: whether its first line names the columns.
        codes: whether users and items are texts; else they are numbers, for which `a`, `b`, `x`, `y` of a kind stand.
        beside: writes the other files: from the folder and the items.
        names: column of a kind → column of the file.
        quotes: whether quotes enclose values.
        text: whether the file is text.
        untaken: options that the reader refuses although a recipe has them.
        decided: options that no one need give, and the reader does not take.
    """

    kind: str
    file: str
    content: Callable[[pl.DataFrame], bytes]
    reader: Callable[..., Dataset]
    header: bool = True
    codes: bool = False
    beside: Callable[[Path, list[Any]], None] = lambda folder, items: None
    names: Mapping[str, str] = field(default_factory=dict)
    quotes: bool = False
    text: bool = True
    untaken: frozenset[str] = frozenset()
    decided: frozenset[str] = frozenset({"split"})

    def write(self, frame: pl.DataFrame, folder: Path, change: Callable[[bytes], bytes]) -> Path:
        """The folder with the files."""
        frame = self.coded(frame)
        (folder / self.file).write_bytes(change(self.content(frame)))
        self.beside(folder, frame["item"].drop_nulls().unique(maintain_order=True).to_list())
        return folder

    def coded(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The table with users and items as the form writes them."""
        for name in ("user", "item"):
            if frame[name].dtype == pl.String:
                values = [None if one is None else self.code(name, one) for one in frame[name]]
                frame = frame.with_columns(pl.Series(name, values, dtype=pl.String))
        return frame

    def code(self, name: str, value: str) -> str:
        """A user or an item as the form writes it."""
        if self.codes:
            return ASINS.get(value, value) if name == "item" else value
        return value.translate(NUMBERED) if re.fullmatch("[abcdxy ]+", value) else value

    def rows(self, expected: list[tuple[Any, ...]], string_ids: bool) -> list[tuple[Any, ...]]:
        """The rows that tables give, in the numbers or codes of the form."""

        def one(name: str, value: Any) -> Any:
            text = self.code(name, str(value))
            if self.codes or string_ids:
                return text
            return int(text) if text != str(value) or not isinstance(value, str) else value

        return [(one("user", user), one("item", item), *time) for user, item, *time in expected]

    def read(self, folder: Path, options: Mapping[str, Any]) -> Dataset:
        """The dataset by the reader, with the options of a kind in the words of the form."""
        given = {
            key: self.names.get(value, value) if isinstance(value, str) else value for key, value in options.items()
        }
        return self.reader(folder, given)


# ---- MovieLens and MicroLens


def separated(separator: str, columns: Mapping[str, str], header: bool, frame: pl.DataFrame) -> bytes:
    """Rows of text with the columns of the form in their order, behind them others that the kind has."""
    filled = frame.with_columns(
        pl.lit(value).alias(name) for name, value in (("rating", 5), ("when", 7)) if name not in frame.columns
    )
    filled = filled.select(*columns, *(name for name in frame.columns if name not in columns)).rename(dict(columns))
    buffer = io.BytesIO()
    style = "necessary" if separator == "," else "never"
    filled.write_csv(
        buffer, separator="\t" if separator == "::" else separator, include_header=header, quote_style=style
    )
    return buffer.getvalue().replace(b"\t", b"::") if separator == "::" else buffer.getvalue()


def films(name: str, line: str, folder: Path, items: list[Any]) -> None:
    """The file of films."""
    head = "movieId,title,genres\n" if name.endswith(".csv") else ""
    (folder / name).write_text(head + "".join(line.format(str(one).strip()) for one in items or [10]), encoding="utf-8")


def with_time(reader: Callable[..., Dataset], folder: Path, options: Mapping[str, Any]) -> Dataset:
    """Times are read by default, and the kinds read them where they say so."""
    return reader(folder, **{"timestamp": None, **options})


NAMES = {"user": "userId", "item": "movieId", "rating": "rating", "when": "timestamp"}
VIDEOS = {"user": "user", "item": "item", "when": "timestamp"}
FLAGS = "|0" * 18

# ---- Amazon


def _plain(value: Any) -> Any:
    """A value as JSON has it: texts that are numbers as numbers."""
    if isinstance(value, str):
        try:
            return int(value) if value.isdigit() else float(value)
        except ValueError:
            return value
    return value if value is None or isinstance(value, (int, float)) else str(value)


def reviews(frame: pl.DataFrame) -> bytes:
    """A record a line, with the keys of 2014; ids are texts, ratings and times are numbers."""
    lines = []
    for row in frame.iter_rows(named=True):
        user, item = (None if row[name] is None else str(row[name]) for name in ("user", "item"))
        record = {"reviewerID": user, "asin": item, "overall": _plain(row.get("rating", 5.0))}
        lines.append(json.dumps(record | {"unixReviewTime": _plain(row.get("when", 7))}, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


RATED_2014 = {"user": "user", "item": "item", "rating": "rating", "when": "timestamp"}
RATED_2023 = {"user": "user_id", "item": "parent_asin", "rating": "rating", "when": "timestamp"}


def amazon(file: str, folder: Path, options: Mapping[str, Any]) -> Dataset:
    """What ratings and times are called the form decides."""
    taken = {key: value for key, value in options.items() if key not in ("rating", "timestamp")}
    return read_amazon(folder / file, **taken, **({} if "timestamp" in options else {"timestamp": None}))


# ---- MMRec, LightGCN and matrices


def inter(frame: pl.DataFrame) -> bytes:
    """A table with tabs, whose column of labels says that all is training; times only where the kind has some."""
    buffer = io.BytesIO()
    named = frame.rename({"user": "userID", "item": "itemID", "when": "timestamp"}, strict=False)
    named = named.with_columns(pl.lit(0).alias("x_label"))
    named.write_csv(buffer, separator="\t", quote_style="never")
    return buffer.getvalue()


def mmrec(folder: Path, options: Mapping[str, Any]) -> Dataset:
    """There is nothing to split, and times are taken from the column of this name."""
    return read_mmrec(folder, **{key: value for key, value in options.items() if key not in ("split", "timestamp")})


def lines(frame: pl.DataFrame) -> bytes:
    """A line for each pair."""
    return "".join(f"{user} {item}\n" for user, item in frame.select("user", "item").iter_rows()).encode()


def matrix(frame: pl.DataFrame) -> bytes:
    """A matrix with a row per user and a column per item."""
    users, items = (frame[name].cast(pl.Int64).to_numpy() for name in ("user", "item"))
    buffer = io.BytesIO()
    scipy.sparse.save_npz(buffer, scipy.sparse.csr_matrix((np.ones(len(users)), (users, items))))
    return buffer.getvalue()


def plainly(reader: Callable[..., Dataset], file: str, folder: Path, options: Mapping[str, Any]) -> Dataset:
    """By the reader, without anything of its own."""
    return reader(folder / file, **options)


FORMS: dict[str, Form] = {
    "movielens 100k": Form(
        "movielens",
        "u.data",
        partial(separated, "\t", NAMES, False),
        partial(with_time, read_movielens),
        header=False,
        beside=partial(films, "u.item", "{}|Film (1990)|01-Jan-1990||http://x|1" + FLAGS + "\n"),
        names=NAMES,
    ),
    "movielens 1m": Form(
        "movielens",
        "ratings.dat",
        partial(separated, "::", NAMES, False),
        partial(with_time, read_movielens),
        header=False,
        beside=partial(films, "movies.dat", "{}::Film (1990)::Drama\n"),
        names=NAMES,
    ),
    "movielens latest": Form(
        "movielens",
        "ratings.csv",
        partial(separated, ",", NAMES, True),
        partial(with_time, read_movielens),
        beside=partial(films, "movies.csv", "{},Film (1990),Drama\n"),
        names=NAMES,
        quotes=True,
    ),
    "microlens": Form(
        "microlens",
        "small_pairs.csv",
        partial(separated, ",", VIDEOS | {"rating": "rating"}, True),
        partial(with_time, read_microlens),
        names=VIDEOS,
        quotes=True,
    ),
    "amazon reviews": Form(
        "amazon",
        "reviews_Baby.json",
        reviews,
        partial(amazon, "reviews_Baby.json"),
        header=False,
        codes=True,
        untaken=frozenset({"item"}),
    ),
    "amazon ratings 2014": Form(
        "amazon",
        "ratings_Baby.csv",
        partial(separated, ",", RATED_2014, False),
        partial(amazon, "ratings_Baby.csv"),
        header=False,
        codes=True,
        untaken=frozenset({"item"}),
    ),
    "amazon ratings 2023": Form(
        "amazon",
        "Baby.csv",
        partial(separated, ",", RATED_2023, True),
        partial(amazon, "Baby.csv"),
        codes=True,
        untaken=frozenset({"item"}),
    ),
    "mmrec": Form("mmrec", "shop.inter", inter, mmrec, decided=frozenset({"split", "timestamp"})),
    "lightgcn": Form(
        "lightgcn",
        "train.txt",
        lines,
        partial(plainly, read_lightgcn, ""),
        False,
        untaken=frozenset(lightgcn.FIXED_OPTIONS),
    ),
    "matrix": Form(
        "matrix",
        "plays.npz",
        matrix,
        partial(plainly, read_matrices, "plays.npz"),
        text=False,
        untaken=frozenset({"rating", "timestamp"}),
    ),
}

# ---- what they answer otherwise

COLUMNS = Never("the form decides what its columns are called, and in which order they stand")
NO_IDS = Never("a matrix has no ids: its rows and columns are counted, and each entry has both")
UNRECOGNIZED = Refused(None)  # a file is Amazon's only where its first lines look so; else it is a table, or unknown
# lines are counted from the first row, the header apart

NAMED_COLUMNS: dict[str, Any] = {"no header, not declared": COLUMNS, "two columns of a name": COLUMNS}
NUMBERED_IDS: dict[str, Any] = {
    **NAMED_COLUMNS,
    "underscores": Refused(1),
    "hexadecimal that looks like powers of ten": Refused(1),
    "blanks around": Refused(4),
    "a mark of UTF-8": Refused(1),
    "UTF-16": Refused(1),
}
AMAZON: dict[str, Any] = {
    **NAMED_COLUMNS,
    "negative integers": [("5", "x"), ("-3", "x")],
    "integers of 64 bits in text": [("1", "x"), (str(2**63), "x")],
    "whole decimal numbers": [("1.0", "x"), ("2.0", "x")],
    "fractions": [("1.0", "x"), ("2.5", "x")],
    **dict.fromkeys(
        (
            *("seconds with fractions", "milliseconds with fractions", "dates", "moments", "texts of dates"),
            *("dates of other places", "months first", "other than the form"),
        ),
        Refused(1),  # times are whole numbers
    ),
    "UTF-16": UNRECOGNIZED,
    "line ends of old Macs": Refused(1),
}
AMAZON_TABLE = AMAZON | {"UTF-16 without a mark": UNRECOGNIZED, "Latin-1, not declared": UNRECOGNIZED}
COUNTED = NUMBERED_IDS | {  # where features stand in the order of the numbers
    "leading zeros": Refused(1),
    "leading zeros as strings": Refused(1),
    "leading zeros behind": Refused(3),
}
NO_HEADER = {"blank lines within": Refused(3)}
MATRIX: dict[str, Any] = {
    **NAMED_COLUMNS,
    "no such column": COLUMNS,
    **dict.fromkeys(
        (
            *("integers of 63 bits", "integers as strings", "negative integers", "negative integers as strings"),
            *("leading zeros", "leading zeros as strings", "leading zeros behind", "blanks around numbers as strings"),
            *("underscores", "hexadecimal that looks like powers of ten", "whole decimal numbers", "fractions"),
            "blanks around",
        ),
        NO_IDS,
    ),
    **dict.fromkeys(("no user", "no user, skipped", "no item, skipped", "all rows bad"), NO_IDS),
    **{f"packed with {one}": Refused(None) for one in ("gzip", "bzip2", "xz", "zip", "zstd", "lz4")},  # it is packed
}
OTHERWISE: dict[str, dict[str, Any]] = {
    "movielens 100k": NUMBERED_IDS | NO_HEADER,
    "movielens 1m": NUMBERED_IDS | NO_HEADER,
    "movielens latest": NUMBERED_IDS,
    "microlens": NUMBERED_IDS,
    "amazon reviews": AMAZON | NO_HEADER,
    "amazon ratings 2014": AMAZON_TABLE | NO_HEADER | {"blank lines before": UNRECOGNIZED},
    "amazon ratings 2023": AMAZON_TABLE | {"line ends of old Macs": Refused(None)},
    "mmrec": COUNTED | {"blanks around names": COLUMNS},
    "lightgcn": COUNTED
    | {
        "blanks around": Never("blanks separate the values"),
        "negative integers as strings": Refused(1),
        "whole decimal numbers": Refused(1),
        "fractions": Refused(1),
    },
    "matrix": MATRIX,
}


def otherwise(form: str) -> dict[str, Any]:
    """What a form answers otherwise than tables do: kind → rows of a table, `RequestRejected`, or `Never`."""
    return OTHERWISE[form]


def why_not(name: str, kind_name: str, kind: Any) -> str:
    """Why a form has no such kind; "" where it has one."""
    form = FORMS[name]
    if isinstance(listed := otherwise(name).get(kind_name), Never):
        return listed.reason
    untaken = (set(kind.options) - set(options_of(form.kind)) - form.decided) | (set(kind.options) & form.untaken)
    if untaken:
        return f"its reader takes no {', '.join(sorted(untaken))}"
    if "bytes" in kind.needs:
        return "a text holds no bytes and no unsigned integers"
    if "csv" in kind.needs and not form.quotes:
        return "quotes mean nothing in it"
    if {"text", "lines"} & kind.needs and not form.text:
        return "it is no text"
    return ""


def _outcome(name: str, kind_name: str, kind: Any) -> Any:
    """The rows in the words of the form, or what must be refused."""
    form = FORMS[name]
    answer = otherwise(name).get(kind_name, kind.expected)
    if isinstance(answer, list):
        return form.rows(answer, kind.options.get("string_ids", False))
    if isinstance(answer, Refused):
        return answer if answer.line is None else Refused(answer.line + form.header)
    if "PLACE" in answer:
        return Refused(kind.at + 1 + form.header)
    literal = re.search(r"\bline (\d+)", " ".join(answer))
    return Refused(None if literal is None else max(1, int(literal[1]) - 1 + form.header))


def published_cases(kinds: Mapping[str, Any]) -> list[Any]:
    """A case for each pair of form and kind that can exist."""
    return [
        pytest.param(FORMS[name], kind, _outcome(name, kind_name, kind), id=f"{name}-{kind_name}")
        for kind_name, kind in kinds.items()
        for name in FORMS
        if not why_not(name, kind_name, kind)
    ]
