"""`ItemWeightScorer`: scores as sums of item-item weights over a history, for item kNN, content kNN and EASE."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lirdrec.errors import DataError
from lirdrec.ranking.histories import expand
from lirdrec.ranking.scorers import LARGEST, Scorer, finite_rows
from lirdrec.ranking.sparse_top_k import csr_of, csr_of_pairs, masking, transposed_csr
from lirdrec.row_buffers import append_rows

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


class ItemWeightScorer(Scorer):
    """Scores items by item-item weights W and the user's history h: the form of item-kNN, EASE and SLIM.

        score of item j = Σ_i h_i W[i, j]        over the items i of the history

    Args:
        history: CSR `(U, I)`, the training interactions, as ones or as their weights.
        weights: `(I, I)`, dense or CSR; row = liked item, column = scored item.
    """

    kind = "item_weights"
    part_names = ("score",)

    def __init__(self, history: Tensor, weights: Tensor):
        self.history = history
        self._sparse = weights.layout == torch.sparse_csr
        self._weights: Tensor | None = weights
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None  # parts of `_weights_t`, if items were added
        self.n_users, self.n_items = history.shape

    @property
    def weights(self) -> Tensor:
        """The weights `(I, I)`, dense or CSR; if items were added, they are computed at first use."""
        if self._weights is None:
            self._weights = _transposed(self._weights_t)
        return self._weights

    @cached_property
    def _weights_t(self) -> Tensor:
        """The weights with a row for each scored item; computed at first use."""
        return _transposed(self.weights) if self._sparse else self.weights.T

    @classmethod
    def of_nearest(cls, history: Tensor, neighbors: Tensor, similarity: Tensor) -> ItemWeightScorer:
        """Make a scorer from the nearest liked items of each scored item.

        Args:
            history: CSR `(U, I)`.
            neighbors: `(I, k)` int64, the liked items that count for each scored item; -1: no item.
            similarity: `(I, k)` float, their weights.
        """
        ends, liked, values = _nearest_entries(neighbors, similarity)
        n = len(neighbors)
        by_scored_item = torch.sparse_csr_tensor(torch.cat([ends.new_zeros(1), ends]), liked, values, (n, n))
        return cls(history, _transposed(by_scored_item))

    def with_items(self, neighbors: Tensor, similarity: Tensor) -> ItemWeightScorer:
        """Return a scorer with `n` more items; the weights of this one must be sparse.

        `neighbors` and `similarity`, `(n, k)` each, say which liked items count for each new item, as in `of_nearest`.
        No history contains the new items, and existing scores do not change.
        """
        # rows of the transposed weights, with entries sorted by the liked item
        neighbors, order = neighbors.sort(dim=1)
        ends, liked, values = _nearest_entries(neighbors, similarity.gather(1, order))
        total, w = self.n_items + len(neighbors), self._weights_t
        crow, col, value = self._parts or (w.crow_indices(), w.col_indices(), w.values())
        parts = append_rows(crow, ends + crow[-1]), append_rows(col, liked), append_rows(value, values)
        grown, h = object.__new__(ItemWeightScorer), self.history
        # unchecked, since checks read all entries: old and new indices are in range
        grown.history = torch.sparse_csr_tensor(h.crow_indices(), h.col_indices(), h.values(), (self.n_users, total))
        grown._sparse, grown._weights, grown._parts = True, None, parts
        grown._weights_t = torch.sparse_csr_tensor(*parts, (total, total))
        grown.n_users, grown.n_items = self.n_users, total
        return grown

    def with_users(self, users: Tensor, queries: Tensor, histories: Sequence[Tensor]) -> ItemWeightScorer:
        """Return a scorer in which the users `(n,)` have other histories: distinct item rows, one tensor for each user.

        The weights of their items are in `queries` `(n, I)`. An item with a weight of 0 stays in the history.
        """
        h = self.history
        owners = torch.repeat_interleave(h.crow_indices().diff())
        kept = ~torch.isin(owners, users)
        items = torch.cat(list(histories))
        new = torch.repeat_interleave(torch.tensor([len(history) for history in histories], device=items.device))
        owners = torch.cat([owners[kept], users[new]])
        columns = torch.cat([h.col_indices()[kept], items])
        values = torch.cat([h.values()[kept], queries[new, items].to(h.values())])
        grown = copy.copy(self)
        grown.history = torch.sparse_coo_tensor(torch.stack([owners, columns]), values, h.shape).to_sparse_csr()
        return grown

    @property
    def has_sparse_products(self) -> bool:
        """Whether scores are products of sparse matrices: sparse weights on the CPU, to which no items were added."""
        return self._sparse and self._parts is None and self.history.is_cpu

    @cached_property
    def masking_weights(self) -> Any:
        """The sparse weights, with a part below them that masks seen items (`masking`): scipy's CSR `(2I, I)`."""
        return masking(csr_of(self.weights))

    def queries(self, users: Tensor) -> Tensor:
        return _dense_rows(self.history, users)

    def queries_of(self, histories: Sequence[Tensor]) -> Tensor:
        """Return queries `(B, I)` of users, given their lists of liked item rows: 1 at each liked item, else 0."""
        rows = self.history.values().new_zeros(len(histories), self.n_items)
        for row, liked in enumerate(histories):
            rows[row, liked] = 1
        return rows

    def scores(self, queries: Tensor) -> Tensor:
        if self.has_sparse_products:
            rows, columns = queries.nonzero(as_tuple=True)
            shape = len(queries), 2 * self.n_items
            history = csr_of_pairs(rows, columns, queries[rows, columns], shape)
            return torch.from_numpy((history @ self.masking_weights).toarray())
        if self._sparse:
            return torch.sparse.mm(self._weights_t, queries.T.contiguous()).T.contiguous()
        return torch.sparse.mm(queries.to_sparse_csr(), self.weights)  # a history is nearly all zeros

    def contributions(self, queries: Tensor, items: Tensor) -> Tensor:
        return queries * _dense_rows(self._weights_t, items)  # weights into each scored item

    def parts(self, queries: Tensor, items: Tensor) -> Tensor:
        return self.contributions(queries, items).sum(1, keepdim=True)

    def similar_items(self, items: Tensor) -> Tensor:
        return _dense_rows(self.weights, items)

    def similar_users(self, users: Tensor) -> Tensor:
        overlap = torch.sparse.mm(self.history, _dense_rows(self.history, users).T.contiguous()).T
        owners = torch.repeat_interleave(self.history.crow_indices().diff())
        squares = self.history.values().double().square()
        lengths = torch.bincount(owners, squares, minlength=self.n_users)
        sizes = torch.where(lengths > 0, lengths, 1).to(overlap.dtype).sqrt()
        return overlap / (sizes[users, None] * sizes)

    def rankable_items(self, first: int) -> Tensor:
        rows = torch.arange(first, self.n_items, device=self._weights_t.device)
        if not self._sparse:
            return finite_rows(self._weights_t[first:], LARGEST)
        owner, entry = expand(self._weights_t.crow_indices(), rows)
        bad = ~finite_rows(self._weights_t.values()[entry], LARGEST)
        return torch.bincount(owner[bad], minlength=len(rows)) == 0

    def tensors(self) -> dict[str, Tensor]:
        weights = _csr_parts("weights", self.weights) if self._sparse else {"weights": self.weights}
        return _csr_parts("history", self.history) | weights

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"n_users": self.n_users, "n_items": self.n_items}

    def to(self, device: torch.device | str) -> ItemWeightScorer:
        return ItemWeightScorer(self.history.to(device), self.weights.to(device))

    @classmethod
    def rebuild(cls, tensors: dict[str, Tensor], settings: Mapping[str, Any]) -> ItemWeightScorer:
        """Build the scorer from the results of `tensors()` and `settings()`; see `scorer_from_tensors`.

        Raises:
            DataError: the tensors do not fit together.
        """
        users, items = settings["n_users"], settings["n_items"]
        history, weights = _csr_whole("history", tensors, (users, items)), tensors.get("weights")
        if weights is None:
            weights = _csr_whole("weights", tensors, (items, items))
        elif weights.shape != (items, items):
            raise DataError(
                f"its tensor 'weights' has the shape {' × '.join(map(str, weights.shape))}, not {items} × {items}"
            )
        return cls(history, weights)


