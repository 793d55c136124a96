"""Build one feature matrix: fit the encoder if needed, encode shards (ranges of items), then join them.

An encoder is fitted once, to a sample of the inputs. Its fitted state is stored, so that a job that was interrupted and
resumed gives the same bits as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from lirdrec._version import __version__
from lirdrec.data.features import check_name, open_array
from lirdrec.data.storage import read_manifest, resolve_path
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.dataset_writer import CUT, KEYS, MASK, STATE, VALUES, FeatureResult, file_name, join
from lirdrec.features.encode import Arrays, Facts, Loop, Task, encode_shard
from lirdrec.features.encoder import Encoder, Input
from lirdrec.features.sources import KEY_BYTES, Item, Source
from lirdrec.files.atomic import sha256
from lirdrec.files.progress_bars import ProgressCallback, progress_bar
from lirdrec.files.shards import JOINING, Shards, has_partial_work

logger = logging.getLogger(__name__)

SAMPLE = 50_000  # maximum number of inputs for fitting
SEED = 0
FITTED = "fitted"  # entry of an identity: hash of the fitted state
PLACE = "place"  # key of a shard's facts: location of its inputs

Merge = Callable[[Arrays, Facts], tuple[Arrays, Facts]]


def sample(source: Source, step: int = 4096) -> list[Input]:
    """Return the inputs of at most `SAMPLE` items, drawn with a fixed seed, in the order of the items.

    Drawn items without a usable input are left out. `step` is the number of items that are read at once.
    """
    n = len(source)
    chosen = np.full(n, n <= SAMPLE)
    if n > SAMPLE:
        chosen[np.random.default_rng(SEED).choice(n, SAMPLE, replace=False)] = True
    inputs = []
    for start in range(0, n, step):
        if chosen[start : start + step].any():
            items = compress(source.read(start, min(n, start + step)), chosen[start : start + step])
            inputs += [item.value for item in items if item.value is not None]
    return inputs


def identity(encoder: Encoder) -> dict[str, Any]:
    """Return the encoder's identity as the manifest stores it, with a hash of its fitted state if it is fitted."""
    values = json_like(encoder.identity)
    if encoder.needs_fit:
        values[FITTED] = hashlib.sha256(save(dict(sorted(encoder.state().items())))).hexdigest()
    return values


