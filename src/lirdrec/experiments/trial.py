"""Cells: one unit of work of an experiment each, told by plain JSON; and the folder that holds their results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lirdrec.errors import DataError, RunFolderError
from lirdrec.files.atomic import make_folder, write_errors, write_json
from lirdrec.files.locks import lock_file, unlock_file
from lirdrec.training.config import still_improving

if TYPE_CHECKING:
    from lirdrec.experiments.results import Results

RESULTS_VERSION = 1  # part of every key: results of another version are computed anew
CHECKSUM = "checksum"
SAMPLED_BYTES = 64 << 20  # files beyond this are told apart by samples of their bytes
Status = Literal["done", "failed", "out of memory"]


@dataclass(frozen=True, eq=False)
class TrialSpec:
    """One unit of work. Everything in it is JSON; two cells of the same content are equal and share their result.

    Attributes:
        work: what to do: "train", "trial" (a training that tuning may stop early), or "MODULE:FUNCTION" inside
            `lirdrec.experiments`, which is called with a `worker.Job` and returns the `data` of the result.
        dataset: path of anything that `lirdrec.data.readers.read_any` reads.
        model: name of a model; "" for work that needs none.
        model_options: fields of the model's config that differ from its defaults.
        training: fields of `TrainConfig` that differ from its defaults; without the seed.
        seed: of the training.
        variant: label of the report's row or column, for instance "w/o PWC".
        feature_set: label of the features that are used, for instance "mllm".
        modalities: names of the feature matrices to keep; None: all.
        split: another split of all pairs, as arguments of `Dataset.resplit`: {"split": "cold_items", "seed": 0}.
        extra: what else the work needs to know. Known to "train": "final" (true: the sealed test is scored too),
            "candidates" ("cold": rank unseen items only), "keep" (true: save the run folder in runs/KEY/model).
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
        """16 hexadecimal digits: the hash of the content, with the dataset's bytes in place of its path."""
        content = self.to_json() | {"dataset": fingerprint(self.dataset), "version": RESULTS_VERSION}
        return short_hash(content)

    @property
    def dataset_name(self) -> str:
        """The last part of the dataset's path."""
        return Path(os.path.abspath(self.dataset)).name

    @property
    def final(self) -> bool:
        """Whether the sealed test is scored."""
        return bool(self.extra.get("final"))

    def to_json(self) -> dict[str, Any]:
        """Plain values, one entry per field."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return values | {"modalities": None if self.modalities is None else list(self.modalities)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialSpec:
        """What `to_json` gave."""
        return cls(**values)

    def with_(self, **changes: Any) -> TrialSpec:
        """A copy with other values of some fields."""
        return replace(self, **changes)


@dataclass(frozen=True)
class TrialResult:
    """What came of a cell.

    Attributes:
        cell: what was asked.
        status: "done", "failed" or "out of memory".
        error: the last line of the error, or None.
        figures: "valid" and "test" → metric → value, whichever there are.
        seconds: wall-clock time, that of attempts that were killed and gone on with included.
        peak_memory: bytes of main memory at most; peak_gpu_memory: bytes on the GPU at most, or None.
        epochs, best_epoch: of a training by gradients, else 0.
        history: one entry per epoch: "epoch", "seconds" (since the start, without validation), "loss" and the
            validation metrics by name, where the epoch has them.
        per_user: path of a Parquet file of per-user test values (a column `user`, one per metric), relative to the
            experiment's folder, or None.
        data: whatever else the work found, as JSON.
        options: "model" and "training": all options, defaults included.
        attempts: how often the cell was begun until it came to this result, kills by the user not counted.
    """

    cell: TrialSpec
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
        """Whether the work succeeded."""
        return self.status == "done"

    @property
    def was_still_improving(self) -> bool:
        """Whether the limit of epochs ended the training while validation was still improving."""
        ended = self.data.get("stopped") if isinstance(self.data, Mapping) else None
        early = self.data.get("stopped_early") if isinstance(self.data, Mapping) else False
        return ended == "epochs" and not early and still_improving(self.best_epoch, self.epochs)

    def figure(self, metric: str, stage: str = "valid") -> float | None:
        """A figure, or None where there is none."""
        return self.figures.get(stage, {}).get(metric)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return values | {"cell": self.cell.to_json(), "history": list(self.history)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialResult:
        """What `to_json` gave."""
        given = {**values, "cell": TrialSpec.from_json(values["cell"]), "history": tuple(values.get("history", ()))}
        return cls(**given)


class TrialStore:
    """The results of an experiment's folder: `cells/KEY.json`, each written whole or not at all.

    Args:
        folder: the experiment's folder; made when something is written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._known: dict[str, tuple[int, TrialResult]] = {}

    def result(self, cell: TrialSpec) -> TrialResult | None:
        """The result of a cell, or None where there is none yet.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self._path(cell)
        try:
            stamp = path.stat().st_mtime_ns
            if self._known.get(cell.key, (None,))[0] == stamp:
                return self._known[cell.key][1]
            found = _read_result(path)
        except FileNotFoundError:
            return None
        found = replace(found, cell=cell)  # the path of the dataset as it is called now
        self._known[cell.key] = (stamp, found)
        return found

    def record(self, result: TrialResult) -> None:
        """Write the result of a cell, in place of an earlier one."""
        path = self._path(result.cell)
        make_folder(path.parent)
        write_checked(path, result.to_json())

    @contextlib.contextmanager
    def claim(self, cell: TrialSpec) -> Iterator[bool]:
        """Whether the cell is this process's to compute, until the block ends; False: another process has it.

        The lock is the operating system's on `locks/KEY`: that of a process that died is free at once.
        """
        with locked(self.folder / "locks" / cell.key, wait=False) as mine:
            yield mine

    def results(self) -> Results:
        """All results in the folder."""
        from lirdrec.experiments.results import Results

        found = []
        for path in sorted((self.folder / "cells").glob("*.json")):
            found.append(_read_result(path))
        return Results(found, folder=self.folder)

    def _path(self, cell: TrialSpec) -> Path:
        return self.folder / "cells" / f"{cell.key}.json"


def _read_result(path: Path) -> TrialResult:
    try:
        return TrialResult.from_json(read_checked(path))
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: damaged ({error}); delete the file to compute the cell again") from None


@contextlib.contextmanager
def locked(path: str | Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file, which is made where it is missing and stays; gives False where `wait` is off and it is held."""
    path = Path(path)
    make_folder(path.parent)
    with write_errors(path):
        handle = path.open("a+b")
    try:
        mine = lock_file(handle, wait)
        if mine:
            handle.truncate(0)
            handle.write(str(os.getpid()).encode())
            handle.flush()
        try:
            yield mine
        finally:
            if mine:
                unlock_file(handle)
    finally:
        handle.close()


