"""Batches of an epoch: triples (user, positive, negative), or for ordered models sequences of items."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from lirdrec.errors import TrainingError
from lirdrec.models.base import Model
from lirdrec.ranking.histories import Histories
from lirdrec.training.config import TrainConfig

SORTED_BATCHES = 32  # number of batches whose sequences are sorted by length together; they differ in every epoch


class Sampler(abc.ABC):
    """Makes the batches of each epoch; `len` is the number of training pairs of an epoch."""

    seed: int  # seed of all epochs

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def batches(self, epoch: int, size: int, device: torch.device) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Yield for each batch of an epoch its number of pairs, and the arguments of `Model.loss` on `device`."""

    def n_steps(self, size: int) -> int:
        """Return the number of batches of an epoch if each batch has `size` pairs."""
        return math.ceil(len(self) / size)

    def generator(self, epoch: int) -> torch.Generator:
        """Return the random generator for an epoch, which depends only on the seed and the number of the epoch."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)


def make_sampler(model: Model, config: TrainConfig) -> Sampler:
    """Return the sampler for a model: `SequenceSampler` for models of ordered histories, else `TripleSampler`.

    Raises:
        TrainingError: there is nothing to train on.
    """
    inputs = model.inputs
    if model.capabilities.ordered:
        sequences = SequenceSampler(inputs.histories, model.config.max_length, config.seed)
        if len(sequences) == 0:
            raise TrainingError("there is nothing to train on: no user has two or more training items")
        return sequences
    triples = TripleSampler(inputs.users, inputs.items, inputs.n_items, config.seed, config.order)
    if len(triples) == 0:
        raise TrainingError("there is nothing to train on: every user has all items, or there is no training pair")
    return triples


class TripleSampler(Sampler):
    """Samples triples: each training pair (user, positive item) with one negative item, in random order.

    A negative is drawn uniformly from the items that occur in training, until it is no training item of the user. Users
    with all these items are left out.
    Sampling runs on the CPU, so that all devices train on the same triples.

    Args:
        users, items: `(E,)` int64, the distinct training pairs.
        n_items: number of items.
        seed: seed of all epochs; an epoch does not depend on which epochs were sampled before it.
        order: "pairs": shuffle pairs; "users": shuffle users and keep each user's pairs together.
    """

    def __init__(
        self, users: Tensor, items: Tensor, n_items: int, seed: int, order: Literal["pairs", "users"] = "pairs"
    ):
        users, items = users.cpu(), items.cpu()
        self.n_items, self.seed, self.order = n_items, seed, order
        self.pool = items.unique()
        self.positive_keys = (users * n_items + items).sort().values  # one key per positive pair
        full = torch.bincount(users) == len(self.pool)
        keep = ~full[users]
        self.users, self.items = users[keep], items[keep]

    def __len__(self) -> int:
        return len(self.users)

    def batches(self, epoch: int, size: int, device: torch.device) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        columns = (column.to(device).split(size) for column in self.epoch(epoch))
        for batch in zip(*columns, strict=True):
            yield len(batch[0]), batch

    def epoch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return users, positive and negative items of all triples of epoch `number`, `(len(self),)` int64 each."""
        generator = self.generator(number)
        order = torch.randperm(len(self), generator=generator)
        if self.order == "users":
            rank = torch.randperm(int(self.users.max()) + 1, generator=generator)
            order = order[rank[self.users[order]].argsort(stable=True)]
        users, positives = self.users[order], self.items[order]
        return users, positives, self.negatives(users, generator)

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Return a random item for each of `users`, `(n,)` int64, that is no training item of this user."""
        sampled = self._sample(len(users), generator)
        wrong = self._is_positive(users, sampled).nonzero().squeeze(1)
        while len(wrong):
            resampled = self._sample(len(wrong), generator)
            sampled[wrong] = resampled
            wrong = wrong[self._is_positive(users[wrong], resampled)]
        return sampled

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.pool[torch.randint(len(self.pool), (n,), generator=generator)]

    def _is_positive(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self.n_items + items
        index = torch.searchsorted(self.positive_keys, keys).clamp(max=len(self.positive_keys) - 1)
        return self.positive_keys[index] == keys


class SequenceSampler(Sampler):
    """Samples the items of each user in order, in windows of at most `max_length` targets (items to predict).

    Every training item except a user's first is a target once an epoch. A history longer than `max_length + 1` becomes
    several windows, from its end; the last item of a window is the first of the next one. Batches hold `size` targets
    or a few less, and sequences of nearly the same length, so that hardly any position is padding.

    Args:
        histories: items of each user with their times, oldest first.
        max_length: largest number of targets of a window.
        seed: seed of all epochs; an epoch does not depend on which epochs were sampled before it.
    """

    def __init__(self, histories: Histories, max_length: int, seed: int):
        self.items = histories.items.cpu()
        assert histories.times is not None
        self.times = histories.times.cpu()
        self.max_length, self.seed = max_length, seed
        start = histories.start.cpu()
        n_targets = (start.diff() - 1).clamp(min=0)
        # window w of a user ends w·max_length items before the end of the history
        windows = (n_targets + max_length - 1) // max_length
        owner = torch.repeat_interleave(windows)
        number = torch.arange(len(owner)) - (windows.cumsum(0) - windows)[owner]
        self.users = owner
        self.last = start[owner + 1] - 1 - number * max_length  # position of the window's last item
        self.targets = (n_targets[owner] - number * max_length).clamp(max=max_length)

    def __len__(self) -> int:
        return int(self.targets.sum())

    def batches(self, epoch: int, size: int, device: torch.device) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Yield the number of targets, and the batch: items and times `(B, T+1)` and users `(B,)`, all int64.

        A row of items and times is one window; shorter windows have -1 at the end.
        """
        for windows in self._groups(epoch, size):
            batch = (*self.tables(windows), self.users[windows])
            yield int(self.targets[windows].sum()), tuple(table.to(device) for table in batch)

    def tables(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return items and times of the windows with the numbers `windows` `(B,)`: `(B, T+1)` int64 each.

        T is the largest number of targets; shorter windows have -1 at the end.
        """
        lengths = self.targets[windows] + 1
        first = self.last[windows] - self.targets[windows]
        column = torch.arange(int(lengths.max()))
        entry = (first[:, None] + column).clamp(max=len(self.items) - 1)
        padding = column >= lengths[:, None]
        return self.items[entry].masked_fill(padding, -1), self.times[entry].masked_fill(padding, -1)

    def _groups(self, epoch: int, size: int) -> Iterator[Tensor]:
        """Yield for each batch of an epoch the numbers of its windows."""
        generator = self.generator(epoch)
        order = torch.randperm(len(self.targets), generator=generator)
        # blocks of about 32 batches, equally large, each sorted by length
        n_blocks = max(1, round(len(self) / (size * SORTED_BATCHES)))
        block = (self.targets[order].cumsum(0) - 1) * n_blocks // len(self)
        order = order[(block * (self.max_length + 1) + self.targets[order]).argsort(stable=True)]
        batch = (self.targets[order].cumsum(0) - 1) // size
        groups = order.split(torch.bincount(batch).tolist())
        for number in torch.randperm(len(groups), generator=generator).tolist():
            if len(groups[number]):
                yield groups[number]
