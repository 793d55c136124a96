"""`Runner`: what a library has to do to be measured. It is used through its public interface only."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from peers.data import Data


class EpochLog(Protocol):
    """What a runner reports about its epochs."""

    def trained(self) -> None:
        """The training of an epoch is over; what follows until `ended` is validation, whose time is counted apart."""

    def ended(self, ndcg: float | None = None) -> None:
        """An epoch is over; `ndcg` of the validation items, if the library has it, else `ListRunner.evaluate`."""


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        model: the model's name, one of those of the runner.
        epochs: passes over the training interactions; closed forms ignore it.
        threads: number of threads.
        seed: of everything random.
        options: of the model, by the library's own names.
        folder: an empty folder for the run's files.
    """

    model: str
    epochs: int
    threads: int
    seed: int
    options: dict[str, Any]
    folder: Path


class Runner(abc.ABC):
    """Base class of the runners; each has its own `fit`.

    `fit` calls `epochs.ended` after each epoch. With a library that reports nothing before the end of its training, it
    never does: then only the time of all epochs is known.
    """

    def __init__(self, data: Data, settings: Settings):
        self.data, self.settings = data, settings

    @abc.abstractmethod
    def fit(self, epochs: EpochLog) -> None:
        """Train the model."""


class ListRunner(Runner):
    """A runner that gives lists of items, also after each epoch; others only report metrics of their own."""

    suffix = ".npy"  # of the file of lists

    @abc.abstractmethod
    def top(self, users: np.ndarray, k: int) -> np.ndarray:
        """The rows of the `k` best items `(n, k)` int64 of users `(n,)`, without training items; -1: no item."""

    def evaluate(self, k: int) -> float:
        """NDCG of the validation items, by the library's own evaluation if it has one."""
        return self.data.ndcg(self.top(self.data.evaluated, k))

    def write_top(self, path: Path, k: int) -> None:
        """Write the lists of all users to a file."""
        np.save(path, self.top(np.arange(self.data.n_users), k))
