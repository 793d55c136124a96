"""Helpers of the readers of published datasets: large tables of integers, and lines that are not valid CSV."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.config import option_named
from lirdrec.data.compression import read_bytes
from lirdrec.data.ids import INTEGER, pluralize
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.data.tables import Table, read_table, select_rows
from lirdrec.errors import DataError

logger = logging.getLogger(__name__)

ID = r"^-?[0-9]+(\.0*)?$"  # 7, 007 and, as pandas writes integers in columns with missing values, 7.0


def read_numbers(path: Path, ids: Sequence[str], **layout: Any) -> Table:
    """Read a text file as numbers, since tens of millions of rows of texts would need too much memory.

    Args:
        path: the file.
        ids: columns of ids. If one of them has values other than 63-bit integers, all columns are read as
            texts.
        layout: see `read_table`.
    """
    table = read_table(path, text="", **layout)
    if all(table.frame[column].dtype == pl.Int64 for column in ids if column in table.frame.columns):
        return table
    return read_table(path, **layout)


def check_id_columns(table: Table, config: PreprocessingConfig, *columns: str, pattern: str = ID) -> Table:
    """Validate the id columns of a table: in published datasets, ids are integers.

    Numbers with leading zeros, such as `007`, are not changed.

    Args:
        table: contains the columns.
        config: defines how bad rows are handled, and whether ids are strings.
        columns: their names.
        pattern: regular expression of an id.

    Raises:
        DataError: a column is missing or has a value that is not an integer; names the line. If the config skips bad
            rows, only if all rows are bad.
    """
    table.need(columns)
    for column in columns:
        values = table.frame[column]
        if values.dtype == pl.Int64 and not values.null_count() and values.ge(0).all():
            continue
        texts = values.cast(pl.String).str.strip_chars()
        bad = ~texts.str.contains(pattern).fill_null(False)
        if config.bad_rows == "skip" and not config.string_ids and texts.filter(~bad).str.contains(INTEGER).all():
            bad |= ~(texts.cast(pl.Int64, strict=False) >= 0).fill_null(False)  # other ids are checked later
        if config.bad_rows == "skip" and not bad.all():
            if bad.any():
                where = f"{table.where}, column '{column}'"
                logger.warning(
                    "%s: %s without an id left out; the first: %s",
                    where,
                    pluralize(int(bad.sum()), "row"),
                    table.at(bad),
                )
            table = dataclasses.replace(select_rows(table, ~bad), skipped=table.skipped + int(bad.sum()))
            continue
        if not bad.any():
            continue
        value = values[bad.arg_true()[0]]
        raise DataError(
            f"{table.where}: {'no value' if value is None else repr(value)} in column '{column}' in"
            f" {table.at(bad)}; it must be an integer; to leave such rows out: {option_named('bad_rows', 'skip')}"
        )
    return table


def read_lines(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> list[str]:
    """The lines of a text file, without line ends and without empty lines at the end.

    Args:
        path: the file.
        encodings: tried in turn; the first that can decode all bytes is used.

    Raises:
        DataError: the file is missing or empty, or no encoding can decode it; names the line.
    """
    content = read_bytes(path)
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            fault = error
            continue
        if "\n" not in text:  # line ends of classic Mac OS
            text = text.replace("\r", "\n")
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        while lines and not lines[-1].strip():
            lines.pop()
        if not lines:
            raise DataError(f"{path}: the file is empty")
        return lines
    line = content.count(b"\n", 0, fault.start) + 1
    raise DataError(f"{path}: not UTF-8 text (byte 0x{content[fault.start]:02x} in line {line}); save it as UTF-8")


def strip_quotes(text: str) -> str:
    """Remove CSV quotes, also misplaced ones, from a value and collapse its spaces."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', ""):
        text = text[1:-1].replace('""', '"')
    elif ',"' in text and text.endswith('"'):  # a quote opened inside the value: `Postman," The (Postino, Il) (1994)"`
        text = text.replace('"', "")
    return " ".join(text.split())
