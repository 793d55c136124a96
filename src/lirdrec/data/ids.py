"""`IdMap`: maps external ids to row numbers and back."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.frames import append_frame, describe_row, first_line
from lirdrec.errors import DataError, UnknownIdError
from lirdrec.option_names import option_text
from lirdrec.row_buffers import append_rows

LARGEST = 2**63 - 1
INTEGER = r"^-?(0|[1-9][0-9]*)$"
N_NAMED = 5  # maximum number of ids in a message
NEAREST_AMONG = 50_000  # above this number of ids, no similar ids are searched
FEW = 8  # up to this number of ids, rows are looked up one by one, without building a hash table


class IdMap:
    """Maps ids to rows and back. The ids are distinct, all integers or all strings; the row of an id is its position.

    Args:
        ids: the ids in row order.
        entity: "user" or "item", for messages.

    Attributes:
        ids: `(n,)` array, int64 or of Python strings (object dtype).

    Raises:
        DataError: ids that are missing, negative, too large, repeated, or neither integers nor strings.
    """

    def __init__(self, ids: Any, entity: str = "id"):
        self.entity = entity
        self.series = clean_ids(ids, f"the {entity} ids" if entity != "id" else "the ids", entity)
        self.ids: np.ndarray = self.series.to_numpy()
        self._table: pl.DataFrame | None = None
        self._dense = self.is_integer and bool(np.array_equal(self.ids, np.arange(len(self.ids))))
        if not self._dense and (repeated := self.series.is_duplicated()).any():
            row = repeated.arg_true()[0]
            raise DataError(
                f"{entity} id {self.series[row]!r} occurs more than once (first in row {row}, counted from 0)"
            )

    @property
    def is_integer(self) -> bool:
        """Whether the ids are integers (else strings)."""
        return self.series.dtype == pl.Int64

    @property
    def kind(self) -> str:
        """The type of the ids for messages, "integers" or "strings"."""
        return "integers" if self.is_integer else "strings"

    def rows(self, ids: Any) -> np.ndarray:
        """Return the rows `(B,)` int64 of the ids; -1 for unknown ids, including ids of the other type."""
        asked = as_series(ids)
        unknown = np.full(len(asked), -1, dtype=np.int64)
        if asked.dtype == pl.Null or len(asked) == 0:
            return unknown
        if asked.dtype == pl.Object:  # a mix of types: look up one at a time
            return np.array([self._row_or_none(id) for id in asked], dtype=np.int64)
        if asked.dtype in (pl.Categorical, pl.Enum):
            asked = asked.cast(pl.String)
        if not (asked.dtype.is_numeric() if self.is_integer else asked.dtype == pl.String):
            return unknown
        if self.is_integer:
            integers = asked.cast(pl.Int64, strict=False)
            if asked.dtype.is_float():
                integers = pl.select(pl.when(integers.cast(asked.dtype) == asked).then(integers)).to_series()
            asked = integers
            if self._dense:
                rows = asked.fill_null(-1).to_numpy()
                return np.where((rows >= 0) & (rows < len(self)), rows, -1)
        if self._table is None and len(asked) <= FEW:
            positions = [[] if id is None else (self.series == id).arg_true() for id in asked]
            return np.array([int(rows[0]) if len(rows) else -1 for rows in positions], dtype=np.int64)
        if self._table is None:
            self._table = pl.DataFrame({"id": self.series, "row": np.arange(len(self), dtype=np.int64)})
        joined = pl.DataFrame({"id": asked}).join(self._table, on="id", how="left", maintain_order="left")
        return joined["row"].fill_null(-1).to_numpy().astype(np.int64, copy=False)

    def extended(self, ids: Any) -> IdMap:
        """Return a map with more ids at the end; the cost depends on the number of new ids only.

        Raises a DataError for ids that `IdMap` refuses, ids of the other type, and ids that are in the map already.
        """
        more = IdMap(ids, self.entity)
        if more.is_integer is not self.is_integer:
            raise DataError(f"the {self.entity} ids are {self.kind}, but {more.series[0]!r} is not")
        if (self.rows(more.series) >= 0).any():
            return IdMap(pl.concat([self.series, more.series]), self.entity)  # its message names the repeated id
        grown = object.__new__(IdMap)
        grown.entity, grown._table = self.entity, None
        series = append_frame(self.series.to_frame("id"), more.series.to_frame("id"))["id"]
        grown.series = series.rename(self.series.name)
        grown.ids = append_rows(self.ids, more.ids)
        grown._dense = self._dense and bool(np.array_equal(more.ids, np.arange(len(self), len(grown))))
        return grown

    def alike(self, id: Any) -> str | int | None:
        """Find a known id that is `id` written in another way: `00012` for `12`, 12 for `"12"` or `"12.0"`; or None."""
        if isinstance(id, (bool, np.bool_)) or not isinstance(id, (str, int, np.integer)) or not len(self):
            return None
        text = str(id).strip().removesuffix(".0")
        for written in (str(id), text):
            is_number = written.isascii() and written.isdigit() and len(written) <= 40
            other = written if not self.is_integer else int(written) if is_number else None
            if other is not None and other in self:
                return other
        if self.is_integer or not text.isascii() or not text.isdigit():
            return None
        equal = self.series.filter(self.series.str.strip_chars_start("0") == text.lstrip("0"))
        return equal[0] if len(equal) else None

    def row(self, id: Any) -> int:
        """Return the row (index) of an id; raises an UnknownIdError for an unknown id."""
        return int(known_rows([id], self)[0])

    def _row_or_none(self, id: Any) -> int:
        if isinstance(id, (bool, np.bool_)) or not isinstance(id, (int, np.integer, str)):
            return -1
        if not isinstance(id, str) and not 0 <= int(id) <= LARGEST:
            return -1
        return int(self.rows([id])[0])

    def __len__(self) -> int:
        return len(self.series)

    def __contains__(self, id: Any) -> bool:
        return self._row_or_none(id) >= 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdMap) and self.series.equals(other.series, check_dtypes=True)

    def __repr__(self) -> str:
        return f"IdMap({len(self)} {self.kind[:-1]} ids)"


def id_error(
    ids: pl.Series, bad: pl.Series, where: str, entity: str, row_location: Callable[[int], str], problem: str
) -> DataError:
    """Make the error about the first id in the mask `bad`: "ratings.csv, column 'userId': user id -1 in line 7 …"."""
    row = int(bad.arg_true()[0])
    value = ids[row]
    shown = repr(value) if isinstance(value, (str, bytes)) else value
    return DataError(f"{where}: {entity} id {shown} in {row_location(row)} {problem}")


def clean_ids(ids: Any, where: str, entity: str = "id", row_location: Callable[[int], str] = describe_row) -> pl.Series:
    """Validate ids and return them as an Int64 or String series.

    Args:
        ids: anything one-dimensional. Floats are accepted if all are integers below 2**53.
        where: prefix of messages ("ratings.csv, column 'userId'").
        entity: "user", "item" or "id", for messages.
        row_location: describes the position of a row for messages ("line 7").

    Raises a DataError if an id is missing, negative, too large, empty, or of an unsupported type.
    """
    series = as_series(ids, where)
    if series.dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    if len(series) == 0:
        return series if series.dtype == pl.String else pl.Series(series.name, [], dtype=pl.Int64)
    if series.null_count():
        location = row_location(int(series.is_null().arg_true()[0]))
        raise DataError(f"{where}: no {entity} id in {location}; leave such rows out or give them an id")
    if series.dtype == pl.String:
        if (empty := series.str.len_bytes() == 0).any():
            location = row_location(int(empty.arg_true()[0]))
            raise DataError(f"{where}: the {entity} id is empty in {location}; leave such rows out or give them an id")
        return series
    if series.dtype == pl.Object and all(isinstance(id, int) and not isinstance(id, bool) for id in series):
        return big_integers(series, where, entity, row_location)
    if series.dtype.is_float():
        fraction = (series != series.floor()) | ~series.is_finite() | (series.abs() >= 2.0**53)
        if fraction.any():
            problem = "is not an integer; ids must be integers or strings"
            raise id_error(series, fraction, where, entity, row_location, problem)
        series = series.cast(pl.Int64)
    if series.dtype.is_integer() or series.dtype.is_decimal():
        strings = f"turn them into strings: {option_text('string_ids', True)}"
        if (negative := series < 0).any():
            problem = f"is negative; integer ids must be 0 or more (or {strings})"
            raise id_error(series, negative, where, entity, row_location, problem)
        integers = series.cast(pl.Int64, strict=False)
        if integers.null_count():
            problem = f"is too large: integer ids go up to {LARGEST} ({strings})"
            raise id_error(series, integers.is_null(), where, entity, row_location, problem)
        return integers
    types = "a mix of types" if series.dtype == pl.Object else str(series.dtype)
    raise DataError(f"{where}: the type of the {entity} ids is {types}; they must be all integers or all strings")


def text_ids(texts: pl.Series, where: str, entity: str, row_location: Callable[[int], str]) -> pl.Series:
    """Convert ids of a text file to integers if all are written as integers without leading zeros; else keep the texts.

    Raises a DataError if an integer is negative or too large, or an id is missing or empty.
    """
    if len(texts) == 0 or texts.null_count() or not texts.str.contains(INTEGER).all():
        return clean_ids(texts, where, entity, row_location)
    integers = texts.cast(pl.Int64, strict=False)
    bad = integers.is_null() | (integers < 0)
    if bad.any():
        row = int(bad.arg_true()[0])
        fault = "negative" if texts[row].startswith("-") else "too large"
        raise DataError(
            f"{where}: {entity} id {texts[row]} in {row_location(row)} is {fault}: integer ids go from 0 to {LARGEST};"
            f" read the ids as strings ({option_text('string_ids', True)}) if they are only labels"
        )
    return integers


def describe_ids(ids: Iterable[Any], limit: int = 5) -> str:
    """Return the first ids for a message, and the number of the rest: "1, 2, 3, 4, 5 and 7 more"."""
    listed = [str(id) for id in ids]
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def as_series(ids: Any, where: str = "the ids") -> pl.Series:
    """Convert one-dimensional data to a series (dtype Object for mixed types); raises a DataError for other data."""
    if isinstance(ids, pl.Series):
        return ids
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise DataError(f"ids must be one-dimensional, not of shape {ids.shape}")
        if ids.dtype.kind == "S":
            for id in ids:
                if not is_utf8(bytes(id)):
                    raise DataError(f"{where}: {bytes(id)!r} is not UTF-8 text; write the ids as texts")
            ids = np.char.decode(ids, "utf-8")
    elif type(ids).__module__.startswith(("pandas", "pyarrow")):
        try:
            return pl.Series(ids if hasattr(ids, "name") or hasattr(ids, "type") else ids.tolist())
        except (TypeError, ValueError) as error:
            raise DataError(f"the ids cannot be read: {first_line(error)}") from error
    else:
        ids = list(ids)
    try:
        return pl.Series(ids, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return pl.Series(values=list(ids), dtype=pl.Object)


def is_utf8(content: bytes) -> bool:
    """Return whether bytes are UTF-8 text."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def big_integers(series: pl.Series, where: str, entity: str, row_location: Callable[[int], str]) -> pl.Series:
    """Convert Python integers to Int64; raises a DataError if one is negative or exceeds 63 bits."""
    bad = pl.Series([not 0 <= id <= LARGEST for id in series])
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError(
            f"{where}: {entity} id {series[row]} in {row_location(row)}: integer ids go from 0 to {LARGEST}"
            f" (turn them into strings: {option_text('string_ids', True)})"
        )
    return pl.Series([int(id) for id in series], dtype=pl.Int64)


