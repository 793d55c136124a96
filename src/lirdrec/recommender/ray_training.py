"""Training by several processes on a Ray cluster: Ray Train starts them, and each calls `fit_on_ranks`.

A training whose process or machine died continues from its last checkpoint, with as many processes as the cluster then
has resources for.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lirdrec.data.readers import read_any
from lirdrec.errors import ConfigError, LirdrecError, TrainingError
from lirdrec.option_names import option_name, option_text
from lirdrec.parallel.join_training import TIMEOUT, LostRankError, in_group
from lirdrec.ray_cluster import RETRIES, LostTaskError, RayCluster, Share, quiet_output
from lirdrec.recommender.distributed_fit import fit_on_ranks
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.callbacks import Callback, StopTraining
from lirdrec.training.loop import interruptible

NOTICED = 30.0  # seconds until Ray no longer counts the processors of a dead machine
POLL = 0.5  # seconds in which Ctrl-C is noticed
INTERRUPTED = "interrupted"
STOP, WRITTEN = (
    "stop",
    "written",
)  # names of files that say: the user has pressed Ctrl-C; this training has written the run folder

log = logging.getLogger(__name__)


def fit_on_ray(
    address: str,
    dataset: str | Path,
    *,
    run: str | Path,
    devices: int | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    **options: Any,
) -> Recommender:
    """Train one model by several processes on the machines of a Ray cluster; the run folder is as with `fit`.

    All machines need the same lirdrec, and data and run folder at the same paths. Ctrl-C stops after the epoch.

    Args:
        address: of the cluster: "auto", "local" or "HOST:PORT"; Ray Train cannot use "ray://".
        dataset: path of the data, as read by `read_any`.
        devices: number of processes; each has a GPU or, without GPUs, `OMP_NUM_THREADS` processors (by default the
            processors of this machine). None: as many processes as the cluster has room for.
        device: "auto", "cpu" or "cuda".
        resume, overwrite, options: as for `fit_on_ranks`.

    Raises:
        ConfigError: no Ray, no cluster, no room for so many processes, a wrong address or device, or callbacks.
        TrainingError: processes died again and again; the last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C before the first epoch or while a process died, or a second Ctrl-C.
        CapabilityError, RunFolderError, DataError: see `fit_on_ranks`.
    """
    if callbacks:
        raise ConfigError(f"a training on a Ray cluster takes no {option_name('track')} and no callbacks; omit them")
    if address.startswith("ray://"):
        raise ConfigError(f"'{address}': a training takes HOST:PORT, or auto on the cluster itself, but not ray://")
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device '{device}': with several devices choose cpu or cuda, or keep auto")
    run, threads = Path(run).absolute(), torch.get_num_threads()
    job = {"dataset": str(Path(dataset).absolute()), "threads": threads}
    run.parent.mkdir(parents=True, exist_ok=True)
    with RayCluster(address) as cluster, quiet_output():
        ray = cluster.connect(threads, devices)
        share = cluster.share(ray, threads, devices, gpus=device != "cpu", option="devices")
        deaths = 0
        while True:
            again = {"resume": resume or deaths > 0, "overwrite": overwrite and not deaths, "run": str(run)}
            try:
                interrupted = _run_ranks(share, job | {"arguments": options | again})
                break
            except LostTaskError as error:
                deaths += 1
                _check_deaths(deaths, error)
            time.sleep(NOTICED)
            room = cluster.share(ray, threads, None, gpus=device != "cpu", option="devices")
            share = Share(min(share.workers, room.workers), room.cpus, room.gpus)
    recommender = Recommender.load(run)
    if interrupted:
        recommender.info["stopped"] = INTERRUPTED
    return recommender


def _check_deaths(deaths: int, error: LostTaskError) -> None:
    """Log that a process died, or raise a TrainingError if it has happened more than `RETRIES` times."""
    if deaths > RETRIES:
        raise TrainingError(
            f"processes of the training on the Ray cluster died {deaths} times ({error}); repeat it with"
            f" {option_text('resume', True)} to continue from the last checkpoint"
        ) from error
    log.warning("a process of the training died (%s); the training continues from the last checkpoint", error)


def _run_ranks(share: Share, job: dict[str, Any]) -> bool:
    """Run the processes of a training until they end; return True if Ctrl-C stopped them after an epoch.

    Raises:
        LostTaskError: a process or a machine died.
        LirdrecError: the error of a process.
        KeyboardInterrupt: stopped before there was a run folder, or by a second Ctrl-C.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    gpus, run = bool(share.gpus), Path(job["arguments"]["run"])
    with tempfile.TemporaryDirectory("", f".{run.name}-ray-", run.parent, ignore_cleanup_errors=True) as folder:
        trainer = TorchTrainer(
            _train_rank,
            train_loop_config=job | {"gpus": gpus, "folder": folder},
            torch_config=TorchConfig("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=int(TIMEOUT.total_seconds())),
            scaling_config=ScalingConfig(
                num_workers=share.workers,
                use_gpu=gpus,
                resources_per_worker={"GPU": 1} if gpus else {"CPU": share.cpus},
            ),
            run_config=RunConfig(name="train", storage_path=folder),  # Ray Train checks that all machines see it
        )
        return _fitted(trainer, Path(folder))


def _fitted(trainer: Any, folder: Path) -> bool:
    """Run Ray Train in a thread, since it would handle Ctrl-C itself, and wait for its end; result as `_run_ranks`."""
    stop = folder / STOP
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with interruptible() as requested:
        thread.start()
        while thread.is_alive():
            thread.join(POLL)
            if requested():
                stop.touch()
    reason = _reason(failures[0]) if failures else None
    if reason is not None and not (isinstance(reason, LostTaskError) and stop.exists()):
        raise reason from failures[0]
    if stop.exists() and not (folder / WRITTEN).exists():
        raise KeyboardInterrupt
    return stop.exists()


def _reason(error: BaseException) -> BaseException:
    """Return the cause of an error of Ray Train: the error of a process, a LostTaskError if one died, or `error`."""
    failures = list(getattr(error, "worker_failures", {}).values())
    if not failures:
        return error
    causes = [getattr(failure, "_base_exc", failure) for failure in failures]
    for cause in causes:
        if isinstance(cause, LirdrecError) and not isinstance(cause, LostRankError):
            return cause
    dead = [failure for failure, cause in zip(failures, causes, strict=True) if failure is cause]
    if dead or any(isinstance(cause, LostRankError) for cause in causes):
        reason = str((dead or causes)[0]).strip()
        return LostTaskError(reason.splitlines()[0] if reason else type((dead or causes)[0]).__name__)
    return error


class _StopFile(Callback):
    """Stops the training after an epoch if the file `path` exists; the process that started it writes it at Ctrl-C."""

    def __init__(self, path: Path):
        self.path = path

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        if self.path.exists():
            raise StopTraining


def _train_rank(job: dict[str, Any]) -> None:
    """Train in one process of the cluster, with the data and arguments in `job`."""
    torch.set_num_threads(job["threads"])
    with in_group(job["gpus"]) as (ranks, device):
        folder, data = Path(job["folder"]), read_any(job["dataset"])
        stop = (_StopFile(folder / STOP),) if ranks.is_first else ()
        fit_on_ranks(ranks, data, device=device, progress=False, callbacks=stop, **job["arguments"])
        if ranks.is_first:
            (folder / WRITTEN).touch()
