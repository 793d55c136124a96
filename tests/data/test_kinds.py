"""Every reader answers every kind of table: the same rows, or the same fault with its place.

To add a reader: one entry of `table_forms.READERS` with the traits it has. To add a kind: one entry of `KINDS`. A kind
is tried with every reader that has the traits it needs; both may be added by other files that fill these two mappings.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import polars as pl
import pyarrow.orc
import pytest

from lirdrec.data import Dataset, readers
from lirdrec.data.frames import to_polars
from lirdrec.data.readers import detect
from lirdrec.errors import DataError

from ..helpers import assert_error
from .published_forms import FORMS, otherwise, published_cases, why_not
from .table_forms import BYTES, LACKING, READERS


@dataclass(frozen=True)
class Kind:
    """A kind of table.

    Attributes:
        frame: the table, with the columns user and item and others that `options` name.
        expected: the rows of the dataset's training pairs in order, or the facts that the message of the error must
            mention: in them PLACE stands for the first row at fault, `at`, and ROWS for the number of all rows.
        options: of the reader.
        change: what is done to the bytes of the file.
        needs: traits that a reader must have.
        at: the number of the row at fault, counted from 0.
        counts: what the dataset's counts of preparation must hold.
    """

    frame: pl.DataFrame
    expected: list[tuple[Any, ...]] | tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[bytes], bytes] = bytes
    needs: frozenset[str] = frozenset()
    at: int = 0
    counts: Mapping[str, Any] = field(default_factory=dict)


PLAIN = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
PAIRS = [("a", "x"), ("a", "y"), ("b", "x")]
MOMENT = 1_717_156_800_000_000  # 2024-05-31T12:00:00 UTC
WHEN = {"timestamp": "when"}
SKIP = {"bad_rows": "skip"}
RATED = {"rating": "rating", "min_rating": 3}


def timed(*values: Any) -> pl.DataFrame:
    """The three plain pairs with times."""
    return PLAIN.with_columns(pl.Series("when", values))


def rated(*values: Any) -> pl.DataFrame:
    """The three plain pairs with ratings."""
    return PLAIN.with_columns(pl.Series("rating", values))


def at(*times: int) -> list[tuple[Any, ...]]:
    """The three plain pairs as they come back with times."""
    return [(*pair, time) for pair, time in zip(PAIRS, times, strict=True)]


def zipped(content: bytes, *more: str) -> bytes:
    """A zip archive with the content, what macOS adds, and more files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/plays", content)
        archive.writestr("__MACOSX/folder/._plays", b"\0")
        for name in more:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def packed(codec: str) -> Callable[[bytes], bytes]:
    """What compresses as pyarrow does."""

    def change(content: bytes) -> bytes:
        buffer = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(buffer, codec) as stream:
            stream.write(content)
        return buffer.getvalue().to_pybytes()

    return change


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "zstd": packed("zstd"),
    "lz4": packed("lz4"),
}
IN_FILES = frozenset({"file"})
IN_TEXT = frozenset({"text", "file"})
QUOTED = frozenset({"csv"})
UMLAUT = pl.DataFrame({"user": ["ä", "ä", "é"], "item": ["x", "y", "x"]})
UMLAUTS = [("ä", "x"), ("ä", "y"), ("é", "x")]
DAY_FIRST = ("'when'", "'01/10/2024'", "PLACE", "time_format='%d/%m/%Y'", "time_format='%m/%d/%Y'")


def open_quote(content: bytes) -> bytes:
    """The content with a quote before its last row."""
    before, end, last = content.rstrip(b"\n").rpartition(b"\n")
    return before + end + b'"' + last + b"\n"


def users(*ids: Any, kind: Any = None) -> pl.DataFrame:
    """A row for each of these users, all with one item."""
    return pl.DataFrame({"user": pl.Series(ids, dtype=kind), "item": ["x"] * len(ids)})


def of(*ids: Any) -> list[tuple[Any, ...]]:
    """The rows that `users` gives."""
    return [(one, "x") for one in ids]


