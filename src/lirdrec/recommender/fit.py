"""`fit`: train any model on a dataset and return its recommender."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lirdrec.config import to_dict
from lirdrec.data.dataset import Dataset
from lirdrec.data.history_order import has_clock
from lirdrec.data.storage import verify_features
from lirdrec.devices import resolve_device
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.evaluation.evaluator import GroundTruth, evaluate_scorer
from lirdrec.evaluation.metrics import split_name
from lirdrec.models.base import Model
from lirdrec.models.registry import model_for_config
from lirdrec.nn.principal_components import Projection
from lirdrec.parallel.ranks import ONE, Ranks
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.recommender.feature_size import column_counts, fit_projections
from lirdrec.recommender.inputs import check_size, make_model_inputs
from lirdrec.recommender.launch_simulation import fit_new_item_encoder
from lirdrec.recommender.new_item_encoder import NEW_ITEMS, NewItemEncoder
from lirdrec.recommender.presets import preset as preset_of
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.refit import (
    StopAfter,
    continued_training,
    full_epochs,
    merge_splits,
    refit_settings,
    settings_of,
)
from lirdrec.recommender.run_folder import check_new, leave_out, run_lock
from lirdrec.recommender.state import RunState
from lirdrec.recommender.warm_start import (
    check_features,
    check_parameters,
    read_earlier,
    run_name,
    start_from,
    weights_digest,
    without_trained,
)
from lirdrec.training.callbacks import EpochLines, HistoryLogger, ProgressBar, epoch_progress
from lirdrec.training.checkpoint import CheckpointStore
from lirdrec.training.config import TrainConfig, still_improving
from lirdrec.training.loop import Callback, TrainResult, train
from lirdrec.training.sharded_checkpoint import ShardedCheckpointStore

log = logging.getLogger(__name__)
WRITTEN_WHILE_TRAINING = ("history.jsonl", "curves.png")


@dataclass(frozen=True)
class _Job:
    """The dataset and settings of one call of `fit`.

    Attributes:
        dataset, config, training: data, model config and training options, the batch size as a number.
        automatic: whether batch size and learning rate were computed from the number of pairs.
        validate: validation metrics of a scorer; None: no validation.
        refit: the earlier run whose settings are used, or None.
        start: the earlier run whose parameters the training starts from, or None.
        full_epochs: epochs that the training from scratch took, where `refit` or `start` is given.
        progress: whether to show it.
        callbacks: those of the caller.
        calibrate: whether simulated launches calibrate the encoder of new items.
        encoder: that of the earlier run, for a training without validation.
    """

    dataset: Dataset
    config: Any
    training: TrainConfig
    automatic: bool
    validate: Callable[[Scorer], dict[str, float]] | None
    refit: str | None
    start: RunState | None
    full_epochs: int | None
    progress: bool
    callbacks: tuple[Callback, ...]
    calibrate: bool = True
    encoder: NewItemEncoder | None = None


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
    refit: str | Path | Recommender | None = None,
    warm_start: str | Path | Recommender | None = None,
    device: str = "auto",
    progress: bool = True,
    cache: str | Path | Literal[False] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    callbacks: tuple[Callback, ...] = (),
    calibrate_new_items: bool = True,
) -> Recommender:
    """Train a model on the training interactions of a dataset; its validation interactions choose the best epoch.

    Args:
        config: the model's config, for instance `LIRDRecConfig(n_layers=2)`, or a model's name. None: LIRDRec.
        training: options of the training loop; None: the preset's ("fast" or "paper") for the model and its loss.
        model: the model's name, where `config` is not given: `fit(dataset, model="ease")`.
        run: folder for checkpoints, history and the trained model; None: only in memory.
        resume: continue a training that was stopped in `run`; overwrite: replace a finished run in `run`.
        refit: an earlier run: train with its settings and best number of epochs on all interactions, for serving.
        warm_start: an earlier run on older data: train on from its parameters in less time (docs/updating.md).
        device: "auto" (cuda, else cpu), "cpu", "cuda", "cuda:1" or "mps"; progress: show it on stderr.
        cache: folder for neighbor graphs; None: `LIRDREC_CACHE` or `~/.cache/lirdrec`; False: no cache.
        checkpoint: without `run`: folder for checkpoints, one per `checkpoint_seconds`, from which the call resumes.
        callbacks: called after every step and epoch; calibrate_new_items: see docs/new_items.md.

    Raises:
        ConfigError, CapabilityError: an unknown option or device; a model that needs features; `refit` with `config`.
        DataError: the features are not those of `warm_start`, or it was trained on all validation interactions.
        RunFolderError, TrainingError: a run cannot be used, or a feature file has changed; the loss is not finite.

    >>> recommender = fit(dataset, "ease", progress=False)
    >>> recommender.n_users == dataset.n_users
    True
    """
    if refit is None and warm_start is None:
        job = _make_job(dataset, *_resolve_configs(config, model, training, preset), progress, callbacks)
    elif config is not None or model is not None or None not in (refit, warm_start):
        raise ConfigError("refit and warm_start take the model of the earlier run; give one of them, and no model")
    else:
        make = _warm_job if refit is None else _refit_job
        job = make(dataset, warm_start if refit is None else refit, training, progress, callbacks)
    job = replace(job, calibrate=calibrate_new_items)
    torch_device, may_exist = resolve_device(device), overwrite or resume
    if run is not None:
        check_new(run, may_exist)
    built = _build_model(job, torch_device, cache)  # before the folder is touched: a bad option must change nothing
    if run is not None:
        return _train_in_folder(job, built, Path(run), resume, may_exist)
    store = None if checkpoint is None else CheckpointStore(Path(checkpoint), _fingerprint(job), checkpoint_seconds)
    return _train(job, built, store, resume=True)


def _make_job(
    dataset: Dataset,
    config: Any,
    training: TrainConfig,
    progress: bool,
    callbacks: tuple[Callback, ...],
    start: RunState | None = None,
) -> _Job:
    metric = fitting_metric(dataset, training.metric)
    if metric != training.metric:
        log.warning("%s has few items: training looks at %s instead of %s", dataset.name, metric, training.metric)
        training = replace(training, metric=metric)
    automatic = training.batch_size == "auto"
    training = training.resolved(len(dataset.train.users))
    validate = _validation(dataset, metric)
    epochs, encoder = (None, None) if start is None else (full_epochs(start), _earlier_encoder(start))
    settings = (dataset, config, training, automatic, validate)
    return _Job(*settings, None, start, epochs, progress, callbacks, encoder=encoder)


def _earlier_encoder(state: RunState) -> NewItemEncoder | None:
    return NewItemEncoder.from_info(state.info.get(NEW_ITEMS))


def _refit_job(dataset: Dataset, run: Any, training: Any, progress: bool, callbacks: tuple[Callback, ...]) -> _Job:
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
    return _Job(*settings, name, start, epochs, progress, callbacks, encoder=_earlier_encoder(state))


def _warm_job(dataset: Dataset, run: Any, training: Any, progress: bool, callbacks: tuple[Callback, ...]) -> _Job:
    _check_training(training)
    state = read_earlier(run)
    found = settings_of(state)
    if found.best_epoch is None and state.info.get("training") is None:
        log.info("%s is computed in closed form: it is computed again", state.info.get("model"))
        return _make_job(dataset, found.config, training or found.training, progress, callbacks)
    check_parameters(state)
    check_features(dataset, state, found.config)
    if not len(dataset.valid) and training is None:
        raise ConfigError(
            f"{dataset.name} has no validation interactions, which choose the number of epochs; hold some out"
            " (lirdrec prepare --split temporal), or give the number: epochs"
        )
    options = continued_training(state) if training is None else training
    return _make_job(without_trained(dataset, state), found.config, options, progress, callbacks, state)


def _check_training(training: Any) -> None:
    if training is not None and not isinstance(training, TrainConfig):
        raise ConfigError(
            f"fit: training is of type {type(training).__name__}; give lirdrec.TrainConfig(…), for instance"
            " training=lirdrec.TrainConfig(epochs=20)"
        )


def _resolve_configs(config: Any, model: str | None, training: Any, preset: str) -> tuple[Any, TrainConfig]:
    """The configs of model and training; what is not given comes from the preset."""
    if isinstance(config, str):
        if model not in (None, config):
            raise ConfigError(f"fit: the model is '{config}' and model='{model}'; give one of them")
        config, model = None, config
    _check_training(training)
    if config is None:
        base_config, base_training = preset_of("lirdrec" if model is None else model, preset)
    else:
        name = model_for_config(config).name
        if model not in (None, name):
            raise ConfigError(f"fit: the configuration is of the model '{name}', and model='{model}'; give one of them")
        base_config, base_training = preset_of(name, preset, getattr(config, "loss", None))
    return (base_config if config is None else config), (base_training if training is None else training)


def _build_model(job: _Job, device: torch.device, cache: str | Path | Literal[False] | None) -> Model:
    check_size(job.dataset, job.config, device, column_counts(job.dataset, job.config))
    model = model_for_config(job.config)
    if model.capabilities.needs_features:  # the model reads all of them anyway, so this costs little
        verify_features(job.dataset, getattr(job.config, "modalities", None))
    if job.dataset.train.weights is not None and not model.capabilities.weights:
        log.warning("%s does not use weights: it learns from %s as if all were 1", model.name, job.dataset.name)
    if getattr(job.config, "time_gaps", False) and not has_clock(job.dataset.info):
        raise ConfigError(
            f"time_gaps: the timestamps of {job.dataset.name} are positions in each user's history, so the time between"
            " items is unknown; leave time_gaps out, or prepare the dataset with a column of times"
        )
    projections = projections_of(job)
    inputs = make_model_inputs(job.dataset, device, cache, job.training.seed, job.progress, projections=projections)
    built = model(inputs, job.config)
    if job.start is not None:
        start_from(built, job.dataset, job.start)
    return built


def projections_of(job: _Job, ranks: Ranks = ONE) -> Mapping[str, Projection]:
    """How features are reduced: as in the run that the training starts from, else fitted to the items of training."""
    if job.start is not None and job.start.features is not None:
        return job.start.features.projections
    return fit_projections(job.dataset, job.config, ranks)


def _train_in_folder(job: _Job, model: Model, folder: Path, resume: bool, may_exist: bool) -> Recommender:
    with run_lock(folder):
        check_new(folder, may_exist)  # another process may have written it since
        leave_out(folder, WRITTEN_WHILE_TRAINING)
        # reads a checkpoint of several devices, too
        store = ShardedCheckpointStore(folder / "checkpoint", _fingerprint(job), model.inputs.ranks, model.shard_of)
        if not resume and store.folder.is_dir():
            shutil.rmtree(store.folder)
        recommender = _train(job, model, store, resume, folder)
        recommender.save(folder, overwrite=True)
    return recommender


def _train(
    job: _Job, model: Model, store: CheckpointStore | None, resume: bool, folder: Path | None = None
) -> Recommender:
    if model.capabilities.training == "closed_form":
        model.solve()
        info = _origin(job)
        if job.validate is not None:
            info["metrics"] = {"valid": job.validate(model.scorer())}
        return Recommender.from_training(model, job.dataset, info=info)
    return _finish(job, model, _optimize(job, model, store, resume, folder))


def _origin(job: _Job) -> dict[str, Any]:
    """What a run keeps about its start: the seed and the earlier run, if there is one."""
    info: dict[str, Any] = {"seed": job.training.seed}
    if job.refit is not None:
        info["refit"] = job.refit
    if job.start is not None:
        info["warm_start"] = _started_from(job.start)
    if job.full_epochs is not None:
        info["full_epochs"] = job.full_epochs
    return info


def _optimize(
    job: _Job, model: Model, store: CheckpointStore | None, resume: bool, folder: Path | None = None
) -> TrainResult:
    """Run the training loop; with several ranks, the first alone has a `folder` for the history, and progress."""
    training, validate = job.training, job.validate
    callbacks: list[Callback] = list(job.callbacks)
    if folder is not None:
        callbacks.append(HistoryLogger(folder, training.metric, training.tensorboard))
    if job.progress:
        callbacks.append(epoch_progress(training.metric, training.epochs))
    try:
        result = train(model, training, validate, store=store, resume=resume, callbacks=tuple(callbacks))
    finally:
        for callback in callbacks:
            if isinstance(callback, (ProgressBar, EpochLines, HistoryLogger)):
                callback.stop()
    n_epochs = len(result.history)
    # a continued training ends with its falling rate, and its last epochs are the best
    ended = validate is not None and result.stopped == "epochs" and job.start is None
    if ended and still_improving(result.best_epoch, n_epochs):
        log.warning(
            "the training was still improving when epochs=%d ended it (best in epoch %d): give it more epochs",
            training.epochs,
            result.best_epoch,
        )
    return result


def _finish(job: _Job, model: Model, result: TrainResult, info: dict[str, Any] | None = None) -> Recommender:
    """The recommender of a trained model; `info` is kept with it."""
    training, info, n_epochs = job.training, _origin(job) | (info or {}), len(result.history)
    scorer = model.scorer()
    encoder = _new_item_encoder(job, model, scorer)
    if encoder is not None:
        info[NEW_ITEMS] = encoder.to_info()
    best = next((line for line in result.history if line["epoch"] == result.best_epoch), {})
    metrics = {"best_epoch": result.best_epoch, "epochs": n_epochs, "valid": best.get("valid", {})}
    info |= {"training": to_dict(training), "stopped": result.stopped, "metrics": metrics}
    if job.automatic:
        info["automatic"] = {"batch_size": training.batch_size, "learning_rate": training.learning_rate}
    return Recommender.from_training(model, job.dataset, scorer=scorer, info=info)


def _new_item_encoder(job: _Job, model: Model, scorer: Scorer) -> NewItemEncoder | None:
    """The encoder of items that are added later: from the earlier run in a refit, else from simulated launches."""
    if not isinstance(scorer, VectorScorer) or not model.capabilities.cold_items:
        return None
    if not job.calibrate or job.validate is None:
        return job.encoder
    inputs, valid = model.inputs, job.dataset.valid
    names = getattr(model, "modalities", tuple(inputs.features))
    users, items = (torch.tensor(rows, device=inputs.device) for rows in (valid.users, valid.items))
    try:
        return fit_new_item_encoder(
            model,
            scorer,
            {name: inputs.features[name] for name in names},
            Histories(inputs.users, inputs.items, inputs.n_users),
            Histories(users, items, inputs.n_users),
            seed=job.training.seed,
        )
    except CapabilityError:  # an option of this model excludes new items
        return None


def _started_from(state: RunState) -> dict[str, str | None]:
    """What a run keeps about the run that it continued."""
    folder = None if state.folder is None else str(state.folder.resolve())
    return {"run": folder, "weights": weights_digest(state)}


def fitting_metric(dataset: Dataset, metric: str) -> str:
    """The metric; if its cut-off exceeds the number of ranked items, the same metric at half of this number.

    Raises:
        ConfigError: not a metric with a cut-off.
    """
    name, k = split_name(metric)
    n_ranked = dataset.n_items
    cold = np.setdiff1d(dataset.valid.items, dataset.train.items)
    if len(cold) and len(cold) == len(np.unique(dataset.valid.items)):
        n_ranked -= len(np.unique(dataset.train.items))
    return metric if k <= n_ranked else f"{name}@{max(1, n_ranked // 2)}"


def _validation(dataset: Dataset, metric: str) -> Callable[[Scorer], dict[str, float]] | None:
    """A function from a scorer to its validation metrics; None (and a warning) without validation interactions."""
    name, k = split_name(metric)
    train_pairs, valid_pairs = (
        (torch.from_numpy(np.array(split.users)), torch.from_numpy(np.array(split.items)))
        for split in (dataset.train, dataset.valid)
    )
    cold = np.setdiff1d(dataset.valid.items, dataset.train.items)
    candidates = None
    if len(dataset.valid.items) and len(cold) == len(np.unique(dataset.valid.items)):
        # a cold-start split: only items without training are held out, so only they are ranked
        candidates = torch.from_numpy(np.setdiff1d(np.arange(dataset.n_items), dataset.train.items))
    truth = GroundTruth.from_pairs(train_pairs, valid_pairs, dataset.n_users, candidates=candidates)
    if not len(truth.users):
        log.warning(
            "%s has no validation pairs: training cannot stop early, and the last epoch is saved; "
            "to train on everything, refit a run that had validation (--refit RUN)",
            dataset.name,
        )
        return None
    names = tuple(dict.fromkeys((name, "recall", "ndcg")))
    truth_on: dict[torch.device, GroundTruth] = {}

    def validate(scorer: Scorer) -> dict[str, float]:
        device = next(iter(scorer.tensors().values())).device
        if device not in truth_on:
            truth_on[device] = truth.to(device)
        return evaluate_scorer(scorer, truth_on[device], names, (k,)).values

    return validate


def _fingerprint(job: _Job) -> dict[str, Any]:
    """The settings that must be the same to resume from a checkpoint; epochs and patience may change."""
    dataset, training = job.dataset, job.training
    digest = hashlib.sha256()
    for array in (dataset.train.users, dataset.train.items, dataset.valid.users, dataset.valid.items):
        digest.update(np.ascontiguousarray(array).tobytes())
    if dataset.train.weights is not None:
        digest.update(np.ascontiguousarray(dataset.train.weights).tobytes())
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
    model = {f"model.{key}": value for key, value in to_dict(job.config).items()}
    start = {"warm_start": None if job.start is None else weights_digest(job.start)}
    return {"model": model_for_config(job.config).name, **model, **options, "dataset": digest.hexdigest()[:16], **start}
