"""Helpers of the readers: finding files, checks of options and ids, text lines, and the call of the preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.config import option_named
from lirdrec.data.alignment import as_feature_file
from lirdrec.data.compression import read_bytes
from lirdrec.data.dataset import Dataset
from lirdrec.data.ids import INTEGER
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.data.table_files import read_table
from lirdrec.data.table_with_source import Table, select_rows
from lirdrec.errors import ConfigError, DataError
from lirdrec.option_names import option_name
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

LABEL = "split_file"  # the column of split names if each split is a file
ID = r"^-?[0-9]+(\.0*)?$"  # 7, 007 and, as pandas writes integers in columns with missing values, 7.0


def build_dataset(
    table: Table,
    items: Table | None,
    config: PreprocessingConfig,
    name: str,
    source: Mapping[str, Any],
    info: Mapping[str, Any] | None,
    features: Mapping[str, Any] | None = None,
) -> Dataset:
    """Make a dataset from tables that were read, and from features: files, data frames or matrices.

    `source` says where the data come from; the dataset has it as `info["source"]`.
    """
    files = {key: as_feature_file(file, f"features '{key}'", config.item) for key, file in (features or {}).items()}
    return Dataset.from_tables(table, items, files, config, name, {"source": dict(source), **(info or {})})


def reject_options(options: Collection[str], fixed: Iterable[str], reason: str) -> None:
    """Raise a ConfigError with the `reason` if one of the options `fixed`, which the format defines, is given."""
    for option in fixed:
        if option in options:
            raise ConfigError(f"{reason}; leave {option_name(option)} out")


def existing_folder(folder: str | Path) -> Path:
    """Return the path of a folder; raises a DataError if there is no such folder."""
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder")
    return Path(folder)


def find_single_file(folder: Path, pattern: str, expected: str) -> Path:
    """Find the only file that matches a pattern; raises a DataError that says `expected` if there are none or more."""
    paths = sorted(folder.glob(pattern))
    if len(paths) != 1:
        raise DataError(f"{folder}: {expected}; found {', '.join(path.name for path in paths) or 'none'}")
    return paths[0]


def first_or_none(folder: Path, paths: Sequence[Path], role: str, remedy: str) -> Path | None:
    """Return the only path, or None if there is no path; raises a DataError if there are several."""
    if len(paths) > 1:
        raise DataError(f"{folder}: several {role}: {', '.join(path.name for path in paths)}; {remedy}")
    return paths[0] if paths else None


def read_numbers(path: Path, ids: Sequence[str], **layout: Any) -> Table:
    """Read a table of numbers as numbers, which need less memory than strings.

    If one of the columns `ids` has values other than 64-bit integers, all columns are read as strings. `layout` are
    options of `read_table`.
    """
    table = read_table(path, text="", **layout)
    if all(table.frame[column].dtype == pl.Int64 for column in ids if column in table.frame.columns):
        return table
    return read_table(path, **layout)


def check_id_columns(table: Table, config: PreprocessingConfig, *columns: str, pattern: str = ID) -> Table:
    """Check that the id columns hold integers that match `pattern`; return the table, if need be without bad rows.

    Rows with other ids are bad. If the config skips bad rows, they are left out; else, or if all rows are bad, a
    DataError that names the line is raised. Numbers with leading zeros, such as `007`, are not changed.
    """
    table.require_columns(columns)
    for column in columns:
        values = table.frame[column]
        if values.dtype == pl.Int64 and not values.null_count() and values.ge(0).all():
            continue
        texts = values.cast(pl.String).str.strip_chars()
        bad = ~texts.str.contains(pattern).fill_null(False)
        if config.bad_rows == "skip" and not config.string_ids and texts.filter(~bad).str.contains(INTEGER).all():
            bad |= ~(texts.cast(pl.Int64, strict=False) >= 0).fill_null(False)  # other ids are checked later
        if not bad.any():
            continue
        location = table.first_bad_row(bad)
        if config.bad_rows == "error" or bad.all():
            value = values[bad.arg_true()[0]]
            raise DataError(
                f"{table.source}: {'no value' if value is None else repr(value)} in column '{column}' in {location};"
                f" the value must be an integer; to leave such rows out: {option_named('bad_rows', 'skip')}"
            )
        rows = pluralize(int(bad.sum()), "row")
        message = "%s, column '%s': %s without an id left out; the first: %s"
        logger.warning(message, table.source, column, rows, location)
        table = select_rows(table, ~bad, skipped=int(bad.sum()))
    return table


def read_lines(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> list[str]:
    """Return the lines of a text file, without line ends and without empty lines at the end.

    The first of the `encodings` that can decode all bytes is used. Raises a DataError if the file is missing or empty,
    or if no encoding can decode it (the message names the line).
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
