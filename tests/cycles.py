"""A planted order: users walk around a circle of items, so the last item of a history determines the next one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import polars as pl

from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset
from lirdrec.models.registry import config_type
from lirdrec.recommender.fit import fit
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig

N_ITEMS = 24


def places(items: Any) -> np.ndarray:
    """Features `(n, 8)` of the items' places on the circle."""
    angle = 2 * np.pi * np.asarray(items) / N_ITEMS
    return np.stack([f(k * angle) for k in range(1, 5) for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def cycle(n_users: int = 120) -> Dataset:
    """Item i is followed by i + 1; users start anywhere. Items are 0…23, users 0…119, times 0, 10, 20 …."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        first = rng.integers(N_ITEMS)
        rows += [(user, (first + step) % N_ITEMS, 10 * step) for step in range(rng.integers(6, 12))]
    place = places(np.arange(N_ITEMS))
    return Dataset.from_frames(
        pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"),
        items=pl.DataFrame({"item": np.arange(N_ITEMS), "title": [f"Place {i}" for i in range(N_ITEMS)]}),
        features={"image": place[:, :6], "text": place + 0.01 * rng.normal(size=place.shape).astype(np.float32)},
        timestamp="time",
        split="leave_last_out",
    )


@functools.cache
def walker(name: str = "lirdrec_seq") -> Recommender:
    """A recommender that has learned the circle; copy it by `from_state` before changing it."""
    if config_type(name).__name__.startswith("Last"):
        return fit(cycle(), make_config(config_type(name), {}), progress=False, cache=False)
    config = make_config(config_type(name), {"embedding_size": 16, "n_layers": 1, "dropout": 0.1, "temperature": 0.1})
    training = TrainConfig(epochs=40, batch_size=256, learning_rate=1e-2, patience=40, metric="ndcg@5")
    return fit(cycle(), config, training, progress=False, cache=False, calibrate_new_items=False)


def after(item: int) -> int:
    """The next item of the circle."""
    return (item + 1) % N_ITEMS
