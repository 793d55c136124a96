"""One batch of queries against one snapshot: their vectors, one product, what is left out, one top-k.

The best items of dense scores, most of which are looked at once: of a stretch of items, only its maximum counts.

Diversity: a list whose items suit the user and differ from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lirdrec.errors import LirdrecError
from lirdrec.ranking.filters import Filter
from lirdrec.ranking.scorers import Scorer, VectorScorer, all_finite
from lirdrec.ranking.top_k import cleaned, not_numbers, top_k_dense
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.cache import ByteCache
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.engine.query import Query, QueryBatch, RankingResult, build_query_batch
from lirdrec.server.state import Snapshot

STRETCH = 64


def top_k_blocked(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What `ranking.top_k.best` gives, bit for bit, several times as fast on a large catalogue.

    The k + 1 stretches with the largest maxima hold the k best scores. Only where the k-th equals the smallest of those
    maxima could a stretch that was left out hold its equal; such rows are ranked in full.

    Args:
        scores: `(b, I)`, in which what is left out is `-inf`.
        k: how many.

    Returns:
        Scores `(b, k)` and item rows `(b, k)` int64; `-inf` and -1 where fewer remain.
    """
    n = scores.shape[1]
    whole = n // STRETCH
    if whole < 4 * (k + 1):
        return top_k_dense(scores, k)
    maxima = scores[:, : whole * STRETCH].unflatten(1, (whole, STRETCH)).amax(2)
    least, chosen = maxima.topk(k + 1, dim=1)
    if not_numbers(least):
        return top_k_blocked(cleaned(scores), k)
    least, chosen = least[:, -1], chosen.sort(dim=1).values  # ascending, so that equals stay in order of item row
    columns = (chosen[:, :, None] * STRETCH + torch.arange(STRETCH)).flatten(1)
    if whole * STRETCH < n:
        columns = torch.cat([columns, torch.arange(whole * STRETCH, n).expand(len(scores), -1)], dim=1)
    values, places = top_k_dense(scores.gather(1, columns), k)
    items = columns.gather(1, places.clamp(min=0)).masked_fill_(places < 0, -1)
    unsure = ((values[:, -1] == least) & (least > -torch.inf)).nonzero().squeeze(1)
    if len(unsure):
        values[unsure], items[unsure] = top_k_dense(scores[unsure], k)
    return values, items


CANDIDATES = 10  # best items that are considered for each place of the list …
MOST_CANDIDATES = 1000  # … in all


def depth(k: int, diversity: float) -> int:
    """Best items that have to be known for a list of `k`."""
    return k if diversity == 0 else max(k, min(k * CANDIDATES, MOST_CANDIDATES))


def maximal_marginal_relevance(scorer: Scorer, items: Tensor, scores: Tensor, k: int, diversity: float) -> Tensor:
    r"""Choose one item after another, each the largest `(1-δ)·rel_i - δ·max_j sim(i, j)` over those chosen, j.

    Relevance is the score brought into [0, 1] over the candidates. Carbonell and Goldstein (SIGIR 1998).

    Args:
        scorer: tells how similar items are.
        items: `(c,)` int64 candidates, best first.
        scores: `(c,)` their scores.
        k: how many to choose.
        diversity: δ in [0, 1]; 0 keeps the order.

    Returns:
        Places `(min(k, c),)` int64 in `items`, in the order chosen; of equals the better-ranked one.
    """
    k = min(k, len(items))
    if k == 0 or diversity == 0:
        return torch.arange(k)
    span = (scores[0] - scores[-1]).clamp(min=1e-12, max=torch.finfo(scores.dtype).max)
    relevance = (1 - diversity) * (scores - scores[-1]).clamp(max=torch.finfo(scores.dtype).max) / span
    similarity = diversity * _similarity(scorer, items)  # (c, c)
    chosen = [0]
    nearest = similarity[:, 0].clone()
    relevance[0] = -torch.inf
    while len(chosen) < k:
        place = int((relevance - nearest).argmax())
        chosen.append(place)
        relevance[place] = -torch.inf
        nearest = torch.maximum(nearest, similarity[:, place])
    return torch.tensor(chosen)


