"""`TrainConfig`: the options of the training loop, the same for all models trained by gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError


@dataclass(frozen=True)
@validated
class TrainConfig:
    """Options of the training loop. The defaults are the paper's setting (`preset="paper"`).

    >>> TrainConfig(epochs=20, metric="ndcg@20").patience
    20
    """

    epochs: int = option(1000, "at most this many passes over the training pairs")
    batch_size: int = option(2048, "training pairs per step; each step propagates over the complete graph")
    order: Literal["pairs", "users"] = option(
        "pairs", "what is shuffled; users: all pairs of a user in one batch; softmax then scores each user once"
    )
    learning_rate: float = option(1e-4, "of Adam, at the end of the warm-up")
    schedule: Literal["constant", "cosine", "exponential"] = option(
        "constant", "learning rate over the epochs; cosine falls to zero; exponential: decay, decay_epochs"
    )
    decay: float = option(0.96, "exponential: factor of the learning rate in every decay_epochs epochs, in small steps")
    decay_epochs: int = option(50, "exponential: epochs in which the learning rate falls by the factor decay")
    warmup_epochs: int = option(0, "epochs over which the learning rate rises linearly")
    gradient_clip: float | None = option(None, "largest norm of the gradient; none: no clipping")
    metric: str = option("recall@20", "validation metric that chooses the best epoch")
    patience: int = option(20, "stop at the epoch after this many in a row without a better metric")
    evaluate_every: int = option(1, "epochs between validations")
    checkpoint_every: int = option(1, "epochs between checkpoints, if there is a run folder")
    precision: Literal["float32", "bfloat16"] = option("float32", "bfloat16: autocast of the dense products")
    seed: int = option(0, "of the initialization, the shuffling and the negatives")
    tensorboard: bool = option(False, "also write TensorBoard events (needs lirdrec[tensorboard])")

    def __post_init__(self) -> None:
        check_minimum(self, 1, "epochs", "batch_size", "evaluate_every", "checkpoint_every", "decay_epochs")
        check_minimum(self, 0, "patience", "warmup_epochs", "seed")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be more than 0")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay is {self.decay}; it must be more than 0 and at most 1")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ConfigError(f"gradient_clip is {self.gradient_clip}; it must be more than 0, or none")


def still_improving(best_epoch: int, epochs: int) -> bool:
    """Whether the best epoch is among the last tenth of the epochs, so that more epochs may give a better one."""
    return best_epoch > epochs - math.ceil(epochs / 10)
