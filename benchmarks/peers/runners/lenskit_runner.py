"""LensKit: item kNN and ALS for implicit feedback."""

from __future__ import annotations

import numpy as np
import pandas as pd
from lenskit.als import ImplicitMFScorer
from lenskit.batch import recommend
from lenskit.data import from_interactions_df
from lenskit.knn import ItemKNNScorer
from lenskit.pipeline import topn_pipeline
from lenskit.training import TrainingOptions

from peers.runner import EpochLog, ListRunner

PACKAGES = ("lenskit", "torch", "numpy", "scipy")


class LenskitRunner(ListRunner):
    """Item kNN and ALS of LensKit."""

    def fit(self, epochs: EpochLog) -> None:
        s = self.settings
        data = from_interactions_df(pd.DataFrame({"user_id": self.data.train[0], "item_id": self.data.train[1]}))
        if s.model == "item_knn":
            scorer = ItemKNNScorer(feedback="implicit", **s.options)
        else:
            scorer = ImplicitMFScorer(epochs=s.epochs, **s.options)
        self.pipeline = topn_pipeline(scorer, n=20)
        self.pipeline.train(data, TrainingOptions(rng=s.seed))

    def top(self, users: np.ndarray, k: int) -> np.ndarray:
        lists = np.full((self.data.n_users, k), -1)
        known = np.intersect1d(users, self.data.train[0])
        for key, items in recommend(self.pipeline, known.tolist(), k, n_jobs=self.settings.threads):
            found = items.ids()
            lists[key.user_id, : len(found)] = found
        return lists[users]


RUNNER = LenskitRunner
