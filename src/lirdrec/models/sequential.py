r"""`SequentialModel`: the base of models in which a user is the ordered history of items.

A sequential model has a table of item vectors `V` `(I, D)` and a network that turns the vectors of a user's items, in
order, into a state `h_t` after each of them. The state after the last item represents the user:

    score(u, i) = ⟨h_T, V_i⟩                       similarity="product"
    score(u, i) = ⟨h_T, V_i⟩ / (‖h_T‖ ‖V_i‖)       similarity="cosine"
    loss = -mean_t log softmax_i(score(h_t, i) / τ)[item t+1]

All positions of a history are targets, and the softmax goes over all items of training, or over `n_negatives` items
sampled for the batch. The items of a history are represented by the same vectors as the items that are ranked.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lirdrec.config import check_minimum, check_share, option, validated
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.base import Features, Model, ModelInputs
from lirdrec.nn.losses import full_softmax, occurring_items, sampled_softmax
from lirdrec.nn.normalize_and_dropout import normalize
from lirdrec.nn.transformer import CausalTransformer, gap_classes
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.row_buffers import append_rows

ENCODED_AT_ONCE = 2**15  # positions of the histories that are encoded together for serving


@dataclass(frozen=True)
@validated
class SequentialOptions:
    """Options of all sequential models, the first fields of their configs."""

    embedding_size: int = option(64, "e, columns of item vectors; LIRDRec-Seq: columns of each branch")
    max_length: int = option(50, "number of the latest items of a history that the network reads")
    similarity: Literal["cosine", "product"] = option("cosine", "how states and item vectors are compared")
    temperature: float = option(0.1, "τ of the softmax: scores are divided by it")
    n_negatives: int | None = option(None, "negatives shared by a batch; none: all items of training")
    dropout: float = option(0.3, "share of entries set to 0 in training")

    def __post_init__(self) -> None:
        check_minimum(self, 1, "embedding_size", "max_length")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; it must be more than 0")
        if self.n_negatives is not None:
            check_minimum(self, 1, "n_negatives")
        check_share(self, "dropout")


@dataclass(frozen=True)
@validated
class AttentionOptions(SequentialOptions):
    """Options of models whose network is a stack of layers with attention heads."""

    n_layers: int = option(2, "L, blocks of the transformer")
    n_heads: int = option(2, "attention heads of a block; embedding_size must be a multiple of it")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "n_heads")
        check_minimum(self, 0, "n_layers")
        if self.embedding_size % self.n_heads:
            raise ConfigError(f"embedding_size {self.embedding_size} is not a multiple of n_heads {self.n_heads}")


@dataclass(frozen=True)
@validated
class TransformerOptions(AttentionOptions):
    """Options of models whose network is a transformer."""

    hidden_multiplier: int = option(4, "columns of a block's hidden layer, as a multiple of the block's columns")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "hidden_multiplier")


class SequentialModel(Model):
    """Base class of models of ordered histories, with training and serving; a model adds `item_table` and `states`.

    A model whose item vectors come from features also adds `new_item_vectors`.
    """

    config: Any
    user_rows: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: ModelInputs, config: SequentialOptions):
        super().__init__(inputs, config)
        self._pool, self._index_in_pool = occurring_items(inputs.items, inputs.n_items)

    # What a model defines

    @property
    def reads_gaps(self) -> bool:
        """Whether `states` uses the time between items (`gaps`)."""
        return False

    @abc.abstractmethod
    def item_table(self) -> Tensor:
        """Return the vectors `(I, D)` of all items of training, before `similarity` normalizes them; differentiable."""

    @abc.abstractmethod
    def states(self, items: Tensor, gaps: Tensor | None, users: Tensor | None = None) -> Tensor:
        """Return the states `(n, T, D)` after each item of `n` histories; states after a history's end are ignored.

        Args:
            items: `(n, T, D)`, rows of `item_table`.
            gaps: `(n, T)` int64, classes of the time since the previous item (`gap_classes`); None: unknown.
            users: `(n,)` int64 rows of users known from training; None: new users.
        """

    def last_states(self, items: Tensor, gaps: Tensor | None, users: Tensor | None, last: Tensor) -> Tensor:
        """Return the states `(n, D)` after one item of each history, for serving.

        Args:
            items, gaps, users: as in `states`.
            last: `(n,)` int64, position of the item in each history.
        """
        return self.states(items, gaps, users)[torch.arange(len(last), device=last.device), last]

    def new_item_vectors(
        self, scorer: VectorScorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the vectors `(n, D)` of new items, as in `item_table`, and a copy of the scorer's memory.

        The copy has rows for the new items, except in `item_inputs`, to which `add_items` appends the vectors.

        Raises:
            CapabilityError: the model takes no new items.
        """
        raise CapabilityError(f"{self.name} takes no new items")

    def vector_scorer(self, users: Tensor, items: Tensor, memory: dict[str, Tensor]) -> VectorScorer:
        """Return the scorer of user states `(U, D)` and items `(I, D)`, both as they are compared.

        A model can override this to name the parts of a score.
        """
        return VectorScorer(users, items, memory=memory)

    # Training

    def loss(self, items: Tensor, times: Tensor, users: Tensor) -> dict[str, Tensor]:
        """Return the softmax loss of a block of sequences: each item is predicted from the items before it.

        Args:
            items: `(n, T+1)` int64 rows of items, oldest first, padded with -1 at the end.
            times: `(n, T+1)` int64, the timestamps of the items.
            users: `(n,)` int64 rows of the users of the sequences.
        """
        table = self.item_table()
        rows, targets = items[:, :-1], items[:, 1:]
        is_target = targets >= 0
        gaps = self._drop_gaps(gap_classes(times[:, :-1])) if self.reads_gaps else None
        inputs = table.index_select(0, rows.clamp(min=0).reshape(-1)).view(*rows.shape, -1)
        states = self.states(inputs, gaps, users)[is_target]  # (targets, D)
        targets, weights = targets[is_target], None
        if self.inputs.pair_weights is not None:
            owners = users[:, None].expand(is_target.shape)[is_target]
            weights = self.inputs.pair_weights.of(owners, targets)
        return {"loss": self._softmax(states, table, targets, weights)}

    def _softmax(self, states: Tensor, table: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross-entropy of states `(B, D)`, compared with the items of `table`.

        `targets` `(B,)` are the rows of the items that come next, `weights` `(B,)` the weights of the states in the
        mean; None: a plain mean.
        """
        states, n = self.comparable(states), self.config.n_negatives
        if n is None:
            everything = len(self._pool) == len(table)
            items = self.comparable_items(table if everything else table.index_select(0, self._pool))
            return full_softmax(states, items, self._index_in_pool[targets], self.config.temperature, weights=weights)
        negatives = self._pool[torch.randint(len(self._pool), (n,), generator=self.generator).to(targets.device)]
        positive, negative = (self.comparable_items(table.index_select(0, rows)) for rows in (targets, negatives))
        excluded = negatives == targets[:, None]
        return sampled_softmax(states, positive, negative, self.config.temperature, excluded, weights)

    def _drop_gaps(self, gaps: Tensor) -> Tensor:
        """Set the gaps of a random fifth of the sequences to unknown, as in histories that are given without times."""
        unknown = torch.rand(len(gaps), generator=self.generator) < 0.2
        return gaps.masked_fill(unknown.to(gaps.device)[:, None], 0)

    def comparable(self, vectors: Tensor) -> Tensor:
        """Return states or item vectors `(n, D)` as they are compared: normalized for cosines."""
        return normalize(vectors) if self.config.similarity == "cosine" else vectors

    def comparable_items(self, vectors: Tensor, is_new: Tensor | None = None) -> Tensor:
        """Return rows `(n, D)` of `item_table` as they are compared with states.

        Args:
            vectors: rows of `item_table`.
            is_new: `(n,)` bool, which items have no training interactions; None: all items have some.
        """
        return self.comparable(vectors)

    # Serving

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of item vectors and of each user's state after the last training item (0 without items)."""
        memory = self.serving_memory()
        table, histories = memory["item_inputs"], self.inputs.histories
        users = torch.arange(self.inputs.n_users, device=table.device)
        times = histories.times if self.reads_gaps else None
        vectors = self._encode(table, histories.items, times, histories.start, users)
        items = self.comparable_items(table, ~self.inputs.known_items)
        return self.vector_scorer(vectors, items, memory)

    def serving_memory(self) -> dict[str, Tensor]:
        """Return the scorer's memory: `item_inputs`, a copy of `item_table`, and what else `new_item_vectors` needs."""
        return {"item_inputs": self.item_table().detach().clone()}

    def _encode(
        self, table: Tensor, items: Tensor, times: Tensor | None, start: Tensor, users: Tensor | None
    ) -> Tensor:
        """Return states `(n, D)`, as they are compared, after the last item of `n` histories; 0 for an empty history.

        Only the last `max_length` items of a history are read.

        Args:
            table: `(I, D)`, the vectors that the network reads for the items of histories.
            items: `(m,)` int64 rows, the items of all histories, one history after the other.
            times: `(m,)` int64, their times; None: unknown.
            start: `(n + 1,)` int64: history h has the positions `start[h] … start[h + 1] - 1`.
            users: `(n,)` int64 rows of users known from training; None: new users.
        """
        result = table.new_zeros(len(start) - 1, table.shape[1])
        lengths = start.diff().clamp(max=self.config.max_length)
        order = lengths.argsort(stable=True)
        order = order[lengths[order] > 0]
        blocks = (lengths[order].cumsum(0) - 1) // ENCODED_AT_ONCE  # of nearly equal length, so little is padding
        for block in order.split(torch.bincount(blocks).tolist()):
            if not len(block):
                continue
            n = lengths[block]
            column = torch.arange(int(n.max()), device=n.device).minimum(n[:, None] - 1)  # padded with the last item
            entry = (start[block + 1] - n)[:, None] + column
            inputs = table.index_select(0, items[entry].reshape(-1)).view(*entry.shape, -1)
            gaps = None if times is None else gap_classes(times[entry])
            states = self.last_states(inputs, gaps, None if users is None else users[block], n - 1)
            result[block] = self.comparable(states)
        return result

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return the states `(B, D)` of new users after the last item of each history; times count as unknown.

        A history has the oldest item first.
        """
        assert isinstance(scorer, VectorScorer)
        table = scorer.memory["item_inputs"]
        lists = [torch.as_tensor(history, dtype=torch.int64, device=table.device) for history in histories]
        start = torch.tensor([0, *map(len, lists)], device=table.device).cumsum(0)
        items = torch.cat([start[:0], *lists])
        return self._encode(table, items, None, start, None)

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> Scorer:
        """Return the scorer with new items, made from their features; histories of `fold_in` may contain them too.

        Raises:
            CapabilityError: the model takes no new items.
        """
        if not self.capabilities.cold_items:
            return super().add_items(scorer, catalog, new)
        assert isinstance(scorer, VectorScorer)
        vectors, memory = self.new_item_vectors(scorer, catalog, new)
        memory["item_inputs"] = append_rows(memory["item_inputs"], vectors)
        are_new = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
        return scorer.with_items(self.comparable_items(vectors, are_new), memory)


class TransformerModel(SequentialModel):
    """A sequential model whose network is one causal transformer over the item vectors."""

    network: CausalTransformer

    def make_network(self, generator: torch.Generator) -> CausalTransformer:
        """Return a transformer with the model's options, and with initial parameters drawn from `generator`."""
        c = self.config
        return CausalTransformer(
            c.embedding_size,
            c.n_layers,
            c.n_heads,
            c.embedding_size * c.hidden_multiplier,
            max_length=c.max_length,
            generator=generator,
            dropout=c.dropout,
            device=self.inputs.device,
        )

    def states(self, items: Tensor, gaps: Tensor | None, users: Tensor | None = None) -> Tensor:
        states: Tensor = self.network(items[None], generator=self.generator)[0]
        return states

    def last_states(self, items: Tensor, gaps: Tensor | None, users: Tensor | None, last: Tensor) -> Tensor:
        return self.network.at(items[None], last)[0]
