"""Why an item was recommended: exact parts of its score, the user's branch weights, the liked items nearest to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lirdrec.data.ids import known_rows
from lirdrec.errors import CapabilityError, ConfigError

if TYPE_CHECKING:
    from lirdrec.recommender.recommender import Recommender


@dataclass(frozen=True)
class LikedItem:
    """One item that the user liked.

    Attributes:
        item, title: which one.
        similarity: to the recommended item (`Recommender.similar_items`).
        part: what it adds to the score, where the score is a sum over liked items (EASE, item-kNN …); else None.
    """

    item: Any
    title: str | None
    similarity: float
    part: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Why one item suits one user.

    Attributes:
        user, item: the ids asked for.
        title: the item's title, where the item table has one.
        score: the score that `recommend` ranks by.
        parts: branch → its part; `sum(parts.values()) == score` exactly.
        weights: branch → the weight α that this user gives it, or None where the model has no such weights.
        liked: the user's training items nearest to the item, nearest first; where the score is a sum over liked items,
            those with the largest parts of it.
    """

    user: Any
    item: Any
    title: str | None
    score: float
    parts: Mapping[str, float]
    weights: Mapping[str, float] | None
    liked: tuple[LikedItem, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "user": self.user,
            "item": self.item,
            "title": self.title,
            "score": self.score,
            "parts": dict(self.parts),
            "weights": None if self.weights is None else dict(self.weights),
            "liked": [vars(one) for one in self.liked],
        }

    def __str__(self) -> str:
        if self.liked and self.liked[0].part is not None:
            sums = ", ".join(f"{one.title or one.item} {one.part:+.4f}" for one in self.liked)
            return f"{self.title or self.item} for user {self.user}: {self.score:.4f}, of what they liked: {sums}"
        parts = " ".join(f"{'+' if part >= 0 else '-'} {name} {abs(part):.4f}" for name, part in self.parts.items())
        near = ", ".join(str(one.title or one.item) for one in self.liked)
        text = f"{self.title or self.item} for user {self.user}: {self.score:.4f} = {parts.removeprefix('+ ')}"
        return f"{text}; near what they liked: {near}" if near else text


def explain(recommender: Recommender, user: Any, item: Any, n_liked: int = 5) -> Explanation:
    """See `Recommender.explain`."""
    if recommender.is_slim:
        raise CapabilityError("a slim run cannot explain: it keeps no liked items; explain with the full run")
    if n_liked < 0:
        raise ConfigError(f"n_liked is {n_liked}; it must be 0 or more")
    scorer = recommender.scorer
    user_row, item_row = int(known_rows([user], recommender.users)[0]), int(known_rows([item], recommender.items)[0])
    users = torch.tensor([user_row], device=recommender.device)
    queries, weights = scorer.queries(users), scorer.user_weights(users)
    return explained(recommender, user, item_row, queries, weights, recommender.liked_rows(user_row), n_liked)


def explained(
    recommender: Recommender,
    user: Any,
    item_row: int,
    query: Tensor,
    weights: Tensor | None,
    liked_rows: np.ndarray,
    n_liked: int,
) -> Explanation:
    """The explanation of a score, whatever vector stands for the user.

    Args:
        recommender: whose items are scored.
        user: the id to tell.
        item_row: the item's row.
        query: `(1, D)`, the user's vector; weights: `(1, K)`, its α, or None.
        liked_rows: `(n,)` int64, what the user liked; the item itself is left out of it.
        n_liked: how many of these to tell.
    """
    scorer, items = recommender.scorer, torch.tensor([item_row], device=query.device)
    names, ids = scorer.part_names, recommender.items.series
    parts = dict(zip(names, scorer.parts(query, items)[0].double().tolist(), strict=True))
    liked_rows = liked_rows[liked_rows != item_row]
    similarity = scorer.similar_items(items)[0].cpu().numpy()[liked_rows]
    added = scorer.contributions(query, items)
    sums = None if added is None else added[0].double().cpu().numpy()[liked_rows]
    nearest = np.argsort(-(similarity if sums is None else sums), kind="stable")[:n_liked]
    return Explanation(
        user=user,
        item=ids[item_row],
        title=recommender.title(item_row),
        score=sum(parts.values()),
        parts=parts,
        weights=None if weights is None else dict(zip(names, weights[0].double().tolist(), strict=True)),
        liked=tuple(
            LikedItem(
                ids[row],
                recommender.title(row),
                float(similarity[place]),
                None if sums is None else float(sums[place]),
            )
            for place, row in zip(nearest, liked_rows[nearest].tolist(), strict=True)
        ),
    )
