"""Worker process that computes one trial: `python -m lirdrec.experiments.worker JOB.json RESULT.json`.

The job file has the path of the development copy (the dataset without test interactions), never of the dataset itself;
only for a final trial it has the path of the sealed test, too. The result is written atomically. A killed worker writes
no result; when it is started again, it resumes from its checkpoint. The worker also ends when its parent process ends,
because this closes the worker's standard input.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from lirdrec.errors import ConfigError, DataError, LirdrecError
from lirdrec.experiments.config import CUTOFFS, FINAL_METRICS, option_names, resolve_options
from lirdrec.experiments.registry import module_path
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.files.atomic import write_json
from lirdrec.training.callbacks import Callback, StopTraining

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.evaluation.scorer_evaluation import GroundTruth
    from lirdrec.recommender.recommender import Recommender

Candidates = Literal["all", "cold"]
STARTED = time.perf_counter()


class TrialCallback(Callback):
    """Training callback that records a trial's history and enforces its time and pruning limits.

    Args:
        metric: validation metric.
        stop_below: ascending `[epoch, value]` pairs: from the epoch on, training stops if its best metric so far is
            below the value.
        seconds: time limit of training, including validation; None: no limit.
    """

    def __init__(self, metric: str, stop_below: Sequence[Sequence[float]] = (), seconds: float | None = None):
        self.metric, self.stop_below, self.seconds = metric, stop_below, seconds
        self.lines: list[dict[str, Any]] = []
        self.earlier = 0.0  # seconds of the epochs before the checkpoint
        self.spent = 0.0
        self.best = float("-inf")
        self.stopped_early = False

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        for line in history:
            self._record(line)
        self.earlier = self.spent
        if history:
            self._enforce(history[-1]["epoch"])

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        self._record(line)
        self._enforce(line["epoch"])

    def _record(self, line: dict[str, Any]) -> None:
        before = self.lines[-1]["seconds"] if self.lines else 0.0
        seconds, metrics = round(before + line["seconds"], 4), line.get("valid", {})
        self.lines.append({"epoch": line["epoch"], "seconds": seconds, "loss": line["loss"], **metrics})
        self.spent += line.get("seconds_with_validation", line["seconds"])
        self.best = max(self.best, metrics.get(self.metric, float("-inf")))

    def _enforce(self, epoch: int) -> None:
        needed = [value for start, value in self.stop_below if start <= epoch]
        out_of_time = self.seconds is not None and self.spent >= self.seconds
        self.stopped_early = not out_of_time and bool(needed) and self.best < needed[-1]
        if out_of_time or self.stopped_early:
            raise StopTraining


@dataclass
class Job:
    """A trial to compute, with its folders and device: the argument of the functions that `TrialSpec.work` names.

    Attributes:
        trial: the trial; its dataset is the development copy.
        folder: the experiment's folder.
        runs: folder for the trial's checkpoints and its saved model. The scheduler removes it when the trial is done,
            unless `trial.extra["keep"]` is set.
        sealed_folder: folder of the sealed test; None unless the trial is final.
        device, cache: as in `lirdrec.fit`.
        figures: stage → metric → value; filled by `score_valid`, `score_test` and the function itself.
        protocol: how the test was done, as in `EvaluationProtocol.to_json`; {} before `score_test`.
        per_user: path of the file with the test metrics of each user, relative to `folder`; None: not written.
        callback, best_epoch: the callback that recorded the last `fit`, and the best epoch of this training.
        end: why this training ended ("stopped"), and whether tuning stopped it early ("stopped_early").
        checkpoint_seconds: time between checkpoints.
        earlier: seconds of training in earlier workers of this trial, which were interrupted.
    """

    trial: TrialSpec
    folder: Path
    runs: Path
    sealed_folder: Path | None = None
    device: str = "auto"
    cache: str | None = None
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    per_user: str | None = None
    callback: TrialCallback | None = None
    checkpoint_seconds: float = 60.0
    best_epoch: int = 0
    end: dict[str, Any] = field(default_factory=dict)
    earlier: float = 0.0

    @cached_property
    def dataset(self) -> Dataset:
        """The development copy (the dataset without test interactions), with the feature matrices of the trial.

        A model with the option `modalities` gets all matrices, and selects those of the trial itself.

        Raises:
            DataError: the trial names a feature matrix that the dataset does not have.
        """
        from lirdrec.data.dataset import Dataset

        data, modalities = Dataset.load(self.trial.dataset), self.trial.modalities
        if modalities is None:
            return data
        for name in modalities:
            if name not in data.features:
                listed = ", ".join(data.features) or "none"
                raise DataError(f"{data.name}: the dataset has no features '{name}'; it has {listed}")
        if "modalities" in option_names(self.trial.model):
            return data  # the model selects modalities itself, and keeps items without them
        return replace(data, features={name: data.features[name] for name in modalities})

    def fit(
        self,
        dataset: Dataset | None = None,
        *,
        callbacks: tuple[Callback, ...] = (),
        part: str = "",
        calibrate_new_items: bool = False,
    ) -> Recommender:
        """Train the trial's model with its options, and return the recommender.

        If an earlier worker of this trial was killed, the training resumes from its checkpoint.

        Args:
            dataset: training data; None: the trial's dataset.
            callbacks: further training callbacks.
            part: name of this training, for trials with several trainings; each has its own checkpoint.
            calibrate_new_items: as in `lirdrec.fit`.

        Raises:
            KeyboardInterrupt: the training was interrupted.
        """
        from lirdrec.recommender.fit import fit

        config, training = resolve_options(self.trial)
        extra = self.trial.extra
        self.callback = TrialCallback(training.metric, extra.get("stop_below", ()), extra.get("seconds"))
        recommender = fit(
            self.dataset if dataset is None else dataset,
            config,
            training,
            device=self.device,
            progress=False,
            cache=self.cache,
            checkpoint=self.runs / f"checkpoint{part}",
            checkpoint_seconds=self.checkpoint_seconds,
            callbacks=(self.callback, *callbacks),
            calibrate_new_items=calibrate_new_items,
        )
        self.earlier += self.callback.earlier
        self.end = {"stopped": recommender.info.get("stopped"), "stopped_early": self.callback.stopped_early}
        if self.end["stopped"] == "interrupted":
            raise KeyboardInterrupt
        self.best_epoch = int(recommender.info.get("metrics", {}).get("best_epoch", 0))
        return recommender

    def validation_truth(self) -> GroundTruth:
        """Return the validation interactions as ground truth; each user's training items are left out of rankings."""
        import numpy as np
        import torch

        from lirdrec.evaluation.scorer_evaluation import GroundTruth

        data = self.dataset
        train, valid = (
            (torch.from_numpy(np.array(part.users)), torch.from_numpy(np.array(part.items)))
            for part in (data.train, data.valid)
        )
        return GroundTruth.from_pairs(train, valid, data.n_users)

    def score_valid(self, recommender: Recommender) -> None:
        """Evaluate a recommender on validation, and store the metrics in `figures["valid"]`.

        They are the metrics that the test reports, except those beyond accuracy, and the metric of early stopping.
        Without validation interactions nothing is stored.
        """
        from lirdrec.evaluation.evaluator import evaluate
        from lirdrec.evaluation.metrics import split_name

        if not len(self.dataset.valid):
            return
        candidates = self._candidates()
        name, k = split_name(resolve_options(self.trial)[1].metric)
        chosen = self._evaluation()
        options: dict[str, Any] = {"metrics": tuple(dict.fromkeys((*chosen["metrics"], name)))}
        options |= {"k": self._cutoffs(candidates, (*chosen["cutoffs"], k)), "candidates": candidates}
        metrics = evaluate(recommender, self.dataset, "valid", mask_seen=chosen["mask_seen"], **options)
        self.figures["valid"] = dict(metrics.values)

    def score_test(
        self, recommender: Recommender, *, candidates: Candidates | None = None, stage: str = "test"
    ) -> dict[str, float]:
        """Score the declared trial on the sealed test; return the metrics, and store them in `figures[stage]`.

        For the stage "test" the metrics of each user are written into a file, too.

        Args:
            recommender: the result of `fit`.
            candidates: the items to rank, "all", or "cold", which are those without training interactions; None: as in
                the trial's `extra`, default "all".
            stage: key of the metrics in `figures`.

        Raises:
            ConfigError: the trial is not final, or differs from its declaration.
        """
        from lirdrec.evaluation.evaluation_protocol import protocol_of
        from lirdrec.experiments.sealed_test_set import SealedTestSet

        if self.sealed_folder is None:
            raise ConfigError(f"{self.trial.model}: this trial is not final, and only a final trial may score the test")
        chosen = self._candidates() if candidates is None else candidates
        file = self.folder / "per_user" / f"{self.runs.name}.parquet" if stage == "test" else None
        evaluation = self._evaluation()
        history = {name: evaluation[name] for name in ("test_history", "test_target", "mask_seen")}
        self.protocol = protocol_of(recommender, self.dataset.info, "test", **history).to_json()
        options = {"candidates": chosen, "cutoffs": self._cutoffs(chosen, evaluation["cutoffs"]), **history}
        self.figures[stage] = metrics = SealedTestSet(self.sealed_folder).score(
            self.trial, recommender, self.dataset, metrics=evaluation["metrics"], per_user=file, **options
        )
        if file is not None:
            self.per_user = file.relative_to(self.folder).as_posix()
        return metrics

    def _evaluation(self) -> dict[str, Any]:
        """Return all options of the evaluation (`config.EVALUATION`): those of the trial, else defaults."""
        defaults: dict[str, Any] = {"metrics": FINAL_METRICS, "cutoffs": CUTOFFS}
        defaults |= {"test_history": None, "test_target": None, "mask_seen": True}
        return defaults | self.trial.extra.get("evaluation", {})

    def _candidates(self) -> Candidates:
        return cast(Candidates, self.trial.extra.get("candidates", "all"))

    def _cutoffs(self, candidates: Candidates, cutoffs: Sequence[int]) -> tuple[int, ...]:
        """Return the cut-offs that do not exceed the number of items to rank; if all exceed it, only this number."""
        import numpy as np

        data = self.dataset
        n = data.n_items if candidates == "all" else data.n_items - len(np.unique(data.train.items))
        return tuple(dict.fromkeys(k for k in sorted(cutoffs) if k <= n)) or (max(1, n),)


