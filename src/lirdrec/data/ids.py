"""`IdMap`: maps external ids to row numbers and back."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.frames import append_frame, first_line, row_place
from lirdrec.errors import DataError, UnknownIdError
from lirdrec.option_names import option_text
from lirdrec.row_buffers import append_rows

LARGEST = 2**63 - 1
INTEGER = r"^-?(0|[1-9][0-9]*)$"
N_NAMED = 5  # maximum number of ids in a message
NEAREST_AMONG = 50_000  # above this number of ids, no similar ids are searched
FEW = 8  # up to this number of ids, rows are looked up one by one, without building a hash table


class IdMap:
    """Distinct ids, all integers or all strings; an id's row is its position.

    Args:
        ids: the ids in row order.
        what: "user" or "item", for messages.

    Attributes:
        ids: `(n,)` array, int64 or of Python strings (object dtype).

    Raises:
        DataError: ids that are missing, negative, too large, repeated, or neither integers nor strings.
    """

    def __init__(self, ids: Any, what: str = "id"):
        self.entity = what
        self.series = clean_ids(ids, f"the {what} ids" if what != "id" else "the ids", what)
        repeated = self.series.is_duplicated()
        if repeated.any():
            row = repeated.arg_true()[0]
            raise DataError(
                f"{self.entity} id {self.series[row]!r} occurs more than once (first in row {row}, counted from 0)"
            )
        self.ids: np.ndarray = self.series.to_numpy()
        self._table: pl.DataFrame | None = None
        self._dense = self.is_integer and bool(np.array_equal(self.ids, np.arange(len(self.ids))))

    @property
    def is_integer(self) -> bool:
        """Whether the ids are integers (else strings)."""
        return self.series.dtype == pl.Int64

    def rows(self, ids: Any) -> np.ndarray:
        """Rows `(B,)` int64 of the ids; -1 for unknown ids, including ids of the other type."""
        asked = as_series(ids)
        if asked.dtype == pl.Null or len(asked) == 0:
            return np.full(len(asked), -1, dtype=np.int64)
        if asked.dtype == pl.Object:  # a mix of types: look up one at a time
            return np.array([self._row_or_none(one) for one in asked], dtype=np.int64)
        if asked.dtype in (pl.Categorical, pl.Enum):
            asked = asked.cast(pl.String)
        if (asked.dtype == pl.String) is self.is_integer or not (asked.dtype == pl.String or asked.dtype.is_numeric()):
            return np.full(len(asked), -1, dtype=np.int64)
        if self.is_integer:
            whole = asked.cast(pl.Int64, strict=False)
            if asked.dtype.is_float():
                whole = pl.select(pl.when(whole.cast(asked.dtype) == asked).then(whole)).to_series()
            if self._dense:
                rows = whole.fill_null(-1).to_numpy()
                return np.where((rows >= 0) & (rows < len(self)), rows, -1)
            asked = whole
        if self._table is None and len(asked) <= FEW:
            found_at = ((self.series == one).arg_true() if one is not None else pl.Series([]) for one in asked)
            return np.array([int(at[0]) if len(at) else -1 for at in found_at], dtype=np.int64)
        if self._table is None:
            self._table = pl.DataFrame({"id": self.series, "row": np.arange(len(self), dtype=np.int64)})
        found = pl.DataFrame({"id": asked}).join(self._table, on="id", how="left", maintain_order="left")
        return found["row"].fill_null(-1).to_numpy().astype(np.int64, copy=False)

    def extended(self, ids: Any) -> IdMap:
        """Append ids; the cost depends on the number of new ids only.

        Raises:
            DataError: as for a new map.
        """
        more = IdMap(ids, self.entity)
        if more.is_integer is not self.is_integer:
            kind = "integers" if self.is_integer else "strings"
            raise DataError(f"the {self.entity} ids are {kind}, and {more.series[0]!r} is not")
        if (self.rows(more.series) >= 0).any():
            return IdMap(pl.concat([self.series, more.series]), self.entity)  # its message names the repeated id
        grown = object.__new__(IdMap)
        grown.entity, grown._table = self.entity, None
        grown.series = append_frame(self.series.to_frame("id"), more.series.to_frame("id"))["id"].rename(
            self.series.name
        )
        grown.ids = append_rows(self.ids, more.ids)
        grown._dense = self._dense and bool(np.array_equal(more.ids, np.arange(len(self), len(grown))))
        return grown

    def alike(self, id: Any) -> str | int | None:
        """The known id written in another way: `00012` for `12`, 12 for `"12"` or `"12.0"`; None if there is none."""
        if isinstance(id, (bool, np.bool_)) or not isinstance(id, (str, int, np.integer)) or not len(self):
            return None
        text = str(id).strip().removesuffix(".0")
        for one in (id, text):
            if (other := _as_kind(one, self.is_integer)) is not None and other in self:
                return other
        if self.is_integer or not text.isascii() or not text.isdigit():
            return None
        found = self.series.filter(self.series.str.strip_chars_start("0") == text.lstrip("0"))
        return found[0] if len(found) else None

    def row(self, id: Any) -> int:
        """The row of one id.

        Raises:
            UnknownIdError: the id is unknown.
        """
        row = self._row_or_none(id)
        if row < 0:
            kind = "integers" if self.is_integer else "strings"
            alike = self.alike(id)
            hint = (
                f"; did you mean {alike!r}?" if alike is not None else f" ({len(self)} are known; their ids are {kind})"
            )
            raise UnknownIdError(f"no {self.entity} has the id {id!r}{hint}")
        return row

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

    __hash__ = None  # type: ignore[assignment]  # not hashable

    def __repr__(self) -> str:
        return f"IdMap({len(self)} {'integer' if self.is_integer else 'string'} ids)"


def _as_kind(id: str | int | np.integer, integer: bool) -> str | int | None:
    """Convert an id to an integer or to a text; None if it is not an integer."""
    if not integer:
        return str(id)
    text = str(id)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 40 else None


def clean_ids(ids: Any, where: str, what: str = "id", place: Callable[[int], str] = row_place) -> pl.Series:
    """Validate ids and return them as an Int64 or String series.

    Args:
        ids: anything one-dimensional. Floats are accepted if all are integers below 2**53.
        where: prefix of messages ("ratings.csv, column 'userId'").
        what: "user", "item" or "id".
        place: describes the position of a row for messages ("line 7").

    Raises:
        DataError: an id is missing, negative, too large, empty, or of an unsupported type.
    """
    series = as_series(ids, where)

    def at(bad: pl.Series) -> str:
        return place(int(bad.arg_true()[0]))

    if series.dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    if len(series) == 0:
        return series if series.dtype == pl.String else pl.Series(series.name, [], dtype=pl.Int64)
    if series.null_count():
        raise DataError(f"{where}: no {what} id in {at(series.is_null())}; leave such rows out or give them an id")
    if series.dtype == pl.String:
        if (empty := series.str.len_bytes() == 0).any():
            raise DataError(f"{where}: the {what} id is empty in {at(empty)}; leave such rows out or give them an id")
        return series
    if series.dtype.is_integer() or series.dtype.is_decimal():
        if (negative := series < 0).any():
            raise DataError(
                f"{where}: negative {what} id {series[negative.arg_true()[0]]} in {at(negative)};"
                f" integer ids must be 0 or more (or turn them into strings: {option_text('string_ids', True)})"
            )
        whole = series.cast(pl.Int64, strict=False)
        if (large := whole.is_null()).any():
            raise DataError(
                f"{where}: {what} id {series[large.arg_true()[0]]} in {at(large)} is too large:"
                f" integer ids go up to {LARGEST} (turn them into strings: {option_text('string_ids', True)})"
            )
        return whole
    if series.dtype.is_float():
        fraction = (series != series.floor()) | ~series.is_finite() | (series.abs() >= 2.0**53)
        if fraction.any():
            raise DataError(
                f"{where}: {what} id {series[fraction.arg_true()[0]]} in {at(fraction)} is not an integer;"
                " ids must be integers or strings"
            )
        return clean_ids(series.cast(pl.Int64), where, what, place)
    kind = "a mix of types" if series.dtype == pl.Object else str(series.dtype)
    if series.dtype == pl.Object and all(isinstance(one, int) and not isinstance(one, bool) for one in series):
        return clean_ids(big_integers(series, where, what, at), where, what, place)
    raise DataError(f"{where}: {what} ids of type {kind}; they must be all integers or all strings")


def text_ids(texts: pl.Series, where: str, what: str, place: Callable[[int], str]) -> pl.Series:
    """Ids from a text file: integers if all are written as integers (no leading zeros), else strings.

    Raises:
        DataError: as `clean_ids`.
    """
    if len(texts) == 0 or texts.null_count() or not texts.str.contains(INTEGER).all():
        return clean_ids(texts, where, what, place)
    whole = texts.cast(pl.Int64, strict=False)
    bad = whole.is_null() | (whole < 0)
    if bad.any():
        row = int(bad.arg_true()[0])
        value = texts[row]
        fault = "negative" if value.startswith("-") else "too large"
        raise DataError(
            f"{where}: {what} id {value} in {place(row)} is {fault}: integer ids go"
            f" from 0 to {LARGEST}; read the ids as strings ({option_text('string_ids', True)}) if they are only labels"
        )
    return whole


def describe_ids(ids: Iterable[Any], limit: int = 5) -> str:
    """The first ids, for a message."""
    listed = list(ids)
    shown = ", ".join(str(one) for one in listed[:limit])
    return shown + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def pluralize(number: int, noun: str) -> str:
    """`1 row`, `2 rows`, `1,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def as_series(ids: Any, where: str = "the ids") -> pl.Series:
    """Convert one-dimensional data to a series; mixed types give dtype Object.

    Raises:
        DataError: it has more dimensions, or cannot be read.
    """
    if isinstance(ids, pl.Series):
        return ids
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise DataError(f"ids must be one-dimensional, not of shape {ids.shape}")
        if ids.dtype.kind == "S":
            try:
                ids = np.char.decode(ids, "utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{where}: {_not_utf8(ids)!r} is not UTF-8 text; write the ids as texts") from None
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


def _not_utf8(ids: np.ndarray) -> bytes:
    """The first id that is not valid UTF-8."""
    for one in ids.tolist():
        try:
            one.decode("utf-8")
        except UnicodeDecodeError:
            return bytes(one)
    return b""


def big_integers(series: pl.Series, where: str, what: str, at: Any) -> pl.Series:
    """The error for Python integers of which at least one exceeds 64 bits; names it."""
    bad = pl.Series([not 0 <= one <= LARGEST for one in series])
    if not bad.any():
        return pl.Series([int(one) for one in series], dtype=pl.Int64)
    value = series[bad.arg_true()[0]]
    raise DataError(
        f"{where}: {what} id {value} in {at(bad)}: integer ids go from 0 to {LARGEST}"
        f" (turn them into strings: {option_text('string_ids', True)})"
    )


def as_list(ids: Any) -> list[Any]:
    """Convert one id or several to a list."""
    if isinstance(ids, (str, int, np.integer)):
        return [ids]
    if hasattr(ids, "to_list"):  # polars and pandas series
        return list(ids.to_list())
    if hasattr(ids, "to_pylist"):  # Arrow arrays
        return list(ids.to_pylist())
    if hasattr(ids, "detach"):  # torch tensors
        ids = ids.numpy(force=True)
    if isinstance(ids, np.ndarray):
        if ids.ndim > 1:
            raise UnknownIdError(f"an array of shape {ids.shape} is no list of ids; give one with a single dimension")
        return list(ids.ravel().tolist())
    if isinstance(ids, Mapping) or hasattr(ids, "columns"):
        raise UnknownIdError(f"a {type(ids).__name__} is no list of ids; give one of its columns")
    if isinstance(ids, Iterable):
        return list(ids)
    raise UnknownIdError(f"{ids!r} is not an id: ids are strings or integers")


def known_rows(ids: list[Any], known: IdMap) -> np.ndarray:
    """Rows of the ids.

    Raises:
        UnknownIdError: some are unknown; the message names similar known ids, or the number of known ids.
    """
    rows = known.rows(ids)
    if (rows < 0).any():
        raise UnknownIdError(unknown_ids_message([one for one, row in zip(ids, rows, strict=True) if row < 0], known))
    return rows


def unknown_ids_message(unknown: list[Any], known: IdMap) -> str:
    """The error message for unknown ids, with similar known ids."""
    kind = "integers" if known.is_integer else "strings"
    if len(unknown) > 1:
        problem = f"{len(unknown)} of the {known.entity} ids are unknown: {describe_ids(unknown)}"
        alike = [one for one in map(known.alike, unknown[:N_NAMED]) if one is not None]
        return f"{problem}; did you mean {', '.join(map(repr, alike))}?" if alike else problem
    one = unknown[0]
    twin = known.alike(one)
    if isinstance(one, str) is known.is_integer:
        hint = f"for instance {_first(known)}" if twin is None else f"did you mean {twin!r}?"
        return f"no {known.entity} has the id {one!r}: the {known.entity} ids are {kind}, {hint}"
    if twin is not None:
        return f"no {known.entity} has the id {one!r}; did you mean {twin!r}?"
    near = _nearest(one, known)
    if near:
        return f"no {known.entity} has the id {one!r}; the nearest are {', '.join(near)}"
    return f"no {known.entity} has the id {one!r}; {len(known):,} are known, for instance {_first(known)}"


def _nearest(one: Any, known: IdMap) -> list[str]:
    if isinstance(one, str):
        if len(known) > NEAREST_AMONG:
            return []
        return [repr(near) for near in difflib.get_close_matches(one, known.series.to_list(), n=3)]
    ids = known.ids.astype(np.float64)
    return [str(known.ids[row]) for row in np.argsort(np.abs(ids - float(one)), kind="stable")[:3]]


def _first(known: IdMap) -> str:
    return ", ".join(repr(one) for one in known.series.head(3).to_list()) or "none"