def _similarity(scorer: Scorer, items: Tensor) -> Tensor:
    """`(c, c)` among the candidates, as `Scorer.similar_items` has it."""
    if not isinstance(scorer, VectorScorer):
        return scorer.similar_items(items)[:, items].nan_to_num()
    vectors = scorer.item_vectors[items]  # not the whole catalogue
    lengths = vectors.norm(dim=1, keepdim=True)
    if not all_finite(lengths):  # squares of numbers that are large, but finite
        vectors = vectors / vectors.abs().amax(1, keepdim=True).clamp(min=1e-12)
        lengths = vectors.norm(dim=1, keepdim=True)
    vectors = vectors / lengths.clamp(min=1e-12)
    return vectors @ vectors.T


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
    def rank(self, snapshot: Snapshot, queries: Sequence[Query]) -> list[RankingResult | LirdrecError]:
        """Answers in the order of the queries; an error stands in the place of the query that it belongs to."""
        answers: list[RankingResult | LirdrecError | None] = [None] * len(queries)
        unwanted: dict[int, Tensor] = {}  # place → `(I,)`
        for place, query in enumerate(queries):
            if query.where is not None:
                try:
                    unwanted[place] = self._unwanted(snapshot, query.where)
                except LirdrecError as error:
                    answers[place] = error
        gathered = build_query_batch(snapshot, queries, answers)
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
        gathered: QueryBatch,
        unwanted: dict[int, Tensor],
        answers: list[RankingResult | LirdrecError | None],
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
                answers[place] = RankingResult(names[at][:n], scores[at][:n])

    def _unwanted(self, snapshot: Snapshot, where: Filter) -> Tensor:
        masks = self._of(snapshot).unwanted
        found = masks.get(where.key)
        if found is None:
            found = ~where.mask(snapshot.recommender.item_table)
            masks.put(where.key, found, found.nbytes)
        return found

    def _popular(self, snapshot: Snapshot, query: Query, unwanted: Tensor | None) -> RankingResult | LirdrecError:
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
        return RankingResult(
            recommender.items.ids[rows.numpy()].tolist(), counts[rows].double().tolist(), fallback="popular"
        )

    def _of(self, snapshot: Snapshot) -> _Prepared:
        return self._prepared.setdefault(snapshot.recommender, _Prepared())


def _exact(
    snapshot: Snapshot, gathered: QueryBatch, masks: Sequence[tuple[int, Tensor]], k: int
) -> tuple[Tensor, Tensor]:
    """Scores and rows `(b, k)` of the best items, equal ones in order of item row."""
    scores = snapshot.recommender.scorer.scores(gathered.vectors)  # (b, I)
    if len(snapshot.gone_rows):
        scores.index_fill_(1, snapshot.gone_rows, -torch.inf)
    if len(gathered.liked):
        scores[gathered.owners, gathered.liked] = -torch.inf
    for at, mask in masks:
        scores[at].masked_fill_(mask, -torch.inf)
    return top_k_blocked(scores, k)


def _special(
    scorer: Scorer, query: Query, vector: Tensor, items: Tensor, values: Tensor, names: Sequence[Any]
) -> RankingResult:
    """An answer that is not simply the first k."""
    order = maximal_marginal_relevance(scorer, items, values, query.k, query.diversity)
    items, values = items[order], values[order]
    parts = None
    if query.parts:
        terms = scorer.parts(vector.expand(len(items), -1), items)
        parts = [dict(zip(scorer.part_names, one, strict=True)) for one in terms.tolist()]
    return RankingResult([names[place] for place in order.tolist()], values.tolist(), parts)
