"""`fit`: from a dataset to a recommender, for every model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lirdrec.config import to_dict
from lirdrec.data.dataset import Dataset
from lirdrec.data.verification import verify_features
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError
from lirdrec.evaluation.evaluator import GroundTruth, evaluate_scorer
from lirdrec.evaluation.metrics import split_name
from lirdrec.models.base import Model
from lirdrec.models.registry import model_for_config
from lirdrec.ranking.scorers import Scorer
from lirdrec.recommender.inputs import check_size, make_model_inputs
from lirdrec.recommender.presets import preset as preset_of
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.refit import merge_splits, settings_of
from lirdrec.recommender.run_folder import check_new, leave_out, run_lock
from lirdrec.training.callbacks import EpochLines, HistoryLogger, ProgressBar, epoch_progress
from lirdrec.training.checkpoint import CheckpointStore
from lirdrec.training.config import TrainConfig, still_improving
from lirdrec.training.loop import Callback, TrainResult, train

log = logging.getLogger(__name__)
WRITTEN_WHILE_TRAINING = ("history.jsonl", "curves.png")


def fit(
    dataset: Dataset,
    config: Any = None,
    training: TrainConfig | None = None,
    *,
    model: str | None = None,
    preset: str = "fast",
    run: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    refit: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    cache: str | Path | Literal[False] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    callbacks: tuple[Callback, ...] = (),
) -> Recommender:
    """Train a model on a dataset; validation chooses the best epoch, test is not touched.

    Args:
        dataset: what to learn from.
        config: the model's configuration, for instance `LIRDRecConfig(n_layers=2)`; its type says which model.
            A name, `"ease"`, is that model as the preset has it. None: LIRDRec as the preset has it.
        training: options of the training loop; None: as the preset has them for the config's model and loss.
        model: the model's name, where `config` is not given: `fit(dataset, model="ease")`.
        preset: "fast" or "paper".
        run: a folder to keep checkpoints, history and the trained model in; None: only in memory.
        resume: go on with a training that was stopped in `run`.
        overwrite: replace a finished run in `run`.
        refit: an earlier run, whose settings are taken: train on all interactions, validation and test included, for
            as many epochs as were best there. Nothing is left to measure: it is for serving.
        device: "auto" (cuda, else cpu), "cpu", "cuda", "cuda:1" or "mps".
        progress: show a progress bar on stderr; where that is no terminal, a line per epoch.
        cache: folder for neighbour graphs; None: the user's cache folder (`LIRDREC_CACHE` or `~/.cache/lirdrec`);
            False: no cache.
        checkpoint: without `run`: a folder for checkpoints alone, from which the same training goes on when it is
            begun again; written at most every `checkpoint_seconds`.
        callbacks: told of every step and epoch; they may stop the training.

    Returns:
        The recommender with the best parameters.

    Raises:
        ConfigError, CapabilityError: an option or a device that is not there; a model that needs features; `refit`
            beside `config` or `training`.
        RunFolderError: `refit` is no run, or was trained without validation; the run folder holds a finished run, is in
            use, or its checkpoint is of another training; or a feature file of the prepared dataset is not what was
            written.
        TrainingError: the loss is not a number any more.
    """
    if refit is not None:
        if config is not None or training is not None or model is not None:
            raise ConfigError("refit takes the settings of the earlier run; leave out config, model and training")
        config, training = settings_of(refit)
        dataset = merge_splits(dataset)
    config, training = _chosen(config, model, training, preset)
    metric = fitting_metric(dataset, training.metric)
    if metric != training.metric:
        log.warning("%s has few items: training looks at %s instead of %s", dataset.name, metric, training.metric)
        training = replace(training, metric=metric)
    validate = None if refit is not None else _validation(dataset, metric)
    chosen = resolve_device(device)

    if run is not None:
        check_new(run, overwrite or resume)
    check_size(dataset, config, chosen)
    kind = model_for_config(config)
    if kind.capabilities.needs_features:  # they are read whole in any case
        verify_features(dataset, getattr(config, "modalities", None))
    inputs = make_model_inputs(dataset, chosen, cache, training.seed, progress)
    built = kind(inputs, config)  # before the folder is touched: a bad option must leave nothing behind
    if run is None:
        chest = None
        if checkpoint is not None:
            chest = CheckpointStore(Path(checkpoint), _fingerprint(dataset, config, training), checkpoint_seconds)
        return _fitted(built, dataset, training, validate, None, chest, True, progress, callbacks, refit)
    folder = Path(run)
    with run_lock(folder):
        check_new(run, overwrite or resume)  # another process may have written it since
        leave_out(folder, WRITTEN_WHILE_TRAINING)
        store = CheckpointStore(folder / "checkpoint", _fingerprint(dataset, config, training))
        if not resume:
            _forget(store)
        recommender = _fitted(built, dataset, training, validate, folder, store, resume, progress, callbacks, refit)
        recommender.save(folder, overwrite=True)
    return recommender


def _chosen(config: Any, model: str | None, training: Any, preset: str) -> tuple[Any, TrainConfig]:
    """The configurations of model and training, from a model's name where it is given instead of its configuration."""
    if isinstance(config, str):
        if model not in (None, config):
            raise ConfigError(f"fit: the model is '{config}' and model='{model}'; give one of them")
        config, model = None, config
    if training is not None and not isinstance(training, TrainConfig):
        raise ConfigError(
            f"fit: training is of type {type(training).__name__}; give lirdrec.TrainConfig(…), for instance"
            " training=lirdrec.TrainConfig(epochs=20)"
        )
    if config is None:
        base_config, base_training = preset_of("lirdrec" if model is None else model, preset)
    else:
        name = model_for_config(config).name
        if model not in (None, name):
            raise ConfigError(f"fit: the configuration is of the model '{name}', and model='{model}'; give one of them")
        base_config, base_training = preset_of(name, preset, getattr(config, "loss", None))
    return (base_config if config is None else config), (base_training if training is None else training)