LARGEST = 2**63 - 1
IDS: dict[str, Kind] = {
    "integers of 63 bits": Kind(users(LARGEST - 1, 2**53 + 1, LARGEST), of(2**53 + 1, LARGEST - 1, LARGEST)),
    "integers as strings": Kind(users(7, LARGEST), of("7", str(LARGEST)), {"string_ids": True}),
    "negative integers": Kind(users(5, -3), ("user id", "-3", "PLACE", "string_ids=True"), at=1),
    "negative integers as strings": Kind(users(-3, 5), of("-3", "5"), {"string_ids": True}),
    "integers of 64 bits": Kind(
        users(1, 2**63, kind=pl.UInt64), ("user id", str(2**63), "PLACE", "string_ids=True"), at=1, needs=BYTES
    ),
    "integers of 64 bits in text": Kind(
        users(1, 2**63, kind=pl.UInt64),
        ("user id", str(2**63), "PLACE", "string_ids=True"),
        at=1,
        needs=frozenset({"lines"}),
    ),
    "integers of 64 bits as strings": Kind(
        users(2**63, kind=pl.UInt64), of(str(2**63)), {"string_ids": True}, needs=BYTES
    ),
    "leading zeros": Kind(users("007", "7"), of("007", "7")),
    "leading zeros as strings": Kind(users("007", "7"), of("007", "7"), {"string_ids": True}),
    "leading zeros behind": Kind(users("7", "8", "007"), of("007", "7", "8")),
    "blanks around numbers as strings": Kind(users(" 7", "8 ", "9"), of("7", "8", "9"), {"string_ids": True}),
    "underscores": Kind(users("1_5", "15"), of("15", "1_5")),
    "hexadecimal that looks like powers of ten": Kind(users("1e5", "22"), of("1e5", "22")),
    "whole decimal numbers": Kind(users(2.0, 1.0), of(1, 2)),
    "fractions": Kind(users(1.0, 2.5), ("user id", "2.5", "PLACE"), at=1),
    "blanks around": Kind(users("a", " a", "b ", "c d"), of("a", "b", "c d"), counts={"repeated_pairs": 1}),
    "bytes": Kind(users(b"b", "é".encode()), of("b", "é"), needs=BYTES),
    "bytes that are no text": Kind(users(b"b", b"\xff"), (r"b'\xff'", "PLACE", "UTF-8"), needs=BYTES, at=1),
}
KINDS: dict[str, Kind] = {
    **IDS,
    "plain": Kind(PLAIN, PAIRS),
    "no such column": Kind(PLAIN, ("'sku'", "user, item"), {"item": "sku"}),
    "a word for a rating": Kind(
        rated("5", "good", "1"), ("'rating'", "'good'", "PLACE", "bad_rows='skip'"), RATED, at=1
    ),
    "no rating": Kind(rated("5", "4", None), ("'rating'", "PLACE", "bad_rows='skip'"), RATED, at=2),
    "no rating, skipped": Kind(
        rated("5", "4", None), PAIRS[:2], RATED | SKIP, counts={"rows": 3, "bad_rows_skipped": 1, "below_min_rating": 0}
    ),
    "no number, skipped": Kind(rated(5.0, float("nan"), 3.0), [PAIRS[0], PAIRS[2]], RATED | SKIP),
    "ratings not asked for": Kind(rated(5.0, None, 3.0), PAIRS),
    "no user": Kind(PLAIN.with_columns(user=pl.Series(["a", None, "b"])), ("'user'", "PLACE", "bad_rows='skip'"), at=1),
    "no user, skipped": Kind(PLAIN.with_columns(user=pl.Series(["a", None, "b"])), [PAIRS[0], PAIRS[2]], SKIP),
    "no item, skipped": Kind(
        PLAIN.with_columns(item=pl.Series(["x", "y", None])), PAIRS[:2], SKIP, counts={"bad_rows_skipped": 1}
    ),
    "all rows bad": Kind(PLAIN.with_columns(item=pl.lit(None, pl.String)), ("ROWS rows", "item id"), SKIP),
    "whole times": Kind(timed(30, 10, 20), at(30, 10, 20), WHEN),
    "whole times as fractions": Kind(timed(1593878903.0, 2.0, 3.0), at(1593878903, 2, 3), WHEN),
    "a gap among whole times": Kind(timed(1593878903.0, 2.0, None), ("'when'", "PLACE", "bad_rows='skip'"), WHEN, at=2),
    "a gap among times, skipped": Kind(timed(3.0, None, 2.0), [("a", "x", 3), ("b", "x", 2)], WHEN | SKIP),
    "seconds with fractions": Kind(timed(1593878903.438, 1.5, 2.0), at(1593878903438000, 1500000, 2000000), WHEN),
    "milliseconds with fractions": Kind(
        timed(1593878903438.5, 1593878903000.0, 1.0), at(1593878903438500, 1593878903000000, 1000), WHEN
    ),
    "dates": Kind(
        timed(date(2024, 5, 31), date(1970, 1, 1), date(1970, 1, 2)),
        at(MOMENT - 43_200_000_000, 0, 86_400_000_000),
        WHEN,
    ),
    "moments": Kind(timed(*[datetime(2024, 5, 31, 12)] * 3), at(*[MOMENT] * 3), WHEN),
    "texts of dates": Kind(
        timed("2024-05-31 12:00:00 UTC", "2024-05-31T12:00:00.5Z", "2024/05/31"),
        at(MOMENT, MOMENT + 500_000, MOMENT - 43_200_000_000),
        WHEN,
    ),
    "dates of other places": Kind(
        timed("2024-05-31T14:00:00+02:00", "2024-05-31 10:30:00 -0130", "2024-05-31 12:00"), at(*[MOMENT] * 3), WHEN
    ),
    "a word for a time": Kind(timed("1", "soon", "3"), ("'when'", "'soon'", "PLACE", "time_format"), WHEN, at=1),
    "days or months first": Kind(timed("01/10/2024", "03/08/2024", "09/02/2024"), DAY_FIRST, WHEN),
    "months first": Kind(
        timed("05/31/2024 12:00", "01/01/1970 00:00", "01/02/1970 00:00"),
        at(MOMENT, 0, 86_400_000_000),
        WHEN | {"time_format": "%m/%d/%Y %H:%M"},
    ),
    "other than the form": Kind(
        timed("31.5.2024", "31.5.2024", "2024-05-31"),
        ("'when'", "'2024-05-31'", "PLACE", "'%d.%m.%Y'"),
        WHEN | {"time_format": "%d.%m.%Y"},
        at=2,
    ),
    "blank lines at the end": Kind(PLAIN, PAIRS, change=lambda content: content + b"\n\r\n", needs=IN_TEXT),
    "blank lines within": Kind(
        rated("5", "x", "1"),
        ("'rating'", "'x'", "line 5"),
        RATED,
        lambda content: content.replace(b"\n", b"\n\n", 2),
        IN_TEXT,
        at=1,
    ),
    "blank lines before": Kind(
        rated("x", "2", "1"), ("'rating'", "'x'", "line 4"), RATED, lambda content: b"\n\r\n" + content, IN_TEXT
    ),
    "a line end within quotes": Kind(
        rated("5", "x", "1").with_columns(note=pl.Series(["two\nlines", 'a "quote", and more; |', None])),
        ("'rating'", "'x'", "line 4"),
        RATED,
        needs=QUOTED,
    ),
    "a mark of UTF-8": Kind(UMLAUT, UMLAUTS, change=lambda content: b"\xef\xbb\xbf" + content, needs=IN_TEXT),
    "UTF-16": Kind(UMLAUT, UMLAUTS, change=lambda c: c.decode().encode("utf-16"), needs=IN_TEXT),
    "UTF-16 without a mark": Kind(
        PLAIN,
        ("line 1", "--encoding utf-16-le"),
        change=lambda c: c.decode().encode("utf-16-le"),
        needs=IN_TEXT,
    ),
    "Latin-1, not declared": Kind(
        UMLAUT,
        ("UTF-8", "0xe4", "line 2", "--encoding NAME"),
        change=lambda c: c.decode().encode("latin-1"),
        needs=IN_TEXT,
    ),
    "Latin-1": Kind(UMLAUT, UMLAUTS, {"encoding": "latin-1"}, lambda c: c.decode().encode("latin-1"), IN_TEXT),
    "line ends of Windows": Kind(PLAIN, PAIRS, change=lambda content: content.replace(b"\n", b"\r\n"), needs=IN_TEXT),
    "line ends of old Macs": Kind(PLAIN, PAIRS, change=lambda content: content.replace(b"\n", b"\r"), needs=IN_TEXT),
    "no end of the last line": Kind(PLAIN, PAIRS, change=lambda content: content.rstrip(b"\n"), needs=IN_TEXT),
    "no header": Kind(
        PLAIN, PAIRS, {"header": False, "columns": ["user", "item"]}, lambda c: c.split(b"\n", 1)[1], IN_TEXT
    ),
    "no header, not declared": Kind(
        pl.DataFrame({"1": [1, 2], "20": [3, 4]}),
        ("'user'", "1, 20", "--no-header"),
        needs=IN_TEXT,
    ),
    "blanks around names": Kind(
        PLAIN, PAIRS, change=lambda content: content.replace(b"item", b" item ", 1), needs=IN_TEXT
    ),
    "two columns of a name": Kind(
        rated(1, 2, 3),
        ("2 and 3", "'item'"),
        change=lambda c: c.replace(b"rating", b"item", 1),
        needs=IN_TEXT,
    ),
    "too few values": Kind(
        PLAIN, ("line 5", "1 value", "2 columns", "bad_rows='skip'"), change=lambda c: c + b"c\n", needs=IN_TEXT
    ),
    "too few values, skipped": Kind(
        PLAIN, PAIRS, SKIP, lambda c: c + b"c\n", IN_TEXT, counts={"rows": 4, "bad_rows_skipped": 1}
    ),
    "a quote that stays open": Kind(PLAIN, ("line 4",), SKIP, open_quote, QUOTED),
    "two files in a zip archive": Kind(
        PLAIN,
        ("zip", "2 files", "folder/plays, more.csv"),
        change=lambda c: zipped(c, "more.csv"),
        needs=IN_FILES,
    ),
    "a 7z archive": Kind(PLAIN, ("7z",), change=lambda c: b"7z\xbc\xaf\x27\x1c" + c, needs=IN_FILES),
    "a RAR archive": Kind(PLAIN, ("RAR",), change=lambda c: b"Rar!\x1a\x07\x01" + c, needs=IN_FILES),
    "a pickle": Kind(PLAIN, ("pickle",), change=pickle.dumps, needs=IN_FILES),
    "an array": Kind(
        PLAIN, ("NumPy", "--features NAME=FILE.npy"), change=lambda c: b"\x93NUMPY\x01" + c, needs=IN_FILES
    ),
    **{f"packed with {name}": Kind(PLAIN, PAIRS, change=change, needs=IN_FILES) for name, change in PACKINGS.items()},
    **{
        f"cut short in {name}": Kind(PLAIN, (name,), change=lambda c, change=change: change(c)[:-9], needs=IN_FILES)
        for name, change in PACKINGS.items()
    },
}
CASES = [
    pytest.param(reader, kind, id=f"{reader_name}-{kind_name}")
    for kind_name, kind in KINDS.items()
    for reader_name, reader in READERS.items()
    if kind.needs <= reader.traits
]


