"""`Model`: the interface of all models that training, evaluation and serving rely on (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lirdrec.errors import CapabilityError
from lirdrec.nn.principal_components import Projection
from lirdrec.option_names import option_text
from lirdrec.parallel.ranks_and_shards import ONE, Ranks, Shard, Shards
from lirdrec.ranking.histories import Histories, PairWeights
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.ranking.sharded_scorer import Rankable, ShardedScorer


@dataclass(frozen=True)
class Capabilities:
    """What a model needs and supports; the rest of the library checks these, never the model's name.

    Attributes:
        needs_features: cannot be built without at least one feature matrix.
        cold_items: `add_items` makes a scorer that also scores items that were not in training.
        new_users: `fold_in` gives queries for users known only by a list of liked items.
        training: "gradient" models have `loss`, "closed_form" models have `solve`.
        weights: the weights of the training pairs change what the model learns. Where this is False, training warns
            that weights have no effect.
        ordered: the model represents a user by the ordered history of items. Training takes sequences, which need
            timestamps; `fold_in` takes each history with the oldest item first.
        several_devices: training can be split over several processes (docs/distributed.md).
    """

    needs_features: bool
    cold_items: bool
    new_users: bool
    training: Literal["gradient", "closed_form"]
    weights: bool = False
    ordered: bool = False
    several_devices: bool = False


@dataclass(frozen=True)
class Features:
    """The features of one modality: `values` `(I, d)` float32 (or float64), and the mask `present` `(I,)` bool.

    The rows of items without the modality are zero.
    """

    values: Tensor
    present: Tensor

    @cached_property
    def is_complete(self) -> bool:
        """Whether every item has the modality. The answer is kept, because the CPU waits for a GPU to give it."""
        return bool(self.present.all())

    def to(self, device: torch.device | str) -> Features:
        return Features(self.values.to(device), self.present.to(device))


@dataclass(frozen=True)
class ModelInputs:
    """Everything a model is built from, besides its config.

    Users and items are given by row, not by id. All tensors are on one device.

    Attributes:
        n_users, n_items: numbers of users and items, also counting those without a training pair.
        users, items: `(E,)` int64 each, the distinct training pairs.
        features: name of a modality → its features, in the order in which models use the modalities; may be empty for
            models that need no features.
        neighbors: function `(name, k) -> (I, min(k, I))` int64: the k nearest items of each item by cosine in that
            modality, nearest first. The item itself is one of them. Unused entries are -1 (see
            `graphs.item_item.nearest_items`).
        seed: seed of the parameter initialization.
        weights: `(E,)` float, more than 0, how much each training pair counts; None: all count 1.
        timestamps: `(E,)` int64, the time of each training pair in the unit of the source, or None.
        ranks: the processes that train together. With several processes, `features` hold only the item rows of this
            process (`shards.items`); pairs, neighbors and weights are complete in every process.
        projections: name of a modality → the projection that made the columns of `features` from those of the dataset,
            if they differ. Models do not use it; the run keeps it for items that are added later.
    """

    n_users: int
    n_items: int
    users: Tensor
    items: Tensor
    features: Mapping[str, Features]
    neighbors: Callable[[str, int], Tensor]
    seed: int = 0
    weights: Tensor | None = None
    timestamps: Tensor | None = None
    ranks: Ranks = ONE
    projections: Mapping[str, Projection] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.users.device

    @cached_property
    def histories(self) -> Histories:
        """The training items of each user, oldest first; without timestamps, in the order of the training pairs."""
        return Histories(self.users, self.items, self.n_users, self.timestamps)

    @cached_property
    def known_items(self) -> Tensor:
        """`(I,)` bool: which items have a training pair."""
        return torch.bincount(self.items, minlength=self.n_items) > 0

    @cached_property
    def shards(self) -> Shards:
        """The rows of users and items that this process holds: all rows, if one process trains alone."""
        return Shards.of(self.ranks, self.n_users, self.n_items)

    @cached_property
    def relative_weights(self) -> Tensor | None:
        """The weights divided by their mean, `(E,)` float32; None without weights, or if all are equal."""
        if self.weights is None or len(self.weights) == 0 or bool((self.weights == self.weights[0]).all()):
            return None
        return (self.weights / self.weights.mean(dtype=torch.float64)).float()

    @cached_property
    def pair_weights(self) -> PairWeights | None:
        """The relative weights, which the loss looks up by user and item; None without weights, or if all are equal."""
        weights = self.relative_weights
        return None if weights is None else PairWeights(self.users, self.items, self.n_items, weights)


class Model(nn.Module):
    """Base class of all models. Parameters and persistent buffers are the complete state (`state_dict`)."""

    name: ClassVar[str]
    Config: ClassVar[type]
    capabilities: ClassVar[Capabilities]
    # option → values that the paper or its released code searched; tuning starts from these
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    # training options (fields of TrainConfig) of the paper or its released code, for preset="paper"
    published: ClassVar[Mapping[str, Any]] = {}
    # names of the parameters and buffers that have one row per user or item; a `ParameterList` of such tables has one
    # name. A training that continues an earlier run matches their rows by id (recommender/warm_start.py)
    user_rows: ClassVar[tuple[str, ...]] = ("user_embedding",)
    item_rows: ClassVar[tuple[str, ...]] = ("item_embedding",)
    # first part of the names of buffers that the model fits to its features when it first needs them. If a training
    # continues a run that has no such buffers, it fits them to its own data
    fitted: ClassVar[tuple[str, ...]] = ()
    # for `fold_in_items`: the strength, and the number of likes at which half of it is reached (benchmarks/warm_up.py)
    warm_up: ClassVar[tuple[float, float]] = (16.0, 30.0)
    # whether the vectors of new items are mixed with those of their nearest trained items (docs/new_items.md)
    mixes_neighbors: ClassVar[bool] = True

    def __init__(self, inputs: ModelInputs, config: Any):
        super().__init__()
        if self.capabilities.needs_features and not inputs.features:
            raise CapabilityError(
                f"{self.name} learns from features, and the dataset has none: add a feature matrix"
                " (lirdrec features DATASET), or take a model that needs none"
                f" ({'sasrec, gru4rec' if self.capabilities.ordered else 'ease, lightgcn'} …)"
            )
        if inputs.ranks.size > 1 and not self.capabilities.several_devices:
            raise CapabilityError(
                f"{self.name} is trained on one device only, not on {inputs.ranks.size}; start it on one device"
            )
        if self.capabilities.ordered and inputs.timestamps is None:
            raise CapabilityError(
                f"{self.name} learns from the order of each user's items, and the dataset has no timestamps: prepare it"
                f" with {option_text('timestamp', 'COLUMN')}, or take a model that needs none (lirdrec, lightgcn …)"
            )
        self.inputs, self.config = inputs, config
        # the only source of randomness in training, on the CPU so that all devices agree; start_epoch replaces it, so
        # that a resumed training uses the same random numbers as an uninterrupted one
        self.generator = epoch_generator(inputs.seed, 0)

    def start_again(self) -> None:
        """Change parameters that were loaded from an earlier run, once, before training continues with newer data.

        The base class changes nothing.
        """

    def scorer(self) -> Scorer:
        """Return the scorer of all users and items that the current parameters give, without gradients.

        This changes no state. It needs all rows of users and items: with several processes, each has only a part.
        """
        raise CapabilityError(f"{self.name} gives no scorer")

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return the user and item vectors of this process (the rows `inputs.shards`), as the scorer compares them.

        Only models with the capability `several_devices` have this method.
        """
        raise CapabilityError(f"{self.name} is trained on one device only")

    @torch.no_grad()
    def validation_scorer(self) -> Rankable:
        """Return the scorer for the validation after an epoch.

        With several ranks (processes), the scorer of each rank has only the rows of that rank (`ShardedScorer`).
        """
        if self.inputs.ranks.size == 1:
            return self.scorer()
        return ShardedScorer(*self.vectors(), self.inputs.shards)

    def shard_of(self, name: str) -> Shard | None:
        """Return which rows of the parameter or buffer `name` this rank (process) holds.

        None: it has no row per user or item, and every rank holds all of it. `name` can also be `NAME.KEY`, the state
        KEY that the optimizer keeps for the parameter NAME: it is split like the parameter.
        """
        kind = self.rows_of(name)
        return None if kind is None else {"user": self.inputs.shards.users, "item": self.inputs.shards.items}[kind]

    def rows_of(self, name: str) -> Literal["user", "item"] | None:
        """Return "user" if the parameter or buffer `name` has a row per user, "item" if one per item, else None."""
        table = name.split(".")[0]
        return "user" if table in self.user_rows else "item" if table in self.item_rows else None

    def start_epoch(self, epoch: int) -> None:
        """Prepare the model for an epoch, counted from 1: replace the random generator by the one of this epoch."""
        self.generator = epoch_generator(self.inputs.seed, epoch)

    def loss(self, *batch: Any, **options: Any) -> dict[str, Tensor]:
        """Return the loss of a batch as terms by name: "loss" is minimized, the other terms are logged.

        The batch is users, positives and negatives, `(B,)` int64 rows each; for ordered models it is a block of
        sequences (`models.sequential.SequentialModel.loss`).
        """
        raise CapabilityError(f"{self.name} is not trained by gradients")

    def solve(self) -> None:
        """Compute the parameters of a closed-form model, and store them in the model."""
        raise CapabilityError(f"{self.name} has no closed form")

    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> Scorer:
        """Return the scorer with the rows of new items appended; existing rows do not change.

        Args:
            scorer: a scorer of this model, possibly with added items.
            catalog: the features of all items that the scorer has now: blocks of items in row order, each with one
                entry per modality.
            new: the features of the `n` new items, one entry per modality of the model.

        Raises:
            CapabilityError: the model takes no new items.
        """
        raise CapabilityError(f"{self.name} cannot score items that it was not trained with")

    def fold_in_items(self, scorer: Scorer, items: Tensor, likers: Sequence[Tensor]) -> Scorer:
        r"""Return the scorer in which the vectors of new items are turned towards the users who like them.

        Other rows stay. The vector `v_0` that an item has from its features changes its direction and keeps its length:

            v ∝ v_0 / ‖v_0‖ + s · n / (n + h) · (mean_{u∈L} u - c) / ‖u‖

        `L` are the vectors of the `n` users who like the item, `c` is the mean user vector, `‖u‖` the mean length of
        user vectors, and `(s, h)` is the model's attribute `warm_up`. Each call starts from `v_0`, not from the vector
        of an earlier call, so `likers` must hold all users who like an item; their order does not matter. Only the
        columns that compare items change; further columns (content) stay as they are.

        Args:
            scorer: a scorer of this model.
            items: `(n,)` int64, distinct rows of items that were added after training.
            likers: for each item the queries `(n_i, D)` of the users who liked it, at least one.

        Raises:
            CapabilityError: the model takes no new items, or does not train vectors of users and items together.
        """
        if not isinstance(scorer, VectorScorer) or not self.can_warm_up:
            raise CapabilityError(f"{self.name} cannot move the vectors of new items by likes")
        strength, half = self.warm_up
        memory, width = dict(scorer.memory), scorer.n_similarity_columns
        if "mean_user" not in memory:  # kept, so that all moves of a run are measured from the same mean user
            everyone = torch.arange(scorer.n_users, device=scorer.user_vectors.device)
            users = scorer.trained_queries(everyone)[:, :width]
            memory["mean_user"] = users.mean(0, dtype=torch.float64)
            memory["user_length"] = torch.linalg.vector_norm(users, dim=1).mean(dtype=torch.float64)
        center, user_length = memory["mean_user"][:width], memory["user_length"].clamp(min=1e-12)
        before = scorer.vectors_before(items)
        start = before[:, :width].double()
        length = start.norm(dim=1, keepdim=True)
        turned = start / length.clamp(min=1e-12)
        for row, queries in enumerate(likers):
            share = strength * len(queries) / (len(queries) + half)
            turned[row] += share * (queries[:, :width].mean(0, dtype=torch.float64) - center) / user_length
        turned *= length / turned.norm(dim=1, keepdim=True).clamp(min=1e-12)
        moved = torch.cat([turned.to(before), before[:, width:]], dim=1)
        return scorer.replaced(memory=memory).with_moved_items(items, moved)

    @property
    def can_warm_up(self) -> bool:
        """Whether `fold_in_items` works: the model must take new items, and train users and items together."""
        return self.capabilities.cold_items and self.capabilities.training == "gradient"

    def history_weights(self, scorer: Scorer, history: Tensor) -> Tensor | None:
        """Return the weights `(1, K)` of the first K parts of a score after the last item of a new user's history.

        None: the weights of this model do not depend on the history, or the history is empty. Only models of ordered
        histories have weights that do. `history` `(n,)` has item rows, the oldest first.
        """
        return None

    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return the queries `(B, D)` of new users, which the scorer compares with items.

        Args:
            scorer: a scorer of this model.
            histories: for each user the rows of the items that the user likes; for ordered models, oldest first.

        Raises:
            CapabilityError: the model serves only users of training.
        """
        raise CapabilityError(f"{self.name} cannot serve users that it was not trained with")


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return a CPU generator for all random numbers of one epoch of a training with this seed.

    Epoch 0 is the time before the first epoch.
    """
    return torch.Generator().manual_seed(hash((seed, epoch)) % 2**63)
