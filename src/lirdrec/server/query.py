"""What is asked of the engine, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lirdrec.errors import ConfigError
from lirdrec.server.filters import Filter
from lirdrec.server.live import Id

MAX_FACTOR = 1e6  # of a branch weight: beyond, scores could overflow


@dataclass(frozen=True)
class Query:
    """One request: for a known user, or for a history of items.

    Attributes:
        user: id, or None where `history` is given.
        history: ids of liked items.
        k: items wanted; fewer come where fewer remain.
        exclude_seen: leave out what the user liked.
        where: conditions on the item table.
        diversity: δ of `reranking`, 0 for none.
        branch_weights: name of a part → factor, to weigh the branches of the score anew.
        unknown: what an unknown user gets.
        parts: whether to tell the parts of each score.

    Raises:
        ConfigError: one of them cannot be.
    """

    user: Id | None = None
    history: Sequence[Id] | None = None
    k: int = 10
    exclude_seen: bool = True
    where: Filter | None = None
    diversity: float = 0.0
    branch_weights: Mapping[str, float] | None = None
    unknown: Literal["raise", "popular"] = "raise"
    parts: bool = False

    def __post_init__(self) -> None:
        if (self.user is None) is (self.history is None):
            raise ConfigError("a recommendation is for a user or for a history: give one of the two")
        if self.history is not None and not self.history:
            raise ConfigError("the history is empty: give at least one item")
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ConfigError(f"k is {self.k!r}; it must be a whole number of 1 or more")
        if not 0 <= self.diversity <= 1:
            raise ConfigError(f"diversity is {self.diversity!r}; it must lie between 0 and 1")
        for name, factor in (self.branch_weights or {}).items():
            if not (math.isfinite(factor) and abs(factor) <= MAX_FACTOR):
                raise ConfigError(
                    f"the weight of '{name}' is {factor!r}; it must lie between {-MAX_FACTOR:g} and {MAX_FACTOR:g}"
                )


@dataclass(frozen=True)
class Ranked:
    """An answer, best first.

    Attributes:
        items: ids.
        scores: one each.
        parts: name of the part → its share of the score, one mapping each; None unless asked for.
        fallback: "popular" where the user was unknown.
    """

    items: list[Id]
    scores: list[float]
    parts: list[dict[str, float]] | None = None
    fallback: str | None = None