def _fitted(
    model: Model,
    dataset: Dataset,
    training: TrainConfig,
    validate: Callable[[Scorer], dict[str, float]] | None,
    folder: Path | None = None,
    store: CheckpointStore | None = None,
    resume: bool = False,
    progress: bool = False,
    others: tuple[Callback, ...] = (),
    refit: str | Path | None = None,
) -> Recommender:
    info: dict[str, Any] = {"seed": training.seed}
    if refit is not None:
        info["refit"] = str(refit)
    if model.capabilities.training == "closed_form":
        model.solve()
        if validate is not None:
            info["metrics"] = {"valid": validate(model.scorer())}
        return Recommender.from_training(model, dataset, info=info)
    callbacks: list[Callback] = list(others)
    if folder is not None:
        callbacks.append(HistoryLogger(folder, training.metric, training.tensorboard))
    if progress:
        callbacks.append(epoch_progress(training.metric, training.epochs))
    try:
        found = train(model, training, validate, store=store, resume=resume, callbacks=tuple(callbacks))
    finally:
        for callback in callbacks:
            if isinstance(callback, (ProgressBar, EpochLines, HistoryLogger)):
                callback.stop()
    if validate is not None and found.stopped == "epochs" and still_improving(found.best_epoch, len(found.history)):
        log.warning(
            "the training was still improving when epochs=%d ended it (best in epoch %d): give it more epochs",
            training.epochs,
            found.best_epoch,
        )
    info |= {"training": to_dict(training), "stopped": found.stopped, "metrics": _best_line(found)}
    return Recommender.from_training(model, dataset, info=info)


def _best_line(found: TrainResult) -> dict[str, Any]:
    best = next((line for line in found.history if line["epoch"] == found.best_epoch), {})
    return {"best_epoch": found.best_epoch, "epochs": len(found.history), "valid": best.get("valid", {})}


def fitting_metric(dataset: Dataset, metric: str) -> str:
    """The metric, or the same with a cut-off of half of the items where these are fewer than its own.

    Raises:
        ConfigError: no known metric with a cut-off.
    """
    name, k = split_name(metric)
    n_ranked = dataset.n_items
    cold = np.setdiff1d(dataset.valid.items, dataset.train.items)
    if len(cold) and len(cold) == len(np.unique(dataset.valid.items)):
        n_ranked -= len(np.unique(dataset.train.items))
    return metric if k <= n_ranked else f"{name}@{max(1, n_ranked // 2)}"


def _validation(dataset: Dataset, metric: str) -> Callable[[Scorer], dict[str, float]] | None:
    name, k = split_name(metric)
    train_pairs, valid_pairs = (
        (torch.from_numpy(np.array(part.users)), torch.from_numpy(np.array(part.items)))
        for part in (dataset.train, dataset.valid)
    )
    cold = np.setdiff1d(dataset.valid.items, dataset.train.items)
    candidates = None
    if len(dataset.valid.items) and len(cold) == len(np.unique(dataset.valid.items)):
        # a cold-start split: only unseen items are held out, so only they are ranked
        candidates = torch.from_numpy(np.setdiff1d(np.arange(dataset.n_items), dataset.train.items))
    truth = GroundTruth.of(train_pairs, valid_pairs, dataset.n_users, candidates=candidates)
    if not len(truth.users):
        log.warning(
            "%s has no validation pairs: training cannot stop early, the last epoch is taken; "
            "to train on everything, refit a run that had validation (--refit RUN)",
            dataset.name,
        )
        return None
    names = tuple(dict.fromkeys((name, "recall", "ndcg")))
    places: dict[torch.device, GroundTruth] = {}

    def validate(scorer: Scorer) -> dict[str, float]:
        device = next(iter(scorer.tensors().values())).device
        if device not in places:
            chosen = None if candidates is None else candidates.to(device)
            places[device] = GroundTruth(
                truth.users.to(device), truth.relevant.to(device), truth.seen.to(device), chosen
            )
        return evaluate_scorer(scorer, places[device], names, (k,)).values

    return validate


def _fingerprint(dataset: Dataset, config: Any, training: TrainConfig) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on with; more epochs or patience may be asked for."""
    digest = hashlib.sha256()
    for array in (dataset.train.users, dataset.train.items, dataset.valid.users, dataset.valid.items):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name in sorted(dataset.features):
        matrix = dataset.features[name]
        digest.update(f"{name}{matrix.values.shape}".encode())
        digest.update(np.ascontiguousarray(matrix.values[:: max(1, len(matrix.values) // 64)]).tobytes())
    free = ("epochs", "patience", "checkpoint_every", "tensorboard")
    options = {f"training.{key}": value for key, value in to_dict(training).items() if key not in free}
    if training.schedule == "cosine":
        options["training.epochs"] = training.epochs
    if training.schedule != "exponential":  # then they have no effect
        del options["training.decay"], options["training.decay_epochs"]
    model = {f"model.{key}": value for key, value in to_dict(config).items()}
    return {"model": model_for_config(config).name, **model, **options, "dataset": digest.hexdigest()[:16]}


def _forget(store: CheckpointStore) -> None:
    for file in store.folder.glob("*.safetensors"):
        file.unlink()
