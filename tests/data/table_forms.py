"""The forms in which a table of interactions comes in: files, folders and frames, with the reader of each."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.orc

from lirdrec.data import Dataset
from lirdrec.data.readers import read_raw


@dataclass(frozen=True)
class Reader:
    """A way by which a table of interactions comes in.

    Attributes:
        write: from the table, an empty folder, and what a kind does to the bytes of a file, to the source.
        read: from the source and the options of the kind to the dataset.
        traits: "text": values are written as text; "file": one file, whose bytes can be changed; "lines": messages
            count lines, the header being line 1; "csv": quotes enclose values; "parts": two files, the first of 2 rows;
            "bytes": a column may hold bytes, and unsigned integers.
        place: how messages name the first row, where neither lines nor rows from 0 are counted: "record 1".
        kind: the name of the reader in `lirdrec.data.readers.detect.FORMATS`; "": frames, and files of a split.
        file: what messages say behind the place.
        more_rows: of the other files of a split.
    """

    write: Callable[[pl.DataFrame, Path, Callable[[bytes], bytes]], Any]
    read: Callable[..., Dataset]
    traits: frozenset[str] = frozenset()
    place: str = ""
    kind: str = "table"
    file: str = ""
    more_rows: int = 0


def _text(frame: pl.DataFrame, separator: str = ",") -> bytes:
    buffer = io.BytesIO()
    frame.write_csv(buffer, separator=separator, quote_style="necessary" if separator != "\t" else "never")
    return buffer.getvalue()


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _feather(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="lz4", compat_level=pl.CompatLevel.oldest())
    return buffer.getvalue()


def _orc(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    pyarrow.orc.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), buffer)
    return buffer.getvalue()


def _stream(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
    return buffer.getvalue()


def in_file(name: str, make: Callable[[pl.DataFrame], bytes]) -> Callable[..., Path]:
    """The `write` of a reader of one file."""

    def write(frame: pl.DataFrame, folder: Path, change: Callable[[bytes], bytes]) -> Path:
        path = folder / name
        path.write_bytes(change(make(frame)))
        return path

    return write


def in_parts(name: str, make: Callable[[pl.DataFrame], bytes]) -> Callable[..., Path]:
    """The `write` of a reader of a folder of two parts, with what Spark leaves beside them."""

    def write(frame: pl.DataFrame, folder: Path, change: Callable[[bytes], bytes]) -> Path:
        (folder / "_SUCCESS").touch()
        (folder / f".part-00000{name}.crc").write_bytes(b"crc\0")
        for number, part in enumerate((frame[:2], frame[2:])):
            (folder / f"part-0000{number}{name}").write_bytes(make(part))
        return folder

    return write


def _records(frame: pl.DataFrame) -> list[str]:
    return [json.dumps(row, default=str) for row in frame.iter_rows(named=True)]


def recbole(frame: pl.DataFrame, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """An atomic file, all of whose columns are tokens."""
    (folder / "plays").mkdir()
    named = frame.rename({name: f"{name}:token" for name in frame.columns})
    (folder / "plays" / "plays.inter").write_bytes(change(_text(named, "\t")))
    return folder / "plays"


def read_atomic(source: Path, **options: Any) -> Dataset:
    """RecBole's columns have other names by default."""
    return read_raw(source, **{"user": "user", "item": "item", **options})