@pytest.mark.parametrize(("reader", "kind"), CASES)
def test_every_reader_answers_every_kind(tmp_path, reader, kind):
    options = {"split": "none", **kind.options}
    if isinstance(kind.expected, list):
        dataset = reader.read(reader.write(kind.frame, tmp_path, kind.change), **options)
        assert to_polars(dataset.frame("train"))[0].rows() == kind.expected
        if "several files" not in reader.traits:  # the other files count too
            assert kind.counts.items() <= dataset.info["preparation"].items()
        return
    row = kind.at % 2 if "parts" in reader.traits else kind.at
    word, first = (reader.place or "line 2").split()
    place = f"{word} {row + int(first)}" if reader.place or "lines" in reader.traits else f"row {row}"
    place += f" of {reader.file}" if reader.file else ""
    facts = [
        fact.replace("PLACE", place).replace("ROWS", str(kind.frame.height + reader.more_rows))
        for fact in kind.expected
    ]
    if "PLACE" in kind.expected and "parts" in reader.traits:
        facts.append(f" of part-0000{kind.at // 2}.")
    with assert_error(DataError, mentions=facts) as caught:
        reader.read(reader.write(kind.frame, tmp_path, kind.change), **options)
    assert "\n" not in str(caught.value)


# ---- formats that decide how ids, ratings and times are written


