"""Append rows to arrays and tensors in amortized constant time, without changing the older versions."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    A = TypeVar("A", np.ndarray, Tensor)

MIN_SPARE_ROWS = 64  # spare rows of a small table; a large one gets an eighth of its rows


class _Buffer:
    """Memory with spare rows at its end. Tables share its first rows; a row is written once and never changed."""

    def __init__(self, memory: Any, filled: int):
        self._memory, self._filled = memory, filled
        self._lock = threading.Lock()

    def appended(self, n: int, rows: Any) -> Any:
        """Write `rows` after the first `n` rows, and return all of these.

        Returns None if other rows were written after the first `n` already, or if there is no space.
        """
        end = n + len(rows)
        with self._lock:
            if n != self._filled or end > len(self._memory):
                return None
            self._memory[n:end] = rows
            self._filled = end
        return self._memory[:end]


# id of a returned table → that table and its buffer (arrays and tensors can be neither dict keys nor have attributes)
_buffers: dict[int, tuple[weakref.ref[Any], _Buffer]] = {}


def append_rows(table: A, rows: A) -> A:
    """Append rows `(m, …)` to a table `(n, …)` of the same type; return the longer table `(n + m, …)`.

    The average cost depends only on the number of new rows. `table` itself never changes. If rows were appended to the
    same `table` before, its rows are copied.
    """
    entry = _buffers.get(id(table))
    buffer = entry[1] if entry is not None and entry[0]() is table else None
    grown: A | None = None if buffer is None else buffer.appended(len(table), rows)
    if grown is None:
        size = len(table) + len(rows)
        shape = (size + max(MIN_SPARE_ROWS, size // 8), *table.shape[1:])
        memory: Any = np.empty(shape, table.dtype) if isinstance(table, np.ndarray) else table.new_empty(shape)
        memory[: len(table)] = table
        buffer = _Buffer(memory, len(table))
        grown = buffer.appended(len(table), rows)
    assert buffer is not None and grown is not None
    key = id(grown)
    _buffers[key] = (weakref.ref(grown, lambda reference: _drop_entry(key, reference)), buffer)
    return grown


def _drop_entry(key: int, reference: weakref.ref[Any]) -> None:
    """Remove the entry of a deleted table from `_buffers`, unless a new table has the same id."""
    entry = _buffers.get(key)
    if entry is not None and entry[0] is reference:
        del _buffers[key]