def _transposed(matrix: Tensor) -> Tensor:
    """Transpose a CSR matrix `(n, m)` into a CSR matrix `(m, n)`."""
    if matrix.is_cpu:
        return transposed_csr(matrix)
    return matrix.to_sparse_coo().t().coalesce().to_sparse_csr()


def _dense_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    """Return rows `(B, n_columns)` of a CSR or dense matrix, as a new dense tensor."""
    if matrix.layout != torch.sparse_csr:
        return matrix.index_select(0, rows)
    owner, entry = expand(matrix.crow_indices(), rows)
    dense = matrix.values().new_zeros(len(rows), matrix.shape[1])
    dense[owner, matrix.col_indices()[entry]] = matrix.values()[entry]
    return dense


def _nearest_entries(neighbors: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the entries of the tables of `of_nearest` that are not -1, row by row: their items and their weights.

    The first result `(n,)` is where each row ends among these entries.
    """
    if not neighbors.is_cpu:
        is_there = neighbors >= 0
        return is_there.sum(1).cumsum(0), neighbors[is_there], similarity[is_there]
    items, weights = neighbors.numpy(), similarity.numpy()  # numpy needs half of torch's time and memory
    chosen = items >= 0
    ends, liked, values = map(torch.from_numpy, (chosen.sum(1).cumsum(), items[chosen], weights[chosen]))
    return ends, liked, values


def _csr_parts(name: str, matrix: Tensor) -> dict[str, Tensor]:
    return {
        f"{name}.crow": matrix.crow_indices(),
        f"{name}.col": matrix.col_indices(),
        f"{name}.value": matrix.values(),
    }


def _csr(crow: Tensor, col: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(crow, col, value, shape, check_invariants=True)


def _csr_whole(name: str, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
    crow, col, value = (tensors[f"{name}.{part}"] for part in ("crow", "col", "value"))
    try:
        return _csr(crow, col, value, shape)
    except RuntimeError as error:  # without this check, products of a damaged file could read beyond its memory
        raise DataError(
            f"its tensor '{name}' is not a sparse matrix of {shape[0]}×{shape[1]}: {str(error).splitlines()[0]}"
        ) from None
