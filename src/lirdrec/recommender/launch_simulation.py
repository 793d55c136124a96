"""Simulated launches: trained items are treated as new ones, to calibrate how real new items compete.

In each of ten rounds a tenth of the trained items is removed from the catalog and added again by `Model.add_items`;
nothing is trained. The validation interactions of these items are what their recommendation is measured by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lirdrec.models.base import Features, Model
from lirdrec.models.content import ITEM_CONTENT
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.new_item_encoder import BLOCK_BYTES, LaunchStep, Neighbors, NewItemEncoder

K = 20  # length of the lists of simulated launches
ROUNDS = 10  # simulated launches; each trained item is new in one of them
MAX_USERS = 10_000  # users whose lists are ranked in a simulated launch
MAX_LAUNCHED = 20_000  # items treated as new in all rounds together
MAX_COST = 0.025  # of the hits on known items; a margin below the 3 % that a launch may cost
N_OFFSETS = 61
# a, n and w, chosen on the validation launches of four datasets (docs/new_items.md)
CONTENT, N_NEIGHBORS, SIMILARITY = 0.3, 100, 0.25


@dataclass(frozen=True)
class _Launch:
    """One simulated launch: which trained items are treated as new, their vectors and neighbors."""

    new: Tensor  # `(n,)` rows
    known: Tensor  # `(I - n,)` rows
    scorer: VectorScorer  # of the known items, followed by the new ones as `Model.add_items` gives them
    neighbors: Neighbors  # rows of `known`

    @property
    def trained(self) -> Tensor:
        """Vectors `(I - n, D)` of the known items."""
        return self.scorer.item_vectors[: len(self.known)]


def fit_new_item_encoder(
    model: Model,
    scorer: VectorScorer,
    features: Mapping[str, Features],
    train: Histories,
    validation: Histories,
    *,
    seed: int = 0,
) -> NewItemEncoder:
    """Calibrate the offset of new items by simulated launches; the model does not change.

    Args:
        model: the trained model, with `capabilities.cold_items`.
        scorer: its scorer, without added items.
        features: modality → features of all items.
        train: training items of each user, which are left out of the lists.
        validation: validation items of each user: the hits.
        seed: of the order in which items are treated as new, and of the users where they are many.

    Returns:
        An encoder; the content vector without an offset where there is nothing to validate.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = torch.bincount(train.items, minlength=scorer.n_items) > 0
    users = _users_with_hits(validation, trained)
    items = trained.nonzero().squeeze(1)
    if len(users) == 0 or len(items) < 2 * ROUNDS:
        return NewItemEncoder()
    users = users[torch.randperm(len(users), generator=generator)[:MAX_USERS].to(users.device)].sort().values
    parts = items[torch.randperm(len(items), generator=generator).to(items.device)].chunk(ROUNDS)
    rounds = max(1, MAX_LAUNCHED // len(parts[0]))
    launches = [_launch(model, scorer, features, part) for part in parts[:rounds]]
    encoder = NewItemEncoder(CONTENT, N_NEIGHBORS) if model.mixes_neighbors else NewItemEncoder()
    if ITEM_CONTENT in scorer.memory:
        encoder = replace(encoder, similarity=SIMILARITY, scale=_scale(scorer, trained))
    encoder = replace(encoder, frontier=_frontier(encoder, launches, scorer, train, validation, users))
    return replace(encoder, offset=encoder.offset_for(MAX_COST))


def _users_with_hits(validation: Histories, trained: Tensor) -> Tensor:
    """Users `(n,)` with a validation item that has training interactions."""
    users = torch.arange(len(validation.counts()), device=trained.device)
    owner, items = validation.pairs(users)
    return owner[trained[items]].unique()


def _launch(model: Model, scorer: VectorScorer, features: Mapping[str, Features], new: Tensor) -> _Launch:
    """Simulate a launch: remove the items in rows `new` `(n,)` and add them again by `Model.add_items`."""
    is_new = torch.zeros(scorer.n_items, dtype=torch.bool, device=new.device)
    is_new[new] = True
    known, new = (~is_new).nonzero().squeeze(1), is_new.nonzero().squeeze(1)
    memory = {name: table[known] if name.startswith("item_") else table for name, table in scorer.memory.items()}
    rest = scorer.replaced(items=scorer.item_vectors[known], memory=memory, offsets=None)
    catalog, launched = (
        {name: Features(f.values[rows], f.present[rows]) for name, f in features.items()} for rows in (known, new)
    )
    grown = model.add_items(rest, [catalog], launched)
    assert isinstance(grown, VectorScorer)
    neighbors = Neighbors.find(catalog, launched, N_NEIGHBORS)
    return _Launch(new, known, grown, neighbors)


def _scale(scorer: VectorScorer, trained: Tensor) -> float:
    """`S`: the median length of user vectors times that of the vectors of the `trained` `(I,)` items; 1 for cosines."""
    vectors = scorer.user_vectors, scorer.item_vectors[trained]
    users, items = (table[:, : scorer.n_similarity_columns].norm(dim=1) for table in vectors)
    return float(users[users > 0].median() * items.median()) if bool((users > 0).any()) else 1.0


class _Lists(NamedTuple):
    """The best of some items for each user: scores and hits `(U, K)`, and the number of relevant items `(U,)`."""

    scores: Tensor
    hits: Tensor
    relevant: Tensor


def _lists(
    vectors: Tensor, rows: Tensor, scorer: VectorScorer, seen: Histories | None, truth: Histories, users: Tensor
) -> _Lists:
    """Rank the items in rows `rows` `(n,)` with the vectors `(n, D)`; items in `seen` are left out."""
    position = torch.full((scorer.n_items,), -1, device=rows.device)
    position[rows] = torch.arange(len(rows), device=rows.device)
    k, step = min(K, len(rows)), max(1, BLOCK_BYTES // (4 * len(rows)))
    parts = []
    ranked = scorer.replaced(items=vectors, memory={}, offsets=None)
    for block in users.split(step):
        scores = ranked.scores(ranked.queries(block))
        relevant = torch.zeros_like(scores, dtype=torch.bool)
        for histories, target, value in ((seen, scores, -torch.inf), (truth, relevant, True)):
            if histories is not None:
                owner, items = histories.pairs(block)
                columns = position[items]
                target[owner[columns >= 0], columns[columns >= 0]] = value
        top = scores.topk(k, dim=1)
        parts.append((top.values, relevant.gather(1, top.indices), relevant.sum(1)))
    return _Lists(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _frontier(
    encoder: NewItemEncoder,
    launches: Sequence[_Launch],
    scorer: VectorScorer,
    train: Histories,
    validation: Histories,
    users: Tensor,
) -> tuple[LaunchStep, ...]:
    """The effect of increasing offsets, the mean over launches.

    Nobody has seen a new item. So the lists that cost and share come from do not leave out the launched items that a
    user has in training; else too few new items would compete, and the cost would be too low. Recall is measured on
    lists without them, and so is the reference of the cost: content vectors come from a network that was trained with
    the interactions of these items, and would find each user's own items again.
    """
    unseen, masked, content = [], [], []
    for launch in launches:
        first = len(launch.known)
        added = launch.scorer.item_vectors[first:]
        known = _lists(launch.trained, launch.known, scorer, train, validation, users)
        new = encoder.new_vectors(launch.scorer, first, launch.trained, launch.neighbors)
        unseen.append((known, _lists(new, launch.new, scorer, None, validation, users)))
        masked.append((known, _lists(new, launch.new, scorer, train, validation, users)))
        content.append((known, _lists(added, launch.new, scorer, train, validation, users)))
    reference = _merge(0.0, content)[0]
    # the scale of scores: how far the places of a typical user's list are apart, and the best new item from its end
    span = _median(torch.cat([known.scores[:, 0] - known.scores[:, -1] for known, _ in unseen]))
    gap = _median(torch.cat([known.scores[:, -1] - new.scores[:, 0] for known, new in unseen]))
    steps = []
    for offset in sorted({*torch.linspace(-span, max(span, 2 * gap), N_OFFSETS).tolist(), 0.0}):
        known_recall, _, share = _merge(offset, unseen)
        cost = 1 - known_recall / reference if reference else 0.0
        steps.append(LaunchStep(offset, cost, share, _merge(offset, masked)[1]))
    return tuple(steps)


def _median(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.median()) if len(finite) else 0.0


def _merge(offset: float, launches: Sequence[tuple[_Lists, _Lists]]) -> tuple[float, float, float]:
    """Recall of known and of new items, and the share of places of new items, in lists merged with this offset."""
    sums = torch.zeros(6, dtype=torch.float64)
    for known, new in launches:
        merged = torch.cat([known.scores, new.scores + offset], dim=1)
        top = merged.topk(min(K, merged.shape[1]), dim=1).indices
        is_new = top >= known.scores.shape[1]
        hits = torch.cat([known.hits, new.hits], dim=1).gather(1, top)
        for column, chosen, lists in ((0, ~is_new, known), (2, is_new, new)):
            recall = (hits & chosen).sum(1) / lists.relevant.clamp(min=1)
            sums[column] += recall.sum().double().cpu()
            sums[column + 1] += int((lists.relevant > 0).sum())
        sums[4] += int(is_new.sum())
        sums[5] += is_new.numel()
    known_recall, new_recall, share = (sums[::2] / sums[1::2].clamp(min=1)).tolist()
    return known_recall, new_recall, share