def as_list(ids: Any) -> list[Any]:
    """Convert one id or several to a list; raises an UnknownIdError for a frame, a matrix, or another object."""
    if isinstance(ids, (str, int, np.integer)):
        return [ids]
    for convert in ("to_list", "to_pylist"):  # polars and pandas series; Arrow arrays
        if hasattr(ids, convert):
            return list(getattr(ids, convert)())
    if hasattr(ids, "detach"):  # torch tensors
        ids = ids.numpy(force=True)
    if isinstance(ids, np.ndarray):
        if ids.ndim > 1:
            raise UnknownIdError(f"an array of shape {ids.shape} is not a list of ids; give a one-dimensional array")
        return list(ids.ravel().tolist())
    if isinstance(ids, Mapping) or hasattr(ids, "columns"):
        raise UnknownIdError(f"a {type(ids).__name__} is not a list of ids; give one of its columns")
    if isinstance(ids, Iterable):
        return list(ids)
    raise UnknownIdError(f"{ids!r} is not an id: ids are strings or integers")


def known_rows(ids: list[Any], known: IdMap) -> np.ndarray:
    """Return the rows of the ids; raises an UnknownIdError that names similar known ids, or the number of known ids."""
    rows = known.rows(ids)
    if (rows < 0).any():
        unknown = [id for id, row in zip(ids, rows, strict=True) if row < 0]
        raise UnknownIdError(_unknown_ids_message(unknown, known))
    return rows


