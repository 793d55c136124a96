"""Read the settings of an earlier run, to train it again on all interactions (refit) or continue it on newer data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lirdrec.config import make_config, saved_config
from lirdrec.data.column_names import SPLITS
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.errors import RunFolderError
from lirdrec.models.registry import config_type
from lirdrec.recommender.presets import preset
from lirdrec.recommender.state import RunState
from lirdrec.recommender.warm_start import check_parameters, read_earlier, run_name, weights_digest
from lirdrec.training.callbacks import Callback, StopTraining
from lirdrec.training.config import TrainConfig

SHARE = 4  # a continued training takes a quarter of the epochs of the training from scratch


@dataclass(frozen=True)
class EarlierSettings:
    """How an earlier run was trained.

    Attributes:
        config: the model config.
        training: the training config.
        best_epoch: the epoch that validation chose; None for a closed form, or without validation.
        started_from: the run that it continued, if any: {"run": folder, "weights": digest}.
    """

    config: Any
    training: TrainConfig
    best_epoch: int | None
    started_from: Mapping[str, str] | None = None


def settings_of(state: RunState) -> EarlierSettings:
    """Return the settings with which a run was trained.

    Raises:
        RunFolderError: the run does not record its model.
    """
    info, name = state.info, run_name(state)
    if info.get("model") is None:
        raise RunFolderError(f"{name} does not record which model it has; train from scratch")
    kind = config_type(str(info["model"]))
    config: Any = saved_config(kind, dict(info.get("model_config") or {}), name)
    if info.get("training") is None:  # a closed form has no epochs
        seed = info.get("seed")
        training = preset(str(info["model"]))[1]
        return EarlierSettings(config, training if seed is None else replace(training, seed=int(seed)), None)
    training = make_config(TrainConfig, dict(info["training"]), name)
    metrics = info.get("metrics", {})
    best = int(metrics["best_epoch"]) if metrics.get("valid") and metrics.get("best_epoch") else None
    return EarlierSettings(config, training, best, info.get("warm_start"))


def continued_training(state: RunState) -> TrainConfig:
    """Return the options to continue a run on newer data: the options of the run, with a quarter of the epochs.

    Over these epochs the learning rate falls to zero; there is no early stopping (benchmarks/train_on.py).
    """
    training = settings_of(state).training
    epochs = max(1, full_epochs(state) // SHARE)
    return replace(training, schedule="cosine", warmup_epochs=0, epochs=epochs, patience=epochs)


def full_epochs(state: RunState) -> int:
    """Return the number of epochs of the training from scratch from which a run originates.

    Refits and continued trainings record this number, not their own.
    """
    info = state.info
    return int(info.get("full_epochs") or info.get("metrics", {}).get("epochs") or settings_of(state).training.epochs)


def refit_settings(state: RunState) -> tuple[EarlierSettings, RunState | None]:
    """Return the settings to refit a run with, and the state of the run that it continued, or None.

    The refit starts from the parameters of that run, too.

    Raises:
        RunFolderError: the run was trained without validation, or the run that it continued is missing or has changed.
        CapabilityError: the run that it continued is slim.
    """
    found, name = settings_of(state), run_name(state)
    if found.best_epoch is None and state.info.get("training") is not None:
        raise RunFolderError(
            f"{name} was trained without validation, so no number of epochs was chosen; give a run with validation"
        )
    if found.started_from is None:
        return found, None
    before = found.started_from.get("run")
    if before is None:
        raise RunFolderError(
            f"{name} continued a recommender that was not saved in a folder, so it cannot be refitted; save that"
            " recommender, and continue the training from its folder"
        )
    first = read_earlier(before)
    check_parameters(first)
    if weights_digest(first) != found.started_from.get("weights"):
        raise RunFolderError(
            f"{name} continued {before}, which has changed since; continue the training from that run again"
        )
    return found, first


class StopAfter(Callback):
    """Stops a training after `epoch`; the option `epochs` stays as it is, since the cosine schedule depends on it."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        if len(history) >= self.epoch:
            raise StopTraining

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        if line["epoch"] >= self.epoch:
            raise StopTraining


def merge_splits(dataset: Dataset) -> Dataset:
    """Return the dataset with all of its interactions in train; validation and test are empty."""
    splits = [dataset.split(name) for name in SPLITS]
    empty = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))
    return replace(
        dataset,
        train=Interactions.concatenate(splits),
        valid=empty,
        test=empty,
        info={**dataset.info, "split": {"method": "none"}},
    )
