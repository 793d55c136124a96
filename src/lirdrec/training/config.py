"""`TrainConfig`: the options of the training loop, the same for all models trained by gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError

AUTO_BATCH = 8192  # the smallest batch of batch_size="auto", and the one that its learning rate is for
AUTO_STEPS = 10  # steps of an epoch, if batches are larger than AUTO_BATCH then
AUTO_RATE_POWER = 0.3  # a batch n times as large has a learning rate n^0.3 times as large; twice for n = 10


@dataclass(frozen=True)
@validated
class TrainConfig:
    """Options of the training loop. The defaults are the paper's setting (`preset="paper"`).

    >>> TrainConfig(epochs=20, metric="ndcg@20").patience
    20
    """

    epochs: int = option(1000, "largest number of passes over the training pairs")
    batch_size: int | Literal["auto"] = option(
        2048,
        "training pairs per step (each step computes the whole graph); auto: 8192, or a tenth of all pairs if more",
    )
    order: Literal["pairs", "users"] = option(
        "pairs", "what is shuffled; users: the pairs of a user stay together, so that softmax scores each user once"
    )
    learning_rate: float = option(
        1e-4, "rate of Adam after the warm-up; batch_size=auto multiplies it by (pairs per step / 8192)^0.3"
    )
    schedule: Literal["constant", "cosine", "exponential"] = option(
        "constant", "change of the learning rate; cosine: it falls to zero; exponential: see decay and decay_epochs"
    )
    decay: float = option(0.96, "exponential: factor of the learning rate in decay_epochs epochs, a little in each")
    decay_epochs: int = option(50, "exponential: epochs in which the learning rate falls by the factor decay")
    warmup_epochs: int = option(0, "epochs over which the learning rate rises linearly")
    gradient_clip: float | None = option(None, "largest norm of the gradient; none: no clipping")
    metric: str = option("recall@20", "validation metric that chooses the best epoch")
    patience: int = option(20, "stop after more than this many validations in a row without a better metric")
    evaluate_every: int = option(1, "epochs between validations")
    checkpoint_every: int = option(1, "epochs between checkpoints, if there is a run folder")
    precision: Literal["float32", "bfloat16"] = option("float32", "bfloat16: compute dense products in bfloat16")
    seed: int = option(0, "seed of the initialization, the shuffling and the negatives")
    tensorboard: bool = option(False, "also write TensorBoard events (needs lirdrec[tensorboard])")

    def __post_init__(self) -> None:
        check_minimum(self, 1, "epochs", "evaluate_every", "checkpoint_every", "decay_epochs")
        if self.batch_size != "auto":
            check_minimum(self, 1, "batch_size")
        check_minimum(self, 0, "patience", "warmup_epochs", "seed")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be more than 0 and finite")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay is {self.decay}; it must be more than 0 and at most 1")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ConfigError(f"gradient_clip is {self.gradient_clip}; it must be more than 0, or none")

    def pairs_per_step(self, n_pairs: int) -> int:
        """Return the batch size as a number; with "auto" it depends on the number of training pairs `n_pairs`."""
        if self.batch_size == "auto":
            return max(AUTO_BATCH, math.ceil(n_pairs / AUTO_STEPS))
        return self.batch_size

    def resolved(self, n_pairs: int) -> TrainConfig:
        """Return the options with a number in place of batch_size="auto", and the learning rate for this batch size.

        With "auto" an epoch has at most ten steps, for any number of pairs. Each step computes the graph of all pairs.
        So the time of an epoch is proportional to the number of pairs; with a fixed batch size it would be proportional
        to the square of this number.

        >>> config = TrainConfig(batch_size="auto", learning_rate=2e-3).resolved(800_000)
        >>> config.batch_size, round(config.learning_rate, 5)
        (80000, 0.00396)
        """
        if self.batch_size != "auto":
            return self
        size = self.pairs_per_step(n_pairs)
        return replace(self, batch_size=size, learning_rate=self.learning_rate * (size / AUTO_BATCH) ** AUTO_RATE_POWER)


def still_improving(best_epoch: int, epochs: int) -> bool:
    """Return whether the best epoch is in the last tenth of the epochs, so that more epochs may be better."""
    return best_epoch > epochs - math.ceil(epochs / 10)
