"""Explain recommendations and find similar items, with all items and likes that the server has at that moment."""

from __future__ import annotations

import torch

from lirdrec.errors import CapabilityError, UnknownIdError
from lirdrec.ranking.top_k import top_k_dense
from lirdrec.recommender import explanation
from lirdrec.recommender.explanation import Explanation
from lirdrec.server.snapshot import Id, Snapshot


def explain(snapshot: Snapshot, user: Id, row: int, n_liked: int) -> Explanation:
    """Explain the score of an item row for a user, by the vector that the engine ranks with.

    Raises:
        UnknownIdError: no such user.
        CapabilityError: a slim run has no liked items.
    """
    recommender = snapshot.recommender
    if recommender.is_slim:
        raise CapabilityError("a slim run cannot explain: it has no liked items; serve the full run")
    state, weights = snapshot.user_states.get(user), None
    if state is not None and state.is_folded:
        vectors = snapshot.queries([state])
    elif user in snapshot.user_rows:
        rows = torch.tensor([snapshot.user_rows[user]])
        vectors, weights = recommender.scorer.queries(rows), recommender.scorer.user_weights(rows)
    else:
        raise UnknownIdError(f"no user has the id {user!r}")
    liked, effects = snapshot.liked_rows(user), None
    if recommender.is_ordered:
        weights, effects = explanation.explain_history(recommender.model(), recommender.scorer, liked, row, n_liked)
    liked = liked[~snapshot.removed[liked]]
    return explanation.explained(recommender.state, user, row, vectors, weights, liked.numpy(), n_liked, effects)


def similar_items(snapshot: Snapshot, row: int, k: int) -> list[tuple[int, float]]:
    """Rows of the k nearest items and their similarities, nearest first, without the item itself and removed ones."""
    scorer = snapshot.recommender.scorer
    scores = scorer.similar_items(torch.tensor([row])).clone()
    scores[:, snapshot.removed] = -torch.inf
    scores[:, row] = -torch.inf
    values, rows = top_k_dense(scores, min(k, scorer.n_items))
    return [(near, value) for near, value in zip(rows[0].tolist(), values[0].tolist(), strict=True) if near >= 0]