def train(job: Job) -> dict[str, Any]:
    """Do the work "train" or "trial": train, score validation and, for a final trial, the sealed test.

    With `extra["keep"]`, the run folder is saved. Return why the training ended, and whether tuning stopped it early.
    """
    recommender = job.fit()
    job.score_valid(recommender)
    if job.trial.final:
        job.score_test(recommender)
    if job.trial.extra.get("keep"):
        recommender.save(job.runs / "model", overwrite=True)
    return job.end


def find_work(name: str) -> Any:
    """Return the function that a trial's `work` names, as in `TrialSpec.work`.

    Raises:
        ConfigError: the function does not exist.
    """
    if name in ("train", "trial"):
        return train
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module_path(module)), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the work '{name}' of a trial cannot be loaded ({error}); give train, trial or MODULE:FUNCTION"
        ) from None


def compute(job: Job) -> dict[str, Any]:
    """Compute the job's trial; return the fields of its `TrialResult` as JSON values.

    An error of the trial is not raised: it becomes the status and the error of the result.
    """
    from lirdrec.config import to_dict

    values: dict[str, Any] = {"status": "done", "error": None, "data": None}
    try:
        if job.trial.model:
            config, training = resolve_options(job.trial)
            values["options"] = {"model": to_dict(config), "training": to_dict(training)}
        values["data"] = find_work(job.trial.work)(job)
        if job.protocol and isinstance(values["data"], dict):
            values["data"]["protocol"] = job.protocol
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, LirdrecError):
            traceback.print_exc()
            text = f"{type(error).__name__}: {text}".removesuffix(": ")
        values |= {"status": "out of memory" if _is_memory(error) else "failed", "error": text}
    lines = job.callback.lines if job.callback is not None else []
    return values | {
        "figures": job.figures,
        "seconds": round(time.perf_counter() - STARTED + job.earlier, 3),
        "peak_memory": peak_memory(),
        "peak_gpu_memory": _peak_gpu_memory(),
        "epochs": len(lines),
        "best_epoch": job.best_epoch,
        "history": lines,
        "per_user": job.per_user,
    }


