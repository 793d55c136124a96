"""A cache that is bounded by the bytes of what it holds, not by the number of entries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 256  # of an entry beside its value: key, place in the dictionary


class ByteCache(Generic[K, V]):
    """Keeps what was used last, up to a number of bytes. Safe to use from several threads.

    Args:
        limit: bytes of all entries together; a value that is larger is not kept.

    Attributes:
        size: bytes that are held.
    """

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of a key, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of `size` bytes; what was not used for longest makes room."""
        size += ENTRY_BYTES
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self.size -= before[1]
            if size > self.limit:
                return
            self._entries[key] = (value, size)
            self.size += size
            while self.size > self.limit:
                _, (_, gone) = self._entries.popitem(last=False)
                self.size -= gone

    def __len__(self) -> int:
        return len(self._entries)
