"""Which items a request wants: conditions on columns of the item table, as one mask."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import polars as pl
import torch
from torch import Tensor

from lirdrec.configuration import nearest
from lirdrec.data.columns import ITEM
from lirdrec.data.frames import first_line
from lirdrec.errors import ConfigError

_COMPARISONS: dict[str, Callable[[pl.Expr, Any], pl.Expr]] = {
    "eq": lambda column, value: column == value,
    "ne": lambda column, value: column != value,
    "lt": lambda column, value: column < value,
    "le": lambda column, value: column <= value,
    "gt": lambda column, value: column > value,
    "ge": lambda column, value: column >= value,
    "in": lambda column, value: column.is_in(value),
    "contains": lambda column, value: column.str.contains(value, literal=True),
}
MAX_VALUES = 10_000  # of one "in"


@dataclass(frozen=True)
class Filter:
    """Conditions that must all hold; a missing value never satisfies one.

    `{"price": {"lt": 30}, "in_stock": true, "category": {"in": ["tents", "lamps"]}, "title": {"contains": "red"}}`.
    A bare value means `eq`. Comparisons: eq, ne, lt, le, gt, ge, in, contains.

    Attributes:
        text: the conditions in one canonical form, which names the mask in a cache.
    """

    text: str

    @classmethod
    def of(cls, conditions: Mapping[str, Any]) -> Filter:
        """Conditions from JSON.

        Raises:
            ConfigError: an unknown comparison, or a value that does not suit it.
        """
        for column, asked in conditions.items():
            for name, value in _comparisons(asked).items():
                if name not in _COMPARISONS:
                    hint = nearest(name, _COMPARISONS, f"choose {', '.join(_COMPARISONS)}")
                    raise ConfigError(f"filter on '{column}': no comparison '{name}'; {hint}")
                if (name == "in") is not isinstance(value, list):
                    raise ConfigError(
                        f"filter on '{column}': '{name}' takes {'a list' if name == 'in' else 'one value'}"
                    )
                if isinstance(value, list) and len(value) > MAX_VALUES:
                    raise ConfigError(f"filter on '{column}': a list may have {MAX_VALUES:,} values at most")
                if name == "contains" and not isinstance(value, str):
                    raise ConfigError(f"filter on '{column}': 'contains' takes a text")
        return cls(json.dumps(conditions, sort_keys=True))

    def mask(self, items: pl.DataFrame) -> Tensor:
        """Which rows of the item table it holds for, `(I,)` bool.

        Raises:
            ConfigError: a column is unknown, or of a type that cannot be compared so.
        """
        conditions: list[pl.Expr] = []
        for column, asked in json.loads(self.text).items():
            if column not in items.columns:
                known = ", ".join(items.columns)
                raise ConfigError(f"filter: no column '{column}'; {nearest(column, items.columns, f'it has {known}')}")
            conditions += [_COMPARISONS[name](pl.col(column), value) for name, value in _comparisons(asked).items()]
        if not conditions:
            return torch.ones(items.height, dtype=torch.bool)
        together = reduce(lambda a, b: a & b, conditions).fill_null(False)
        try:
            return torch.tensor(items.select(together.alias(ITEM))[ITEM].to_numpy())
        except (pl.exceptions.PolarsError, TypeError) as error:
            raise ConfigError(
                f"filter {self.text}: does not fit the types of the columns ({first_line(error)})"
            ) from None


def _comparisons(asked: Any) -> Mapping[str, Any]:
    return asked if isinstance(asked, Mapping) else {"eq": asked}