def peak_memory() -> int:
    """Return the peak main memory of this process in bytes."""
    try:
        # not getrusage: on Linux, ru_maxrss starts with the memory of the parent process
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def _peak_gpu_memory() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())


def _is_memory(error: BaseException) -> bool:
    # torch's allocator on the CPU raises a plain RuntimeError
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_cpu or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def job_of(spec: Mapping[str, Any]) -> Job:
    """Return the job that the content of a job file describes."""
    sealed = None if spec.get("sealed_folder") is None else Path(spec["sealed_folder"])
    folder, runs = Path(spec["folder"]), Path(spec["runs"])
    return Job(TrialSpec.from_json(spec["cell"]), folder, runs, sealed, spec.get("device", "auto"), spec.get("cache"))


def _end_with_parent() -> None:
    """End this process when its standard input closes, that is, when the parent process has ended."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        if hasattr(signal, "SIGKILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """Compute the trial of a job file and write its result file; return the exit code, 130 if interrupted.

    The exit code of a trial that fails is 0, too, since its result says so.

    Args:
        arguments: the paths of the job file and of the result file.
    """
    job_file, result_file = map(Path, arguments)
    _end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
    job = job_of(json.loads(job_file.read_text(encoding="utf-8")))
    try:
        result = compute(job)
    except KeyboardInterrupt:
        return 130
    write_json(result_file, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
