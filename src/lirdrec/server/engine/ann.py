"""Most of the best items of a large catalogue without scoring all of it: an index of faiss over the item vectors."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lirdrec.data.ids import count
from lirdrec.errors import ConfigError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.server.engine.query import QueryBatch
from lirdrec.server.state import Snapshot

log = logging.getLogger(__name__)

Kind = Literal["hnsw", "ivf"]
Mask = tuple[int, Tensor]  # row of the batch, `(I,)` items that it does not want
Exact = Callable[[QueryBatch, Sequence[Mask]], tuple[Tensor, Tensor]]

NEIGHBOURS = 32  # of each item in the graph of HNSW
BEAM = 128  # candidates that a search in it keeps at least
CELLS_ASKED = 1 / 8  # share of IVF's cells that a search looks into
MOST = 2048  # items that a search may be asked for; a query that leaves out so many that it needs more is exact


class ApproximateIndex:
    """Finds the items with the largest inner products, most of the time. Used by one thread.

    What was seen, is gone or is not wanted is taken out of a longer list; a query of which too few remain is answered
    exactly. New items join the index when they are first asked for. A score without vectors is always exact.

    Args:
        kind: "hnsw", a graph, fastest but slow to build; "ivf", cells around centres.

    Raises:
        ConfigError: faiss is missing, or there is no such kind.
    """

    def __init__(self, kind: Kind, beam: int = BEAM, cells_asked: float = CELLS_ASKED):
        if kind not in get_args(Kind):
            raise ConfigError(f"no index '{kind}'; choose {', '.join(get_args(Kind))} or exact")
        try:
            import faiss
        except ImportError:
            raise ConfigError(f'the index "{kind}" needs faiss: pip install "lirdrec[ann]"') from None
        self._faiss = faiss
        self.kind, self.beam, self.cells_asked = kind, beam, cells_asked
        # with the user vectors of the run that it was built for, which are the same object while the run grows
        self._index: Any = None
        self._users: Tensor | None = None
        self._next: tuple[Tensor, Any] | None = None

    def best(
        self, snapshot: Snapshot, gathered: QueryBatch, masks: Sequence[Mask], k: int, exact: Exact
    ) -> tuple[Tensor, Tensor]:
        """Scores and item rows `(b, k)`, best first; `-inf` and -1 where fewer remain.

        Args:
            snapshot, gathered: the queries and what they are asked of.
            masks: filters of some of the rows.
            k: how many.
            exact: ranks some of the rows by looking at all items.
        """
        scorer, b = snapshot.recommender.scorer, len(gathered.places)
        if not isinstance(scorer, VectorScorer):
            return exact(gathered, masks)
        wanted = self._wanted(snapshot, gathered, masks, k)
        near = (wanted <= min(MOST, scorer.n_items)).nonzero().squeeze(1)
        values, items = torch.full((b, k), -torch.inf), torch.full((b, k), -1)
        done = torch.zeros(b, dtype=torch.bool)
        if len(near):
            self.follow(scorer)
            some, own = gathered.only(near), _of_rows(masks, near)
            values[near], items[near] = self._search(snapshot, some, own, k, int(wanted[near].max()))
            done[near] = items[near, -1] >= 0
        rest = (~done).nonzero().squeeze(1)
        if len(rest):
            values[rest], items[rest] = exact(gathered.only(rest), _of_rows(masks, rest))
        return values, items

    def prepare(self, scorer: VectorScorer) -> None:
        """Build the index of a run that will be asked soon; another thread may go on asking for the present one."""
        self._next = scorer.user_vectors, self._built(scorer.item_vectors.detach().numpy())

    def follow(self, scorer: VectorScorer) -> None:
        """Take the index of a new run, built if it was not prepared, or add the items that have come since."""
        vectors = scorer.item_vectors.detach().numpy()
        if self._users is not scorer.user_vectors or self._index.ntotal > len(vectors):
            if self._next is None or self._next[0] is not scorer.user_vectors:
                self.prepare(scorer)
            assert self._next is not None
            self._users, self._index = self._next
            self._next = None
        if self._index.ntotal < len(vectors):
            self._index.add(np.ascontiguousarray(vectors[self._index.ntotal :]))

    def _built(self, vectors: np.ndarray) -> Any:
        faiss, (n, width) = self._faiss, vectors.shape
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(width, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        else:
            cells = max(1, min(2 * round(math.sqrt(n)), n // 39))  # faiss wants 39 vectors for each centre
            centres = faiss.IndexFlatIP(width)
            index = faiss.IndexIVFFlat(centres, width, cells, faiss.METRIC_INNER_PRODUCT)
            index.own_fields = True
            centres.this.disown()
            index.cp.max_points_per_centroid, index.cp.niter = 64, 8
            index.train(vectors)
            index.nprobe = max(1, math.ceil(cells * self.cells_asked))
        index.add(vectors)
        log.info("index %s of %s built", self.kind, count(n, "item"))
        return index

    def _wanted(self, snapshot: Snapshot, gathered: QueryBatch, masks: Sequence[Mask], k: int) -> Tensor:
        """How many items to fetch for each row so that `k` are likely to remain."""
        n = len(snapshot.gone)
        seen = torch.bincount(gathered.owners, minlength=len(gathered.places))
        left = torch.full((len(gathered.places),), 1 - len(snapshot.gone_rows) / max(1, n))
        for row, mask in masks:
            left[row] *= 1 - float(mask.float().mean())
        return torch.where(left > 0, (k + seen) / left.clamp(min=1e-9) * torch.where(left < 1, 1.5, 1.0), torch.inf)

    def _search(
        self, snapshot: Snapshot, some: QueryBatch, masks: Sequence[Mask], k: int, fetched: int
    ) -> tuple[Tensor, Tensor]:
        if self.kind == "hnsw":
            self._index.hnsw.efSearch = max(self.beam, fetched)
        found_values, found_items = self._index.search(some.vectors.numpy(), fetched)
        values, items = torch.from_numpy(found_values), torch.from_numpy(found_items)
        out = (items < 0) | ~torch.isfinite(values)
        out |= snapshot.gone[items.clamp(min=0)]
        for row, mask in masks:
            out[row] |= mask[items[row].clamp(min=0)]
        n = len(snapshot.gone)
        keys = torch.arange(len(items))[:, None] * n + items
        out |= torch.isin(keys, some.owners * n + some.liked)
        values = values.masked_fill(out, -torch.inf)
        items, order = items.sort(dim=1)  # equal scores in order of item row
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        values, items = values[:, :k], items.gather(1, order)[:, :k]
        items = items.masked_fill(values == -torch.inf, -1)
        short = k - values.shape[1]
        if short > 0:
            pad = torch.nn.functional.pad
            return pad(values, (0, short), value=-torch.inf), pad(items, (0, short), value=-1)
        return values, items


def _of_rows(masks: Sequence[Mask], rows: Tensor) -> list[Mask]:
    """The masks of some rows `(r,)`, with their new places."""
    places = {row: at for at, row in enumerate(rows.tolist())}
    return [(places[row], mask) for row, mask in masks if row in places]
