"""Rankings of blocks of users, items or histories, and the long frames that they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.data.columns import ITEM, RANK, SCORE
from lirdrec.data.identifiers import IdMap
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.top_k import best

QUERY_BYTES = 128 << 20  # queries held at once; the ranker has its own limit for scores


class SimilarityScorer:
    """Lets the one ranker rank similarities: a query is the row of the item or user itself, as a float."""

    def __init__(self, n_items: int, similarity: Callable[[Tensor], Tensor]):
        self.n_items, self.similarity = n_items, similarity

    def scores(self, queries: Tensor) -> Tensor:
        return self.similarity(queries[:, 0].long())


def blocks(n: int, width: int) -> Sequence[slice]:
    """`n` queries of `width` numbers, cut so that one block stays small."""
    step = max(1, QUERY_BYTES // (4 * max(1, width)))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def popular(
    histories: Histories, n_items: int, k: int, candidates: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k items with the most training users: scores `(k,)` and rows `(k,)`; -inf and -1 where fewer remain."""
    counts = torch.bincount(histories.items, minlength=n_items).double()
    scores, rows = best(counts[None], k, candidates)
    return scores[0].cpu().numpy(), rows[0].cpu().numpy()


def long_frame(
    column: str, ids: pl.Series, rows: np.ndarray, scores: np.ndarray, known: IdMap, found: str = ITEM
) -> pl.DataFrame:
    """Best rows `(B, k)`, -1 where there is none, as a frame `column`, `found`, rank, score."""
    real = rows >= 0
    owner, place = np.nonzero(real)
    return pl.DataFrame(
        {
            column: ids.gather(owner),
            found: known.series.gather(rows[real]),
            RANK: pl.Series(place + 1, dtype=pl.Int64),
            SCORE: pl.Series(scores[real], dtype=pl.Float64),
        }
    )
