"""Explain recommendations and find similar items, with all items and likes that the server has at this moment."""

from __future__ import annotations

import torch

from lirdrec.errors import CapabilityError, UnknownIdError
from lirdrec.ranking.top_k import top_k_dense
from lirdrec.recommender import explanation
from lirdrec.recommender.explanation import Explanation
from lirdrec.server.snapshot import Id, Snapshot


def explain(snapshot: Snapshot, user: Id, row: int, n_liked: int) -> Explanation:
    """Explain the score of an item for a user, with the same user vector that the ranking uses.

    Args:
        snapshot: the run with its changes.
        user: id of the user.
        row: row of the item.
        n_liked: number of liked items to return.

    Raises:
        UnknownIdError: there is no such user.
        CapabilityError: the run is slim: it has only vectors and ids, no liked items.
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
    """Return the row and the similarity of each of the `k` items most similar to the item in `row`, best first.

    The item itself and removed items are left out.
    """
    scorer = snapshot.recommender.scorer
    scores = scorer.similar_items(torch.tensor([row])).clone()
    scores[:, snapshot.removed] = -torch.inf
    scores[:, row] = -torch.inf
    values, rows = top_k_dense(scores, min(k, scorer.n_items))
    return [(near, value) for near, value in zip(rows[0].tolist(), values[0].tolist(), strict=True) if near >= 0]
