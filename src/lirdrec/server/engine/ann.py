"""Find the best items of a large catalog approximately, by a search among the item vectors with the library faiss."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lirdrec.errors import ConfigError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.server.engine.query import QueryBatch
from lirdrec.server.snapshot import Snapshot
from lirdrec.wording import pluralize

log = logging.getLogger(__name__)

Kind = Literal["hnsw", "ivf"]
Mask = tuple[int, Tensor]  # row of the batch, and `(I,)` bool: the items that its filter leaves out
Exact = Callable[[QueryBatch, Sequence[Mask]], tuple[Tensor, Tensor]]

NEIGHBORS = 32  # neighbors of each item in the graph of HNSW
BEAM = 128  # least number of candidates of a search in the graph of HNSW
CELL_SHARE = 1 / 8  # share of IVF's cells that are searched
MAX_FETCHED = 2048  # most items of one search; a query that leaves out many items and needs more is ranked exactly


class ApproximateIndex:
    """An index that finds the items whose vectors have the largest inner products with user vectors.

    More than k items are fetched for a query; then seen, removed and filtered items are dropped. A query with fewer
    than k items left is ranked exactly, by the scores of all items. So are queries with `Limits`, and all queries of a
    scorer without vectors. The last column of the index has the offset of each item: a number that is added to its
    score. New items are added to the index before the next search. One thread searches.

    Args:
        kind: "hnsw", a graph: the fastest search, but slow to build; "ivf": groups ("cells") of similar vectors.
        cell_share: share of the cells of "ivf" that are searched.

    Raises:
        ConfigError: faiss is missing, or the kind is unknown.
    """

    def __init__(self, kind: Kind, cell_share: float = CELL_SHARE):
        if kind not in get_args(Kind):
            raise ConfigError(f"no index '{kind}'; choose {', '.join(get_args(Kind))} or exact")
        try:
            import faiss
        except ImportError:
            raise ConfigError(f'the index "{kind}" needs faiss: pip install "lirdrec[ann]"') from None
        self._faiss = faiss
        self.kind, self.cell_share = kind, cell_share
        # the user vectors identify the run of the index: they are the same object while items are added to the run
        self._index: Any = None
        self._users: Tensor | None = None
        self._next: tuple[Tensor, Any] | None = None

    def top_k(
        self, snapshot: Snapshot, batch: QueryBatch, masks: Sequence[Mask], k: int, exact: Exact
    ) -> tuple[Tensor, Tensor]:
        """Return scores and item rows `(b, k)`, best first; `-inf` and -1 if fewer than k items are left.

        Args:
            snapshot: state to rank from.
            batch: the queries, b in number.
            masks: for each query with a filter, its row in the batch and the items that the filter leaves out.
            k: number of items for each query.
            exact: function that ranks a batch with its masks by the scores of all items.
        """
        scorer, b = snapshot.recommender.scorer, len(batch.positions)
        if not isinstance(scorer, VectorScorer):
            return exact(batch, masks)
        needed = self._needed(snapshot, batch, masks, k)
        needed[list(batch.limits)] = torch.inf
        searched = (needed <= min(MAX_FETCHED, scorer.n_items)).nonzero().squeeze(1)
        values, items = torch.full((b, k), -torch.inf), torch.full((b, k), -1)
        done = torch.zeros(b, dtype=torch.bool)
        if len(searched):
            self.update(scorer)
            selection, fetched = batch.only(searched), int(needed[searched].max())
            values[searched], items[searched] = self._search(snapshot, selection, _of_rows(masks, searched), k, fetched)
            done[searched] = items[searched, -1] >= 0
        rest = (~done).nonzero().squeeze(1)
        if len(rest):
            values[rest], items[rest] = exact(batch.only(rest), _of_rows(masks, rest))
        return values, items

    def prepare(self, scorer: VectorScorer) -> None:
        """Build the index of the run that is served next; another thread may search the current index meanwhile."""
        self._next = scorer.user_vectors, self._build(_rows(scorer, 0))

    def update(self, scorer: VectorScorer) -> None:
        """Search in the index of this scorer from now on: build it if `prepare` has not, and add the items it lacks."""
        if self._users is not scorer.user_vectors or self._index.ntotal > scorer.n_items:
            if self._next is None or self._next[0] is not scorer.user_vectors:
                self.prepare(scorer)
            assert self._next is not None
            self._users, self._index = self._next
            self._next = None
        if self._index.ntotal < scorer.n_items:
            self._index.add(_rows(scorer, self._index.ntotal))

    def _build(self, vectors: np.ndarray) -> Any:
        faiss, (n, width) = self._faiss, vectors.shape
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(width, NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
        else:
            cells = max(1, min(2 * round(math.sqrt(n)), n // 39))  # faiss needs 39 vectors for each centroid
            centroids = faiss.IndexFlatIP(width)
            index = faiss.IndexIVFFlat(centroids, width, cells, faiss.METRIC_INNER_PRODUCT)
            index.own_fields = True
            centroids.this.disown()
            index.cp.max_points_per_centroid, index.cp.niter = 64, 8
            index.train(vectors)
            index.nprobe = max(1, math.ceil(cells * self.cell_share))
        index.add(vectors)
        log.info("index %s of %s built", self.kind, pluralize(n, "item"))
        return index

    def _needed(self, snapshot: Snapshot, batch: QueryBatch, masks: Sequence[Mask], k: int) -> Tensor:
        """Return how many items to fetch for each query `(b,)` so that probably `k` are left; or infinity."""
        n = len(snapshot.removed)
        seen = torch.bincount(batch.seen_rows, minlength=len(batch.positions))
        kept = torch.full((len(batch.positions),), 1 - len(snapshot.removed_rows) / max(1, n))
        for row, mask in masks:
            kept[row] *= 1 - float(mask.float().mean())
        return torch.where(kept > 0, (k + seen) / kept.clamp(min=1e-9) * torch.where(kept < 1, 1.5, 1.0), torch.inf)

    def _search(
        self, snapshot: Snapshot, batch: QueryBatch, masks: Sequence[Mask], k: int, fetched: int
    ) -> tuple[Tensor, Tensor]:
        if self.kind == "hnsw":
            self._index.hnsw.efSearch = max(BEAM, fetched)
        queries = pad(batch.vectors, (0, 1), value=1.0).numpy()
        values, items = (torch.from_numpy(array) for array in self._index.search(queries, fetched))
        scorer = snapshot.recommender.scorer
        assert isinstance(scorer, VectorScorer)
        moved = scorer.moved_items  # items whose vectors in the index are out of date: they are scored here
        values = values.masked_fill(torch.isin(items, moved), -torch.inf)
        exact = batch.vectors @ scorer.item_vectors[moved].T
        if scorer.offsets is not None:
            exact += scorer.offsets[moved]
        values = torch.cat([values, exact], dim=1)
        items = torch.cat([items, moved.expand(len(items), -1)], dim=1)
        out = (items < 0) | ~torch.isfinite(values)
        out |= snapshot.removed[items.clamp(min=0)]
        for row, mask in masks:
            out[row] |= mask[items[row].clamp(min=0)]
        n = len(snapshot.removed)
        keys = torch.arange(len(items))[:, None] * n + items
        out |= torch.isin(keys, batch.seen_rows * n + batch.seen_items)
        short = max(0, k - fetched)
        values = pad(values.masked_fill(out, -torch.inf), (0, short), value=-torch.inf)
        items, order = pad(items, (0, short), value=-1).sort(dim=1)  # equal scores in order of item row
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        values, items = values[:, :k], items.gather(1, order)[:, :k]
        return values, items.masked_fill(values == -torch.inf, -1)


def _rows(scorer: VectorScorer, first: int) -> np.ndarray:
    """Return the rows `(n, D + 1)` float32 of the index for the items from row `first`: vectors and offsets."""
    vectors = scorer.item_vectors[first:].detach()
    offsets = vectors.new_zeros(len(vectors)) if scorer.offsets is None else scorer.offsets[first:].to(vectors)
    return torch.cat([vectors, offsets[:, None]], dim=1).float().contiguous().numpy()


def _of_rows(masks: Sequence[Mask], rows: Tensor) -> list[Mask]:
    """Return the masks of some rows `rows` `(r,)` of a batch, with their row numbers in a batch of these rows only."""
    new_rows = {row: new for new, row in enumerate(rows.tolist())}
    return [(new_rows[row], mask) for row, mask in masks if row in new_rows]
