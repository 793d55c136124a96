"""Every reader answers every kind of table: the same rows, or the same fault with its place.

To add a reader: one entry of `READERS` with the traits it has. To add a kind: one entry of `KINDS`. A kind is tried
with every reader that has the traits it needs; both may be added by other files that fill these two mappings.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.frames import to_polars
from lirdrec.data.readers import read_raw
from lirdrec.errors import DataError, LirdrecError


@dataclass(frozen=True)
class Reader:
    """A way by which a table of interactions comes in.

    Attributes:
        write: from the table, an empty folder, and what a kind does to the bytes of a file, to the source.
        read: from the source and the options of the kind to the dataset.
        traits: "text": values are written as text; "file": one file, whose bytes can be changed; "lines": messages
            count lines, the header being line 1; "csv": separators, quotes and encodings are free.
        place: how messages name the first row, where neither lines nor rows from 0 are counted: "record 1".
    """

    write: Callable[[pl.DataFrame, Path, Callable[[bytes], bytes]], Any]
    read: Callable[..., Dataset]
    traits: frozenset[str] = frozenset()
    place: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of table.

    Attributes:
        frame: the table, with the columns user and item and others that `options` name.
        expected: the rows of the dataset's training pairs in order, or what the message of the error must hold: a
            pattern, in which PLACE stands for the first row at fault, `at`.
        options: of the reader.
        change: what is done to the bytes of the file.
        needs: traits that a reader must have.
        at: the number of the row at fault, counted from 0.
        counts: what the dataset's counts of preparation must hold.
    """

    frame: pl.DataFrame
    expected: list[tuple[Any, ...]] | str
    options: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[bytes], bytes] = bytes
    needs: frozenset[str] = frozenset()
    at: int = 0
    counts: Mapping[str, Any] = field(default_factory=dict)


def _csv(frame: pl.DataFrame, separator: str) -> bytes:
    buffer = io.BytesIO()
    frame.write_csv(buffer, separator=separator, quote_style="necessary" if separator != "\t" else "never")
    return buffer.getvalue()


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def in_file(name: str, make: Callable[[pl.DataFrame], bytes]) -> Callable[..., Path]:
    """The `write` of a reader of one file."""

    def write(frame: pl.DataFrame, folder: Path, change: Callable[[bytes], bytes]) -> Path:
        path = folder / name
        path.write_bytes(change(make(frame)))
        return path

    return write


def _records(frame: pl.DataFrame) -> list[str]:
    return [json.dumps(row, default=str) for row in frame.iter_rows(named=True)]


def recbole(frame: pl.DataFrame, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """An atomic file, all of whose columns are tokens."""
    (folder / "plays").mkdir()
    named = frame.rename({name: f"{name}:token" for name in frame.columns})
    (folder / "plays" / "plays.inter").write_bytes(change(_csv(named, "\t")))
    return folder / "plays"


def read_atomic(source: Path, **options: Any) -> Dataset:
    """RecBole's columns have other names by default."""
    return read_raw(source, **{"user": "user", "item": "item", **options})


def split_files(frame: pl.DataFrame, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """All rows in one file of three, and the others with a row of their own."""
    (folder / "train.csv").write_bytes(change(_csv(frame, ",")))
    other = frame.head(1).with_columns(pl.lit("other").alias("user"))
    (folder / "test.csv").write_bytes(_csv(other, ","))
    return folder


def read_two_files(source: Path, **options: Any) -> Dataset:
    """The split of the files is kept, so that training has the rows of the first."""
    return read_raw(train=source / "train.csv", test=source / "test.csv", **{**options, "split": "split_file"})


def in_memory(make: Callable[[pl.DataFrame], Any]) -> Callable[..., Any]:
    """The `write` of a reader of a frame."""
    return lambda frame, folder, change: make(frame)


TEXT = frozenset({"text", "file", "lines"})
READERS: dict[str, Reader] = {
    "csv": Reader(in_file("plays.csv", lambda frame: _csv(frame, ",")), read_raw, TEXT | {"csv"}),
    "tsv": Reader(in_file("plays.tsv", lambda frame: _csv(frame, "\t")), read_raw, TEXT),
    "parquet": Reader(in_file("plays.parquet", _parquet), read_raw, frozenset({"file"})),
    "json lines": Reader(
        in_file("plays.jsonl", lambda frame: "".join(f"{one}\n" for one in _records(frame)).encode()),
        read_raw,
        frozenset({"file"}),
        place="line 1",
    ),
    "json list": Reader(
        in_file("plays.json", lambda frame: f"[{', '.join(_records(frame))}]".encode()),
        read_raw,
        frozenset({"file"}),
        place="record 1",
    ),
    "recbole": Reader(recbole, read_atomic, frozenset({"text", "lines"})),
    "split files": Reader(split_files, read_two_files, frozenset({"text", "lines"})),
    "polars": Reader(in_memory(lambda frame: frame), Dataset.from_frames),
    "pandas": Reader(in_memory(lambda frame: frame.to_pandas()), Dataset.from_frames),
    "arrow": Reader(in_memory(lambda frame: frame.to_arrow()), Dataset.from_frames),
}

PLAIN = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
PAIRS = [("a", "x"), ("a", "y"), ("b", "x")]


def timed(*values: Any) -> pl.DataFrame:
    """The three plain pairs with times."""
    return PLAIN.with_columns(pl.Series("when", values))


KINDS: dict[str, Kind] = {
    "plain": Kind(PLAIN, PAIRS),
    "no such column": Kind(PLAIN, "no column 'sku'; it has user, item", {"item": "sku"}),
    "whole times": Kind(timed(30, 10, 20), [("a", "x", 30), ("a", "y", 10), ("b", "x", 20)], {"timestamp": "when"}),
    "a word for a time": Kind(
        timed("1", "soon", "3"), "column 'when' has 'soon' in PLACE", {"timestamp": "when"}, at=1
    ),
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
        assert kind.counts.items() <= dataset.info["preparation"].items()
        return
    if reader.place:
        word, first = reader.place.split()
        place = f"{word} {int(first) + kind.at}"
    else:
        place = f"line {kind.at + 2}" if "lines" in reader.traits else f"row {kind.at} (counted from 0)"
    with pytest.raises(LirdrecError, match=kind.expected.replace("PLACE", re.escape(place))) as caught:
        reader.read(reader.write(kind.frame, tmp_path, kind.change), **options)
    assert isinstance(caught.value, DataError) and "\n" not in str(caught.value)
