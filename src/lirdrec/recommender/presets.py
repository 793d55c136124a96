"""Presets: the default settings of `fit` and `lirdrec train` for each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lirdrec.config import make_config
from lirdrec.errors import ConfigError
from lirdrec.models.registry import model_type
from lirdrec.training.config import TrainConfig

PRESETS = ("fast", "paper")
# learning rates for batches of 2,048; the rates of "fast" and of the first tuning trial are derived from them
PUBLISHED_RATES = {"lirdrec": 1e-4}
COMMON_RATE = 1e-3  # learning rate of all other models in the library MMRec, unless it is tuned
FAST_BATCH = 8192
SOFTMAX_RATE = 2e-3
SEQUENCE_BATCH, SEQUENCE_RATE = 1024, 1e-3  # number of targets in a batch of sequences (docs/sequential.md)
# options with the softmax loss; chosen on the validation parts of TikTok, MovieLens and Sports (docs/results.md)
SOFTMAX_OPTIONS: Mapping[str, Mapping[str, Any]] = {"lirdrec": {"n_layers": 4, "scoring": "cosine"}}
# options of "fast" with any loss; chosen on the same parts of MovieLens, Scientific and Sports (docs/performance.md)
FAST_OPTIONS: Mapping[str, Mapping[str, Any]] = {"lirdrec": {"feature_size": 256}}


def preset(model: str = "lirdrec", name: str = "fast", loss: str | None = None) -> tuple[Any, TrainConfig]:
    """Return the model config and the training config of a preset.

    Args:
        model: name of a model.
        name: "fast" (the default) or "paper". Fast: the softmax loss where the model offers it, large batches and a
            matching learning rate, for better metrics in less time (docs/performance.md), and for LIRDRec features
            of at most 256 columns. Paper: LIRDRec exactly as in its paper, and every other model with the training
            settings of its public code (`Model.published`).
        loss: a ranking loss instead of the preset's; batch size and learning rate are then chosen for this loss.

    Raises:
        ConfigError: an unknown model or preset, or a loss that the model does not offer.

    >>> config, training = preset("ease")
    >>> config.regularization
    250.0
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset '{name}'; choose one of {', '.join(PRESETS)}")
    model_class = model_type(model)
    offers_losses = "loss" in {field.name for field in fields(model_class.Config)}
    if loss is None and offers_losses:
        loss = "softmax" if name == "fast" else "bpr"
    options: dict[str, Any] = {} if loss is None else {"loss": loss}
    if name == "fast":
        options |= FAST_OPTIONS.get(model, {})
    if loss == "softmax":
        options |= SOFTMAX_OPTIONS.get(model, {})
    config: Any = make_config(model_class.Config, options, "the preset")
    rate = PUBLISHED_RATES.get(model, COMMON_RATE)
    if name == "paper" and loss != "softmax":
        return config, make_config(TrainConfig, dict(model_class.published), "the preset")
    if model_class.capabilities.ordered and model_class.capabilities.training == "gradient":
        return config, TrainConfig(batch_size=SEQUENCE_BATCH, learning_rate=SEQUENCE_RATE)
    if loss == "softmax":
        return config, TrainConfig(batch_size="auto", order="users", learning_rate=SOFTMAX_RATE)
    if not offers_losses:  # an in-batch loss depends on the batch size, so the batch size stays as published
        return config, TrainConfig(learning_rate=rate)
    # the learning rate grows with the square root of the batch size: four times the batch, twice the rate
    return config, TrainConfig(batch_size=FAST_BATCH, learning_rate=2 * rate)
