"""Named settings: what `fit` and `lirdrec train` use where nothing else is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lirdrec.config import make
from lirdrec.errors import ConfigError
from lirdrec.models.registry import model_type
from lirdrec.training.config import TrainConfig

PRESETS = ("fast", "paper")
# learning rates at batches of 2,048, from which the fast preset's and the first of a tuning come
PUBLISHED_RATES = {"lirdrec": 1e-4}
COMMON_RATE = 1e-3  # of all other models in MMRec, where it is not searched
FAST_BATCH = 8192
SOFTMAX_RATE = 2e-3
# with softmax; chosen on the validation parts of TikTok, MovieLens and Sports (docs/results.md)
SOFTMAX_OPTIONS: Mapping[str, Mapping[str, Any]] = {"lirdrec": {"n_layers": 4, "scoring": "cosine"}}


def preset(model: str = "lirdrec", name: str = "fast", loss: str | None = None) -> tuple[Any, TrainConfig]:
    """Model config and training config of a preset.

    Args:
        model: name of a model.
        name: "fast" (the default everywhere): softmax where the model has the choice, large batches and a learning rate
            to match: better figures in a fraction of the time (docs/performance.md); "paper": the exact setting of
            the LIRDRec paper, for other models that of public code (`published` of the model, sources in its file).
        loss: another ranking loss than the preset's; batch and learning rate are then those that suit it.

    Raises:
        ConfigError: an unknown model or preset, or a loss that the model has not.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset '{name}'; choose one of {', '.join(PRESETS)}")
    found = model_type(model)
    kind = found.Config
    chooses = "loss" in {field.name for field in fields(kind)}
    if loss is None and chooses:
        loss = "softmax" if name == "fast" else "bpr"
    options = {} if loss is None else {"loss": loss}
    if loss == "softmax":
        options |= SOFTMAX_OPTIONS.get(model, {})
    config: Any = make(kind, options, "the preset")
    rate = PUBLISHED_RATES.get(model, COMMON_RATE)
    if name == "paper" and loss != "softmax":
        return config, make(TrainConfig, dict(found.published), "the preset")
    if loss == "softmax":
        return config, TrainConfig(batch_size=FAST_BATCH, order="users", learning_rate=SOFTMAX_RATE)
    if not chooses:  # a loss within the batch changes its meaning with the batch
        return config, TrainConfig(learning_rate=rate)
    # four times the batch, twice the rate: the root of the ratio
    return config, TrainConfig(batch_size=FAST_BATCH, learning_rate=2 * rate)
