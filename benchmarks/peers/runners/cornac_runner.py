"""Cornac: BPR, LightGCN and VBPR."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
import torch
from cornac.data import Dataset, ImageModality
from cornac.models import BPR, VBPR, LightGCN

from peers.data import Data
from peers.runner import EpochLog, ListRunner, Settings

PACKAGES = ("cornac", "torch", "numpy", "scipy")


class CornacRunner(ListRunner):
    """BPR, LightGCN and VBPR of Cornac."""

    def __init__(self, data: Data, settings: Settings):
        super().__init__(data, settings)
        # what Cornac and torch import at first use: imports are not counted for any library
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
        if settings.model == "lightgcn":
            os.environ["DGLBACKEND"] = "pytorch"  # or dgl writes a file into the home folder
            importlib.import_module("dgl")
        users, items = (column.tolist() for column in data.train)
        triples = list(zip(users, items, np.ones(len(users)).tolist(), strict=True))
        self.dataset = Dataset.from_uir(triples, seed=settings.seed)
        # its rows of users and items -> those of the data
        self.users, self.items = (np.array(list(ids)) for ids in (self.dataset.uid_map, self.dataset.iid_map))

    def fit(self, epochs: EpochLog) -> None:
        s = self.settings
        getattr(self, f"fit_{s.model}")(epochs, s)

    def fit_bpr(self, epochs: EpochLog, s: Settings) -> None:
        """One epoch at a time: a second `fit` continues from the parameters and the random state of the model."""
        seed = s.seed if s.threads == 1 else None  # with a seed Cornac takes one thread
        self.model = BPR(max_iter=1, num_threads=s.threads, seed=seed, **s.options)
        for _ in range(s.epochs):
            self.model.fit(self.dataset)
            epochs.ended()

    def fit_lightgcn(self, epochs: EpochLog, s: Settings) -> None:
        class Watched(LightGCN):
            """Cornac asks for the monitored value after each epoch, in order to stop early."""

            def monitor_value(self, *_: Any) -> float:
                epochs.ended()
                self.asked = getattr(self, "asked", 0.0) + 1  # rises: never stops
                return self.asked

        self.model = Watched(
            num_epochs=s.epochs, seed=s.seed, early_stopping={"min_delta": 0.0, "patience": s.epochs + 1}, **s.options
        )
        self.model.fit(self.dataset, self.dataset)

    def fit_vbpr(self, epochs: EpochLog, s: Settings) -> None:
        assert self.data.features is not None
        images = ImageModality(features=self.data.features[self.items], ids=self.items.tolist(), normalized=False)
        images.build(id_map=self.dataset.iid_map)
        self.dataset.add_modalities(item_image=images)
        self.model = VBPR(n_epochs=s.epochs, seed=s.seed, use_gpu=False, **s.options)
        self.model.fit(self.dataset)

    def top(self, users: np.ndarray, k: int) -> np.ndarray:
        lists = np.full((len(users), k), -1)
        for row, user in enumerate(users.tolist()):
            if user in self.dataset.uid_map:
                found = self.model.recommend(user, k=k, remove_seen=True, train_set=self.dataset)
                lists[row, : len(found)] = found
        return lists


RUNNER = CornacRunner
