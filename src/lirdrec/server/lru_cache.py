"""A least-recently-used cache whose limit is a number of bytes instead of a number of entries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 256  # bytes of an entry without its value: the key and the place in the dictionary


class ByteCache(Generic[K, V]):
    """Least-recently-used cache of at most `limit` bytes, of which `size` are used now. Several threads may use it."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return the cached value of a key; None if it is not in the cache."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Cache a value of `size` bytes; drop the least recently used entries if there is no space.

        A value that is larger than the whole cache is not cached.
        """
        size += ENTRY_BYTES
        with self._lock:
            previous = self._entries.pop(key, None)
            if previous is not None:
                self.size -= previous[1]
            if size > self.limit:
                return
            self._entries[key] = (value, size)
            self.size += size
            while self.size > self.limit:
                _, (_, dropped) = self._entries.popitem(last=False)
                self.size -= dropped

    def __len__(self) -> int:
        return len(self._entries)
