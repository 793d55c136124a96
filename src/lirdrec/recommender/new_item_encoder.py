r"""Vectors and scores of new items: the content vector mixed with the nearest trained items, and a calibrated offset.

`Model.add_items` computes the vector `c` of a new item from its features alone. Such items are ranked well among each
other, but seldom among all items: no training interaction has moved their vectors towards users. `NewItemEncoder`
therefore does two things, both after training and with everything else frozen:

    m = Σ_modalities Σ_{j ∈ N(i)} softmax_j(β cos(f_i, f_j)) v_j      N(i): the n nearest trained items
    v = normalize(a ĉ + (1 - a) m̂) · length                          a: share of the content vector
    score(u, i) = ⟨u, v⟩ + b                                          b: the offset of new items, 0 for trained ones

`fit_new_item_encoder` chooses `a`, `n` and `b` by simulated launches on the validation interactions: a tenth of the
trained items is treated as new, in ten rounds. `a` and `n` are those with the best recall of the new items among
themselves; `b` is the largest offset that costs known items at most `MAX_COST` of their hits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.models.base import Features, Model
from lirdrec.nn.functional import normalize
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.row_buffers import append_rows

NEW_ITEMS = "new_items"  # key of the encoder in `RunState.info`
K = 20  # length of the lists of simulated launches
ROUNDS = 10  # simulated launches; each trained item is new in one of them
MAX_USERS = 10_000  # users whose lists are ranked in a simulated launch
MAX_LAUNCHED = 20_000  # items treated as new in all rounds together
MAX_COST = 0.03  # of the hits on known items, at the calibrated offset
SHARPNESS = 10.0  # β
N_OFFSETS = 51
BLOCK_BYTES = 64 * 2**20
# a and n: the content vector alone, then mixtures with neighbors
CANDIDATES = ((1.0, 0), (0.5, 10), (0.5, 20), (0.5, 50), (0.0, 10), (0.0, 20), (0.0, 50))


@dataclass(frozen=True)
class LaunchStep:
    """One offset and its effect in simulated launches.

    Attributes:
        offset: added to the scores of new items.
        cost: relative loss of Recall@20 on known items, compared with lists without new items.
        share: share of all list places that new items get.
        recall: Recall@20 of new items among all items.
    """

    offset: float
    cost: float
    share: float
    recall: float


@dataclass(frozen=True)
class NewItemEncoder:
    """How the vectors and scores of new items are computed; see the file's docstring for the formulas.

    Attributes:
        content: `a`, share of the content vector; 1: `Model.add_items` alone.
        n_neighbors: nearest trained items for each modality; not used where `content` is 1.
        offset: `b`, calibrated.
        frontier: the effect of other offsets, in ascending order.

    >>> NewItemEncoder(content=1.0, n_neighbors=0, offset=0.1).offset
    0.1
    """

    content: float = 1.0
    n_neighbors: int = 0
    offset: float = 0.0
    frontier: tuple[LaunchStep, ...] = ()

    def apply(
        self, scorer: VectorScorer, first: int, trained: Mapping[str, Features], new: Mapping[str, Features]
    ) -> VectorScorer:
        """The scorer with vectors and offsets of the items from row `first` on; other rows are the same.

        Args:
            scorer: result of `Model.add_items`, whose last rows are the content vectors of the new items.
            first: row of the first new item.
            trained: modality → features of the trained items, which are the first rows of the scorer.
            new: modality → features of the new items.
        """
        if scorer.offsets is None:
            new_rows = scorer.item_vectors.new_zeros(scorer.n_items - first)
            offsets = append_rows(scorer.item_vectors.new_zeros(first), new_rows)
            users, items = scorer.user_vectors, scorer.item_vectors
            scorer = VectorScorer(users, items, scorer.branch_names, scorer.weights, scorer.memory, offsets)
        assert scorer.offsets is not None
        # in place: `Model.add_items` has just appended these rows, and no other scorer has them
        scorer.offsets[first:] = self.offset
        if self.content < 1:
            trained_vectors = scorer.item_vectors[: len(next(iter(trained.values())).values)]
            neighbors = Neighbors.find(trained, new, self.n_neighbors)
            scorer.item_vectors[first:] = self.mix(scorer.item_vectors[first:], trained_vectors, neighbors)
        return scorer

    def mix(self, content: Tensor, trained: Tensor, neighbors: Neighbors) -> Tensor:
        """Vectors `(n, D)` of new items from their content vectors `(n, D)` and the trained item vectors `(I, D)`."""
        if self.content == 1:
            return content
        mean, length = neighbors.mean(trained, self.n_neighbors)
        lengths = content.norm(dim=1)
        direction = self.content * normalize(content) + (1 - self.content) * normalize(mean)
        return normalize(direction) * (self.content * lengths + (1 - self.content) * length)[:, None]

    def offset_for(self, cost: float) -> float:
        """The largest offset that cost known items at most this share of their hits in simulated launches.

        Raises:
            ConfigError: the run has no simulated launches, or the cost is not between 0 and 1.
        """
        if not 0 <= cost < 1:
            raise ConfigError(f"the cost of new items is {cost}; it must be at least 0 and less than 1")
        if not self.frontier:
            raise ConfigError("this run was trained without simulated launches, so no offset for new items is known")
        offsets = [step.offset for step in self.frontier if step.cost <= cost]
        return max(offsets, default=self.frontier[0].offset)

    def to_info(self) -> dict[str, Any]:
        """JSON-able form, for `RunState.info`."""
        return asdict(self)

    @classmethod
    def from_info(cls, info: Any) -> NewItemEncoder | None:
        """The encoder of a run, or None where it has none.

        Raises:
            RunFolderError: the entry has other fields.
        """
        if info is None:
            return None
        try:
            return cls(**{**info, "frontier": tuple(LaunchStep(**step) for step in info["frontier"])})
        except (TypeError, KeyError) as error:
            raise RunFolderError(f"the run's entry 'new_items' is damaged ({error}); train again") from None


@dataclass(frozen=True)
class Neighbors:
    """Nearest trained items of new items in each modality.

    Attributes:
        rows: modality → `(n, k)` int64 rows of trained items, nearest first.
        cosines: modality → `(n, k)` float; `-inf` where the new or the trained item lacks the modality.
    """

    rows: Mapping[str, Tensor]
    cosines: Mapping[str, Tensor]

    @classmethod
    def find(cls, trained: Mapping[str, Features], new: Mapping[str, Features], k: int) -> Neighbors:
        """The `k` nearest trained items by cosine, exactly, in blocks of new items."""
        rows, cosines = {}, {}
        for name, features in new.items():
            table = normalize(trained[name].values.float())
            step = max(1, BLOCK_BYTES // (4 * max(1, len(table))))
            best = [
                _masked(normalize(block.float()) @ table.T, trained[name].present).topk(min(k, len(table)), dim=1)
                for block in features.values.split(step)
            ]
            rows[name] = torch.cat([top.indices for top in best])
            cosines[name] = torch.cat([top.values for top in best])
            cosines[name][~features.present] = -torch.inf
        return cls(rows, cosines)

    def mean(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Weighted mean `(n, D)` of the neighbors' vectors `(I, D)` and of their lengths `(n,)`."""
        norms = vectors.norm(dim=1)
        n = len(next(iter(self.rows.values())))
        total, length, count = vectors.new_zeros(n, vectors.shape[1]), norms.new_zeros(n), norms.new_zeros(n)
        for name, rows in self.rows.items():
            cosines = self.cosines[name][:, :k]
            weights = torch.softmax(SHARPNESS * cosines, dim=1).nan_to_num().to(vectors.dtype)  # NaN: no neighbor
            near = rows[:, :k]
            for rank in range(near.shape[1]):  # one neighbor after the other: no `(n, k, D)` tensor
                total += weights[:, rank, None] * vectors[near[:, rank]]
            length += (weights * norms[near]).sum(1)
            count += weights.sum(1)
        count.clamp_(min=1e-12)
        return total / count[:, None], length / count


def _masked(cosines: Tensor, present: Tensor) -> Tensor:
    return cosines if bool(present.all()) else cosines.masked_fill(~present, -torch.inf)


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
    return replace(chosen, offset=chosen.offset_for(max_cost)) if frontier else chosen


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
    # the distance in score that the best new item has to the end of the list, of a typical user
    gaps = torch.cat([known[0][:, -1] - new[0][:, 0] for known, new in lists])
    gap = float(gaps[gaps.isfinite()].median()) if bool(gaps.isfinite().any()) else 0.0
    if gap <= 0:
        return ()
    return tuple(_step(offset, lists) for offset in torch.linspace(-0.5 * gap, 2 * gap, N_OFFSETS).tolist())


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
