"""`Job`: the data and settings of one call of `fit`, which trains from scratch, refits or continues an earlier run."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lirdrec.config import to_dict
from lirdrec.data.dataset import Dataset
from lirdrec.errors import ConfigError
from lirdrec.evaluation.metrics import split_name
from lirdrec.evaluation.scorer_evaluation import GroundTruth, evaluate_scorer
from lirdrec.models.registry import model_for_config
from lirdrec.option_names import option_text
from lirdrec.ranking.sharded_scorer import Rankable
from lirdrec.recommender.new_item_encoder import NEW_ITEMS, NewItemEncoder
from lirdrec.recommender.presets import preset as preset_of
from lirdrec.recommender.refit_settings import (
    StopAfter,
    continued_training,
    full_epochs,
    merge_splits,
    refit_settings,
    settings_of,
)
from lirdrec.recommender.state import RunState
from lirdrec.recommender.warm_start import (
    check_features,
    check_parameters,
    read_earlier,
    run_name,
    weights_digest,
    without_trained,
)
from lirdrec.training.callbacks import Callback
from lirdrec.training.config import TrainConfig
from lirdrec.training.loop import Validate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The dataset and settings of one call of `fit`.

    Attributes:
        dataset: the data.
        config: the model config.
        training: the training options, with the batch size as a number.
        automatic: whether batch size and learning rate were computed from the number of pairs.
        validate: function from a scorer to its validation metrics; None: no validation.
        refit: the name of the earlier run whose settings are used for a refit, or None.
        start: the earlier run whose parameters the training starts from, or None.
        full_epochs: if `refit` or `start` is given, the number of epochs of the training from scratch of that run.
        progress: whether to show progress.
        callbacks: the callbacks that the caller gave.
        calibrate: whether simulated launches calibrate the encoder of new items.
        encoder: the encoder of new items of the earlier run, for a training without validation or calibration.
    """

    dataset: Dataset
    config: Any
    training: TrainConfig
    automatic: bool
    validate: Validate | None
    refit: str | None
    start: RunState | None
    full_epochs: int | None
    progress: bool
    callbacks: tuple[Callback, ...]
    calibrate: bool = True
    encoder: NewItemEncoder | None = None


def make_job(
    dataset: Dataset,
    config: Any,
    training: TrainConfig,
    progress: bool,
    callbacks: tuple[Callback, ...],
    start: RunState | None = None,
) -> Job:
    """Make the job of a training with these configs, from scratch or from the parameters of an earlier run `start`.

    If the dataset has few items, the metric that chooses the best epoch gets a smaller cut-off, with a warning.
    """
    metric = fitting_metric(dataset, training.metric)
    if metric != training.metric:
        log.warning("%s has few items: %s chooses the best epoch instead of %s", dataset.name, metric, training.metric)
        training = replace(training, metric=metric)
    automatic = training.batch_size == "auto"
    training = training.resolved(len(dataset.train.users))
    validate = validation(dataset, metric)
    epochs, encoder = (None, None) if start is None else (full_epochs(start), _earlier_encoder(start))
    settings = (dataset, config, training, automatic, validate)
    return Job(*settings, None, start, epochs, progress, callbacks, encoder=encoder)


def _earlier_encoder(state: RunState) -> NewItemEncoder | None:
    return NewItemEncoder.from_info(state.info.get(NEW_ITEMS))


def refit_job(dataset: Dataset, run: Any, training: Any, progress: bool, callbacks: tuple[Callback, ...]) -> Job:
    """Make the job of a refit: train with the settings of an earlier run on all interactions of the dataset.

    Raises:
        ConfigError: `training` is given.
        RunFolderError: see `refit_settings`.
        DataError: see `check_features`.
    """
    if training is not None:
        raise ConfigError("refit takes the training options of the earlier run; leave out training")
    state = read_earlier(run)
    found, start = refit_settings(state)
    options = found.training
    if found.best_epoch is not None and options.schedule == "cosine":
        callbacks = (*callbacks, StopAfter(found.best_epoch))
    elif found.best_epoch is not None:
        options = replace(options, epochs=found.best_epoch)
    if start is not None:
        check_features(dataset, start, found.config)
    whole = merge_splits(dataset)
    name, epochs = run_name(state), None if found.best_epoch is None else full_epochs(state)
    settings = (whole, found.config, options.resolved(len(whole.train.users)), False, None)
    return Job(*settings, name, start, epochs, progress, callbacks, encoder=_earlier_encoder(state))


def warm_job(dataset: Dataset, run: Any, training: Any, progress: bool, callbacks: tuple[Callback, ...]) -> Job:
    """Make the job of a training that continues an earlier run on newer data.

    A model in closed form has no parameters to continue from: its job is a training from scratch.

    Raises:
        ConfigError: there are no validation interactions, and no `training` with a number of epochs.
        CapabilityError, DataError: see `check_parameters`, `check_features` and `without_trained`.
    """
    _check_training(training)
    state = read_earlier(run)
    found = settings_of(state)
    if found.best_epoch is None and state.info.get("training") is None:
        log.info(
            "%s is computed in closed form, without parameters to start from: it is computed again",
            state.info.get("model"),
        )
        return make_job(dataset, found.config, training or found.training, progress, callbacks)
    check_parameters(state)
    check_features(dataset, state, found.config)
    if not len(dataset.valid) and training is None:
        raise ConfigError(
            f"{dataset.name} has no validation interactions, which choose the number of epochs; hold some out"
            " (lirdrec prepare --split temporal), or give the number of epochs (epochs)"
        )
    options = continued_training(state) if training is None else training
    return make_job(without_trained(dataset, state), found.config, options, progress, callbacks, state)