def split_files(frame: pl.DataFrame, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """All rows in one file of two, and the other with a row of its own."""
    (folder / "train.csv").write_bytes(change(_text(frame)))
    other = frame.head(1).with_columns(pl.lit("other").alias("user" if frame["user"].dtype == pl.String else "item"))
    (folder / "test.csv").write_bytes(_text(other))
    return folder


def read_two_files(source: Path, **options: Any) -> Dataset:
    """The split of the files is kept, so that training has the rows of the first."""
    return read_raw(train=source / "train.csv", test=source / "test.csv", **{**options, "split": "split_file"})


def split_folder(frame: pl.DataFrame, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """All rows in the first file of three, and the others with a row of their own."""
    (folder / "plays.train.csv").write_bytes(_text(frame))
    for split in ("valid", "test"):
        name = pl.lit(split).alias("user" if frame["user"].dtype == pl.String else "item")
        (folder / f"plays.{split}.csv").write_bytes(_text(frame.head(1).with_columns(name)))
    return folder


def read_folder(source: Path, **options: Any) -> Dataset:
    """The split of the folder is kept, so that training has the rows of the first file."""
    return read_raw(source, **{**options, "split": "split_file"})


def in_memory(make: Callable[[pl.DataFrame], Any]) -> Callable[..., Any]:
    """The `write` of a reader of a frame."""
    return lambda frame, folder, change: make(frame)


TEXT = frozenset({"text", "file", "lines"})
FILE = frozenset({"file"})
BYTES = frozenset({"bytes"})
SPLIT = frozenset({"text", "lines", "several files"})
LACKING = {  # why a reader without the trait has no such kind
    "file": "the bytes of several files, or of none, are not one file's to change",
    "text": "a binary file or a frame has no lines and no encoding; JSON decides both",
    "lines": "its integers have at most 64 bits, and the kind is about digits in a text",
    "csv": "between tabs and `::` quotes mean nothing, and records of JSON and binary files have none",
    "bytes": "a text holds no bytes and no unsigned integers",
}
READERS: dict[str, Reader] = {
    "csv": Reader(in_file("plays.csv", _text), read_raw, TEXT | {"csv"}),
    "tsv": Reader(in_file("plays.tsv", lambda frame: _text(frame, "\t")), read_raw, TEXT | {"tabs"}),
    "semicolons": Reader(in_file("plays.csv", lambda frame: _text(frame, ";")), read_raw, TEXT | {"csv"}),
    "bars": Reader(in_file("plays.txt", lambda frame: _text(frame, "|")), read_raw, TEXT | {"csv"}),
    "colons": Reader(in_file("plays.dat", lambda f: _text(f, "\t").replace(b"\t", b"::")), read_raw, TEXT | {"tabs"}),
    "parquet": Reader(in_file("plays.parquet", _parquet), read_raw, FILE | BYTES),
    "parquet called csv": Reader(in_file("plays.csv", _parquet), read_raw, FILE | BYTES),
    "feather": Reader(in_file("plays.feather", _feather), read_raw, FILE | BYTES),
    "arrow stream": Reader(in_file("plays.arrows", _stream), read_raw, FILE | BYTES),
    "orc": Reader(in_file("plays.orc", _orc), read_raw, FILE),
    "parquet parts": Reader(in_parts(".parquet", _parquet), read_raw, frozenset({"parts"})),
    "csv parts": Reader(in_parts(".csv", _text), read_raw, frozenset({"parts", "text", "lines"})),
    "json lines": Reader(
        in_file("plays.jsonl", lambda frame: "".join(f"{one}\n" for one in _records(frame)).encode()),
        read_raw,
        FILE,
        place="line 1",
    ),
    "json list": Reader(
        in_file("plays.json", lambda frame: f"[{', '.join(_records(frame))}]".encode()),
        read_raw,
        FILE,
        place="record 1",
    ),
    "recbole": Reader(recbole, read_atomic, frozenset({"text", "lines"}), kind="recbole"),
    "split files": Reader(split_files, read_two_files, SPLIT, kind="", file="train.csv", more_rows=1),
    "split folder": Reader(split_folder, read_folder, SPLIT, kind="splits", file="plays.train.csv", more_rows=2),
    "polars": Reader(in_memory(lambda frame: frame), Dataset.from_frames, BYTES, kind=""),
    "pandas": Reader(in_memory(lambda frame: frame.to_pandas()), Dataset.from_frames, BYTES, kind=""),
    "arrow": Reader(in_memory(lambda frame: frame.to_arrow()), Dataset.from_frames, BYTES, kind=""),
}