def canonical(value: Any) -> str:
    """JSON that is the same text for the same content."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def short_hash(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def write_checked(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON object with a checksum of its own, whole or not at all."""
    plain = json.loads(json.dumps(values))  # tuples and keys as they will come back
    write_json(path, plain | {CHECKSUM: short_hash(plain)})


def read_checked(path: Path) -> dict[str, Any]:
    """What `write_checked` wrote; files of earlier versions have no checksum.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if values.pop(CHECKSUM, None) not in (None, short_hash(values)):
        raise ValueError("wrong checksum")
    return values


def fingerprint(dataset: str | Path) -> str:
    """16 hexadecimal digits that tell the contents of a dataset's folder, wherever it lies.

    Raises:
        DataError: there is no such folder.
    """
    return _fingerprint(os.path.abspath(dataset))


@lru_cache
def _fingerprint(folder: str) -> str:
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"{folder}: no such folder")
    manifest = path / "manifest.json"
    # the manifest of a prepared dataset holds the checksums of all its files
    files = [manifest] if manifest.is_file() else sorted(p for p in path.iterdir() if p.suffix in (".inter", ".npy"))
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as opened:
            if size <= SAMPLED_BYTES:
                digest.update(opened.read())
            else:
                for at in range(0, size, size // 64):
                    opened.seek(at)
                    digest.update(opened.read(1 << 16))
    return digest.hexdigest()[:16]
