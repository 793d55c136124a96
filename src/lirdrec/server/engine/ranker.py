"""Rank a batch of queries: scores, exclusions, filters, the exact best k by the maxima of blocks, diversification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.errors import ConfigError, LirdrecError
from lirdrec.ranking.item_filters import Filter
from lirdrec.ranking.scorers import NEW_ITEM, Scorer, VectorScorer, all_finite
from lirdrec.ranking.top_k import Quota, cleaned, not_numbers, ranked, top_k_dense
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.engine.query import (
    Limits,
    Query,
    QueryBatch,
    RankingResult,
    build_query_batch,
    candidate_rows,
    n_candidates,
)
from lirdrec.server.lru_cache import ByteCache
from lirdrec.server.request_models import unix_seconds
from lirdrec.server.snapshot import Snapshot

BLOCK = 64  # items of a block, whose maximum is compared first
ADDED = "added"  # name by which filters refer to whether or when an item was added


def top_k_blocked(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest scores of each row: the result of `top_k_dense`, bit for bit, but faster for many items.

    The k + 1 blocks with the largest maxima contain the k best scores. If the k-th score equals the smallest of these
    maxima, another block could contain an equal score; such rows are ranked completely.

    Args:
        scores: `(b, I)`; excluded items are `-inf`.
        k: number of items.

    Returns:
        Scores `(b, k)` and item rows `(b, k)` int64; `-inf` and -1 if fewer than k items are left.
    """
    n = scores.shape[1]
    n_blocks = n // BLOCK
    if n_blocks < 4 * (k + 1):
        return top_k_dense(scores, k)
    maxima = scores[:, : n_blocks * BLOCK].unflatten(1, (n_blocks, BLOCK)).amax(2)
    least, chosen = maxima.topk(k + 1, dim=1)
    if not_numbers(least):
        return top_k_blocked(cleaned(scores), k)
    least, chosen = least[:, -1], chosen.sort(dim=1).values  # ascending, so that equal scores stay in order of item row
    columns = (chosen[:, :, None] * BLOCK + torch.arange(BLOCK)).flatten(1)
    if n_blocks * BLOCK < n:
        columns = torch.cat([columns, torch.arange(n_blocks * BLOCK, n).expand(len(scores), -1)], dim=1)
    values, positions = top_k_dense(scores.gather(1, columns), k)
    items = columns.gather(1, positions.clamp(min=0)).masked_fill_(positions < 0, -1)
    unsure = ((values[:, -1] == least) & (least > -torch.inf)).nonzero().squeeze(1)
    if len(unsure):
        values[unsure], items[unsure] = top_k_dense(scores[unsure], k)
    return values, items


def maximal_marginal_relevance(
    scorer: Scorer, items: Tensor, scores: Tensor, k: int, diversity: float, quota: Quota | None = None
) -> Tensor:
    r"""Choose items that have high scores and differ from each other, one after the other.

    Each time the item i with the largest value is chosen:

        (1-δ)·rel_i - δ·max_j sim(i, j)

    Here rel_i is the score of item i, scaled to [0, 1] over the candidates; j are the items chosen so far. Source:
    Carbonell and Goldstein (SIGIR 1998).

    Args:
        scorer: gives the similarity of items.
        items: `(c,)` int64 candidates, best first.
        scores: `(c,)` scores of the candidates.
        k: number of items to choose.
        diversity: δ in [0, 1]; with 0 the order stays, and `quota` is not used.
        quota: the places for new items. Other items get these places if there are too few new items, but not the
            reverse.

    Returns:
        Indices `(n,)` int64 into `items`, n ≤ k, in the order of choice; among equal values the better rank is first.
    """
    k = min(k, len(items))
    if k == 0 or diversity == 0:
        return torch.arange(k)
    span = (scores[0] - scores[-1]).clamp(min=1e-12, max=torch.finfo(scores.dtype).max)
    relevance = (1 - diversity) * (scores - scores[-1]).clamp(max=torch.finfo(scores.dtype).max) / span
    similarity = diversity * _similarity(scorer, items)  # (c, c)
    is_new = torch.zeros(len(items), dtype=torch.bool) if quota is None else items >= quota.first
    n_new = min(k, int(is_new.sum()), len(items) if quota is None else quota.places)
    left = {True: n_new, False: min(k - n_new, int((~is_new).sum()))}  # places for new items and for others
    chosen: list[int] = []
    nearest = torch.full_like(relevance, -torch.inf)
    for _ in range(sum(left.values())):
        for group in (False, True):
            if left[group] == 0:
                relevance[is_new == group] = -torch.inf
        best = int((relevance - nearest if chosen else (relevance > -torch.inf).int()).argmax())
        chosen.append(best)
        left[bool(is_new[best])] -= 1
        relevance[best] = -torch.inf
        nearest = torch.maximum(nearest, similarity[:, best])
    return torch.tensor(chosen)


