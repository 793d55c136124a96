"""Scorers: the result of training, from which all items are scored for a block of queries.

A *query* is one row of a dense tensor that represents a user: the user's vector (`VectorScorer`) or the user's
history as a row over items, 0 for items that are not in it (`ItemWeightScorer`, ranking/item_weight_scorer.py).
`scores(queries)` serves known users, new users and batch jobs.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lirdrec.errors import DataError
from lirdrec.row_buffers import append_rows

LARGEST = 1e12  # largest number in the vector of a new item: products with weights and user vectors stay finite
LARGEST_QUERY = 1e18  # largest number in a query
NEW_ITEM = "offset of new items"  # name of the part of a score that is the item's offset


class Scorer(abc.ABC):
    """Base class of scorers. They take row numbers, not ids; tensors are on one device and without gradients."""

    kind: str
    n_users: int
    n_items: int
    part_names: tuple[str, ...]

    @abc.abstractmethod
    def queries(self, users: Tensor) -> Tensor:
        """Return the queries `(B, D)`, the rows that represent users, of the trained users in rows `users` `(B,)`."""

    @abc.abstractmethod
    def scores(self, queries: Tensor) -> Tensor:
        """Return scores `(B, I)` of all items for the queries `(B, D)`; a new tensor that the caller may overwrite."""

    @abc.abstractmethod
    def parts(self, queries: Tensor, items: Tensor) -> Tensor:
        """Return the parts `(B, n_parts)` of the scores of the pairs `(queries[b], items[b])`; a score is their sum."""

    def contributions(self, queries: Tensor, items: Tensor) -> Tensor | None:
        """Return how much each item of the user's history adds to the score of each pair `(queries[b], items[b])`.

        The result is `(B, I)`, 0 for items outside of the history. It is None if scores are no sums over a history.
        """
        return None

    @abc.abstractmethod
    def similar_items(self, items: Tensor) -> Tensor:
        """Return the similarity `(B, I)` of all items to the items `(B,)`."""

    @abc.abstractmethod
    def similar_users(self, users: Tensor) -> Tensor:
        """Return the similarity `(B, U)` of all users to the users `(B,)`."""

    def user_weights(self, users: Tensor) -> Tensor | None:
        """Return weights `(B, n)` that users give to the first `n` branches (parts of the score, `branch_names`).

        Returns None if the model has no such weights.
        """
        return None

    @property
    def branch_names(self) -> tuple[str, ...]:
        """Names of the parts that come from the model: all but the offset of new items."""
        return self.part_names

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return everything needed to rebuild the scorer, as named dense tensors (safetensors refuses sparse ones)."""

    def settings(self) -> dict[str, Any]:
        """Return JSON-able values that `scorer_from_tensors` needs besides the tensors, such as `kind`."""
        return {"kind": self.kind, "part_names": list(self.part_names)}

    @abc.abstractmethod
    def to(self, device: torch.device | str) -> Scorer:
        """Return a scorer with the same tensors on `device`."""

    def rankable_items(self, first: int) -> Tensor:
        """Return which of the items from row `first` on can be ranked, `(I - first,)` bool.

        An item cannot be ranked if its vector, or its weights, have a number that is not finite or beyond `LARGEST`.
        """
        return torch.ones(self.n_items - first, dtype=torch.bool)


