"""Who would get an item: the people with the highest scores for it, and its place in their lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lirdrec.errors import CapabilityError
from lirdrec.ranking.top_k import top_k_dense
from lirdrec.server.state import Id, Snapshot

LISTED = 20  # a place up to this is one that a person would see
SAMPLE = 500  # people whose lists are looked at for `Audience.reach`
_CELLS = 8_000_000  # scores held at once
_POOL = 4  # people looked at for each one told


@dataclass(frozen=True)
class Member:
    """One of those who would get an item.

    Attributes:
        user: id.
        score: of the item for the user.
        parts: name → part of the score.
        place: of the item in the user's list, from 1, what was liked left out.
    """

    user: Id
    score: float
    parts: dict[str, float]
    place: int


@dataclass(frozen=True)
class Audience:
    """Who would get an item.

    Attributes:
        members: those in whose lists it stands highest, of the people with the highest scores; best first.
        liked: number of people who liked it already, and are not among the members.
        reach: share of the people, who did not like it yet, in whose first `LISTED` it is.
        looked_at: number of people that `reach` was counted with.
    """

    members: list[Member]
    liked: int
    reach: float
    looked_at: int


@torch.no_grad()
def audience(snapshot: Snapshot, row: int, k: int = 12) -> Audience:
    """The people of the run whom the item of a row suits most.

    Raises:
        CapabilityError: a slim run does not know what people liked.
    """
    recommender = snapshot.recommender
    if recommender.is_slim:
        raise CapabilityError("a slim run does not know what people liked, so it cannot tell who would get an item")
    scorer = recommender.scorer
    item = torch.tensor([row])
    users = torch.arange(recommender.n_users)
    width = scorer.queries(users[:1]).shape[1]
    scores = torch.cat(
        [scorer.parts(_queries(snapshot, some), item).sum(1) for some in users.split(max(1, _CELLS // width))]
    )
    liked = torch.tensor(sorted(_likers(snapshot, row)), dtype=torch.int64)
    scores[liked] = -torch.inf
    _, found = top_k_dense(scores[None], min(k * _POOL, len(users)))
    pool = found[0][found[0] >= 0]
    others = users[torch.isfinite(scores)]
    sample = others[torch.linspace(0, max(0, len(others) - 1), min(SAMPLE, len(others))).long()]
    places = _places(snapshot, torch.cat([pool, sample]), row)
    reach = float((places[len(pool) :] <= LISTED).mean()) if len(sample) else 0.0
    order = np.lexsort((-scores[pool].numpy(), places[: len(pool)]))[:k]
    parts = scorer.parts(_queries(snapshot, pool), item).tolist()
    members = [
        Member(
            recommender.users.series[int(pool[at])],
            float(scores[pool[at]]),
            dict(zip(scorer.part_names, parts[at], strict=True)),
            int(places[at]),
        )
        for at in order
    ]
    return Audience(members, len(liked), reach, len(sample))


def _likers(snapshot: Snapshot, row: int) -> set[int]:
    """User rows of those who liked the item, in training or since."""
    histories = snapshot.recommender.histories
    owners = torch.repeat_interleave(histories.counts()) if row < snapshot.recommender.n_trained_items else None
    found = set() if owners is None else set(owners[histories.items == row].tolist())
    for user, person in snapshot.people.items():
        at = snapshot.user_rows.get(user, -1)
        if at >= 0 and bool((person.liked == row).any()):
            found.add(at)
    return found


def _queries(snapshot: Snapshot, users: Tensor) -> Tensor:
    """Vectors `(B, D)` of users `(B,)` as they are now."""
    queries = snapshot.recommender.scorer.queries(users)
    rows = {snapshot.user_rows.get(user, -1): person for user, person in snapshot.people.items() if person.is_folded}
    places = torch.isin(users, torch.tensor(list(rows), dtype=torch.int64)).nonzero().squeeze(1)
    if len(places):
        queries = queries.clone()
        queries[places] = snapshot.queries([rows[row] for row in users[places].tolist()])
    return queries


def _places(snapshot: Snapshot, users: Tensor, row: int) -> np.ndarray:
    """Places `(B,)` int64, from 1, of the item in the lists of users who did not like it."""
    n_items = snapshot.recommender.n_items
    places = []
    for some in users.split(max(1, _CELLS // n_items)):
        scores = snapshot.recommender.scorer.scores(_queries(snapshot, some))
        own = scores[:, row].clone()
        scores[:, snapshot.gone] = -torch.inf
        for at, user in enumerate(some.tolist()):
            scores[at, snapshot.liked_rows(snapshot.recommender.users.series[user])] = -torch.inf
        places.append((scores > own[:, None]).sum(1) + 1)
    return torch.cat(places).numpy() if places else np.empty(0, dtype=np.int64)
