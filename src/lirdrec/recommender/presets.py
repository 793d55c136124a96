"""Named settings: what `fit` and `lirdrec train` use where nothing else is said."""

from __future__ import annotations

from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.models.registry import config_type
from lirdrec.training.config import TrainConfig

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"batch_size": 8192, "learning_rate": 2e-4},
    "paper": {},
}


def preset(model: str = "lirdrec", name: str = "fast") -> tuple[Any, TrainConfig]:
    """Model config and training config of a preset.

    Args:
        model: name of a model.
        name: "fast" (the default everywhere): larger batches and a learning rate to match, the same quality in a
            fraction of the time (docs/performance.md); "paper": the exact setting of the paper.

    Raises:
        ConfigError: an unknown model or preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset '{name}'; choose one of {', '.join(PRESETS)}")
    return config_type(model)(), TrainConfig(**PRESETS[name])