class VectorScorer(Scorer):
    """Scores items by the inner product of user vector and item vector, split into named parts, plus an offset.

    Args:
        users: `(U, D)` float.
        items: `(I, D)` float.
        branch_names: names of the branches. A branch is a chunk of the `D` columns, and gives one part of the score.
        widths: number of columns of each chunk; None: equal chunks.
        n_similarity_parts: only this number of chunks, from the first on, counts for the similarity of items and of
            users; None: all. In the columns after them most items have zeros.
        weights: `(U, n)` weights that each user gives to the first `n` branches, if the model has them.
        memory: further tensors that the model itself needs to add items or fold in users (`Model.add_items`,
            `Model.fold_in`); a tensor has one row per item if its name starts with `item_`.
        offsets: `(I,)` float, added to the scores of all users: 0 for trained items, the calibrated offset for items
            that were added later (`NewItemEncoder`). None: no offsets.
    """

    kind = "vectors"
    MOVED = "moved_rows", "moved_from"  # in `memory`: rows of items that likes moved, and their vectors before
    GROWN = "grown_users", "grown_from"  # in `memory`: user rows with a longer history, and their trained vectors

    def __init__(
        self,
        users: Tensor,
        items: Tensor,
        branch_names: tuple[str, ...] = ("score",),
        weights: Tensor | None = None,
        memory: Mapping[str, Tensor] | None = None,
        offsets: Tensor | None = None,
        widths: Sequence[int] | None = None,
        n_similarity_parts: int | None = None,
    ):
        self.user_vectors, self.item_vectors = users, items
        self._branch_names = tuple(branch_names)
        n, width = len(self._branch_names), items.shape[1]
        self.widths = (width // n,) * n if widths is None else tuple(widths)
        self.n_similarity_parts = n if n_similarity_parts is None else n_similarity_parts
        self.part_names = self._branch_names if offsets is None else (*self._branch_names, NEW_ITEM)
        self.weights = weights
        self.memory = dict(memory or {})
        self.offsets = offsets
        self.n_users, self.n_items = users.shape[0], items.shape[0]

    @property
    def branch_names(self) -> tuple[str, ...]:
        return self._branch_names

    def replaced(self, **changes: Any) -> VectorScorer:
        """Return a copy of the scorer with some arguments of `VectorScorer` changed."""
        arguments: dict[str, Any] = {
            "users": self.user_vectors,
            "items": self.item_vectors,
            "branch_names": self.branch_names,
            "weights": self.weights,
            "memory": self.memory,
            "offsets": self.offsets,
            "widths": self.widths,
            "n_similarity_parts": self.n_similarity_parts,
        }
        return VectorScorer(**(arguments | changes))

    def with_items(self, vectors: Tensor, memory: Mapping[str, Tensor] | None = None) -> VectorScorer:
        """Return a scorer with more items; the rows of the existing items are the same.

        Args:
            vectors: `(n, D)` vectors of the new items; their offset is 0.
            memory: the complete `memory`, with rows for the new items; None: it does not change.
        """
        offsets = None if self.offsets is None else append_rows(self.offsets, self.offsets.new_zeros(len(vectors)))
        items = append_rows(self.item_vectors, vectors)
        return self.replaced(items=items, memory=self.memory if memory is None else memory, offsets=offsets)

    def queries(self, users: Tensor) -> Tensor:
        return self.user_vectors[users]

    def scores(self, queries: Tensor) -> Tensor:
        n = self.n_similarity_columns
        scores = queries[:, :n] @ self.item_vectors[:, :n].T
        if len(self._other_items):  # the other columns of most items are zero
            rows = self._other_items
            scores[:, rows] += queries[:, n:] @ self.item_vectors[rows, n:].T
        return scores if self.offsets is None else scores.add_(self.offsets)

    @cached_property
    def _other_items(self) -> Tensor:
        """Rows `(m,)` of the items with a number other than 0 in the columns that do not count for the similarity."""
        return self.item_vectors[:, self.n_similarity_columns :].any(1).nonzero().squeeze(1)

    def parts(self, queries: Tensor, items: Tensor) -> Tensor:
        products = queries * self.item_vectors[items]  # (B, D)
        parts = torch.stack([chunk.sum(1) for chunk in products.split(self.widths, dim=1)], dim=1)
        return parts if self.offsets is None else torch.cat([parts, self.offsets[items, None].to(parts)], dim=1)

    def similar_items(self, items: Tensor) -> Tensor:
        vectors = self.similarity_vectors
        return _cosine(vectors[items], vectors)

    @property
    def similarity_vectors(self) -> Tensor:
        """The part of the item vectors `(I, d)` whose cosines are the similarity of items; a view, not a copy."""
        return self.item_vectors[:, : self.n_similarity_columns]

    @property
    def n_similarity_columns(self) -> int:
        return sum(self.widths[: self.n_similarity_parts])

    def similar_users(self, users: Tensor) -> Tensor:
        vectors = self.user_vectors[:, : self.n_similarity_columns]
        return _cosine(vectors[users], vectors)

    def user_weights(self, users: Tensor) -> Tensor | None:
        return None if self.weights is None else self.weights[users]

    def rankable_items(self, first: int) -> Tensor:
        memory = [
            table for name, table in self.memory.items() if name.startswith("item_") and table.is_floating_point()
        ]
        is_sound = torch.ones(self.n_items - first, dtype=torch.bool, device=self.item_vectors.device)
        for table in (self.item_vectors, *memory):
            if table.is_floating_point():
                is_sound &= finite_rows(table[first:], LARGEST)
        return is_sound

    @property
    def moved_items(self) -> Tensor:
        """Rows `(m,)` int64, in order, of the items whose vectors `with_moved_items` has replaced."""
        return self.memory.get(self.MOVED[0], torch.empty(0, dtype=torch.int64, device=self.item_vectors.device))

    def vectors_before(self, items: Tensor) -> Tensor:
        """Return a copy of the vectors `(n, D)` of the items `(n,)` as they were before `with_moved_items`."""
        vectors, moved = self.item_vectors[items], self.moved_items
        if len(moved):
            index = torch.searchsorted(moved, items).clamp(max=len(moved) - 1)
            was_moved = moved[index] == items
            vectors[was_moved] = self.memory[self.MOVED[1]][index[was_moved]]
        return vectors

    def with_moved_items(self, items: Tensor, vectors: Tensor) -> VectorScorer:
        """Return a scorer with other vectors `(n, D)` of the items `(n,)`; it keeps their earlier vectors."""
        rows = torch.unique(torch.cat([self.moved_items, items]))
        memory = self.memory | dict(zip(self.MOVED, (rows, self.vectors_before(rows)), strict=True))
        table = self.item_vectors.clone()
        table[items] = vectors.to(table.dtype)
        return self.replaced(items=table, memory=memory)

    @property
    def grown_users(self) -> Tensor:
        """Rows `(m,)` int64, in order, of the users whose vectors `with_users` has replaced (their histories grew)."""
        return self.memory.get(self.GROWN[0], torch.empty(0, dtype=torch.int64, device=self.user_vectors.device))

    def trained_queries(self, users: Tensor) -> Tensor:
        """Return a copy of the vectors `(B, D)` of the users `(B,)` as they were before `with_users`."""
        vectors, grown = self.user_vectors[users], self.grown_users
        if len(grown):
            index = torch.searchsorted(grown, users).clamp(max=len(grown) - 1)
            has_grown = grown[index] == users
            vectors[has_grown] = self.memory[self.GROWN[1]][index[has_grown]]
        return vectors

    def with_users(self, users: Tensor, queries: Tensor) -> VectorScorer:
        """Return a scorer with other vectors `(n, D)` of the users `(n,)`; it keeps their trained vectors."""
        rows = torch.unique(torch.cat([self.grown_users, users]))
        memory = self.memory | dict(zip(self.GROWN, (rows, self.trained_queries(rows)), strict=True))
        table = self.user_vectors.clone()
        table[users] = queries.to(table.dtype)
        return self.replaced(users=table, memory=memory)

    def tensors(self) -> dict[str, Tensor]:
        named = {"users": self.user_vectors, "items": self.item_vectors}
        named |= {} if self.weights is None else {"weights": self.weights}
        named |= {} if self.offsets is None else {"offsets": self.offsets}
        return named | {f"memory.{name}": tensor for name, tensor in self.memory.items()}

    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"kind": self.kind, "part_names": list(self.branch_names)}
        if len(set(self.widths)) > 1:
            settings["widths"] = list(self.widths)
        if self.n_similarity_parts < len(self.widths):
            settings["n_similarity_parts"] = self.n_similarity_parts
        return settings

    def to(self, device: torch.device | str) -> VectorScorer:
        return self.rebuild({k: v.to(device) for k, v in self.tensors().items()}, self.settings())

    @classmethod
    def rebuild(cls, tensors: dict[str, Tensor], settings: Mapping[str, Any]) -> VectorScorer:
        """Build the scorer from the results of `tensors()` and `settings()`; see `scorer_from_tensors`.

        Raises:
            DataError: the tensors do not fit together.
        """
        memory = {k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")}
        names = tuple(settings["part_names"])
        users, items, weights, offsets = (tensors.get(name) for name in ("users", "items", "weights", "offsets"))
        assert users is not None and items is not None
        widths = settings.get("widths")
        if widths is not None and (len(widths) != len(names) or sum(widths) != items.shape[1]):
            raise DataError(f"its numbers of columns {widths} do not add up to the {items.shape[1]} columns of 'items'")
        return cls(users, items, names, weights, memory, offsets, widths, settings.get("n_similarity_parts"))


def all_finite(tensor: Tensor) -> bool:
    """Return whether no number is NaN or infinite, without copying a large tensor."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor))  # NaN if any number is NaN


def finite_rows(table: Tensor, largest: float) -> Tensor:
    """Return which rows of a table `(n, …)` have no NaN and no number beyond ±`largest`, `(n,)` bool."""
    return (table.reshape(len(table), -1).abs() <= largest).all(1)


def _cosine(rows: Tensor, table: Tensor) -> Tensor:
    norms = table.norm(dim=1).clamp(min=1e-12)
    return (rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)) @ table.T / norms
