"""Tables that grow at the end without being copied each time, while whoever holds an older one sees no change."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    A = TypeVar("A", np.ndarray, Tensor)

MIN_SPARE_ROWS = 64  # rows; beyond, an eighth of the table


class _Buffer:
    """Memory for more rows than there are. Rows are written behind the last table that was given out, and once only."""

    def __init__(self, memory: Any, filled: int):
        self._memory, self._filled = memory, filled
        self._lock = threading.Lock()

    def appended(self, n: int, rows: Any) -> Any:
        """The first `n` rows and `rows`; None where others came behind those `n` already, or there is no room."""
        end = n + len(rows)
        with self._lock:
            if n != self._filled or end > len(self._memory):
                return None
            self._memory[n:end] = rows
            self._filled = end
        return self._memory[:end]


# id of a table that was given out → that table and where it lies; arrays and tensors take no attributes or hashes
_rooms: dict[int, tuple[weakref.ref[Any], _Buffer]] = {}


def append_rows(table: A, rows: A) -> A:
    """The rows `(n, …)` of a table and `(m, …)` more of the same type, as one table `(n + m, …)`.

    Costs as much as the new rows on average, however large the table is. The table itself never changes: where it was
    appended to before, its rows are copied.
    """
    entry = _rooms.get(id(table))
    room = entry[1] if entry is not None and entry[0]() is table else None
    grown = None if room is None else room.appended(len(table), rows)
    if grown is None:
        size = len(table) + len(rows)
        shape = (size + max(MIN_SPARE_ROWS, size // 8), *table.shape[1:])
        memory: Any = np.empty(shape, table.dtype) if isinstance(table, np.ndarray) else table.new_empty(shape)
        memory[: len(table)] = table
        room = _Buffer(memory, len(table))
        grown = room.appended(len(table), rows)
    assert room is not None and grown is not None
    key = id(grown)
    _rooms[key] = (weakref.ref(grown, lambda gone: _drop_entry(key, gone)), room)
    return grown  # type: ignore[no-any-return]  # of the table's own type


def _drop_entry(key: int, gone: weakref.ref[Any]) -> None:
    """Drop the entry of a table that nobody holds, unless another has its place in memory by now."""
    entry = _rooms.get(key)
    if entry is not None and entry[0] is gone:
        del _rooms[key]
