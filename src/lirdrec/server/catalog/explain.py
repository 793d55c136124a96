"""Why an item suits a user as the user is now, and which items are like another."""

from __future__ import annotations

import torch
from torch import Tensor

from lirdrec.errors import CapabilityError, UnknownIdError
from lirdrec.ranking.top_k import top_k_dense
from lirdrec.recommender import explanation
from lirdrec.recommender.explanation import Explanation
from lirdrec.server.state import Id, Snapshot


def explained(snapshot: Snapshot, user: Id, row: int, n_liked: int) -> Explanation:
    """The parts of the score that the engine ranks by: for a user with new likes those of the refreshed vector.

    Raises:
        UnknownIdError: no such user.
        CapabilityError: a slim run keeps no liked items.
    """
    recommender = snapshot.recommender
    if recommender.is_slim:
        raise CapabilityError("a slim run cannot explain: it keeps no liked items; serve the full run")
    vector, weights = vector_of(snapshot, user), None
    person = snapshot.people.get(user)
    if person is None or not person.is_folded:
        weights = recommender.scorer.user_weights(torch.tensor([snapshot.user_rows[user]]))
    liked = snapshot.liked_rows(user)
    liked = liked[~snapshot.gone[liked]]
    return explanation.explained(recommender.state, user, row, vector[None], weights, liked.numpy(), n_liked)


def vector_of(snapshot: Snapshot, user: Id) -> Tensor:
    """The vector `(D,)` that stands for a user now.

    Raises:
        UnknownIdError: no such user.
    """
    person = snapshot.people.get(user)
    if person is not None and person.is_folded:
        return snapshot.queries([person])[0]
    row = snapshot.user_rows.get(user, -1)
    if row < 0:
        raise UnknownIdError(f"no user has the id {user!r}")
    return snapshot.recommender.scorer.queries(torch.tensor([row]))[0]


def similar(snapshot: Snapshot, row: int, k: int) -> list[tuple[int, float]]:
    """Rows of the k nearest items and their similarity, nearest first; neither itself nor what is gone."""
    scorer = snapshot.recommender.scorer
    scores = scorer.similar_items(torch.tensor([row])).clone()
    scores[:, snapshot.gone] = -torch.inf
    scores[:, row] = -torch.inf
    values, rows = top_k_dense(scores, min(k, scorer.n_items))
    return [(at, value) for at, value in zip(rows[0].tolist(), values[0].tolist(), strict=True) if at >= 0]