def _similarity(scorer: Scorer, items: Tensor) -> Tensor:
    """Return the similarities `(c, c)` of the candidates, computed as in `Scorer.similar_items`."""
    if not isinstance(scorer, VectorScorer):
        return scorer.similar_items(items)[:, items].nan_to_num()
    vectors = scorer.similarity_vectors[items]  # vectors of the candidates only
    lengths = vectors.norm(dim=1, keepdim=True)
    if not all_finite(lengths):  # the squares overflow
        vectors = vectors / vectors.abs().amax(1, keepdim=True).clamp(min=1e-12)
        lengths = vectors.norm(dim=1, keepdim=True)
    vectors = vectors / lengths.clamp(min=1e-12)
    return vectors @ vectors.T


CACHE_BYTES = 32 * 2**20  # size of the cache for masks of filters


@dataclass
class _Prepared:
    """Results of a `Ranker` that it uses again while the catalog does not change."""

    # key of a filter → (I,) bool, the items that it leaves out
    unwanted: ByteCache[bytes, Tensor] = field(default_factory=lambda: ByteCache(CACHE_BYTES))
    # (I,) int64 item rows, items with most training users first, and (I,) the number of users of each item row
    popular: tuple[Tensor, Tensor] | None = None


class Ranker:
    """Ranks batches of queries, exactly or by an approximate index. Used by one thread."""

    def __init__(self, index: ApproximateIndex | None = None):
        self.index = index
        self._prepared: WeakKeyDictionary[Recommender, _Prepared] = WeakKeyDictionary()

    @torch.no_grad()
    def rank(self, snapshot: Snapshot, queries: Sequence[Query]) -> list[RankingResult | LirdrecError]:
        """Rank queries together. Return the results in the order of the queries; the error for a query that fails."""
        answers: list[RankingResult | LirdrecError | None] = [None] * len(queries)
        unwanted: dict[int, Tensor] = {}  # index of the query → `(I,)` bool
        for position, query in enumerate(queries):
            if query.where is not None:
                try:
                    unwanted[position] = self._unwanted(snapshot, query.where)
                except LirdrecError as error:
                    answers[position] = error
        batch = build_query_batch(snapshot, queries, answers)
        for position in batch.unknown_users:
            answers[position] = self._popular(snapshot, queries[position], unwanted.get(position))
        if batch.positions:
            self._rank(snapshot, queries, batch, unwanted, answers)
        complete = [answer for answer in answers if answer is not None]
        assert len(complete) == len(queries)
        return complete

    def _rank(
        self,
        snapshot: Snapshot,
        queries: Sequence[Query],
        batch: QueryBatch,
        unwanted: dict[int, Tensor],
        answers: list[RankingResult | LirdrecError | None],
    ) -> None:
        scorer = snapshot.recommender.scorer
        widths = [
            n_candidates(queries[position].k, queries[position].diversity)
            if row not in batch.limits
            else batch.limits[row].width
            for row, position in enumerate(batch.positions)
        ]
        k = min(max(widths), scorer.n_items)
        masks = [(row, unwanted[position]) for row, position in enumerate(batch.positions) if position in unwanted]
        exact = partial(_exact, snapshot, k)
        if self.index is None:
            values, items = exact(batch, masks)
        else:
            values, items = self.index.top_k(snapshot, batch, masks, k, exact)
        counts = (items >= 0).sum(1).tolist()
        ids = snapshot.recommender.items.ids[items.clamp(min=0).numpy()].tolist()
        scores = values.tolist()
        n_trained = snapshot.recommender.n_trained_items
        for row, position in enumerate(batch.positions):
            query, limits = queries[position], batch.limits.get(row)
            n = min(widths[row], counts[row])
            if query.diversity > 0 or query.parts:
                ranked_items = items[row, :n], values[row, :n], ids[row]
                answers[position] = _reranked(snapshot, query, limits, batch.vectors[row], *ranked_items)
            else:
                new = _positions(items[row, :n] >= n_trained) if n_trained < scorer.n_items else []
                answers[position] = RankingResult(ids[row][:n], scores[row][:n], new=new)

    def _unwanted(self, snapshot: Snapshot, where: Filter) -> Tensor:
        masks = self._prepared_for(snapshot).unwanted
        mask = masks.get(where.key)
        if mask is None:
            mask = ~filter_mask(snapshot, where)
            masks.put(where.key, mask, mask.nbytes)
        return mask

    def _popular(self, snapshot: Snapshot, query: Query, unwanted: Tensor | None) -> RankingResult | LirdrecError:
        prepared, recommender = self._prepared_for(snapshot), snapshot.recommender
        if prepared.popular is None:
            try:
                counts = torch.bincount(recommender.histories.items, minlength=recommender.n_items)
            except LirdrecError as error:
                return error
            prepared.popular = (counts.argsort(descending=True, stable=True), counts)
        order, counts = prepared.popular
        excluded = snapshot.removed if unwanted is None else snapshot.removed | unwanted
        if query.user is not None and query.user in snapshot.user_states:
            excluded = excluded.clone()  # the user has only dislikes, or the model cannot make vectors of new users
            excluded[snapshot.disliked_rows(query.user)] = True
            if query.exclude_seen:
                excluded[snapshot.liked_rows(query.user)] = True
        if (candidates := candidate_rows(snapshot, query)) is not None:
            excluded = excluded | ~torch.zeros_like(excluded).index_fill_(0, candidates, True)
        rows = order[~excluded[order]][: query.k]
        ids = recommender.items.ids[rows.numpy()].tolist()
        new = _positions(rows >= recommender.n_trained_items)
        return RankingResult(ids, counts[rows].double().tolist(), fallback="popular", new=new)

    def _prepared_for(self, snapshot: Snapshot) -> _Prepared:
        return self._prepared.setdefault(snapshot.recommender, _Prepared())


