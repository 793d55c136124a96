"""Simulated launches: trained items are treated as new ones, to choose how real new items are encoded and scored.

In each of ten rounds a tenth of the trained items is removed from the catalog and added again by `Model.add_items`;
nothing is trained. The validation interactions of these items are what their recommendation is measured by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lirdrec.models.base import Features, Model
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.new_item_encoder import BLOCK_BYTES, LaunchStep, Neighbors, NewItemEncoder

K = 20  # length of the lists of simulated launches
ROUNDS = 10  # simulated launches; each trained item is new in one of them
MAX_USERS = 10_000  # users whose lists are ranked in a simulated launch
MAX_LAUNCHED = 20_000  # items treated as new in all rounds together
MAX_COST = 0.03  # of the hits on known items, at the calibrated offset
N_OFFSETS = 61
# a and n: the content vector alone, then mixtures with neighbors
CANDIDATES = ((1.0, 0), (0.5, 10), (0.5, 20), (0.5, 50), (0.0, 10), (0.0, 20), (0.0, 50))


@dataclass(frozen=True)
class _Launch:
    """One simulated launch: which trained items are treated as new, their content vectors and neighbors."""

    new: Tensor  # `(n,)` rows
    known: Tensor  # `(I - n,)` rows
    content: Tensor  # `(n, D)`
    neighbors: Neighbors  # rows of `known`


def fit_new_item_encoder(
    model: Model,
    scorer: VectorScorer,
    features: Mapping[str, Features],
    train: Histories,
    validation: Histories,
    *,
    seed: int = 0,
    max_cost: float = MAX_COST,
) -> NewItemEncoder:
    """Choose the encoder and its offset by simulated launches; the model does not change.

    Args:
        model: the trained model, with `capabilities.cold_items`.
        scorer: its scorer, without added items.
        features: modality → features of all items.
        train: training items of each user, which are left out of the lists.
        validation: validation items of each user: the hits.
        seed: of the order in which items are treated as new, and of the users where they are many.
        max_cost: largest share of the hits on known items that new items may cost.

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
    candidates = [NewItemEncoder(content, n) for content, n in CANDIDATES]
    recalls = torch.zeros(len(candidates), dtype=torch.float64)
    for launch in launches:
        recalls += _recalls(candidates, launch, scorer, train, validation, users)
    chosen = candidates[int(recalls.argmax())]
    frontier = _frontier(chosen, launches[::2], scorer, train, validation, users)
    chosen = replace(chosen, frontier=frontier)
    return replace(chosen, offset=chosen.offset_for(max_cost))


def _users_with_hits(validation: Histories, trained: Tensor) -> Tensor:
    """Users `(n,)` with a validation item that has training interactions."""
    users = torch.arange(len(validation.counts()), device=trained.device)
    owner, items = validation.pairs(users)
    return owner[trained[items]].unique()


def _launch(model: Model, scorer: VectorScorer, features: Mapping[str, Features], new: Tensor) -> _Launch:
    """The launch of the items in rows `new` `(n,)`: the model adds them to a catalog of all others."""
    is_new = torch.zeros(scorer.n_items, dtype=torch.bool, device=new.device)
    is_new[new] = True
    known, new = (~is_new).nonzero().squeeze(1), is_new.nonzero().squeeze(1)
    memory = {name: table[known] if name.startswith("item_") else table for name, table in scorer.memory.items()}
    users, items = scorer.user_vectors, scorer.item_vectors[known]
    rest = VectorScorer(users, items, scorer.branch_names, scorer.weights, memory)
    catalog, launched = (
        {name: Features(f.values[rows], f.present[rows]) for name, f in features.items()} for rows in (known, new)
    )
    grown = model.add_items(rest, [catalog], launched)
    assert isinstance(grown, VectorScorer)
    neighbors = Neighbors.find(catalog, launched, max(n for _, n in CANDIDATES))
    return _Launch(new, known, grown.item_vectors[len(known) :], neighbors)


