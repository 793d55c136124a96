"""Explain a score: its exact parts, the user's weights of these parts, and the most similar items of the history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lirdrec.data.ids import known_rows
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.base import Model
from lirdrec.models.history_content_score import CONTENT
from lirdrec.ranking.scorers import NEW_ITEM, Scorer
from lirdrec.recommender.state import RunState

# name of a part of a score that in most models only new items have → what the part is
OF_NEW_ITEMS = {
    CONTENT: "similarity of the item's features to the features of the user's history; not learned",
    NEW_ITEM: "calibrated in simulated launches, the same for all users",
}
LATEST = 50  # number of items of a history whose effects are computed, if the model has no `max_length`


@dataclass(frozen=True)
class LikedItem:
    """An item of the user's history.

    Attributes:
        item, title: its id and title.
        similarity: its similarity to the recommended item (`Recommender.similar_items`).
        part: its contribution to the score, if the score is a sum over liked items (EASE, item-kNN …); else None.
        moved: for models that read histories in order, the score of the complete history minus the score of the
            history without this item (`history_effects`); else None.
    """

    item: Any
    title: str | None
    similarity: float
    part: float | None = None
    moved: float | None = None


@dataclass(frozen=True)
class Explanation:
    """The explanation of one user's score of one item.

    Attributes:
        user, item: their ids.
        title: the item's title, if the item table has one.
        score: the score that `recommend` ranks by.
        parts: name → part of the score; `sum(parts.values()) == score` exactly.
        weights: name of a part → the weight α that this user gives it, or None if the model has no such weights. For
            LIRDRec-Seq they are the weights after the last item of the history.
        liked: the items of the user's history that are most similar to the item. If the score is a sum over liked
            items, the items with the largest contributions. For models that read histories in order, the items that
            moved the score up most.
    """

    user: Any
    item: Any
    title: str | None
    score: float
    parts: Mapping[str, float]
    weights: Mapping[str, float] | None
    liked: tuple[LikedItem, ...]

    @property
    def shown_parts(self) -> dict[str, float]:
        """The parts of the score that are printed: all, except a part named in `OF_NEW_ITEMS` whose value is 0."""
        return {name: part for name, part in self.parts.items() if part != 0 or name not in OF_NEW_ITEMS}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "user": self.user,
            "item": self.item,
            "title": self.title,
            "score": self.score,
            "parts": dict(self.parts),
            "weights": None if self.weights is None else dict(self.weights),
            "liked": [vars(item) for item in self.liked],
        }

    def __str__(self) -> str:
        if self.liked and self.liked[0].part is not None:
            sums = ", ".join(f"{item.title or item.item} {item.part:+.4f}" for item in self.liked)
            return f"{self.title or self.item} for user {self.user}: {self.score:.4f}, of what they liked: {sums}"
        if self.liked and self.liked[0].moved is not None:
            near = ", ".join(f"{item.title or item.item} {item.moved:+.4f}" for item in self.liked)
            intro = "moved by"
        else:
            near, intro = ", ".join(str(item.title or item.item) for item in self.liked), "near what they liked:"
        parts = " ".join(
            f"{'+' if part >= 0 else '-'} {name} {abs(part):.4f}" for name, part in self.shown_parts.items()
        )
        text = f"{self.title or self.item} for user {self.user}: {self.score:.4f} = {parts.removeprefix('+ ')}"
        return f"{text}; {intro} {near}" if near else text


def explain(state: RunState, user: Any, item: Any, n_liked: int = 5, model: Model | None = None) -> Explanation:
    """Explain the score of an item for a user; for errors see `Recommender.explain`.

    Args:
        state: the run.
        user, item, n_liked: as for `Recommender.explain`.
        model: the model of the run if it reads histories in order (it computes the effects of the items), else None.
    """
    if state.histories is None:
        raise CapabilityError("a slim run cannot explain: it has no liked items; explain with the full run")
    if n_liked < 0:
        raise ConfigError(f"n_liked is {n_liked}; it must be 0 or more")
    user_row, item_row = int(known_rows([user], state.users)[0]), int(known_rows([item], state.items)[0])
    users = torch.tensor([user_row], device=state.device)
    query, weights = state.scorer.queries(users), state.scorer.user_weights(users)
    history = state.histories.of(user_row)
    effects = None
    if model is not None:
        weights, effects = explain_history(model, state.scorer, history, item_row, n_liked)
    return explained(state, user, item_row, query, weights, history.cpu().numpy(), n_liked, effects)


def explain_history(
    model: Model, scorer: Scorer, history: Tensor, item_row: int, n_liked: int
) -> tuple[Tensor | None, dict[int, float] | None]:
    """Return the weights of the parts of a score after an ordered history, and the effects of the history's items.

    The weights are those of `Model.history_weights`, the effects are those of `history_effects`.

    Args:
        model, scorer, history, item_row: as for `history_effects`.
        n_liked: number of items that the caller shows; if it is 0, the effects are not computed, and are None.
    """
    effects = history_effects(model, scorer, history, item_row) if n_liked else None
    return model.history_weights(scorer, history), effects


@torch.no_grad()
def history_effects(model: Model, scorer: Scorer, history: Tensor, item_row: int) -> dict[int, float]:
    """Return how much each item of an ordered history moved the score of an item: item row → difference of two scores.

    The difference is exact: the score of the complete history minus the score of the history without the item. The
    model computes the query of each of the two histories (`fold_in`). If a history is longer than the model reads
    (`max_length`; else `LATEST`), only its latest items are used and are in the result. It is {} for an empty history.

    Args:
        model: a model with `capabilities.ordered`.
        scorer: the scorer of this model.
        history: `(n,)` int64 distinct item rows, oldest first.
        item_row: the scored item.
    """
    recent = history[-int(getattr(model.config, "max_length", LATEST)) :]
    if not len(recent):
        return {}
    shorter = [torch.cat([recent[:index], recent[index + 1 :]]) for index in range(len(recent))]
    queries = model.fold_in(scorer, [recent, *shorter])
    items = torch.full((len(queries),), item_row, device=queries.device)
    scores = scorer.parts(queries, items).double().sum(1)
    return dict(zip(recent.tolist(), (scores[0] - scores[1:]).tolist(), strict=True))


def explained(
    state: RunState,
    user: Any,
    item_row: int,
    query: Tensor,
    weights: Tensor | None,
    history: np.ndarray,
    n_liked: int,
    effects: Mapping[int, float] | None = None,
) -> Explanation:
    """Explain the score of an item for any user vector, which need not be of a user of the run.

    Args:
        state: the run whose items are scored.
        user: the user id to show.
        item_row: the item's row.
        query: `(1, D)`, the user's vector.
        weights: `(1, K)`, the user's weights α of the first K parts, or None.
        history: `(n,)` int64 rows of the user's items; the explained item itself is left out.
        n_liked: how many items of the history to show.
        effects: item row → how much it moved the score; rows that are missing moved nothing. None: not known.
    """
    scorer, items = state.scorer, torch.tensor([item_row], device=query.device)
    names, ids = scorer.part_names, state.items.series
    parts = dict(zip(names, scorer.parts(query, items)[0].double().tolist(), strict=True))
    # only the first parts have weights
    alpha = None if weights is None else dict(zip(names[: weights.shape[1]], weights[0].double().tolist(), strict=True))
    history = history[history != item_row]
    similarity = scorer.similar_items(items)[0].cpu().numpy()[history]
    contributions = scorer.contributions(query, items)
    summands = None if contributions is None else contributions[0].double().cpu().numpy()[history]
    moved = None if effects is None else np.array([effects.get(row, 0.0) for row in history.tolist()])
    order = next(values for values in (summands, moved, similarity) if values is not None)
    nearest = np.argsort(-order, kind="stable")[:n_liked]
    return Explanation(
        user=user,
        item=ids[item_row],
        title=state.title(item_row),
        score=sum(parts.values()),
        parts=parts,
        weights=alpha,
        liked=tuple(
            LikedItem(
                ids[row],
                state.title(row),
                float(similarity[index]),
                None if summands is None else float(summands[index]),
                None if moved is None else float(moved[index]),
            )
            for index, row in zip(nearest, history[nearest].tolist(), strict=True)
        ),
    )
