"""Read tables from JSON: one record per line, or one list of records; keys of nested records are written `a.b`.

A list in a record gives one row for each of its elements. For example, `{"user": 1, "events": [{"item": 7}, …]}` gives
one row for each event, with the columns `user` and `events.item`. If all columns are read, as in item tables, lists of
plain values stay lists, and lists of records are left out.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.config import suggest_name
from lirdrec.data.compression import open_bytes, read_bytes
from lirdrec.data.ids import LARGEST
from lirdrec.data.json_lines import BadLines, parse_lines, parse_record, read_blocks
from lirdrec.data.table_with_source import Table
from lirdrec.errors import DataError

logger = logging.getLogger(__name__)

JSON_NAME = re.compile(r"\.(json|jsonl|ndjson|jl)(\.(gz|bz2|xz|zst|lz4|zip))?$", re.IGNORECASE)
TABLE_NAME = re.compile(r"\.(csv|tsv|parquet|pq|inter|item)(\.\w+)?$", re.IGNORECASE)
JSON_START = re.compile(rb"""\s*(\[\s*)?\{\s*(u?["']|\})""")
CHUNK_RECORDS = 100_000  # number of records kept as Python values at once
MAX_KEYS = 200  # maximum number of keys of a nested record; if there are more, the keys are probably ids
MAX_DEPTH = 8  # maximum depth of nested records
MAX_EXACT_INT = 2**53  # up to this value every integer is exact as a float
PLAIN = (str, int, float, type(None))  # in Python, True and False are integers

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _head(path: Path, size: int) -> bytes:
    with open_bytes(path) as file:
        return file.read(size).removeprefix(BYTE_ORDER_MARK).lstrip()


def is_json(path: Path) -> bool:
    """Return whether a file is JSON: by its suffix (.json, .jsonl, .ndjson, .jl), or by its first bytes.

    Suffixes of tables, such as .csv and .parquet, mean that it is not JSON. Returns False for an unreadable file:
    reading it later reports the problem.
    """
    if JSON_NAME.search(path.name) or TABLE_NAME.search(path.name):
        return JSON_NAME.search(path.name) is not None
    try:
        return JSON_START.match(_head(path, 1 << 10)) is not None
    except DataError:
        return False


def is_list(path: Path) -> bool:
    """Return whether a JSON file begins with `[`: one list of all records. Raises a DataError if it is unreadable."""
    return _head(path, 1 << 16)[:1] == b"["


def read_json(path: Path, columns: Sequence[str] | None = None, bad: BadLines | None = None) -> Table:
    """Read JSON lines (or lines of Python literals), or one list of records, as a table.

    Args:
        path: the file, plain or compressed.
        columns: keys to read, `a.b` for a key of a nested record; None reads everything: nested records become columns
            `a.b`, lists of plain values stay lists, and lists of records are left out, which is logged.
        bad: handles lines that are not records; by default the first such line raises an error. In one list of records
            the first element that is not a record always raises an error.

    Raises a DataError if the file is missing, damaged or not JSON, or a column occurs in no record.
    """
    bad = bad or BadLines(path)
    unit, records = ("record", _read_list(path)) if is_list(path) else ("line", _read_lines(path, bad))
    chunks = _Chunks(path, unit)
    plan: _ColumnPlan | _FlattenPlan = _FlattenPlan() if columns is None else _ColumnPlan(columns)
    for number, record in records:
        try:
            rows = plan.rows(record)
        except ValueError as error:
            raise DataError(f"{path}: {unit} {number}: {error}") from None
        for row in rows:
            chunks.add(number, row)
    frame, numbers = chunks.frame(columns)
    plan.check(path, frame)
    return Table(frame, str(path), skipped=bad.count, row_location=lambda row: f"{unit} {numbers[row]}")


def first_record(path: Path) -> dict[str, Any] | None:
    """Return the first record of a file of JSON lines or one JSON list; None if the file does not begin with a record.

    Raises a DataError if the file cannot be read.
    """
    head = _head(path, 1 << 20)
    try:
        if head[:1] != b"[":
            return parse_record(head.splitlines()[0]) if head else None
        record, _ = json.JSONDecoder().raw_decode(head[1:].lstrip().decode("utf-8", errors="ignore"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _read_lines(path: Path, bad: BadLines) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, block in read_blocks(path):
        for line_number, line in enumerate(block.split(b"\n"), number):
            for record in parse_lines(line_number, line, bad, parse_record):
                yield line_number, record
    bad.report()


def _read_list(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Iterate over the records of one JSON list, with their numbers; only the text is kept in memory."""
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: not UTF-8 text (byte 0x{content[error.start]:02x} in line {line})") from None
    del content
    decoder, blank = json.JSONDecoder(), re.compile(r"\s*")

    def skip(position: int) -> int:
        found = blank.match(text, position)
        assert found is not None  # the pattern matches the empty text
        return found.end()

    position, number = skip(text.index("[") + 1), 0
    while text[position : position + 1] != "]":
        number += 1
        try:
            record, position = decoder.raw_decode(text, position)
        except RecursionError:
            raise DataError(f"{path}: record {number} is nested too deeply") from None
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}: not JSON ({error.msg} in line {error.lineno}, character {error.colno}, in record {number})"
            ) from None
        except ValueError:
            raise DataError(f"{path}: record {number} has a number that is too long") from None
        if not isinstance(record, dict):
            raise DataError(
                f"{path}: record {number} is a {type(record).__name__}; the list must hold records in {{…}}"
            )
        yield number, record
        position = skip(position)
        if text[position : position + 1] == ",":
            position = skip(position + 1)
        elif text[position : position + 1] != "]":
            raise DataError(f"{path}: the list has no end: after record {number} comes neither ',' nor ']'")


class _ColumnPlan:
    """Extracts rows with the requested columns."""

    def __init__(self, columns: Sequence[str]):
        self.columns = list(dict.fromkeys(columns))
        self._tree: dict[str, Any] | None = None
        self._seen: dict[str, None] = {}  # keys, for messages
        self._simple = not any("." in column for column in self.columns)

    def rows(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of a record (column → value); raises a ValueError if two columns are in different lists."""
        if len(self._seen) < MAX_KEYS:
            self._seen.update(dict.fromkeys(_key_paths(record)))
        if self._simple:
            row = {column: record.get(column) for column in self.columns}
            if all(isinstance(value, PLAIN) for value in row.values()):
                return [row]
        if self._tree is None:
            self._tree = _column_tree(self.columns, record)
        return _rows(record, self._tree, "")

    def check(self, path: Path, frame: pl.DataFrame) -> None:
        """Raise a DataError if there is no row, or for a column that no record has; suggests a similar key."""
        if frame.height == 0:
            raise DataError(
                f"{path}: there is no record in it, or in every record the list that contains the columns is empty"
            )
        for column in self.columns:
            if frame[column].null_count() == frame.height and column not in self._seen:
                inner = next((name for name in self._seen if name.endswith(f".{column}")), None)
                near = f"did you mean '{inner}'?" if inner else suggest_name(column, self._seen, "")
                there = f"it has {', '.join(self._seen)}" + (f"; {near}" if near else "")
                raise DataError(f"{path}: no column '{column}'; {there}")


def _key_paths(record: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Iterate over the keys of a record and of its nested records, `a.b`."""
    for key, value in record.items():
        yield before + key
        if isinstance(value, list):
            value = next((element for element in value if isinstance(element, dict)), None)
        if isinstance(value, dict) and before.count(".") < MAX_DEPTH:
            yield from _key_paths(value, f"{before}{key}.")


def _column_tree(columns: Sequence[str], record: Mapping[str, Any]) -> dict[str, Any]:
    """Convert columns to a tree of keys: `{"user": "user", "events": {"item": "events.item"}}`."""
    tree: dict[str, Any] = {}
    for column in columns:
        keys = [column] if column in record else column.split(".")
        node = tree
        for depth, key in enumerate(keys[:-1]):
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                outer = ".".join(keys[: depth + 1])
                raise ValueError(
                    f"'{column}' and '{outer}' are both given as columns, but '{column}' is inside '{outer}'; give only"
                    " one of them"
                )
        if keys[-1] in node:
            raise ValueError(f"'{column}' is given as a column, but another given column is inside it")
        node[keys[-1]] = column
    return tree


def _rows(value: Any, tree: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [row for element in value for row in _rows(element, tree, name)]
    if isinstance(tree, str):
        if isinstance(value, dict):
            raise ValueError(f"'{tree}' holds a record; give one of its keys: {tree}.{next(iter(value), 'key')}")
        return [{tree: value}]
    rows: list[dict[str, Any]] = [{}]
    list_path: str | None = None
    for key, branch in tree.items():
        inner = value.get(key) if isinstance(value, dict) else None
        path = f"{name}.{key}" if name else key
        inner_rows = _rows(inner, branch, path)
        if isinstance(inner, list):
            if list_path is not None:
                raise ValueError(
                    f"'{list_path}' and '{path}' are two lists, and it is unknown which elements belong together;"
                    " give columns of only one of them"
                )
            list_path = path
        rows = [{**row, **more} for row in rows for more in inner_rows]
    return rows


class _FlattenPlan:
    """Extracts one row with all values of a record."""

    def __init__(self) -> None:
        self._left_out: dict[str, str] = {}  # key → reason

    def rows(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        row: dict[str, Any] = {}
        self._flatten(record, "", row)
        return [row]

    def _flatten(self, record: Mapping[str, Any], before: str, row: dict[str, Any]) -> None:
        for key, value in record.items():
            name = before + key
            if isinstance(value, dict):
                if len(value) > MAX_KEYS or before.count(".") >= MAX_DEPTH:
                    self._left_out[name] = "a record of very many keys"
                else:
                    self._flatten(value, f"{name}.", row)
            elif isinstance(value, list) and any(isinstance(element, (dict, list)) for element in value):
                self._left_out[name] = "a list of records or of lists"
            else:
                row[name] = value

    def check(self, path: Path, frame: pl.DataFrame) -> None:
        """Log the keys whose values were left out, since no column can hold them."""
        for name, why in self._left_out.items():
            logger.warning("%s: '%s' is left out: it holds %s, which no table column can hold", path, name, why)


@dataclass
class _Chunks:
    """Collects rows and converts them to typed columns, 100,000 rows at a time."""

    path: Path
    unit: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)
    frame_numbers: list[pl.Series] = field(default_factory=list)

    def add(self, number: int, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.numbers.append(number)
        if len(self.rows) >= CHUNK_RECORDS:
            self._close()

    def frame(self, columns: Sequence[str] | None) -> tuple[pl.DataFrame, pl.Series]:
        """Return all rows, and the number of the line or record of each row. Without `columns`: all, as they occur."""
        self._close()
        names = dict.fromkeys(columns or [name for chunk in self.frames for name in chunk.columns])
        joined = []
        for name in names:
            nulls = (pl.Series(name, [None] * chunk.height, dtype=pl.Null) for chunk in self.frames)
            parts = [chunk.get_column(name, default=null) for chunk, null in zip(self.frames, nulls, strict=True)]
            joined.append(self._joined(name, parts))
        return pl.DataFrame(joined), pl.concat(self.frame_numbers) if self.frames else pl.Series([])

    def _close(self) -> None:
        if self.rows:
            names = dict.fromkeys(name for row in self.rows for name in row)
            self.frames.append(pl.DataFrame([self._column(name) for name in names], height=len(self.rows)))
            self.frame_numbers.append(pl.Series(self.numbers))
            self.rows, self.numbers = [], []

    def _column(self, name: str) -> pl.Series:
        values = [row.get(name) for row in self.rows]
        try:
            return _column(name, values)
        except UnicodeEncodeError:
            number = next(number for number, value in zip(self.numbers, values, strict=True) if not _is_text(value))
            raise DataError(
                f"{self.path}: {self.unit} {number}: '{name}' has half of a surrogate pair (an escape such as"
                " \\ud83d alone), which is not a character; fix it"
            ) from None

    def _joined(self, name: str, parts: list[pl.Series]) -> pl.Series:
        if not parts:
            return pl.Series(name, [], dtype=pl.String)
        types = {part.dtype for part in parts} - {pl.Null}
        dtype = _common_type(types)
        if dtype == pl.Float64 and any((part.abs() > MAX_EXACT_INT).any() for part in parts if part.dtype == pl.Int64):
            dtype = pl.String
        if pl.String in (dtype, getattr(dtype, "inner", None)) and len(types) > 1:
            logger.warning("%s: '%s' holds values of several types; all are read as texts", self.path, name)
        return pl.concat([_cast(part, dtype) for part in parts])


def _column(name: str, values: list[Any]) -> pl.Series:
    """Convert JSON values to a column of one type; values that no number type represents exactly become texts."""
    present = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in present):
        inner = _column(name, [element for value in present if isinstance(value, list) for element in value]).dtype
        lists: list[Any] = [value if value is None or isinstance(value, list) else [value] for value in values]
        lists = [value and [_convert_value(inner, element) for element in value] for value in lists]
        return pl.Series(name, lists, dtype=pl.List(pl.String if inner == pl.Null else inner))
    types = {type(value) for value in present}
    dtype: Any = pl.String
    if not types:
        dtype = pl.Null
    elif types == {bool}:
        dtype = pl.Boolean
    elif types == {int} and all(-LARGEST <= value <= LARGEST for value in present):
        dtype = pl.Int64
    elif types <= {int, float} and all(isinstance(value, float) or abs(value) <= MAX_EXACT_INT for value in present):
        dtype = pl.Float64
    return pl.Series(name, [_convert_value(dtype, value) for value in values], dtype=dtype)


def _is_text(value: Any) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _convert_value(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if kind == pl.String and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)  # true, 7, 2.5
    return float(value) if kind == pl.Float64 else value


def _common_type(types: set[Any]) -> Any:
    if any(isinstance(dtype, pl.List) for dtype in types):
        return pl.List(_common_type({dtype.inner if isinstance(dtype, pl.List) else dtype for dtype in types}))
    if len(types) <= 1:
        return next(iter(types), pl.String)
    return pl.Float64 if types == {pl.Int64, pl.Float64} else pl.String


def _cast(part: pl.Series, dtype: Any) -> pl.Series:
    if isinstance(dtype, pl.List) and not isinstance(part.dtype, pl.List):
        part = part.cast(dtype.inner)
        return pl.select(pl.when(part.is_not_null()).then(pl.concat_list(part)).alias(part.name)).to_series()
    return part.cast(dtype)
