"""Computes one cell in a process of its own: `python -m lirdrec.experiments.worker JOB.json RESULT.json`.

The job names the development copy of the dataset, never the dataset itself; only a final cell is told where the sealed
test lies. The result is written whole or not at all; a worker that is killed writes none and goes on from its
checkpoint when it is begun again. It ends with the process that started it: its standard input closes then.

What listens to a training of a cell: keeps its history and stops it at its limits.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from lirdrec.errors import ConfigError, DataError, LirdrecError
from lirdrec.experiments.config import CUTOFFS, FINAL_METRICS, resolved
from lirdrec.experiments.trial import TrialSpec, write_json
from lirdrec.training.loop import Callback, StopTraining


class TrialCallback(Callback):
    """Keeps the history, and stops a trial at its limits.

    Args:
        metric: validation metric.
        stop_below: `[epoch, value]`, rising: from the epoch on, a best value so far below the value ends the training.
        seconds: training with validation may take so long; None: as long as it takes.
    """

    def __init__(self, metric: str, stop_below: Sequence[Sequence[float]] = (), seconds: float | None = None):
        self.metric, self.stop_below, self.seconds = metric, stop_below, seconds
        self.lines: list[dict[str, Any]] = []
        self.earlier = 0.0  # seconds of the epochs that the checkpoint held
        self.spent = 0.0
        self.best = float("-inf")
        self.stopped_early = False

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        for line in history:
            self._read(line)
        self.earlier = self.spent
        if history:
            self._judge(history[-1]["epoch"])

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        self._read(line)
        self._judge(line["epoch"])

    def _read(self, line: dict[str, Any]) -> None:
        before = self.lines[-1]["seconds"] if self.lines else 0.0
        seconds = round(before + line["seconds"], 4)
        figures = line.get("valid", {})
        self.lines.append({"epoch": line["epoch"], "seconds": seconds, "loss": line["loss"], **figures})
        self.spent += line.get("seconds_with_validation", line["seconds"])
        self.best = max(self.best, figures.get(self.metric, float("-inf")))

    def _judge(self, epoch: int) -> None:
        if self.seconds is not None and self.spent >= self.seconds:
            raise StopTraining
        needed = [value for at, value in self.stop_below if at <= epoch]
        if needed and self.best < needed[-1]:
            self.stopped_early = True
            raise StopTraining


STARTED = time.perf_counter()


if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.experiments.worker import TrialCallback
    from lirdrec.recommender.recommender import Recommender
    from lirdrec.training.loop import Callback

Candidates = Literal["all", "cold"]


@dataclass
class Job:
    """A cell to compute, with what is needed for it; functions named by `Cell.work` are called with one.

    Attributes:
        cell: what to do; its dataset is the development copy.
        folder: the experiment's folder.
        runs: a folder for this cell's checkpoints and whatever else it writes; taken away when the cell is done.
        vault: of the sealed test; None unless the cell is final.
        device, cache: as in `fit`.
        figures: stage → metric → value; filled by `score_valid` and `score_test`, and by the function itself.
        per_user: path of per-user test values, relative to `folder`.
        scribe: the history of the last `fit`.
        checkpoint_seconds: at most this much work is lost when a worker is killed.
    """

    cell: TrialSpec
    folder: Path
    runs: Path
    vault: Path | None = None
    device: str = "auto"
    cache: str | None = None
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    per_user: str | None = None
    scribe: TrialCallback | None = None
    checkpoint_seconds: float = 60.0
    best_epoch: int = 0
    earlier: float = 0.0

    @cached_property
    def dataset(self) -> Dataset:
        """The development copy: no test pairs.

        Raises:
            DataError: the cell names a feature matrix that it has not.
        """
        from lirdrec.data.dataset import Dataset

        found = Dataset.load(self.cell.dataset)
        wanted = self.cell.modalities
        if wanted is None:
            return found
        for name in wanted:
            if name not in found.features:
                listed = ", ".join(found.features) or "none"
                raise DataError(f"{found.name}: there are no features '{name}'; it has {listed}")
        if "modalities" in {one.name for one in fields(resolved(self.cell)[0])}:
            return found  # the model chooses, so items that lack these modalities stay
        return replace(found, features={name: found.features[name] for name in wanted})

    def fit(
        self, dataset: Dataset | None = None, *, callbacks: tuple[Callback, ...] = (), part: str = ""
    ) -> Recommender:
        """Train the cell's model with the cell's options, going on from the checkpoint of a worker that was killed.

        Args:
            dataset: what to train on; None: `dataset`.
            callbacks: told of every step and epoch.
            part: name of the training, where a cell has several: each needs a checkpoint of its own.
        """
        from lirdrec.experiments.worker import TrialCallback
        from lirdrec.recommender.fit import fit

        config, training = resolved(self.cell)
        extra = self.cell.extra
        self.scribe = TrialCallback(training.metric, extra.get("stop_below", ()), extra.get("seconds"))
        found = fit(
            self.dataset if dataset is None else dataset,
            config,
            training,
            device=self.device,
            progress=False,
            cache=self.cache,
            checkpoint=self.runs / f"checkpoint{part}",
            checkpoint_seconds=self.checkpoint_seconds,
            callbacks=(self.scribe, *callbacks),
        )
        self.earlier += self.scribe.earlier
        if found.info.get("stopped") == "interrupted":
            raise KeyboardInterrupt
        self.best_epoch = int(found.info.get("metrics", {}).get("best_epoch", 0))
        return found

    def score_valid(self, recommender: Recommender, dataset: Dataset | None = None) -> dict[str, float]:
        """Validation figures, recall and NDCG at 10 and 20 and the metric of training; kept as stage "valid"."""
        from lirdrec.evaluation.evaluator import evaluate
        from lirdrec.evaluation.metrics import split_name

        data = self.dataset if dataset is None else dataset
        if not len(data.valid):
            return {}
        candidates = self._candidates()
        name, k = split_name(resolved(self.cell)[1].metric)
        names = tuple(dict.fromkeys((*FINAL_METRICS, name)))
        cutoffs = self._cutoffs(candidates, (*CUTOFFS, k))
        values = evaluate(recommender, data, "valid", k=cutoffs, metrics=names, candidates=candidates).values
        self.figures["valid"] = dict(values)
        return self.figures["valid"]

    def score_test(
        self, recommender: Recommender, *, candidates: Candidates | None = None, stage: str = "test"
    ) -> dict[str, float]:
        """Figures of the sealed test, which the cell must be declared for; kept as `stage`, per-user values for "test".

        Args:
            recommender: what `fit` gave.
            candidates: "all" or "cold"; None: as the cell's `extra` says, else all.
            stage: under which name the figures are kept.

        Raises:
            ConfigError: the cell is not final, or not what was declared.
        """
        from lirdrec.experiments.vault import TestVault

        if self.vault is None:
            raise ConfigError(f"{self.cell.model}: only a final cell may score the test")
        chosen = self._candidates() if candidates is None else candidates
        file = self.folder / "per_user" / f"{self.runs.name}.parquet" if stage == "test" else None
        values = TestVault(self.vault).score(
            self.cell, recommender, self.dataset, candidates=chosen, cutoffs=self._cutoffs(chosen), per_user=file
        )
        self.figures[stage] = values
        if file is not None:
            self.per_user = file.relative_to(self.folder).as_posix()
        return values

    def _candidates(self) -> Candidates:
        return cast(Candidates, self.cell.extra.get("candidates", "all"))

    def _cutoffs(self, candidates: Candidates, cutoffs: Sequence[int] = CUTOFFS) -> tuple[int, ...]:
        """The cut-offs that there are items for."""
        import numpy as np

        data = self.dataset
        n = data.n_items if candidates == "all" else data.n_items - len(np.unique(data.train.items))
        return tuple(dict.fromkeys(k for k in sorted(cutoffs) if k <= n)) or (max(1, n),)


def train(job: Job) -> dict[str, Any]:
    """Work "train" and "trial": fit, score validation and, for a final cell, the sealed test."""
    recommender = job.fit()
    job.score_valid(recommender)
    if job.cell.final:
        job.score_test(recommender)
    if job.cell.extra.get("keep"):
        recommender.save(job.runs / "model", overwrite=True)
    assert job.scribe is not None
    return {"stopped": recommender.info.get("stopped"), "stopped_early": job.scribe.stopped_early}


def work_of(name: str) -> Any:
    """The function that a cell's `work` names; a module without a dot lies in `lirdrec.experiments.studies`.

    Raises:
        ConfigError: there is no such function.
    """
    if name in ("train", "trial"):
        return train
    module, _, function = name.partition(":")
    try:
        found = importlib.import_module(module if "." in module else f"lirdrec.experiments.studies.{module}")
        return getattr(found, function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"work '{name}': {error}") from None


def compute(job: Job) -> dict[str, Any]:
    """Compute the job's cell: the fields of its `Result` that come from here, as JSON."""
    from lirdrec.config import to_dict

    found: dict[str, Any] = {"status": "done", "error": None, "data": None}
    try:
        if job.cell.model:
            config, training = resolved(job.cell)
            found["options"] = {"model": to_dict(config), "training": to_dict(training)}
        found["data"] = work_of(job.cell.work)(job)
    except Exception as error:
        if not isinstance(error, LirdrecError):
            import traceback

            traceback.print_exc()
        found |= {"status": "out of memory" if _is_memory(error) else "failed", "error": _in_words(error)}
    lines = job.scribe.lines if job.scribe is not None else []
    return found | {
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
    """Bytes of main memory that this process held at most."""
    try:
        # not getrusage: Linux lets its ru_maxrss begin with what the parent process held
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
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch's allocator on the CPU raises a plain RuntimeError
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _in_words(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, LirdrecError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def job_of(spec: Mapping[str, Any]) -> Job:
    """A job from its JSON."""
    vault = None if spec.get("vault") is None else Path(spec["vault"])
    folder, runs = Path(spec["folder"]), Path(spec["runs"])
    return Job(TrialSpec.from_json(spec["cell"]), folder, runs, vault, spec.get("device", "auto"), spec.get("cache"))


def _end_with_parent() -> None:
    """End this process when its standard input closes, which happens when the process that started it is gone."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        if hasattr(signal, "SIGKILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """Compute the cell of a job file and write its result file."""
    import logging
    import warnings

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
