"""Trial specifications (JSON-serializable) and their results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from lirdrec.errors import DataError
from lirdrec.training.config import still_improving

RESULTS_VERSION = 1  # part of every key: results of another version are computed again
SAMPLED_BYTES = 64 << 20  # of files larger than this, only samples of the bytes are hashed
Status = Literal["done", "failed", "out of memory"]


@dataclass(frozen=True, eq=False)
class TrialSpec:
    """Specification of a trial, one unit of work of an experiment.

    All fields are JSON values; specifications with equal content are equal and share their result.

    Attributes:
        work: "train", "trial" (a training that tuning may stop early), or "MODULE:FUNCTION", where MODULE is the name
            of an experiment (its module in `lirdrec.experiments.studies` is meant) or a full name with dots; the
            function gets a `worker.Job` and returns the `data` of the result.
        dataset: path of a dataset, as read by `lirdrec.data.readers.read_any`.
        model: name of a model; "" for work without a model.
        model_options: fields of the model's config that differ from the defaults.
        training: fields of `TrainConfig` that differ from the defaults, without the seed.
        variant, feature_set: labels of the trial's row in the report, for instance "w/o PWC" and "mllm".
        modalities: names of the feature matrices to use; None: all.
        split: another split of all interactions, as arguments of `Dataset.resplit`; None: the dataset's own.
        extra: further arguments of the work. For "train": "final" (true: score the sealed test),
            "candidates" ("cold": rank only items without training interactions), "keep" (true: save the run folder in
            runs/KEY/model), "evaluation" (`ExperimentConfig.evaluation`).
    """

    work: str
    dataset: str
    model: str
    model_options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    variant: str = ""
    feature_set: str = ""
    modalities: tuple[str, ...] | None = None
    split: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", str(self.dataset))
        for name in ("model_options", "training", "split", "extra"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, json.loads(json.dumps(dict(value))))  # tuples become lists
        if self.modalities is not None:
            object.__setattr__(self, "modalities", tuple(self.modalities))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrialSpec) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(canonical(self.to_json()))

    @cached_property
    def key(self) -> str:
        """Hash of the specification, 16 hexadecimal digits; the dataset's path is replaced by its fingerprint."""
        return short_hash(self.to_json() | {"dataset": fingerprint(self.dataset), "version": RESULTS_VERSION})

    @property
    def dataset_name(self) -> str:
        """The last part of the dataset's path, which is its name in reports."""
        return Path(os.path.abspath(self.dataset)).name

    @property
    def final(self) -> bool:
        """Whether the trial is final, that is, scores the sealed test (`extra["final"]`)."""
        return bool(self.extra.get("final"))

    def to_json(self) -> dict[str, Any]:
        """Return name → value of all fields, as JSON values."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return values | {"modalities": None if self.modalities is None else list(self.modalities)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialSpec:
        """Return the specification whose `to_json` gave these values."""
        return cls(**values)

    def with_(self, **changes: Any) -> TrialSpec:
        """Return a copy of the specification with these fields replaced."""
        return replace(self, **changes)


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial: its status, metrics, time, memory and history.

    Attributes:
        trial: the trial's specification.
        status: "done", "failed" or "out of memory".
        error: one line about the failure, or None.
        figures: stage ("valid" or "test") → metric → value, for the stages that were scored.
        seconds: wall-clock time of the worker process, and of the training before an interruption that it resumed.
        peak_memory, peak_gpu_memory: peak main and GPU memory in bytes; None without a GPU.
        epochs, best_epoch: number of epochs and best epoch of a gradient training, else 0.
        history: one entry per epoch: "epoch", "seconds" (since the start, without validation), "loss" and, after
            validation, its metrics by name.
        per_user: path of a Parquet file with the test metrics of each user (columns `user` and one per metric),
            relative to the experiment's folder, or None.
        data: further JSON results of the work.
        options: "model" and "training": all options, including defaults.
        attempts: number of attempts until this result, without attempts that were interrupted.
    """

    trial: TrialSpec
    status: Status = "done"
    error: str | None = None
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory: int = 0
    peak_gpu_memory: int | None = None
    epochs: int = 0
    best_epoch: int = 0
    history: tuple[Mapping[str, Any], ...] = ()
    per_user: str | None = None
    data: Any = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    attempts: int = 1

    @property
    def done(self) -> bool:
        """Whether the trial succeeded."""
        return self.status == "done"

    @property
    def stopped(self) -> str | None:
        """Why the training ended, such as "epochs" for its maximum number of epochs; None if this is not recorded."""
        return self.data.get("stopped") if isinstance(self.data, Mapping) else None

    @property
    def was_still_improving(self) -> bool:
        """Whether training reached its maximum number of epochs, and the best epoch is in the last tenth of them."""
        ended = self.stopped == "epochs" and not self.data.get("stopped_early")
        return ended and still_improving(self.best_epoch, self.epochs)

    def figure(self, metric: str, stage: str = "valid") -> float | None:
        """Return the value of a metric at a stage ("valid" or "test"), or None if there is none."""
        return self.figures.get(stage, {}).get(metric)

    def to_json(self) -> dict[str, Any]:
        """Return name → value of all fields, as JSON values."""
        values = {**vars(self), "cell": self.trial.to_json(), "history": list(self.history)}
        del values["trial"]  # files have the key "cell"
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialResult:
        """Return the trial result whose `to_json` gave these values; missing fields get their defaults."""
        trial, history = TrialSpec.from_json(values["cell"]), tuple(values.get("history", ()))
        fields = {name: value for name, value in values.items() if name != "cell"}
        return cls(**{**fields, "trial": trial, "history": history})


def canonical(value: Any) -> str:
    """Return canonical JSON, which is the same text for the same content."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def short_hash(value: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def fingerprint(dataset: str | Path) -> str:
    """Return a hash of the contents of a dataset's folder, 16 hexadecimal digits; its path does not matter.

    Hashed is the manifest of a prepared dataset, which has the checksums of all files. Of other datasets, the `.inter`
    and `.npy` files are hashed, large ones by samples. The hash of a folder is computed once in a process.

    Raises:
        DataError: the folder does not exist.
    """
    return _fingerprint(Path(os.path.abspath(dataset)))


@lru_cache
def _fingerprint(folder: Path) -> str:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give the path of a dataset")
    manifest = folder / "manifest.json"
    # the manifest of a prepared dataset holds the checksums of all its files
    files = [manifest] if manifest.is_file() else sorted(p for p in folder.iterdir() if p.suffix in (".inter", ".npy"))
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= SAMPLED_BYTES:
                digest.update(file.read())
                continue
            for offset in range(0, size, size // 64):
                file.seek(offset)
                digest.update(file.read(1 << 16))
    return digest.hexdigest()[:16]
