"""One batch of queries against one snapshot: their vectors, one product, what is left out, one top-k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lirdrec.errors import LirdrecError
from lirdrec.ranking.scorers import Scorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.ann import ApproximateIndex
from lirdrec.server.caching import ByteCache
from lirdrec.server.filters import Filter
from lirdrec.server.gathering import Gathered, gather
from lirdrec.server.live import Snapshot
from lirdrec.server.query import Query, Ranked
from lirdrec.server.reranking import depth, maximal_marginal_relevance
from lirdrec.server.selection import best_by_stretches

KEPT_BYTES = 32 * 2**20  # of the masks of filters


@dataclass
class _Prepared:
    """What was worked out for one state of the catalogue.

    Attributes:
        unwanted: key of a filter → `(I,)` bool, the items that it leaves out.
        popular: `(I,)` int64 rows, those with the most training users first, and `(I,)` their numbers.
    """

    unwanted: ByteCache[bytes, Tensor] = field(default_factory=lambda: ByteCache(KEPT_BYTES))
    popular: tuple[Tensor, Tensor] | None = None


class Ranker:
    """Answers batches; used by one thread.

    Args:
        index: finds most of the best items without looking at all of them, or None for exact answers.
    """

    def __init__(self, index: ApproximateIndex | None = None):
        self.index = index
        self._prepared: WeakKeyDictionary[Recommender, _Prepared] = WeakKeyDictionary()

    @torch.no_grad()
    def rank(self, snapshot: Snapshot, queries: Sequence[Query]) -> list[Ranked | LirdrecError]:
        """Answers in the order of the queries; an error stands in the place of the query that it belongs to."""
        answers: list[Ranked | LirdrecError | None] = [None] * len(queries)
        unwanted: dict[int, Tensor] = {}  # place → `(I,)`
        for place, query in enumerate(queries):
            if query.where is not None:
                try:
                    unwanted[place] = self._unwanted(snapshot, query.where)
                except LirdrecError as error:
                    answers[place] = error
        gathered = gather(snapshot, queries, answers)
        for place in gathered.strangers:
            answers[place] = self._popular(snapshot, queries[place], unwanted.get(place))
        if gathered.places:
            self._rank(snapshot, queries, gathered, unwanted, answers)
        assert all(one is not None for one in answers)
        return answers  # type: ignore[return-value]  # every place was filled

    def _rank(
        self,
        snapshot: Snapshot,
        queries: Sequence[Query],
        gathered: Gathered,
        unwanted: dict[int, Tensor],
        answers: list[Ranked | LirdrecError | None],
    ) -> None:
        scorer = snapshot.recommender.scorer
        wanted = min(
            max(depth(queries[place].k, queries[place].diversity) for place in gathered.places), scorer.n_items
        )
        masks = [(at, unwanted[place]) for at, place in enumerate(gathered.places) if place in unwanted]
        if self.index is None:
            values, items = _exact(snapshot, gathered, masks, wanted)
        else:
            values, items = self.index.best(
                snapshot, gathered, masks, wanted, lambda some, own: _exact(snapshot, some, own, wanted)
            )
        found = (items >= 0).sum(1).tolist()
        names = snapshot.recommender.items.ids[items.clamp(min=0).numpy()].tolist()
        scores = values.tolist()
        for at, place in enumerate(gathered.places):
            query = queries[place]
            if query.diversity > 0 or query.parts:
                vector, n = gathered.vectors[at], min(depth(query.k, query.diversity), found[at])
                answers[place] = _special(scorer, query, vector, items[at, :n], values[at, :n], names[at])
            else:
                n = min(query.k, found[at])
                answers[place] = Ranked(names[at][:n], scores[at][:n])

    def _unwanted(self, snapshot: Snapshot, where: Filter) -> Tensor:
        masks = self._of(snapshot).unwanted
        found = masks.get(where.key)
        if found is None:
            found = ~where.mask(snapshot.recommender.item_table)
            masks.put(where.key, found, found.nbytes)
        return found

    def _popular(self, snapshot: Snapshot, query: Query, unwanted: Tensor | None) -> Ranked | LirdrecError:
        prepared, recommender = self._of(snapshot), snapshot.recommender
        if prepared.popular is None:
            try:
                counts = torch.bincount(recommender.histories.items, minlength=recommender.n_items)
            except LirdrecError as error:
                return error
            prepared.popular = (counts.argsort(descending=True, stable=True), counts)
        order, counts = prepared.popular
        left_out = snapshot.gone if unwanted is None else snapshot.gone | unwanted
        if (
            query.exclude_seen and query.user is not None and query.user in snapshot.people
        ):  # of a model that cannot fold in
            left_out = left_out.clone()
            left_out[snapshot.liked_rows(query.user)] = True
        rows = order[~left_out[order]][: query.k]
        return Ranked(recommender.items.ids[rows.numpy()].tolist(), counts[rows].double().tolist(), fallback="popular")

    def _of(self, snapshot: Snapshot) -> _Prepared:
        return self._prepared.setdefault(snapshot.recommender, _Prepared())


def _exact(
    snapshot: Snapshot, gathered: Gathered, masks: Sequence[tuple[int, Tensor]], k: int
) -> tuple[Tensor, Tensor]:
    """Scores and rows `(b, k)` of the best items, equal ones in order of item row."""
    scores = snapshot.recommender.scorer.scores(gathered.vectors)  # (b, I)
    if len(snapshot.gone_rows):
        scores.index_fill_(1, snapshot.gone_rows, -torch.inf)
    if len(gathered.liked):
        scores[gathered.owners, gathered.liked] = -torch.inf
    for at, mask in masks:
        scores[at].masked_fill_(mask, -torch.inf)
    return best_by_stretches(scores, k)


def _special(
    scorer: Scorer, query: Query, vector: Tensor, items: Tensor, values: Tensor, names: Sequence[Any]
) -> Ranked:
    """An answer that is not simply the first k."""
    order = maximal_marginal_relevance(scorer, items, values, query.k, query.diversity)
    items, values = items[order], values[order]
    parts = None
    if query.parts:
        terms = scorer.parts(vector.expand(len(items), -1), items)
        parts = [dict(zip(scorer.part_names, one, strict=True)) for one in terms.tolist()]
    return Ranked([names[place] for place in order.tolist()], values.tolist(), parts)
