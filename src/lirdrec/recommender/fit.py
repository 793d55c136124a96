"""`fit`: train any model on a dataset and return its recommender."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from lirdrec.config import to_dict
from lirdrec.data.dataset import Dataset
from lirdrec.data.positions_or_times import timestamps_are_times
from lirdrec.data.storage import verify_features
from lirdrec.devices import resolve_device
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.base import Model
from lirdrec.models.registry import model_for_config
from lirdrec.nn.principal_components import Projection
from lirdrec.option_names import setting_text
from lirdrec.parallel.ranks_and_shards import ONE, Ranks
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.recommender.feature_pca import check_variance, column_counts, fit_projections
from lirdrec.recommender.model_inputs import check_size, make_model_inputs
from lirdrec.recommender.new_item_calibration import CONTINUED_ROUNDS, ROUNDS, fit_new_item_encoder
from lirdrec.recommender.new_item_encoder import NEW_ITEMS, NewItemEncoder
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.run_folder import check_new, leave_out, run_lock
from lirdrec.recommender.state import RunState
from lirdrec.recommender.training_job import Job, fingerprint, make_job, refit_job, resolve_configs, warm_job
from lirdrec.recommender.warm_start import (
    start_from,
    weights_digest,
)
from lirdrec.training.callbacks import Callback, EpochLines, HistoryLogger, ProgressBar, epoch_progress
from lirdrec.training.checkpoint import CheckpointStore
from lirdrec.training.config import TrainConfig, still_improving
from lirdrec.training.loop import TrainResult, train
from lirdrec.training.sharded_checkpoint import ShardedCheckpointStore

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
        refit: an earlier run; train with its settings and its best number of epochs on all interactions.
        warm_start: an earlier run on older data; its parameters are the start, to save time (docs/updating.md).
        device: "auto" (cuda, else cpu), "cpu", "cuda", "cuda:1" or "mps"; progress: show it on stderr.
        cache: folder for neighbor graphs; None: `LIRDREC_CACHE` or `~/.cache/lirdrec`; False: no cache.
        checkpoint: without `run`: folder for checkpoints every `checkpoint_seconds`, from which the call resumes.
        callbacks: called after every step and epoch; calibrate_new_items: see docs/new_items.md.

    Raises:
        ConfigError, CapabilityError: an unknown option or device; a model that needs features; `refit` with `config`.
        DataError: all features are the same; `warm_start` had other features, or had all validation interactions.
        RunFolderError, TrainingError: a run cannot be used, or a feature file has changed; the loss is not finite.

    >>> recommender = fit(dataset, "ease", progress=False)
    >>> recommender.n_users == dataset.n_users
    True
    """
    if refit is None and warm_start is None:
        job = make_job(dataset, *resolve_configs(config, model, training, preset), progress, callbacks)
    elif config is not None or model is not None or None not in (refit, warm_start):
        raise ConfigError("refit and warm_start take the earlier run's model; give one of the two, and no other model")
    else:
        make = warm_job if refit is None else refit_job
        job = make(dataset, warm_start if refit is None else refit, training, progress, callbacks)
    job = replace(job, calibrate=calibrate_new_items)
    torch_device, may_exist = resolve_device(device), overwrite or resume
    if run is not None:
        check_new(run, may_exist)
    built = _build_model(job, torch_device, cache)  # before the folder is touched: a bad option must change nothing
    if run is not None:
        return _train_in_folder(job, built, Path(run), resume, may_exist)
    store = None if checkpoint is None else CheckpointStore(Path(checkpoint), fingerprint(job), checkpoint_seconds)
    return _train(job, built, store, resume=True)


def _build_model(job: Job, device: torch.device, cache: str | Path | Literal[False] | None) -> Model:
    check_size(job.dataset, job.config, device, column_counts(job.dataset, job.config))
    model = model_for_config(job.config)
    if model.capabilities.needs_features:  # the model reads all of them anyway, so this costs little
        verify_features(job.dataset, getattr(job.config, "modalities", None))
        check_variance(job.dataset, job.config)
    if job.dataset.train.weights is not None and not model.capabilities.weights:
        log.warning(
            "%s does not use the weights of interactions: it learns from %s as if all weights were 1",
            model.name,
            job.dataset.name,
        )
    if getattr(job.config, "time_gaps", False) and not timestamps_are_times(job.dataset.info):
        raise ConfigError(
            f"time_gaps: the timestamps of {job.dataset.name} are positions in each user's history, so the time between"
            " items is unknown; leave time_gaps out, or prepare the dataset with a column of times"
        )
    projections = make_projections(job)
    inputs = make_model_inputs(job.dataset, device, cache, job.training.seed, job.progress, projections=projections)
    built = model(inputs, job.config)
    if job.start is not None:
        start_from(built, job.dataset, job.start)
    return built