@pytest.mark.parametrize(("form", "kind", "outcome"), published_cases(KINDS))
def test_every_published_form_answers_every_kind(tmp_path, form, kind, outcome):
    def read() -> Dataset:
        return form.read(form.write(kind.frame, tmp_path, kind.change), {"split": "none", **kind.options})

    if isinstance(outcome, list):
        dataset = read()
        assert sorted(to_polars(dataset.frame("train"))[0].rows()) == sorted(outcome)
        assert kind.counts.items() <= dataset.info["preparation"].items()
        return
    with assert_error(DataError, mentions=[form.file]) as caught:
        read()
    assert "\n" not in str(caught.value)
    if outcome.line is not None:
        assert re.search(rf"\bline {outcome.line}\b", str(caught.value)), caught.value


def test_every_registered_reader_is_in_the_table():
    tried = {one.kind for one in (*READERS.values(), *FORMS.values())}
    assert set(detect.FORMATS) == tried - {""}
    functions = {name for name in readers.__all__ if name.startswith("read_")}
    registered = {reader.__name__ for _, reader, _ in detect.FORMATS.values()}
    others = {"read_any", "read_raw", "read_features", "read_split_files"}  # the last is tried as "split files"
    assert functions == registered | others


def test_no_pair_is_left_out_without_a_reason():
    needed = {trait for kind in KINDS.values() for trait in kind.needs}
    assert needed <= set(LACKING)
    listed = {(form, kind) for form in FORMS for kind in otherwise(form)}
    assert all(kind in KINDS for _, kind in listed), sorted(listed)
    reported = {(form, kind) for form in FORMS for kind in KINDS if why_not(form, kind, KINDS[kind])}
    tried = {tuple(case.id.split("-", 1)) for case in published_cases(KINDS)}
    assert reported | tried == {(form, kind) for form in FORMS for kind in KINDS} and not reported & tried
