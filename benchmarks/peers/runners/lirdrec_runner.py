"""lirdrec: the models that other libraries have too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lirdrec
from lirdrec.data.column_names import ITEM, USER
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.ids import IdMap
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.top_k import rank_users
from lirdrec.recommender.recommend_all import recommend_all
from lirdrec.training.callbacks import Callback
from peers.data import PARTS, Data
from peers.runner import EpochLog, ListRunner, Settings

PACKAGES = ("torch", "numpy", "scipy")
TRAINING = ("batch_size", "learning_rate", "order")  # options of the training, not of the model


class LirdrecRunner(ListRunner):
    """Options: "preset", options of the training, and those of the model."""

    suffix = ".parquet"

    def __init__(self, data: Data, settings: Settings):
        super().__init__(data, settings)
        # what is imported at first use: imports are not counted for any library
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
        self.train = lirdrec.fit

    def fit(self, epochs: EpochLog) -> None:
        s = self.settings
        torch.set_num_threads(s.threads)
        self.dataset = dataset_of(self.data)
        # after the solution of a closed form lirdrec validates it; that is counted as the evaluation, not as the fit
        none = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))
        dataset = self.dataset if s.epochs else replace(self.dataset, valid=none)
        options = dict(s.options)
        config, training = lirdrec.preset(s.model, options.pop("preset", "paper"))
        chosen = {name: options.pop(name) for name in TRAINING if name in options}
        chosen |= {"epochs": max(1, s.epochs), "patience": s.epochs, "metric": "ndcg@20", "seed": s.seed}
        self.recommender = self.train(
            dataset,
            replace(config, **options),
            replace(training, **chosen),
            device="cpu",
            progress=False,
            cache=False,
            calibrate_new_items=False,
            callbacks=(Watcher(epochs),),
        )
        self.known = Histories(*map(torch.from_numpy, self.data.train), self.data.n_users)

    def top(self, users: np.ndarray, k: int) -> np.ndarray:
        blocks = rank_users(self.recommender.scorer, torch.from_numpy(users), k, seen=self.known)
        return torch.cat([items for _, _, items in blocks]).numpy()

    def evaluate(self, k: int) -> float:
        return lirdrec.evaluate(self.recommender, self.dataset, "valid", k=k, metrics=["ndcg"])[f"ndcg@{k}"]

    def write_top(self, path: Path, k: int) -> None:
        recommend_all(self.recommender, path, k)


class Watcher(Callback):
    """Stops the clock of an epoch after its last step; the validation after it is lirdrec's own."""

    def __init__(self, epochs: EpochLog):
        self.epochs = epochs

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        self.n_steps = n_steps

    def on_step_end(self, epoch: int, step: int) -> None:
        if step == self.n_steps:
            self.epochs.trained()

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        self.epochs.ended(line["valid"]["ndcg@20"])


def dataset_of(data: Data) -> Dataset:
    """The data as a dataset, whose ids are the rows."""
    features = {
        f"modality{number}": FeatureMatrix.known_good(values, (values != 0).any(axis=1))
        for number, values in enumerate(data.modalities(), start=1)
    }
    parts = (Interactions(*getattr(data, part)) for part in PARTS)
    ids = IdMap(np.arange(data.n_users), USER), IdMap(np.arange(data.n_items), ITEM)
    return Dataset("peers", *ids, *parts, features=features, info={"split": {"method": "label"}})


RUNNER = LirdrecRunner
