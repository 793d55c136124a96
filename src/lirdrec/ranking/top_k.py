"""Exact top-k ranking of all items for blocks of queries, under a memory limit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor

from lirdrec.ranking.histories import Histories
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.sharded_scorer import Rankable, ShardedScorer
from lirdrec.ranking.sparse_top_k import csr_of_pairs, csr_rows, fill_with_zeros, largest_of_rows, product_blocks

MEMORY_LIMIT = 64 * 2**20  # bytes of a block of scores on a CPU
DEVICE_MEMORY_LIMIT = 2**30  # bytes on a GPU; with small blocks it would wait for the host


@dataclass(frozen=True)
class Quota:
    """The number of places that new items get in each list: no more, and fewer only if too few new items remain.

    Attributes:
        first: row of the first new item; all later rows are new items.
        places: number of places of new items. Known items take the places that new items cannot fill.
    """

    first: int
    places: int


def top_k(
    scorer: Rankable,
    queries: Tensor,
    k: int,
    *,
    seen: tuple[Tensor, Tensor] | None = None,
    candidates: Tensor | None = None,
    quota: Quota | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> tuple[Tensor, Tensor]:
    """Return the `k` best items of each query, best first; equal scores in order of item row.

    Args:
        scorer: scores the queries.
        queries: `(B, D)`, from `Scorer.queries` or `Model.fold_in`.
        k: number of items; the result is padded if there are fewer candidates.
        seen: (query position, item row) pairs to leave out, `(n,)` int64 each.
        candidates: `(c,)` int64 item rows to choose from; None: all.
        quota: places of new items; None: all items compete by their scores. A `ShardedScorer` has no new items.
        memory_limit: bytes for one block of scores.

    Returns:
        Scores `(B, k)` and item rows `(B, k)` int64; `-inf` and -1 where fewer than `k` items remain. Items whose score
        is not finite are left out.
    """
    if isinstance(scorer, ShardedScorer):
        return _merged_top_k(scorer, queries, k, seen, candidates, memory_limit)
    scores = queries.new_full((len(queries), k), -torch.inf)
    items = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
    if seen is not None:
        order = torch.argsort(seen[0], stable=True)
        seen = (seen[0][order], seen[1][order])
    step = block_rows(scorer.n_items, queries.element_size(), memory_limit)
    for start in range(0, len(queries), step):
        block = scorer.scores(queries[start : start + step])  # (b, I)
        if seen is not None:
            first, last = torch.searchsorted(seen[0], torch.tensor([start, start + step], device=queries.device))
            block[seen[0][first:last] - start, seen[1][first:last]] = -torch.inf
        scores[start : start + step], items[start : start + step] = ranked(block, k, candidates, quota)
    return scores, items


def _merged_top_k(
    scorer: ShardedScorer,
    queries: Tensor,
    k: int,
    seen: tuple[Tensor, Tensor] | None,
    candidates: Tensor | None,
    memory_limit: int,
) -> tuple[Tensor, Tensor]:
    """Compute `top_k` on all ranks that share the items: each ranks its own items, then all lists are merged."""
    shard = scorer.shards.items
    if seen is not None:
        own = (seen[1] >= shard.start) & (seen[1] < shard.stop)
        seen = (seen[0][own], seen[1][own] - shard.start)
    if candidates is not None:
        candidates = candidates[(candidates >= shard.start) & (candidates < shard.stop)] - shard.start
    scores, items = top_k(scorer.own, queries, k, seen=seen, candidates=candidates, memory_limit=memory_limit)
    items = torch.where(items >= 0, items + shard.start, items)
    # the ranks are in the order of their item rows, so a stable sort keeps equal scores in this order
    merged, order = torch.cat(shard.ranks.gather(scores), dim=1).sort(dim=1, descending=True, stable=True)
    return merged[:, :k], torch.cat(shard.ranks.gather(items), dim=1).gather(1, order)[:, :k]


def rank_users(
    scorer: Rankable,
    users: Tensor,
    k: int,
    *,
    seen: Histories | None = None,
    candidates: Tensor | None = None,
    quota: Quota | None = None,
    memory_limit: int | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Find the `k` best items of known users; yield blocks `(users (b,), scores (b, k), items (b, k))`.

    The results and the options are those of `top_k`, but `seen` has the items of each user to leave out. Queries are
    made block by block. The default of the memory limit depends on the users' device (`default_limit`).
    """
    if memory_limit is None:
        memory_limit = default_limit(users.device)
    if isinstance(scorer, ItemWeightScorer) and scorer.has_sparse_products and quota is None and len(users):
        yield from _rank_sparse(scorer, users, k, seen, candidates, memory_limit)
        return
    for block in users.split(block_rows(scorer.n_items, 4, memory_limit)):
        pairs = seen.pairs(block) if seen is not None else None
        queries = scorer.queries(block)
        scores, items = top_k(
            scorer, queries, k, seen=pairs, candidates=candidates, quota=quota, memory_limit=memory_limit
        )
        yield block, scores, items