def json_like(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity as it is after writing it to JSON and reading it: tuples become lists."""
    return json.loads(json.dumps(dict(identity)))


def bare(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity of an encoder (see `identity`) without the hash of its fitted state."""
    return {key: value for key, value in identity.items() if key != FITTED}


@dataclass(frozen=True)
class FeatureJob:
    """Specification of one feature matrix: its name, its encoder, and the source of its inputs.

    `origin` is `EncoderSpec.origin`; it is stored in the dataset, to construct the encoder again for new items.

    Raises:
        ConfigError: the name is invalid, or the encoder does not take inputs of the source's kind.
    """

    name: str
    encoder: Encoder
    source: Source
    origin: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_name(self.name, ConfigError)
        if self.encoder.kind != self.source.kind:
            raise ConfigError(
                f"features '{self.name}': an encoder of kind '{self.encoder.kind}' cannot take"
                f" inputs of kind '{self.source.kind}'"
            )


def _merge(cached: Cached, keys: np.ndarray, arrays: Arrays, facts: Facts) -> tuple[Arrays, Facts]:
    """Return the content of a shard: its cached vectors, and the new vectors of its other inputs.

    Args:
        cached: the cached vectors.
        keys: `(n, 16)` uint8, the keys of all inputs of the shard.
        arrays, facts: the result of `encode_shard` for the inputs that are not cached.
    """
    if cached.vectors is None:
        return arrays, facts | {"copied": 0}
    found, todo = cached.found, np.flatnonzero(~cached.found)
    merged = {name: np.zeros((len(found), *array.shape[1:]), dtype=array.dtype) for name, array in arrays.items()}
    for name, array in arrays.items():
        merged[name][todo] = array
    merged["vectors"][found], merged["cut"][found] = cached.vectors, cached.cut
    merged["present"][found], merged["keys"][found] = True, keys[found]
    problems = [[int(todo[index]), source, problem] for index, source, problem in facts["problems"]]
    return merged, facts | {"problems": problems, "copied": len(cached.vectors)}


class FeatureJobRunner:
    """Makes one matrix of a prepared dataset, and resumes unfinished work.

    The constructor fits the encoder if needed; `run` encodes, `join` returns the finished matrix.

    Args:
        folder: the prepared dataset.
        work_folder: unfinished work is in its subfolder with the name of the matrix.
        job: the matrix to make.
        restart: discard unfinished work instead of resuming it.
        reuse: another prepared dataset whose vectors and fitted states may be copied.

    Attributes:
        encoded, copied, resumed, seconds: see `FeatureResult`.

    Raises:
        ConfigError: unfinished work has other settings.
        DataError: there is no input to fit the encoder to.
    """

    def __init__(
        self, folder: Path, work_folder: Path, job: FeatureJob, restart: bool = False, reuse: Path | None = None
    ):
        self.folder, self.job, self.work_folder = folder, job, work_folder / job.name
        self.restart = restart
        self.folders = [folder] if reuse is None else [folder, reuse]
        if restart:
            shutil.rmtree(self.work_folder, ignore_errors=True)
        plan = {"source": job.source.description, "inputs": job.source.digest()}
        if job.encoder.needs_fit:
            self._fit({**plan, "identity": json_like(job.encoder.identity), "sample": SAMPLE, "seed": SEED})
        self.identity = identity(job.encoder)
        self.shards = Shards(
            self.work_folder, {**plan, "identity": self.identity}, len(job.source), job.encoder.shard_rows
        )
        (self.work_folder / JOINING).unlink(missing_ok=True)
        self.encoded = self.copied = self.resumed = 0
        self.seconds = 0.0

    def _fit(self, plan: Mapping[str, Any]) -> None:
        """Load the fitted state of unfinished work, else that of an existing matrix, else fit the encoder to a sample.

        With `restart`, the encoder is always fitted. `plan` has all settings that determine the state. The state is
        stored before anything is encoded with it, and read again, so that a resumed job has the same bits.
        """
        encoder, source = self.job.encoder, self.job.source
        shards = Shards(self.work_folder / "fit", plan, 1, 1, keep_existing=has_partial_work(self.work_folder))
        if shards.pending():
            state = None if self.restart else self._existing_state()
            if state is None:
                inputs = sample(source)
                if not inputs:
                    raise DataError(
                        f"{self.work_folder}: no item has an input ({source.kind}), so the encoder cannot be fitted"
                    )
                encoder.fit(inputs)
                state = encoder.state()
            shards.seal(0, state, {})
        encoder.load_state(shards.read(0).arrays)

    def _existing_state(self) -> dict[str, np.ndarray] | None:
        """Return the fitted state of an existing matrix that the same encoder made; None if there is none.

        This is any such matrix of `reuse`, if possible of the same name; else that of the same name and source in this
        dataset.
        """
        wanted = json_like(self.job.encoder.identity)
        for folder in reversed(self.folders):  # `reuse` comes first: it was given so that its encoders are used
            entries = read_manifest(folder)["info"].get("encoders", {})
            for name, entry in sorted(entries.items(), key=lambda one: one[0] != self.job.name):
                # other matrices of this dataset were fitted to other texts
                same = folder != self.folder or (name, entry["source"]) == (self.job.name, self.job.source.description)
                if same and bare(entry["identity"]) == wanted and (state := fitted_state(folder, name)) is not None:
                    return state
        return None

    def run(self, batch_size: int | None, progress: bool, loop: Loop) -> None:
        """Encode all unfinished shards, and finished shards whose files have changed.

        Args:
            batch_size: number of inputs in a batch; None is the encoder's own.
            progress: whether to show a progress bar.
            loop: what runs the shards; see `encode.py`.
        """
        started = time.perf_counter()
        self._requested = self.job.encoder.batch_size if batch_size is None else batch_size
        self.resumed = self.shards.n_rows - sum(len(self.shards.rows(index)) for index in self._pending)
        if not self._pending:
            return
        self._batch_size = self._resumed_batch_size()
        merges: dict[int, Merge] = {}
        with progress_bar(self.job.name, self.shards.n_rows, self.resumed, progress) as advance:
            tasks = self._tasks(merges, advance)
            for index, arrays, facts in loop(self.job.encoder, tasks, self._batch_size, advance):
                self._batch_size = min(self._batch_size, facts["batch_size"])
                self._seal(index, *merges.pop(index)(arrays, facts))
        self.__dict__.pop("_cache", None)  # closes its memory maps
        self.seconds = time.perf_counter() - started

    def join(self, keep: np.ndarray | None = None) -> FeatureResult:
        """Join the finished shards to a matrix of the items in `keep` `(I,)` bool, by default of all items."""
        job = self.job
        state = job.encoder.state() if job.encoder.needs_fit else {}
        result = join(self.shards, self.work_folder / "joined", job.source.rows, state, keep)
        entry = {
            "identity": self.identity,
            "source": job.source.description,
            "origin": None if job.origin is None else dict(job.origin),
            "dims": result.dims,
            "present": result.present,
            "missing": result.missing,
            "problems": result.n_problems,
            "cut": result.cut,
            "lirdrec": __version__,
        }
        counts = {name: getattr(self, name) for name in ("encoded", "copied", "resumed", "seconds")}
        return replace(result, name=job.name, entry=entry, **counts)

    def waiting(self) -> Iterator[list[Input]]:
        """Yield the different inputs of each shard that `run` will encode, without those that have a vector already."""
        for index in self._pending:
            items, _, cached = self._look_up(index)
            wanted = compress(items, ~cached.found)
            yield list({item.key: item.value for item in wanted if item.value is not None}.values())

    @cached_property
    def _outdated(self) -> list[int]:
        """Indices of finished shards with a file that has changed since, for instance an image that was missing.

        Values of the item table cannot have changed, since their hash is part of the plan of the shards. Files that
        had a problem are always checked, others only if the folder of the files is another one now.
        """
        if self.job.source.location is None:
            return []
        pending = set(self.shards.pending())
        return [index for index in range(len(self.shards)) if index not in pending and self._has_changed_inputs(index)]

    def _has_changed_inputs(self, index: int) -> bool:
        facts, rows = self.shards.facts(index), self.shards.rows(index)
        same_location = facts.get(PLACE) == self.job.source.location
        checked = [position for position, *_ in facts["problems"]] if same_location else list(range(len(rows)))
        if not checked:
            return False
        keys = self.shards.read(index).arrays["keys"]
        items = (self.job.source.read(rows[position], rows[position] + 1) for position in checked)
        return any((_keys(item) != keys[position]).any() for position, item in zip(checked, items, strict=True))

    @cached_property
    def _pending(self) -> list[int]:
        return sorted([*self.shards.pending(), *self._outdated])

    @cached_property
    def _cache(self) -> VectorCache:
        return VectorCache(self.folders, self.identity)

    def _look_up(self, index: int) -> tuple[list[Item], np.ndarray, Cached]:
        """Return the items of a shard, their keys `(n, 16)`, and their cached vectors.

        For an outdated shard, the cached vectors are those that the shard has for unchanged inputs.
        """
        rows = self.shards.rows(index)
        items = self.job.source.read(rows.start, rows.stop)
        keys = _keys(items)
        if index not in self._outdated:
            return items, keys, self._cache.look_up(keys)
        before = self.shards.read(index).arrays
        found = before["present"] & (before["keys"] == keys).all(axis=1)
        return items, keys, Cached(found, before["vectors"][found] if found.any() else None, before["cut"][found])

    def _tasks(self, merges: dict[int, Merge], advance: ProgressCallback) -> Iterator[Task]:
        for index in self._pending:
            items, keys, cached = self._look_up(index)
            wanted = list(compress(items, ~cached.found))
            merge = partial(_merge, cached, keys)
            advance(int(cached.found.sum()), idle=True)
            if any(item.value is not None for item in wanted):
                merges[index] = merge
                yield index, wanted
            else:
                self._seal(index, *merge(*encode_shard(self.job.encoder, wanted, self._batch_size, advance)))

    def _seal(self, index: int, arrays: Arrays, facts: Facts) -> None:
        self.shards.seal(index, arrays, {**facts, "asked": self._requested, PLACE: self.job.source.location})
        self.encoded += facts["encoded"]
        self.copied += facts["copied"]

    def _resumed_batch_size(self) -> int:
        """Return the batch size at the interruption, so that the batches equal those of an uninterrupted run.

        If another batch size is requested now, return this one.
        """
        if self._pending[0] == 0:
            return self._requested
        facts = self.shards.facts(self._pending[0] - 1)
        return facts["batch_size"] if facts["asked"] == self._requested else self._requested


def _keys(items: list[Item]) -> np.ndarray:
    keys = np.zeros((len(items), KEY_BYTES), dtype=np.uint8)
    for index, item in enumerate(items):
        if item.key is not None:
            keys[index] = np.frombuffer(item.key, dtype=np.uint8)
    return keys


@dataclass(frozen=True)
class Cached:
    """The cached vectors of n inputs, of which f are found.

    Attributes:
        found: `(n,)` bool, the inputs that have a cached vector.
        vectors: `(f, d)` float32, the vectors of the found inputs; None if no input is found.
        cut: `(f,)` bool, whether each found input was truncated.
    """

    found: np.ndarray
    vectors: np.ndarray | None
    cut: np.ndarray


class VectorCache:
    """The existing vectors of an encoder in prepared datasets, which are found by the keys (hashes) of their inputs.

    Memory holds 16 bytes per vector; the vectors stay on disk. A matrix without keys, or with a damaged file, is
    skipped: its items are encoded again.

    Args:
        folders: the prepared datasets; if several have a vector, the first one is used.
        identity: the identity of the encoder.
    """

    def __init__(self, folders: list[Path], identity: Mapping[str, Any]):
        self._matrices = [
            _Matrix(folder, name, manifest)
            for folder in folders
            for manifest in (read_manifest(folder),)
            for name, entry in manifest["info"].get("encoders", {}).items()
            if entry.get("identity") == identity and _is_complete(folder, name, manifest)
        ]

    def look_up(self, keys: np.ndarray) -> Cached:
        """Return the existing vectors of inputs with these keys `(n, 16)` uint8; a key is zero without an input."""
        found = np.zeros(len(keys), dtype=bool)
        cut = np.zeros(len(keys), dtype=bool)
        vectors: np.ndarray | None = None
        for matrix in self._matrices:
            rows = np.where(found, -1, matrix.rows(keys))
            new = np.flatnonzero(rows >= 0)
            if len(new):
                copied = matrix.vectors(rows[new])
                if vectors is None:
                    vectors = np.zeros((len(keys), copied.shape[1]), dtype=np.float32)
                vectors[new], cut[new], found[new] = copied, matrix.cut[rows[new]], True
        return Cached(found, None if vectors is None else vectors[found], cut[found])


class _Matrix:
    """An existing feature matrix whose vectors are reused: an index from the key of an input (its hash) to a row."""

    def __init__(self, folder: Path, name: str, manifest: Mapping[str, Any]):
        def load(ending: str) -> np.ndarray:
            return open_array(resolve_path(folder, manifest, file_name(name, ending)))

        self._values, self.keys = resolve_path(folder, manifest, file_name(name, VALUES)), load(KEYS)
        has_cut = file_name(name, CUT) in manifest["files"]
        self.cut = load(CUT) if has_cut else np.zeros(len(self.keys), dtype=bool)
        rows = np.flatnonzero(load(MASK))
        heads = _heads(self.keys[rows])
        order = np.argsort(heads, kind="stable")
        self._heads, self._rows = heads[order], rows[order]

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Return the row of each key, or -1 for a key that is zero or not in the matrix."""
        if not len(self._rows):
            return np.full(len(keys), -1)
        rows = self._rows[np.minimum(np.searchsorted(self._heads, _heads(keys)), len(self._rows) - 1)]
        return np.where((self.keys[rows] == keys).all(axis=1) & keys.any(axis=1), rows, -1)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of some rows; the file is mapped again in each call, since pages of an open map add up."""
        return open_array(self._values)[rows]


def fitted_state(folder: Path, name: str) -> dict[str, np.ndarray] | None:
    """Return the stored fitted state of the encoder that made a matrix; None if there is none, or it is damaged."""
    manifest = read_manifest(folder)
    if not _is_intact(folder, manifest, file_name(name, STATE)):
        return None
    return load_file(resolve_path(folder, manifest, file_name(name, STATE)))


def _is_complete(folder: Path, name: str, manifest: Mapping[str, Any]) -> bool:
    needed = [file_name(name, ending) for ending in (VALUES, MASK, KEYS)]
    complete = all(file in manifest["files"] for file in needed)
    intact = complete and all(_is_intact(folder, manifest, file) for file in needed)
    if complete and not intact:
        logger.warning("%s: a file of features '%s' is damaged; its items are encoded again", folder, name)
    return intact


def _is_intact(folder: Path, manifest: Mapping[str, Any], name: str) -> bool:
    entry, path = manifest["files"].get(name), resolve_path(folder, manifest, name)
    return entry is not None and path.is_file() and sha256(path) == entry["sha256"]


def _heads(keys: np.ndarray) -> np.ndarray:
    """Return the first half of each key as one number; keys with equal first halves are compared in full later."""
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]
