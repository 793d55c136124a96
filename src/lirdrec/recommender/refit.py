"""Settings and data to refit a run: train on all interactions for the number of epochs that validation chose before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.schema import SPLITS
from lirdrec.errors import RunFolderError
from lirdrec.models.registry import config_type
from lirdrec.recommender.presets import preset
from lirdrec.recommender.serialization import read_run
from lirdrec.training.config import TrainConfig


def settings_of(run: str | Path) -> tuple[Any, TrainConfig]:
    """The model config and the training config of an earlier run, with its best epoch as the number of epochs.

    Raises:
        RunFolderError: there is no such run, or it was trained without validation.
    """
    info = read_run(run).info
    kind = config_type(str(info.get("model")))
    config: Any = make_config(kind, dict(info.get("model_config") or {}), f"{run}")
    if info.get("training") is None:  # a closed form has no epochs
        return config, preset(str(info.get("model")))[1]
    metrics = info.get("metrics", {})
    if not metrics.get("valid") or not metrics.get("best_epoch"):
        raise RunFolderError(
            f"{run}: was trained without validation, so no number of epochs was chosen; name a run that had one"
        )
    training = make_config(TrainConfig, dict(info["training"]), f"{run}")
    return config, replace(training, epochs=int(metrics["best_epoch"]))


def merge_splits(dataset: Dataset) -> Dataset:
    """The dataset with all of its interactions in train; validation and test are empty."""
    splits = [dataset.split(name) for name in SPLITS]
    empty = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))
    return replace(
        dataset,
        train=Interactions.concatenate(splits),
        valid=empty,
        test=empty,
        info={**dataset.info, "split": {"method": "none"}},
    )
