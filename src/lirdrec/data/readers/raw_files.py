"""What readers of published data sets share: big tables of integers, and lines that break the rules of CSV."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lirdrec.configuration import option_named
from lirdrec.data.compressed import read_bytes
from lirdrec.data.recipe import Recipe
from lirdrec.data.tables import Table, read_table, select
from lirdrec.errors import DataError


def read_numbers(path: Path, bad_rows: str = "error") -> Table:
    """A CSV file read as numbers: tens of millions of rows of texts take more memory than many machines have."""
    return read_table(path, text="", bad_rows=bad_rows)  # no column is kept as text


def id_columns(table: Table, recipe: Recipe, *columns: str) -> Table:
    """The table with its columns of ids checked, and as strings where the recipe asks for them.

    Raises:
        DataError: a column is missing or holds something else than integers of at most 64 bits; names the line. Where
            the recipe leaves bad rows out, only if all rows are bad.
    """
    table.need(columns)
    for column in columns:
        values = table.frame[column]
        if not values.dtype.is_integer() or values.null_count():
            texts = values.cast(pl.String)
            bad = texts.str.contains(r"^(0|[1-9][0-9]{0,18})$").fill_null(False).not_()
            bad = bad | texts.cast(pl.Int64, strict=False).is_null()  # beyond 64 bits
            if not bad.any() or (recipe.bad_rows == "skip" and not bad.all()):
                table = dataclasses.replace(select(table, ~bad), skipped=table.skipped + int(bad.sum()))
                table = dataclasses.replace(table, frame=table.frame.with_columns(pl.col(column).cast(pl.Int64)))
                continue
            value = values[bad.arg_true()[0]]
            raise DataError(
                f"{table.where}: {'no value' if value is None else repr(value)} in column '{column}' in"
                f" {table.at(bad)}; it must be an integer of at most 64 bits; to leave such rows out:"
                f" {option_named('bad_rows', 'skip')}"
            )
    if not recipe.string_ids:
        return table
    return dataclasses.replace(table, frame=table.frame.with_columns(pl.col(columns).cast(pl.String)))


def text_lines(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> list[str]:
    """The lines of a text file, without line ends and without empty lines at the end.

    Args:
        path: the file.
        encodings: tried in turn; the first that fits all bytes is taken.

    Raises:
        DataError: the file is missing or empty, or no encoding fits; names the line.
    """
    content = read_bytes(path)
    for encoding in encodings:
        try:
            lines = [line.removesuffix("\r") for line in content.decode(encoding).split("\n")]
        except UnicodeDecodeError as error:
            fault = error
            continue
        while lines and not lines[-1].strip():
            lines.pop()
        if not lines:
            raise DataError(f"{path}: the file is empty")
        return lines
    line = content.count(b"\n", 0, fault.start) + 1
    raise DataError(f"{path}: not UTF-8 text (byte 0x{content[fault.start]:02x} in line {line}); save it as UTF-8")


def unquoted(text: str) -> str:
    """A value without the quotes of CSV, also where they are misplaced, and with single spaces."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', ""):
        text = text[1:-1].replace('""', '"')
    elif ',"' in text and text.endswith('"'):  # opened in the middle: `Postman," The (Postino, Il) (1994)"`
        text = text.replace('"', "")
    return " ".join(text.split())
