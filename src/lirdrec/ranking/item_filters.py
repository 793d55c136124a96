"""Filters on columns of the item table, evaluated as a mask over the items."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

import polars as pl
import torch
from torch import Tensor

from lirdrec.config import suggest_name
from lirdrec.data.titles import as_texts, column_named, is_title
from lirdrec.errors import ConfigError

_COMPARISONS: dict[str, Callable[[pl.Series, Any], pl.Series]] = {
    "eq": lambda column, value: column == value,
    "ne": lambda column, value: column != value,
    "lt": lambda column, value: column < value,
    "le": lambda column, value: column <= value,
    "gt": lambda column, value: column > value,
    "ge": lambda column, value: column >= value,
    "in": lambda column, value: column.is_in(value),
    "contains": lambda column, value: _contains(column, value),
}
MAX_VALUES = 10_000  # largest number of values of one "in"
HASH_CHUNK = 100  # values that are hashed at a time
_AS_JSON = json.JSONEncoder(ensure_ascii=False)
_COMPARISONS_OF_KIND = {  # kind of column → comparisons
    "number": ("eq", "ne", "lt", "le", "gt", "ge", "in"),
    "truth": ("eq", "ne", "in"),
    "text": ("eq", "ne", "lt", "le", "gt", "ge", "in", "contains"),
    "time": ("eq", "ne", "lt", "le", "gt", "ge", "in"),
    "clock": ("eq", "ne", "lt", "le", "gt", "ge", "in"),
    "empty": tuple(_COMPARISONS),
    "list": ("contains",),
    "numbers": ("contains",),
}
_EXAMPLES = {
    "number": "a number",
    "truth": "true or false",
    "text": "a text",
    "time": 'a date such as "2024-05-31"',
    "clock": 'a time such as "18:30"',
    "list": "a text",
    "numbers": "a number",
}


@dataclass(frozen=True)
class Filter:
    """Conditions on columns of the item table; an item must satisfy all of them.

    A missing value (null or NaN) satisfies no condition.

    `{"price": {"lt": 30}, "in_stock": true, "category": {"in": ["tents", "lamps"]}, "title": {"contains": "red"}}`.
    A bare value means `eq`. Comparisons: eq, ne, lt, le, gt, ge, in, contains; in a column of lists, `contains` looks
    for one element. A duration is compared in seconds. `contains` ignores case; the others compare texts byte by byte.

    Attributes:
        conditions: column → condition; must not be mutated.
        key: a hash of the conditions, under which a cache can keep the mask.
    """

    conditions: Mapping[str, Any] = field(compare=False, repr=False)
    key: bytes

    @classmethod
    def parse(cls, conditions: Mapping[str, Any]) -> Filter:
        """Check conditions from JSON, and make a filter of them.

        Raises:
            ConfigError: an unknown comparison, a value that does not suit it, or a list that is too long.
        """
        for column, condition in conditions.items():
            for name, value in _comparisons(condition).items():
                if name not in _COMPARISONS:
                    hint = suggest_name(name, _COMPARISONS, f"choose {', '.join(_COMPARISONS)}")
                    raise ConfigError(f"filter on '{column}': no comparison '{name}'; {hint}")
                if (name == "in") is not isinstance(value, list):
                    raise ConfigError(
                        f"filter on '{column}': '{name}' takes {'a list' if name == 'in' else 'one value'}"
                    )
                if isinstance(value, list) and len(value) > MAX_VALUES:
                    raise ConfigError(f"filter on '{column}': a list may have {MAX_VALUES:,} values at most")
                for scalar in value if isinstance(value, list) else [value]:
                    is_plain = isinstance(scalar, (bool, int, float, str))
                    if not is_plain or (isinstance(scalar, float) and not math.isfinite(scalar)):
                        raise ConfigError(f"filter on '{column}': '{name}' compares with numbers, texts, true or false")
        return cls(conditions, _key(conditions))

    def mask(self, items: pl.DataFrame) -> Tensor:
        """Return which rows of the item table satisfy the filter, `(I,)` bool.

        Raises:
            ConfigError: a column is unknown, or its type does not support the comparison or the value.
        """
        mask = torch.ones(items.height, dtype=torch.bool)
        for name, condition in self.conditions.items():
            if (found := column_named(name, items)) is None:
                known = ", ".join(items.columns)
                raise ConfigError(
                    f"filter: no column '{name}'; {suggest_name(name, items.columns, f'the item table has {known}')}"
                )
            column = items[found]
            column, kind = _readable(as_texts(column) if is_title(found) and column.dtype == pl.List else column)
            for comparison, value in _comparisons(condition).items():
                if comparison not in _COMPARISONS_OF_KIND.get(kind, ()):
                    raise ConfigError(
                        f"filter on '{name}': '{comparison}' does not apply to a column of type {items.schema[found]}"
                    )
                if kind == "empty":
                    mask &= False
                    continue
                given = value if isinstance(value, list) else [value]
                values = [_value(scalar, column.dtype, kind, name) for scalar in given]
                satisfied = _compare(column, comparison, values)
                mask &= torch.tensor(satisfied.fill_null(False).to_numpy())
        return mask


def _key(conditions: Mapping[str, Any]) -> bytes:
    """Return a hash of conditions; values are hashed in chunks, so that large lists do not block other threads."""
    digest = hashlib.blake2b(digest_size=16)
    for column in sorted(conditions):
        comparisons = _comparisons(conditions[column])
        for name in sorted(comparisons):
            value = comparisons[name]
            values = value if isinstance(value, list) else [value]
            for start in range(0, max(1, len(values)), HASH_CHUNK):  # once for an empty list too
                text = _AS_JSON.encode([column, name, values[start : start + HASH_CHUNK]])
                digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _comparisons(condition: Any) -> Mapping[str, Any]:
    return condition if isinstance(condition, Mapping) else {"eq": condition}


def _readable(column: pl.Series) -> tuple[pl.Series, str]:
    """Return a column in a type that can be compared, and its kind, a key of `_COMPARISONS_OF_KIND`, or "other".

    Missing values become null.
    """
    kind = column.dtype
    if kind.is_float():
        return column.cast(pl.Float64).fill_nan(None), "number"
    if kind.is_decimal():
        return column.cast(pl.Float64), "number"
    if kind.is_integer():
        large = kind in (pl.UInt64, pl.Int128) or str(kind) == "UInt128"
        return column.cast(pl.Int128 if large else pl.Int64, strict=False), "number"
    if kind == pl.Duration:
        return column.dt.total_microseconds() / 1e6, "number"
    if kind in (pl.Categorical, pl.Enum):
        return column.cast(pl.String), "text"
    if kind == pl.Datetime:
        return column.dt.replace_time_zone(None) if getattr(kind, "time_zone", None) else column, "time"
    if isinstance(kind, pl.Array):
        column = column.arr.to_list()
    if isinstance(kind, (pl.List, pl.Array)):
        inner = kind.inner
        if inner in (pl.String, pl.Categorical, pl.Enum):
            return column.cast(pl.List(pl.String)), "list"
        return column, "numbers" if inner.is_numeric() and not inner.is_decimal() else "other"
    kinds = {pl.Boolean: "truth", pl.String: "text", pl.Date: "time", pl.Time: "clock", pl.Null: "empty"}
    return column, kinds.get(kind.base_type(), "other")


def _value(given: Any, dtype: Any, kind: str, name: str) -> Any:
    """Return a value of a condition in the column's type, or raise a ConfigError if it does not fit the column."""
    is_valid = {
        "number": isinstance(given, (int, float)) and not isinstance(given, bool),
        "truth": isinstance(given, bool),
    }.get("number" if kind == "numbers" else kind, isinstance(given, str))
    if is_valid and kind not in ("time", "clock"):
        return given
    if is_valid:
        try:
            if kind == "clock":
                return time.fromisoformat(given).replace(tzinfo=None)
            return date.fromisoformat(given) if dtype == pl.Date else datetime.fromisoformat(given).replace(tzinfo=None)
        except ValueError:
            pass
    raise ConfigError(f"filter on '{name}': {given!r} cannot be compared with the column; give {_EXAMPLES[kind]}")


def _contains(column: pl.Series, value: Any) -> pl.Series:
    if not isinstance(value, str):  # a list of numbers
        return column.list.eval(pl.element().cast(pl.Float64) == float(value)).list.any()
    lower = pl.Series([value]).str.to_lowercase()[0]  # by the same rules as the column
    if column.dtype == pl.List:
        return column.list.eval(pl.element().str.to_lowercase()).list.contains(lower)
    return column.str.to_lowercase().str.contains(lower, literal=True)


def _compare(column: pl.Series, comparison: str, values: list[Any]) -> pl.Series:
    if column.dtype in (pl.Int64, pl.Int128):
        bound = 2**63 if column.dtype == pl.Int64 else 2**127
        if any(isinstance(value, float) or abs(value) >= bound for value in values):
            column, values = column.cast(pl.Float64), [float(value) for value in values]
    if comparison == "in":
        return column.is_in(pl.Series([values], dtype=pl.List(column.dtype)))
    if column.dtype in (pl.Date, pl.Datetime, pl.Time, pl.Int128):  # polars compares these with a series only
        return _COMPARISONS[comparison](column, pl.Series(values, dtype=column.dtype))
    return _COMPARISONS[comparison](column, values[0])