def _unknown_ids_message(unknown: list[Any], known: IdMap) -> str:
    """Return the error message for unknown ids, with similar known ids."""
    if len(unknown) > 1:
        problem = f"{len(unknown)} of the {known.entity} ids are unknown: {describe_ids(unknown)}"
        alike = [repr(id) for id in map(known.alike, unknown[:N_NAMED]) if id is not None]
        return f"{problem}; did you mean {', '.join(alike)}?" if alike else problem
    id = unknown[0]
    problem = f"no {known.entity} has the id {id!r}"
    examples = f"for instance {', '.join(map(repr, known.series.head(3))) or 'none'}"
    alike_id = known.alike(id)
    suggestion = f"did you mean {alike_id!r}?"
    if isinstance(id, str) is known.is_integer:
        hint = examples if alike_id is None else suggestion
        return f"{problem}: the {known.entity} ids are {known.kind}, {hint}"
    if alike_id is not None:
        return f"{problem}; {suggestion}"
    if nearest := _nearest(id, known):
        return f"{problem}; the nearest are {', '.join(nearest)}"
    return f"{problem}; {len(known):,} {known.kind} are known, {examples}"


def _nearest(id: Any, known: IdMap) -> list[str]:
    if isinstance(id, (int, float, np.number)):
        distances = np.abs(known.ids.astype(np.float64) - float(id))
        return [str(known.ids[row]) for row in np.argsort(distances, kind="stable")[:3]]
    if not isinstance(id, str):
        return []
    candidates = known.series.to_list() if len(known) <= NEAREST_AMONG else []
    return [repr(similar) for similar in difflib.get_close_matches(id, candidates, n=3)]