def make_projections(job: Job, ranks: Ranks = ONE) -> Mapping[str, Projection]:
    """Return modality → projection that reduces its features, or {}.

    If the job continues an earlier run, these are the projections of that run; else they are fitted to the items of
    training.
    """
    if job.start is not None and job.start.features is not None:
        return job.start.features.projections
    return fit_projections(job.dataset, job.config, ranks)


def _train_in_folder(job: Job, model: Model, folder: Path, resume: bool, may_exist: bool) -> Recommender:
    with run_lock(folder):
        prepare_folder(folder, resume, may_exist)  # another process may have written to it in the meantime
        # reads a checkpoint of several devices, too
        store = ShardedCheckpointStore(folder / "checkpoint", fingerprint(job), model.inputs.ranks, model.shard_of)
        recommender = _train(job, model, store, resume, folder)
        recommender.save(folder, overwrite=True)
    return recommender


def prepare_folder(folder: Path, resume: bool, may_exist: bool) -> None:
    """Prepare a locked run folder for a training.

    The manifest no longer lists the files that the training will write to. The checkpoint of an earlier training is
    removed, except with `resume`.

    Raises:
        RunFolderError: see `check_new`; `may_exist` is its `overwrite`.
    """
    check_new(folder, may_exist)
    leave_out(folder, WRITTEN_WHILE_TRAINING)
    if not resume and (folder / "checkpoint").is_dir():
        shutil.rmtree(folder / "checkpoint")


def _train(
    job: Job, model: Model, store: CheckpointStore | None, resume: bool, folder: Path | None = None
) -> Recommender:
    if model.capabilities.training == "closed_form":
        model.solve()
        info = _origin(job)
        if job.validate is not None:
            info["metrics"] = {"valid": job.validate(model.scorer())}
        return Recommender.from_training(model, job.dataset, info=info)
    return finish(job, model, optimize(job, model, store, resume, folder))


def _origin(job: Job) -> dict[str, Any]:
    """Return what a run records about its start: the seed and, if it has one, the earlier run and its epochs."""
    info: dict[str, Any] = {"seed": job.training.seed}
    if job.refit is not None:
        info["refit"] = job.refit
    if job.start is not None:
        info["warm_start"] = _started_from(job.start)
    if job.full_epochs is not None:
        info["full_epochs"] = job.full_epochs
    return info


def optimize(
    job: Job, model: Model, store: CheckpointStore | None, resume: bool, folder: Path | None = None
) -> TrainResult:
    """Run the training loop of a job, and return its result; warn if more epochs would improve it.

    The history is written to `folder`; None: to no file. With several ranks (processes), only rank 0 has a folder and
    shows progress.
    """
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
    # in a continued training the learning rate falls to zero, so its last epochs are the best
    ended = validate is not None and result.stopped == "epochs" and job.start is None
    if ended and still_improving(result.best_epoch, n_epochs):
        log.warning(
            "the training was still improving when epochs=%d ended it (best in epoch %d): give it more epochs,"
            " such as %s",
            training.epochs,
            result.best_epoch,
            setting_text("epochs", 2 * training.epochs),
        )
    return result


def finish(job: Job, model: Model, result: TrainResult, info: dict[str, Any] | None = None) -> Recommender:
    """Make the recommender of a trained model; if the model takes new items, calibrate their encoder.

    `info` has further facts that the run keeps.
    """
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


def _new_item_encoder(job: Job, model: Model, scorer: Scorer) -> NewItemEncoder | None:
    """Return the encoder of items that are added later, or None if the model takes no new items.

    Simulated launches, in which trained items are treated as new, calibrate it. Without calibration or validation
    interactions, as in a refit, it is the encoder of the earlier run, or None.
    """
    if not isinstance(scorer, VectorScorer) or not model.capabilities.cold_items:
        return None
    if not job.calibrate or job.validate is None:
        return job.encoder
    inputs, valid = model.inputs, job.dataset.valid
    names = getattr(model, "modalities", tuple(inputs.features))
    users, items = (torch.tensor(rows, device=inputs.device) for rows in (valid.users, valid.items))
    if job.progress:
        print("Calibrating new items by simulated launches", file=sys.stderr, flush=True)
    try:
        return fit_new_item_encoder(
            model,
            scorer,
            {name: inputs.features[name] for name in names},
            Histories(inputs.users, inputs.items, inputs.n_users),
            Histories(users, items, inputs.n_users),
            seed=job.training.seed,
            rounds=ROUNDS if job.start is None else CONTINUED_ROUNDS,
        )
    except CapabilityError:  # an option of this model excludes new items
        return None


def _started_from(state: RunState) -> dict[str, str | None]:
    """Return what a run records about the earlier run that it continued: its folder and a hash of its parameters."""
    folder = None if state.folder is None else str(state.folder.resolve())
    return {"run": folder, "weights": weights_digest(state)}
