"""`Runner`: what a library has to do to be measured. It is used through its public interface only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from peers.data import Data


class EpochLog(Protocol):
    """What a runner tells about its epochs."""

    def trained(self) -> None:
        """The training of an epoch is over; what follows until `ended` is validation, whose time is counted apart."""

    def ended(self, ndcg: float | None = None) -> None:
        """An epoch is over; `ndcg` of the validation items, if the library has computed it, else `Runner.evaluate`."""


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


class Runner:
    """Base class of the runners; `fit` and `top` are to be written.

    `fit` calls `epochs.ended` after each epoch, when `top` gives the lists of the parameters of that moment. With a
    library that says nothing before the end of its training, it never does: then only the time of all epochs is known.
    """

    suffix = ".npy"  # of the file of lists
    has_lists = True  # False: it only validates itself after each epoch

    def __init__(self, data: Data, settings: Settings):
        self.data, self.settings = data, settings

    def fit(self, epochs: EpochLog) -> None:
        """Train the model."""
        raise NotImplementedError

    def top(self, users: np.ndarray, k: int) -> np.ndarray:
        """The rows of the `k` best items `(n, k)` int64 of users `(n,)`, without training items; -1: no item."""
        raise NotImplementedError

    def evaluate(self, k: int) -> float:
        """NDCG of the validation items, by the library's own evaluation if it has one."""
        return self.data.ndcg(self.top(self.data.evaluated, k))

    def write_top(self, path: Path, k: int) -> None:
        """Write the lists of all users to a file."""
        np.save(path, self.top(np.arange(self.data.n_users), k))