def _check_training(training: Any) -> None:
    if training is not None and not isinstance(training, TrainConfig):
        raise ConfigError(
            f"fit: training is of type {type(training).__name__}; give lirdrec.TrainConfig(…), for instance"
            " training=lirdrec.TrainConfig(epochs=20)"
        )


def resolve_configs(config: Any, model: str | None, training: Any, preset: str) -> tuple[Any, TrainConfig]:
    """Return the configs of model and training that the arguments of `fit` give.

    A config that is not given comes from the preset. Without a model, it is LIRDRec.

    Raises:
        ConfigError: the arguments contradict each other, or have a wrong type.
    """
    if isinstance(config, str):
        if model not in (None, config):
            raise ConfigError(f"fit: two models are given, '{config}' and model='{model}'; give one of them")
        config, model = None, config
    _check_training(training)
    if config is None:
        base_config, base_training = preset_of("lirdrec" if model is None else model, preset)
    else:
        name = model_for_config(config).name
        if model not in (None, name):
            raise ConfigError(f"fit: config is of the model '{name}', but model='{model}' is given; give one of them")
        base_config, base_training = preset_of(name, preset, getattr(config, "loss", None))
    return (base_config if config is None else config), (base_training if training is None else training)


def fitting_metric(dataset: Dataset, metric: str) -> str:
    """Return the metric that chooses the best epoch: `metric`, or with a smaller cut-off if too few items are ranked.

    If fewer items are ranked than its cut-off, the cut-off is half of their number.

    Raises:
        ConfigError: it is not a metric with a cut-off, such as recall@20.
    """
    name, k = split_name(metric)
    cold = _cold_candidates(dataset)
    n_ranked = dataset.n_items if cold is None else len(cold)
    return metric if k <= n_ranked else f"{name}@{max(1, n_ranked // 2)}"


def _cold_candidates(dataset: Dataset) -> np.ndarray | None:
    """Return the rows `(n,)` of the items without training interactions if the validation has only such items.

    Else, or without validation interactions, return None: all items are ranked.
    """
    is_trained = np.zeros(dataset.n_items, bool)
    is_trained[dataset.train.items] = True
    if not len(dataset.valid) or is_trained[dataset.valid.items].any():
        return None
    return np.flatnonzero(~is_trained)


def validation(dataset: Dataset, metric: str) -> Validate | None:
    """Return a function from a scorer to its validation metrics: `metric`, and recall and ndcg with the same cut-off.

    Returns None, with a warning, if there are no validation interactions.
    """
    name, k = split_name(metric)
    train_pairs, valid_pairs = (
        (torch.from_numpy(np.array(split.users)), torch.from_numpy(np.array(split.items)))
        for split in (dataset.train, dataset.valid)
    )
    cold = _cold_candidates(dataset)
    candidates = None if cold is None else torch.from_numpy(cold)
    truth = GroundTruth.from_pairs(train_pairs, valid_pairs, dataset.n_users, candidates=candidates)
    if not len(truth.users):
        log.warning(
            "%s has no validation pairs: training cannot stop early, and the last epoch is saved; "
            "to train on everything, refit a run that had validation (%s)",
            dataset.name,
            option_text("refit", "RUN"),
        )
        return None
    names = tuple(dict.fromkeys((name, "recall", "ndcg")))
    ground_truth: dict[torch.device, GroundTruth] = {}

    def validate(scorer: Rankable) -> dict[str, float]:
        device = next(iter(scorer.tensors().values())).device
        if device not in ground_truth:
            ground_truth[device] = truth.to(device)
        return evaluate_scorer(scorer, ground_truth[device], names, (k,)).values

    return validate


def fingerprint(job: Job) -> dict[str, Any]:
    """Return the settings that must be the same to resume from a checkpoint, and a hash of the data.

    Epochs (except with the schedule "cosine"), patience, checkpoint_every and tensorboard may change.
    """
    dataset, training = job.dataset, job.training
    digest = hashlib.sha256()
    for array in (dataset.train.users, dataset.train.items, dataset.valid.users, dataset.valid.items):
        digest.update(np.ascontiguousarray(array).tobytes())
    if dataset.train.weights is not None:
        digest.update(np.ascontiguousarray(dataset.train.weights).tobytes())
    if model_for_config(job.config).capabilities.ordered and dataset.train.timestamps is not None:
        digest.update(np.ascontiguousarray(dataset.train.timestamps).tobytes())
    for name in sorted(dataset.features):
        matrix = dataset.features[name]
        digest.update(f"{name}{matrix.values.shape}".encode())
        digest.update(np.ascontiguousarray(matrix.values[:: max(1, len(matrix.values) // 64)]).tobytes())
    free = ("epochs", "patience", "checkpoint_every", "tensorboard")
    options = {f"training.{key}": value for key, value in to_dict(training).items() if key not in free}
    if training.schedule == "cosine":
        options["training.epochs"] = training.epochs
    if training.schedule != "exponential":  # then these two options have no effect
        del options["training.decay"], options["training.decay_epochs"]
    model = {f"model.{key}": value for key, value in to_dict(job.config).items()}
    start = {"warm_start": None if job.start is None else weights_digest(job.start)}
    return {"model": model_for_config(job.config).name, **model, **options, "dataset": digest.hexdigest()[:16], **start}
