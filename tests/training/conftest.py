"""A model small enough to follow by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from lirdrec.models.base import Capabilities, Model, ModelInputs
from lirdrec.ranking.scorers import VectorScorer


@dataclass(frozen=True)
class SlopeConfig:
    pass


class Slope(Model):
    """One parameter vector `w`, whose gradient is `slopes[epoch - 1]` everywhere (the last one from then on).

    Under Adam with an unchanging gradient every step moves `w` by the learning rate.
    """

    name = "slope"
    Config = SlopeConfig
    capabilities = Capabilities(needs_features=False, cold_items=False, new_users=False, training="gradient")

    def __init__(self, n_pairs: int = 6, slopes: tuple[float, ...] = (1.0,), noise: float = 0.0):
        users = torch.arange(n_pairs)
        super().__init__(ModelInputs(n_pairs, n_pairs, users, users, {}, lambda name, k: users), SlopeConfig())
        self.w = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))
        self.slopes, self.noise = slopes, noise
        self.batches: list[tuple[list[int], list[int], list[int]]] = []

    def start_epoch(self, epoch: int) -> None:
        self.epochs.fill_(epoch)

    def loss(self, users, positives, negatives):
        self.batches.append((users.tolist(), positives.tolist(), negatives.tolist()))
        slope = self.slopes[min(int(self.epochs), len(self.slopes)) - 1]
        noise = self.noise * (positives - negatives).double().mean()
        return {"loss": (slope + noise) * self.w.sum() + users.double().mean(), "users": users.double().mean()}

    def scorer(self) -> VectorScorer:
        return VectorScorer(self.w.detach()[None].clone(), self.w.detach()[None].clone())


@pytest.fixture
def slope() -> type[Slope]:
    return Slope
