"""Find the audience of an item: users who have not liked it yet, and to whom it would be recommended first."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lirdrec.errors import CapabilityError
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.top_k import top_k_dense
from lirdrec.server.response_models import AudienceAnswer, MemberAnswer
from lirdrec.server.snapshot import Snapshot

LISTED = 20  # length of the lists that count for `reach`
SAMPLE = 500  # users that `reach` is estimated from
_CELLS = 8_000_000  # most numbers in memory at once
_POOL = 4  # candidates for each member of the audience


@torch.no_grad()
def find_audience(snapshot: Snapshot, row: int, k: int = 12) -> AudienceAnswer:
    """Return the audience of the item in this row: at most `k` users, best rank of the item first.

    Only users of the training who neither liked nor disliked the item, in the run or since, are considered. Of those
    with the highest scores for the item (4 for each of the `k` places), the users in whose recommendation lists it
    ranks best are chosen. The answer also has the share of users with the item in their first `LISTED` places,
    estimated from a sample.

    Raises:
        CapabilityError: the run is slim: it has only vectors and ids, no likes.
    """
    recommender = snapshot.recommender
    if recommender.is_slim:
        raise CapabilityError("a slim run has no likes, so it cannot find the audience of an item; serve the full run")
    scorer = recommender.scorer
    users = torch.arange(recommender.n_users)
    width = scorer.queries(users[:1]).shape[1]
    scores = torch.cat([_parts(snapshot, block, row).sum(1) for block in users.split(max(1, _CELLS // width))])
    likers = _likers(snapshot, row)
    excluded = likers | _trained_users_with(recommender.exclusions, row) | _users_with(snapshot, "disliked", row)
    scores[torch.tensor(sorted(excluded), dtype=torch.int64)] = -torch.inf
    _, best = top_k_dense(scores[None], min(k * _POOL, len(users)))
    pool = best[0][best[0] >= 0]
    others = users[torch.isfinite(scores)]
    sample = others[torch.linspace(0, max(0, len(others) - 1), min(SAMPLE, len(others))).long()]
    ranks = _ranks(snapshot, torch.cat([pool, sample]), row)
    reach = float((ranks[len(pool) :] <= LISTED).mean()) if len(sample) else 0.0
    order = np.lexsort((-scores[pool].numpy(), ranks[: len(pool)]))[:k]
    parts = _parts(snapshot, pool, row).tolist()
    members = [
        MemberAnswer(
            user=recommender.users.series[int(pool[index])],
            score=float(scores[pool[index]]),
            parts=dict(zip(scorer.part_names, parts[index], strict=True)),
            rank=int(ranks[index]),
        )
        for index in order
    ]
    return AudienceAnswer(
        item=recommender.items.series[row],
        title=recommender.title(row),
        members=members,
        liked=len(likers),
        reach=reach,
        looked_at=len(sample),
        listed=LISTED,
    )


def _likers(snapshot: Snapshot, row: int) -> set[int]:
    """Return the rows of the trained users who like the item: in the run or since, without later dislikes."""
    users = _trained_users_with(snapshot.recommender.histories, row)
    return (users - _users_with(snapshot, "disliked", row)) | _users_with(snapshot, "history", row)


def _trained_users_with(histories: Histories, row: int) -> set[int]:
    """Return the rows of the users whose list of item rows has this row; it may be the row of an added item."""
    return set(torch.repeat_interleave(histories.counts())[histories.items == row].tolist())


def _users_with(snapshot: Snapshot, field: Literal["history", "disliked"], row: int) -> set[int]:
    """Return the rows of the trained users whose `UserState` has the item in this field."""
    users = (user for user, state in snapshot.user_states.items() if bool((getattr(state, field) == row).any()))
    return {snapshot.user_rows[user] for user in users if user in snapshot.user_rows}


def _parts(snapshot: Snapshot, users: Tensor, row: int) -> Tensor:
    """Return the parts `(B, n_parts)` of the item's scores for the user rows `users` `(B,)`."""
    return snapshot.recommender.scorer.parts(_queries(snapshot, users), torch.full_like(users, row))


def _queries(snapshot: Snapshot, users: Tensor) -> Tensor:
    """Return the vectors `(B, D)` of the user rows `users` `(B,)`, with the likes since training."""
    queries = snapshot.recommender.scorer.queries(users)
    folded = {
        snapshot.user_rows.get(user, -1): state for user, state in snapshot.user_states.items() if state.is_folded
    }
    positions = torch.isin(users, torch.tensor(list(folded), dtype=torch.int64)).nonzero().squeeze(1)
    if len(positions):
        queries = queries.clone()
        queries[positions] = snapshot.queries([folded[row] for row in users[positions].tolist()])
    return queries


def _ranks(snapshot: Snapshot, users: Tensor, row: int) -> np.ndarray:
    """Return the ranks `(B,)` int64, from 1, of an item in the recommendation lists of users who did not like it."""
    ranks, exclusions = [], snapshot.recommender.exclusions
    for block in users.split(max(1, _CELLS // snapshot.recommender.n_items)):
        scores = snapshot.recommender.scorer.scores(_queries(snapshot, block))
        item_scores = scores[:, row].clone()
        scores[:, snapshot.removed] = -torch.inf
        for index, user in enumerate(block.tolist()):
            id = snapshot.recommender.users.series[user]
            for rows in (exclusions.of(user), snapshot.liked_rows(id), snapshot.disliked_rows(id)):
                scores[index, rows] = -torch.inf
        ranks.append((scores > item_scores[:, None]).sum(1) + 1)
    return torch.cat(ranks).numpy() if ranks else np.empty(0, dtype=np.int64)
