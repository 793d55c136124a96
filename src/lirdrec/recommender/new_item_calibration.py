"""Simulated launches: trained items are treated as new ones, to calibrate how real new items compete.

In each of up to ten rounds a tenth of the trained items is removed from the catalog, and added again by
`Model.add_items`; nothing is trained. The validation interactions of these items then show how well they are
recommended as new items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lirdrec.models.base import Features, Model
from lirdrec.models.history_content_score import ITEM_CONTENT
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.new_item_encoder import BLOCK_BYTES, LaunchStep, Neighbors, NewItemEncoder

K = 20  # length of the lists of simulated launches
ROUNDS = 10  # simulated launches; each trained item is new in one of ten
CONTINUED_ROUNDS = 5  # after a continued training; ten rounds would take a quarter of its time
MAX_USERS = 10_000  # users whose lists are ranked in a simulated launch
MAX_LAUNCHED = 20_000  # items treated as new in all rounds together
MAX_COST = 0.03  # largest share of the hits on known items that the calibrated offset may cost
N_OFFSETS = 61
# a, n and w of new_item_encoder.py, chosen on the validation launches of four datasets (docs/new_items.md)
CONTENT, N_NEIGHBORS, SIMILARITY = 0.3, 100, 0.25


@dataclass(frozen=True)
class _Launch:
    """One simulated launch: the trained items that are treated as new, with their vectors and nearest known items."""

    new: Tensor  # `(n,)` rows
    known: Tensor  # `(I - n,)` rows
    scorer: VectorScorer  # of the known items, followed by the new ones as `Model.add_items` gives them
    neighbors: Neighbors  # of the new items; its rows are indices into `known`

    @property
    def trained(self) -> Tensor:
        """The vectors `(I - n, D)` of the known items, which are not treated as new."""
        return self.scorer.item_vectors[: len(self.known)]


def fit_new_item_encoder(
    model: Model,
    scorer: VectorScorer,
    features: Mapping[str, Features],
    train: Histories,
    validation: Histories,
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> NewItemEncoder:
    """Make the encoder of new items of a model: calibrate the offset of their scores by simulated launches.

    The model does not change.

    Args:
        model: the trained model, with `capabilities.cold_items`.
        scorer: its scorer, without added items.
        features: modality → features of all items.
        train: training items of each user, which are left out of the lists.
        validation: validation items of each user; a recommended one is a hit.
        seed: for the order in which items are treated as new, and for the sample of users if there are many.
        rounds: number of simulated launches, at most `ROUNDS`.

    Returns:
        The encoder. If there are too few users or items for launches, it has no offset and does not mix vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = torch.bincount(train.items, minlength=scorer.n_items) > 0
    users = _users_with_hits(validation, trained)
    items = trained.nonzero().squeeze(1)
    if len(users) == 0 or len(items) < 2 * ROUNDS:
        return NewItemEncoder()
    users = users[torch.randperm(len(users), generator=generator)[:MAX_USERS].to(users.device)].sort().values
    parts = items[torch.randperm(len(items), generator=generator).to(items.device)].chunk(ROUNDS)
    rounds = min(rounds, max(1, MAX_LAUNCHED // len(parts[0])))
    launches = [_launch(model, scorer, features, part) for part in parts[:rounds]]
    encoder = NewItemEncoder(CONTENT, N_NEIGHBORS) if model.mixes_neighbors else NewItemEncoder()
    if ITEM_CONTENT in scorer.memory:
        encoder = replace(encoder, similarity=SIMILARITY, scale=_scale(scorer, trained))
    encoder = replace(encoder, frontier=_frontier(encoder, launches, scorer, train, validation, users))
    return replace(encoder, offset=calibrated_offset(encoder.frontier))


def calibrated_offset(frontier: Sequence[LaunchStep]) -> float:
    """Return the largest measured offset whose cost plus a margin for its error over the users is at most `MAX_COST`.

    The margin is at most half of `MAX_COST`, because with few users the error is larger than any useful cost. If no
    offset is good enough, the smallest one is returned; without any measured offset, 0.
    """
    if not frontier:
        return 0.0
    safe = [step.offset for step in frontier if min(step.cost_limit, step.cost + MAX_COST / 2) <= MAX_COST]
    return max(safe, default=frontier[0].offset)


def _users_with_hits(validation: Histories, trained: Tensor) -> Tensor:
    """Return the rows `(n,)` of the users with a validation item that has training interactions."""
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
    """Return the scale `S` of scores: the median length of user vectors times the median length of item vectors.

    Only items in the mask `trained` `(I,)` count. If scores are cosines, all lengths are 1, and so is the scale.
    """
    vectors = scorer.user_vectors, scorer.item_vectors[trained]
    users, items = (table[:, : scorer.n_similarity_columns].norm(dim=1) for table in vectors)
    return float(users[users > 0].median() * items.median()) if bool((users > 0).any()) else 1.0


class _Lists(NamedTuple):
    """The best of some items for each user.

    Attributes:
        scores: `(U, k)` scores, best first; k is at most `K`.
        hits: `(U, k)` bool, whether each item is relevant.
        relevant: `(U,)` number of relevant items of each user.
    """

    scores: Tensor
    hits: Tensor
    relevant: Tensor

    @classmethod
    def joined(cls, blocks: Sequence[tuple[Tensor, ...]]) -> _Lists:
        """Join the lists of several blocks of users."""
        return cls(*(torch.cat(column) for column in zip(*blocks, strict=True)))


class _Block(NamedTuple):
    """The scores of n items for a block of b users.

    Attributes:
        scores: `(b, n)`.
        is_seen, is_relevant: `(b, n)` bool.
        owners, columns: row and column of each relevant item, `(m,)` each.
    """

    scores: Tensor
    is_seen: Tensor
    is_relevant: Tensor
    owners: Tensor
    columns: Tensor


def _scored_blocks(
    vectors: Tensor, rows: Tensor, scorer: VectorScorer, seen: Histories, truth: Histories, users: Tensor
) -> Iterator[_Block]:
    """Score some items for blocks of users; yield the blocks.

    Args:
        vectors: `(n, D)`, the vectors of these items.
        rows: `(n,)`, the rows of these items in the catalog.
        seen, truth: the items of each user that give `is_seen` and `is_relevant`.
    """
    position = torch.full((scorer.n_items,), -1, device=rows.device)
    position[rows] = torch.arange(len(rows), device=rows.device)
    ranked = scorer.replaced(items=vectors, memory={}, offsets=None)
    for block in users.split(max(1, BLOCK_BYTES // (4 * len(rows)))):
        scores = ranked.scores(ranked.queries(block))
        (is_seen, _, _), (is_relevant, owners, columns) = (
            _occurring(histories, block, position, scores.shape) for histories in (seen, truth)
        )
        yield _Block(scores, is_seen, is_relevant, owners, columns)


def _occurring(
    histories: Histories, users: Tensor, position: Tensor, shape: torch.Size
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a mask of the given shape that is true at the users' items, and the row and column of each of them.

    `position` `(I,)` is the column of each item, or -1 if it has none.
    """
    owners, items = histories.pairs(users)
    columns = position[items]
    owners, columns = owners[columns >= 0], columns[columns >= 0]
    mask = torch.zeros(shape, dtype=torch.bool, device=users.device)
    mask[owners, columns] = True
    return mask, owners, columns


def _new_lists(
    vectors: Tensor,
    rows: Tensor,
    scorer: VectorScorer,
    seen: Histories,
    truth: Histories,
    users: Tensor,
) -> tuple[_Lists, _Lists]:
    """Rank the new items in rows `rows` `(n,)` with `vectors` `(n, D)` for each user.

    Returns:
        The lists of all new items, and the lists without the user's `seen` items.
    """
    with_seen: list[tuple[Tensor, ...]] = []
    without: list[tuple[Tensor, ...]] = []
    k = min(K, len(rows))
    for scores, is_seen, is_relevant, owners, _ in _scored_blocks(vectors, rows, scorer, seen, truth, users):
        relevant = torch.bincount(owners, minlength=len(scores))
        best = scores.topk(k, dim=1)
        with_seen.append((best.values, is_relevant.gather(1, best.indices), relevant))
        changed = is_seen.gather(1, best.indices).any(1).nonzero().squeeze(1)  # these users need another list
        again = scores[changed].masked_fill_(is_seen[changed], -torch.inf).topk(k, dim=1)
        values = best.values.index_copy(0, changed, again.values)
        indices = best.indices.index_copy(0, changed, again.indices)
        without.append((values, is_relevant.gather(1, indices), relevant))
    return _Lists.joined(with_seen), _Lists.joined(without)


def _known_lists(
    launches: Sequence[Tensor], scorer: VectorScorer, seen: Histories, truth: Histories, users: Tensor
) -> list[_Lists]:
    """Rank the known items of each launch for each user, without the user's `seen` items; return a result per launch.

    A launch is given as the rows `(n,)` of its new items; all others are known. All items are ranked once, to 2 K
    places. For each launch its new items are left out of this list. If then fewer than K items remain, more places are
    ranked.
    """
    rows = torch.arange(scorer.n_items, device=users.device)
    n_launches = len(launches)
    launch_of = torch.full_like(rows, n_launches)  # this number: the item is in no launch
    for number, new in enumerate(launches):
        launch_of[new] = number
    blocks: list[list[tuple[Tensor, ...]]] = [[] for _ in launches]
    for scores, is_seen, is_relevant, owners, columns in _scored_blocks(
        scorer.item_vectors, rows, scorer, seen, truth, users
    ):
        scores.masked_fill_(is_seen, -torch.inf)
        depth = min(2 * K, len(rows))
        top = scores.topk(depth, dim=1)
        while depth < len(rows) and not _has_enough(launch_of[top.indices], launches, len(rows)):
            depth = min(2 * depth, len(rows))
            top = scores.topk(depth, dim=1)
        hits, top_launch = is_relevant.gather(1, top.indices), launch_of[top.indices]
        cells = owners * (n_launches + 1) + launch_of[columns]
        n_relevant = torch.bincount(cells, minlength=len(scores) * (n_launches + 1)).view(len(scores), -1)
        for number, new in enumerate(launches):
            others = top_launch != number
            others &= others.cumsum(1) <= K
            k = min(K, len(rows) - len(new))
            relevant = n_relevant.sum(1) - n_relevant[:, number]
            blocks[number].append((top.values[others].view(-1, k), hits[others].view(-1, k), relevant))
    return [_Lists.joined(of_launch) for of_launch in blocks]


def _has_enough(top_launch: Tensor, launches: Sequence[Tensor], n_items: int) -> bool:
    """Return whether each list keeps K items (or all) when the new items of any launch are left out.

    `top_launch` `(b, d)` is the launch of the item at each place of the lists.
    """
    n_left = ((top_launch != number).sum(1).min() >= min(K, n_items - len(new)) for number, new in enumerate(launches))
    return all(bool(enough) for enough in n_left)


def _frontier(
    encoder: NewItemEncoder,
    launches: Sequence[_Launch],
    scorer: VectorScorer,
    train: Histories,
    validation: Histories,
    users: Tensor,
) -> tuple[LaunchStep, ...]:
    """Measure the effects of increasing offsets, as means over the launches; return a step for each offset.

    Returns () if there is no hit on known items that an offset could cost.

    In reality no user has seen a new item. So cost and share are measured on lists that keep the launched items which
    the user has in training. Without these items too few new items would compete, and the cost would be too low.

    Recall, and the reference of the cost, are measured on lists without these items. The content vectors come from a
    network that was trained with the interactions of these items, so it would find each user's own items again.
    """
    known = _known_lists([launch.new for launch in launches], scorer, train, validation, users)
    complete, unseen, content = [], [], []
    for launch in launches:
        first = len(launch.known)
        new = encoder.new_vectors(launch.scorer, first, launch.trained, launch.neighbors)
        both = _new_lists(new, launch.new, scorer, train, validation, users)
        complete.append(both[0])
        unseen.append(both[1])
        added = launch.scorer.item_vectors[first:]
        content.append(_new_lists(added, launch.new, scorer, train, validation, users)[1])
    reference = _merged([0.0], known, content).known[:, 0]
    if not bool(reference.any()):  # there is no hit that an offset could cost
        return ()
    # the scale of scores in a typical list: from its first to its last place, and from there to the best new item
    span = _median(torch.cat([of_known.scores[:, 0] - of_known.scores[:, -1] for of_known in known]))
    gaps = [of_known.scores[:, -1] - of_new.scores[:, 0] for of_known, of_new in zip(known, complete, strict=True)]
    offsets = sorted({*torch.linspace(-span, max(span, 2 * _median(torch.cat(gaps))), N_OFFSETS).tolist(), 0.0})
    all_merged, unseen_merged = _merged(offsets, known, complete), _merged(offsets, known, unseen)
    costs, errors = _costs(all_merged.known, reference)
    columns = (costs, all_merged.new_share, unseen_merged.new_recall, errors)
    return tuple(
        LaunchStep(offset, *row) for offset, row in zip(offsets, torch.stack(columns, 1).tolist(), strict=True)
    )


def _costs(known: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return the relative loss of recall at each offset, and its standard error over U users, each `(n,)`.

        loss  = 1 - Σ_u k_u / Σ_u r_u
        error = sqrt(U / (U - 1) Σ_u (r_u (1 - loss) - k_u)²) / Σ_u r_u

    k_u is `known` and r_u is `reference` of user u. The error is the error of the linearized ratio; for a single user
    it is 1.

    Args:
        known: recall `(U, n)` of each user on known items, at each offset.
        reference: recall `(U,)` of each user to compare with; not 0 for all users.
    """
    total, n_users = reference.sum(), len(reference)
    kept = known.sum(0) / total
    if n_users == 1:
        return 1 - kept, torch.ones_like(kept)
    squares = (reference[:, None] * kept - known).square().sum(0)
    return 1 - kept, (squares * n_users / (n_users - 1)).sqrt() / total


def _median(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.median()) if len(finite) else 0.0


class _Merged(NamedTuple):
    """Lists of known and of new items at each of n offsets.

    Attributes:
        known: `(U, n)` recall of each user on known items, the sum over launches.
        new_recall: `(n,)` mean recall on new items.
        new_share: `(n,)` share of the list places that new items get.
    """

    known: Tensor
    new_recall: Tensor
    new_share: Tensor


def _merged(offsets: Sequence[float], known: Sequence[_Lists], new: Sequence[_Lists]) -> _Merged:
    """Merge each user's lists of known and of new items, at each of the offsets (ascending); return recall and shares.

    Both lists are in descending order of scores, and j counts from 0. So the j-th new item is among the K best if and
    only if its score plus the offset is higher than the score of the (K - 1 - j)-th known item. From a certain offset
    on, it takes the place of this known item.
    """
    steps = torch.tensor(offsets, dtype=torch.float64)
    n_steps, n_users = len(steps) + 1, len(known[0].relevant)
    lost = torch.zeros(
        n_users * n_steps, dtype=torch.float64
    )  # lost recall of each user on known items, from a step on
    gained, places = torch.zeros(2, n_steps, dtype=torch.float64)
    start, n_places, n_relevant = torch.zeros(n_users, dtype=torch.float64), 0, 0
    first = torch.arange(n_users)[:, None] * n_steps
    for of_known, of_new in zip(known, new, strict=True):
        k = min(K, of_known.scores.shape[1] + of_new.scores.shape[1])
        known_scores, known_recall = _on_host(of_known, k)
        new_scores, new_recall = _on_host(of_new, k)
        needed = known_scores.flip(1) - new_scores
        needed.masked_fill_(new_scores == -torch.inf, torch.inf)  # this place has no new item
        step = torch.searchsorted(steps, needed.flatten(), right=True)
        gained += torch.bincount(step, new_recall.flatten(), n_steps)
        places += torch.bincount(step, minlength=n_steps)
        step = (step.view_as(needed) + first).flatten()
        lost += torch.bincount(step, known_recall.flip(1).flatten(), len(lost))
        start, n_places = start + known_recall.sum(1), n_places + needed.numel()
        n_relevant += int((of_new.relevant > 0).sum())
    recalls = start[:, None] - lost.view(n_users, n_steps).cumsum(1)
    new_recalls, shares = gained.cumsum(0) / max(1, n_relevant), places.cumsum(0) / max(1, n_places)
    return _Merged(recalls[:, :-1], new_recalls[:-1], shares[:-1])


def _on_host(lists: _Lists, k: int) -> tuple[Tensor, Tensor]:
    """Return the scores of lists, and what the item at each place adds to the user's recall, `(U, k)` each, on the CPU.

    A place without an item has -inf and 0.
    """
    n_missing = max(0, k - lists.scores.shape[1])
    scores = pad(lists.scores[:, :k].cpu().double(), (0, n_missing), value=-torch.inf)
    recall = pad((lists.hits / lists.relevant.clamp(min=1)[:, None])[:, :k].cpu().double(), (0, n_missing))
    return scores, recall.masked_fill_(scores == -torch.inf, 0.0)