def _lists(
    vectors: Tensor, rows: Tensor, scorer: VectorScorer, train: Histories, hits: Histories, users: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The best of some items for each user: scores and hits `(U, K)`, and the number of hits there are `(U,)`.

    Args:
        vectors: `(n, D)` of the items in rows `rows` `(n,)`.
        train: items to leave out; hits: relevant items.
    """
    position = torch.full((scorer.n_items,), -1, device=rows.device)
    position[rows] = torch.arange(len(rows), device=rows.device)
    k, step = min(K, len(rows)), max(1, BLOCK_BYTES // (4 * len(rows)))
    parts = []
    for block in users.split(step):
        scores = scorer.user_vectors[block] @ vectors.T
        relevant = torch.zeros_like(scores, dtype=torch.bool)
        for histories, target, value in ((train, scores, -torch.inf), (hits, relevant, True)):
            owner, items = histories.pairs(block)
            columns = position[items]
            target[owner[columns >= 0], columns[columns >= 0]] = value
        top = scores.topk(k, dim=1)
        parts.append((top.values, relevant.gather(1, top.indices), relevant.sum(1)))
    values, found, total = (torch.cat(column) for column in zip(*parts, strict=True))
    return values, found, total


def _recalls(
    candidates: Sequence[NewItemEncoder],
    launch: _Launch,
    scorer: VectorScorer,
    train: Histories,
    validation: Histories,
    users: Tensor,
) -> Tensor:
    """Sum over users of the recall of the launched items among themselves, for each candidate."""
    sums = []
    for candidate in candidates:
        vectors = candidate.mix(launch.content, scorer.item_vectors[launch.known], launch.neighbors)
        _, found, total = _lists(vectors, launch.new, scorer, train, validation, users)
        sums.append((found.sum(1) / total.clamp(min=1)).sum().double().cpu())
    return torch.stack(sums)


def _frontier(
    encoder: NewItemEncoder,
    launches: Sequence[_Launch],
    scorer: VectorScorer,
    train: Histories,
    validation: Histories,
    users: Tensor,
) -> tuple[LaunchStep, ...]:
    """The effect of increasing offsets, the mean over launches."""
    lists = []
    for launch in launches:
        trained = scorer.item_vectors[launch.known]
        new = encoder.mix(launch.content, trained, launch.neighbors)
        lists.append(
            tuple(
                _lists(vectors, rows, scorer, train, validation, users)
                for vectors, rows in ((trained, launch.known), (new, launch.new))
            )
        )
    # the scale of scores: how far the places of a typical user's list are apart, and the best new item from its end
    span = _median(torch.cat([known[0][:, 0] - known[0][:, -1] for known, _ in lists]))
    gap = _median(torch.cat([known[0][:, -1] - new[0][:, 0] for known, new in lists]))
    offsets = [*torch.linspace(-span, max(span, 2 * gap), N_OFFSETS).tolist(), 0.0]
    return tuple(_step(offset, lists) for offset in sorted(set(offsets)))


def _median(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.median()) if len(finite) else 0.0


def _step(offset: float, lists: Sequence[tuple[tuple[Tensor, Tensor, Tensor], ...]]) -> LaunchStep:
    """The lists of known and of new items, merged with this offset."""
    before = after = new_hits = n_new = places = n_places = 0.0
    for (known_scores, known_hits, known_total), (scores, hits, total) in lists:
        merged = torch.cat([known_scores, scores + offset], dim=1)
        top = merged.topk(min(K, merged.shape[1]), dim=1).indices
        is_new = top >= known_scores.shape[1]
        found = torch.cat([known_hits, hits], dim=1).gather(1, top)
        has_known, has_new = known_total > 0, total > 0
        before += float((known_hits.sum(1) / known_total)[has_known].sum())
        after += float(((found & ~is_new).sum(1) / known_total)[has_known].sum())
        new_hits += float(((found & is_new).sum(1) / total)[has_new].sum())
        n_new += float(has_new.sum())
        places += float(is_new.sum())
        n_places += float(is_new.numel())
    cost = 1 - after / before if before else 0.0
    return LaunchStep(offset, cost, places / n_places, new_hits / n_new if n_new else 0.0)
