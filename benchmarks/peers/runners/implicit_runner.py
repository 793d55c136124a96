"""implicit: BPR, ALS and the cosine item-kNN."""

from __future__ import annotations

from typing import Any

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import CosineRecommender

from peers.runner import EpochLog, ListRunner

PACKAGES = ("implicit", "numpy", "scipy")


class ImplicitRunner(ListRunner):
    """BPR, ALS and item kNN of implicit."""

    def fit(self, epochs: EpochLog) -> None:
        s = self.settings
        if s.model == "item_knn":
            self.model: Any = CosineRecommender(num_threads=s.threads, **s.options)
            self.model.fit(self.data.matrix, show_progress=False)
            return
        kind = {"bpr": BayesianPersonalizedRanking, "als": AlternatingLeastSquares}[s.model]
        self.model = kind(iterations=s.epochs, num_threads=s.threads, random_state=s.seed, **s.options)
        self.model.fit(self.data.matrix, show_progress=False, callback=lambda *_: epochs.ended())

    def top(self, users: np.ndarray, k: int) -> np.ndarray:
        items, _ = self.model.recommend(users, self.data.matrix[users], N=k, filter_already_liked_items=True)
        return items.astype(np.int64)


RUNNER = ImplicitRunner