def _rank_sparse(
    scorer: ItemWeightScorer,
    users: Tensor,
    k: int,
    seen: Histories | None,
    candidates: Tensor | None,
    memory_limit: int,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Compute `rank_users` by products of sparse matrices; only few users need dense rows of scores."""
    if candidates is not None:
        candidates = candidates.sort().values
    history, weights = csr_rows(scorer.history, users), scorer.masking_weights
    if candidates is not None:
        weights = weights[:, candidates.numpy()]
    threads = torch.get_num_threads()

    def block(rows: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        some, own = users[slice(*rows)], history[slice(*rows)]
        owner, items = (users[:0], users[:0]) if seen is None else seen.pairs(some)
        hidden = csr_of_pairs(owner, items, torch.ones(len(items)), own.shape)
        left = sp.hstack([own, hidden], format="csr")
        scores, items = _best_of_sparse(left @ weights, k, memory_limit // threads)
        return some, scores, items if candidates is None else torch.where(items < 0, items, candidates[items])

    # the products do not hold Python's global lock
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(block, product_blocks(history, weights, memory_limit // threads))


def _best_of_sparse(block: Any, k: int, memory_limit: int) -> tuple[Tensor, Tensor]:
    """Compute `top_k_dense` for scipy's CSR matrix `(b, I)` of scores; entries that are not stored are 0."""
    lists = largest_of_rows(block, k)
    incomplete = torch.from_numpy(fill_with_zeros(block, *lists))
    scores, items = torch.from_numpy(lists[0]), torch.from_numpy(lists[1])
    for rows in incomplete.split(block_rows(block.shape[1], 4, memory_limit)):
        scores[rows], items[rows] = top_k_dense(torch.from_numpy(block[rows.numpy()].toarray()), k)
    return scores, items


def ranked(
    scores: Tensor, k: int, candidates: Tensor | None = None, quota: Quota | None = None
) -> tuple[Tensor, Tensor]:
    """Return the result of `top_k` for a block of scores `(b, I)`, with or without a quota of new items."""
    if quota is None:
        return top_k_dense(scores, k, candidates)
    rows = torch.arange(scores.shape[1], device=scores.device) if candidates is None else candidates
    values, items = top_k_dense(scores, k, rows[rows < quota.first])
    new_values, new_items = top_k_dense(scores, min(k, quota.places), rows[rows >= quota.first])
    # known items take the places that new ones cannot fill
    n_new = (new_items >= 0).sum(1, keepdim=True)
    rank = torch.arange(k, device=scores.device)
    surplus = rank >= k - n_new
    values, items = values.masked_fill(surplus, -torch.inf), items.masked_fill(surplus, -1)
    values, items = torch.cat([values, new_values], dim=1), torch.cat([items, new_items], dim=1)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :k], items.gather(1, order)[:, :k]


def top_k_dense(scores: Tensor, k: int, candidates: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the result of `top_k` for a block of scores `(b, I)`; items with `-inf`, NaN and `+inf` are left out."""
    if candidates is not None:
        candidates = candidates.sort().values
        scores = scores[:, candidates]
    n = scores.shape[1]
    kept = min(k, n)
    # one score more than k shows whether the scores before and after the cut are equal
    values, columns = scores.topk(min(kept + 1, n), dim=1)
    if not_numbers(values):
        scores = cleaned(scores)
        values, columns = scores.topk(min(kept + 1, n), dim=1)
    if n > kept:
        straddling = ((values[:, kept] == values[:, kept - 1]) & (values[:, kept] > -torch.inf)).nonzero().squeeze(1)
        if len(straddling):
            ordered = scores[straddling].sort(dim=1, descending=True, stable=True)
            columns[straddling, :kept] = ordered.indices[:, :kept]
        values, columns = values[:, :kept], columns[:, :kept]
    if bool((values[:, 1:] == values[:, :-1]).any()):
        columns, by_column = columns.sort(dim=1)
        values, by_score = values.gather(1, by_column).sort(dim=1, descending=True, stable=True)
        columns = columns.gather(1, by_score)
    if candidates is not None:
        columns = candidates[columns]
    columns = columns.masked_fill(values == -torch.inf, -1)
    if kept < k:
        pad = (0, k - kept)
        values = torch.nn.functional.pad(values, pad, value=-torch.inf)
        columns = torch.nn.functional.pad(columns, pad, value=-1)
    return values, columns


def not_numbers(values: Tensor) -> bool:
    """Return whether NaN or `+inf` is among the largest scores; `topk` puts them before all other scores."""
    return not bool((values < torch.inf).all())


def cleaned(scores: Tensor) -> Tensor:
    """Return scores with NaN and `+inf` replaced by `-inf`, so that no item is first because its score overflowed."""
    return scores.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def default_limit(device: torch.device) -> int:
    """Return the default size in bytes of a block of scores on a device."""
    return MEMORY_LIMIT if device.type == "cpu" else DEVICE_MEMORY_LIMIT


def block_rows(n_items: int, element_size: int, memory_limit: int) -> int:
    """Return the number of queries, at least 1, in a block whose scores need at most `memory_limit` bytes."""
    return max(1, memory_limit // max(1, n_items * element_size))
