"""A mapping that grows by copies that are cheap, so that who holds an older one sees no change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

RECENT = 4096  # entries that are copied with every change, before they join the rest


class Layered(Mapping[K, V]):
    """A large mapping that is shared and the few entries that were changed since; never changed itself.

    Args:
        base: the entries; whoever passes them changes them no more.
        recent: entries that hide those of `base`.
    """

    __slots__ = ("_base", "_recent")

    def __init__(self, base: Mapping[K, V] | None = None, recent: Mapping[K, V] | None = None):
        self._base: Mapping[K, V] = {} if base is None else base
        self._recent: Mapping[K, V] = {} if recent is None else recent

    def updated(self, entries: Mapping[K, V]) -> Layered[K, V]:
        """A mapping with these entries too."""
        recent = {**self._recent, **entries}
        return Layered(self._base, recent) if len(recent) <= RECENT else Layered({**self._base, **recent})

    @overload
    def get(self, key: K, default: None = None, /) -> V | None: ...
    @overload
    def get(self, key: K, default: V | T, /) -> V | T: ...
    def get(self, key: K, default: Any = None, /) -> Any:
        return self._recent[key] if key in self._recent else self._base.get(key, default)

    def __getitem__(self, key: K) -> V:
        return self._recent[key] if key in self._recent else self._base[key]

    def __contains__(self, key: object) -> bool:
        return key in self._recent or key in self._base

    def __iter__(self) -> Iterator[K]:
        yield from self._base
        yield from (key for key in self._recent if key not in self._base)

    def __len__(self) -> int:
        return len(self._base) + sum(key not in self._base for key in self._recent)