def _exact(snapshot: Snapshot, k: int, batch: QueryBatch, masks: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Rank the queries of a batch by the scores of all items.

    Return scores and item rows `(b, k)`, best first; equal scores are in the order of item rows.
    """
    scores = snapshot.recommender.scorer.scores(batch.vectors)  # (b, I)
    if len(snapshot.removed_rows):
        scores.index_fill_(1, snapshot.removed_rows, -torch.inf)
    if len(batch.seen_items):
        scores[batch.seen_rows, batch.seen_items] = -torch.inf
    for row, mask in masks:
        scores[row].masked_fill_(mask, -torch.inf)
    n_trained = snapshot.recommender.n_trained_items
    for row, limits in batch.limits.items():
        if limits.change != 0:
            scores[row, n_trained:] += limits.change
    values, items = top_k_blocked(scores, k)
    for row, limits in batch.limits.items():
        if limits.candidates is None and limits.quota is None:
            continue
        found, rows = ranked(scores[row : row + 1], limits.width, limits.candidates, limits.quota)
        n = min(limits.width, k)
        values[row], items[row] = -torch.inf, -1
        values[row, :n], items[row, :n] = found[0, :n], rows[0, :n]
    return values, items


def _reranked(
    snapshot: Snapshot,
    query: Query,
    limits: Limits | None,
    vector: Tensor,
    items: Tensor,
    values: Tensor,
    ids: Sequence[Any],
) -> RankingResult:
    """Return a result with diversity or with parts of the scores; `items` `(c,)` are the candidates, best first."""
    scorer, quota = snapshot.recommender.scorer, None if limits is None else limits.final
    order = maximal_marginal_relevance(scorer, items, values, query.k, query.diversity, quota)
    items, values = items[order], values[order]
    new = _positions(items >= snapshot.recommender.n_trained_items)
    parts = None
    if query.parts:
        terms = scorer.parts(vector.expand(len(items), -1), items)
        parts = [dict(zip(scorer.part_names, row, strict=True)) for row in terms.tolist()]
        if limits is not None and limits.change != 0:
            for position in new:
                named = parts[position]
                named[NEW_ITEM] = named.get(NEW_ITEM, 0.0) + limits.change
    return RankingResult([ids[index] for index in order.tolist()], values.tolist(), parts, new=new)


def _positions(mask: Tensor) -> list[int]:
    rows: list[int] = mask.nonzero().squeeze(1).tolist()
    return rows


def filter_mask(snapshot: Snapshot, where: Filter) -> Tensor:
    """Return whether each item satisfies a filter, `(I,)` bool.

    A filter can have a condition on `added`, unless the item table has a column of this name. If its values are true
    or false, it is about whether the item was added after training. If they are times (texts in ISO 8601, or Unix
    seconds), it is about the time at which the item was added. Two kinds of items have no such time, and never satisfy
    a condition on it: items of the training, and items that were added before the run was saved.

    Raises:
        ConfigError: a column is unknown, or a value does not fit the column.
    """
    table = snapshot.recommender.item_table
    if ADDED not in where.conditions or ADDED in table.columns:
        return where.mask(table)
    condition = where.conditions[ADDED]
    comparisons = condition if isinstance(condition, Mapping) else {"eq": condition}
    values = [one for value in comparisons.values() for one in (value if isinstance(value, list) else [value])]
    if all(isinstance(value, bool) for value in values):
        column: np.ndarray = np.arange(table.height) >= snapshot.recommender.n_trained_items
    else:
        column = np.full(table.height, np.nan)
        for row, seconds in snapshot.added_at.items():
            column[row] = seconds
        comparisons = {name: _seconds(value) for name, value in comparisons.items()}
    own = Filter.parse({ADDED: comparisons}).mask(pl.DataFrame({ADDED: column}))
    rest = {name: condition for name, condition in where.conditions.items() if name != ADDED}
    return Filter(rest, b"").mask(table) & own


def _seconds(value: Any) -> Any:
    """Convert the time (or list of times) in a condition on `added` to Unix seconds, or raise a ConfigError."""
    if isinstance(value, list):
        return [_seconds(one) for one in value]
    try:
        return unix_seconds(value)
    except ValueError as error:
        raise ConfigError(f"filter on '{ADDED}': {error}; or give true or false") from None
