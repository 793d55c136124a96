"""RecTools: EASE, and iALS by its wrapper of implicit."""

from __future__ import annotations

import numpy as np
import pandas as pd
from implicit.als import AlternatingLeastSquares
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel, ImplicitALSWrapperModel

from peers.data import Data
from peers.runner import EpochLog, ListRunner, Settings

PACKAGES = ("rectools", "numpy", "scipy", "pandas")


class RectoolsRunner(ListRunner):
    """EASE and iALS of RecTools."""

    def __init__(self, data: Data, settings: Settings):
        super().__init__(data, settings)
        columns = {Columns.User: data.train[0], Columns.Item: data.train[1], Columns.Weight: 1.0}
        columns[Columns.Datetime] = pd.Timestamp("2020-01-01")
        self.dataset = Dataset.construct(pd.DataFrame(columns))

    def fit(self, epochs: EpochLog) -> None:
        s = self.settings
        if s.model == "ease":
            self.model = EASEModel(recommend_n_threads=s.threads, **s.options)
        else:
            als = AlternatingLeastSquares(iterations=s.epochs, num_threads=s.threads, random_state=s.seed, **s.options)
            self.model = ImplicitALSWrapperModel(als)
        self.model.fit(self.dataset)

    def top(self, users: np.ndarray, k: int) -> np.ndarray:
        lists = np.full((self.data.n_users, k), -1)
        known = np.intersect1d(users, self.data.train[0])
        found = self.model.recommend(known, self.dataset, k=k, filter_viewed=True)
        lists[found[Columns.User].to_numpy(), found[Columns.Rank].to_numpy() - 1] = found[Columns.Item]
        return lists[users]


RUNNER = RectoolsRunner
