"""`fit_on_ranks`: train one model by several processes (ranks), each with a part of the users and items."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lirdrec.data.dataset import Dataset
from lirdrec.data.storage import verify_features
from lirdrec.devices import resolve_device
from lirdrec.errors import CapabilityError
from lirdrec.models.base import Model
from lirdrec.models.registry import model_for_config, model_names
from lirdrec.models.registry import model_type as registered
from lirdrec.nn.principal_components import Projection
from lirdrec.parallel.ranks_and_shards import ONE, Ranks
from lirdrec.recommender.feature_pca import check_variance
from lirdrec.recommender.fit import finish, make_projections, optimize, prepare_folder
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.run_folder import run_lock
from lirdrec.recommender.training_job import Job, fingerprint, make_job, refit_job, resolve_configs
from lirdrec.training.callbacks import Callback
from lirdrec.training.config import TrainConfig
from lirdrec.training.sharded_checkpoint import ShardedCheckpointStore


def fit_on_ranks(
    ranks: Ranks,
    dataset: Dataset,
    config: Any = None,
    training: TrainConfig | None = None,
    *,
    run: str | Path,
    model: str | None = None,
    preset: str = "fast",
    resume: bool = False,
    overwrite: bool = False,
    refit: str | Path | None = None,
    warm_start: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
    cache: str | Path | Literal[False] | None = None,
    callbacks: tuple[Callback, ...] = (),
    calibrate_new_items: bool = True,
) -> Recommender | None:
    """Train one model by several processes (ranks), which all call this function; rank 0 gets the recommender.

    The rows of users and items are split over the ranks (docs/distributed.md). Up to rounding, the result is the
    result of `fit`. At the end rank 0 gathers the parameters and writes the run folder; the other ranks return None.

    Args:
        ranks: the processes, after `torch.distributed.init_process_group` (`lirdrec.parallel.join_training.joined`).
        run: the run folder, on a file system that all ranks share; every rank writes its part of the checkpoint.
        device: the device of this rank, for instance "cuda:1".
        callbacks: called on this rank; if a callback of any rank requests a stop, all ranks stop.
        dataset, config, training, model, preset, resume, overwrite, refit, progress, cache, calibrate_new_items: as for
            `fit`.

    Raises:
        CapabilityError: the model or one of its options needs a single process, or `warm_start` is given.
        ConfigError: there are more ranks than users, items, or columns of a vector.
        RunFolderError, TrainingError, DataError: see `fit`.
    """
    if warm_start is not None:
        raise CapabilityError(
            "a training that continues an earlier run (warm_start) needs a single device; use one device"
        )
    progress = progress and ranks.is_first
    if refit is None:
        resolved = resolve_configs(config, model, training, preset)
        job = make_job(dataset, *resolved, progress, callbacks)
    else:
        job = refit_job(dataset, refit, training, progress, callbacks)
    return _trained(ranks, replace(job, calibrate=calibrate_new_items), run, resume, overwrite, device, cache)


def _trained(
    ranks: Ranks,
    job: Job,
    run: str | Path,
    resume: bool,
    overwrite: bool,
    device: str,
    cache: str | Path | Literal[False] | None,
) -> Recommender | None:
    """Train the job on all ranks; rank 0 writes the run folder and returns the recommender."""
    projections = make_projections(job, ranks)
    folder, built = Path(ranks.from_first(str(run))), _built(job, ranks, projections, device, cache)
    with run_lock(folder) if ranks.is_first else contextlib.nullcontext():
        if ranks.is_first:
            prepare_folder(folder, resume, overwrite or resume)
        ranks.wait_for_all()
        store = ShardedCheckpointStore(folder / "checkpoint", fingerprint(job), ranks, built.shard_of)
        result = optimize(job, built, store, resume, folder if ranks.is_first else None)
        state = gathered(built)
        del built, store
        if state is None:
            return None
        alone = _built(job, ONE, projections, device, cache)
        alone.load_state_dict(state)
        recommender = finish(job, alone, result, {"devices": ranks.size})
        recommender.save(folder, overwrite=True)
    return recommender


def _built(
    job: Job,
    ranks: Ranks,
    projections: Mapping[str, Projection],
    device: str,
    cache: str | Path | Literal[False] | None,
) -> Model:
    """Build the model of this rank, with this rank's part of the rows; for `ONE` (a single process) all rows.

    Raises:
        CapabilityError: the model cannot be trained by several processes.
    """
    model_type = model_for_config(job.config)
    if not model_type.capabilities.several_devices:
        others = [name for name in model_names() if registered(name).capabilities.several_devices]
        raise CapabilityError(
            f"{model_type.name} is trained on one device only; use one device, or a model among {', '.join(others)}"
        )
    if ranks.is_first and ranks.size > 1 and model_type.capabilities.needs_features:
        verify_features(job.dataset, getattr(job.config, "modalities", None))
        check_variance(job.dataset, job.config)
    torch_device = resolve_device(device)
    inputs = make_model_inputs(job.dataset, torch_device, cache, job.training.seed, job.progress, ranks, projections)
    return model_type(inputs, job.config)


def gathered(model: Model) -> dict[str, Tensor] | None:
    """Return, on rank 0, the complete parameters and buffers of a model by name, on the CPU; None on other ranks."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        shard = model.shard_of(name)
        table = tensor.cpu() if shard is None else shard.whole(tensor)
        if table is not None:
            state[name] = table
    return state if model.inputs.ranks.is_first else None
