"""One matrix on its way: fitted where needed, its shards encoded or copied, then joined.

Encoders that learn from the texts or pictures first: fitted once, to a sample, and the same after every kill.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lirdrec._version import __version__
from lirdrec.data.features import check_name
from lirdrec.data.storage import read_manifest
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.cache import VectorCache, fitted_state
from lirdrec.features.encode import Arrays, Facts, Loop, Task, encode_shard
from lirdrec.features.encoder import Encoder, Input
from lirdrec.features.sources import KEY_BYTES, Item, Source
from lirdrec.features.writer import PROBLEMS, FeatureResult, join
from lirdrec.files.progress import ProgressCallback, progress_bar
from lirdrec.files.shards import JOINING, Shards, has_partial_work

SAMPLE = 50_000  # inputs at most that an encoder is fitted to
SEED = 0
FITTED = "fitted"  # entry of an identity: the hash of what was learned

State = dict[str, np.ndarray]


def fit(
    encoder: Encoder,
    source: Source,
    folder: Path,
    plan: Mapping[str, Any],
    before: Callable[[], State | None],
    dear: bool = True,
) -> None:
    """Give the encoder its state: the one sealed in `folder`, or else that of `before`, or else fit it to a sample.

    Args:
        encoder: with `needs_fit`.
        source: of its inputs.
        folder: where the state is sealed before anything is encoded with it.
        plan: what decides the state.
        before: the state that made the matrix which is there already, if there is one.
        dear: whether a state of another plan is refused, since shards were encoded with it, or forgotten.

    Raises:
        ConfigError: the folder holds a state of another plan, and it is dear.
        DataError: no item of the sample has an input.
    """
    sealed = Shards(folder, {**plan, "sample": SAMPLE, "seed": SEED}, 1, 1, dear)
    if sealed.pending():
        state = before()
        if state is None:
            inputs = sample(source)
            if not inputs:
                raise DataError(f"{folder.parent}: no item has a {source.kind} to fit the encoder to")
            encoder.fit(inputs)
            state = encoder.state()
        sealed.seal(0, state, {})
    encoder.load_state(sealed.read(0).arrays)  # read back, so that a resumed run has the same bits


def sample(source: Source, step: int = 4096) -> list[Input]:
    """Inputs of at most `SAMPLE` items, drawn with a fixed seed, in the order of the items."""
    n = len(source)
    rows = np.arange(n)
    if n > SAMPLE:
        rows = np.sort(np.random.default_rng(SEED).choice(n, SAMPLE, replace=False))
    inputs = []
    for start in range(0, n, step):
        chosen = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + step)] - start
        if len(chosen):
            items = source.read(start, min(n, start + step))
            inputs += [value for at in chosen if (value := items[at].value) is not None]
    return inputs


def identity(encoder: Encoder) -> dict[str, Any]:
    """The encoder's identity as JSON gives it back, with a hash of what it was fitted to."""
    told = json_like(encoder.identity)
    if encoder.needs_fit:
        told[FITTED] = hashlib.sha256(save(dict(sorted(encoder.state().items())))).hexdigest()
    return told


def json_like(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(dict(identity)))


def bare(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without what the encoder was fitted to."""
    return {key: value for key, value in identity.items() if key != FITTED}


PLACE = "place"  # fact of a shard: where its inputs lay


@dataclass(frozen=True)
class FeatureJob:
    """A matrix that is to be made.

    Attributes:
        name: what it is called in the dataset.
        encoder: makes the vectors.
        source: of the inputs, of the kind that the encoder takes.
        origin: how the encoder can be made again (`lirdrec.features.registry`); noted in the dataset for serving.

    Raises:
        ConfigError: an impossible name, or an encoder and inputs of different kinds.
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


@dataclass
class _Halfway:
    """A shard of which some vectors were known; the others are being made."""

    todo: np.ndarray
    keys: np.ndarray
    found: np.ndarray
    vectors: np.ndarray | None
    cut: np.ndarray

    def merged(self, arrays: Arrays, facts: Facts) -> tuple[Arrays, Facts]:
        if self.vectors is None:
            return arrays, facts | {"copied": 0}
        n = len(self.found)
        whole = {name: np.zeros((n, *array.shape[1:]), dtype=array.dtype) for name, array in arrays.items()}
        for name, array in arrays.items():
            whole[name][self.todo] = array
        whole["vectors"][self.found], whole["cut"][self.found] = self.vectors, self.cut
        whole["present"][self.found], whole["keys"][self.found] = True, self.keys[self.found]
        problems = [[int(self.todo[place]), source, fault] for place, source, fault in facts["problems"]]
        return whole, facts | {"problems": problems, "copied": len(self.vectors)}


class FeatureJobRunner:
    """The unfinished work on one matrix, in a folder of its own.

    Args:
        folder: the prepared dataset.
        place: of unfinished work; this one's is below, under the job's name.
        job: what to make.
        restart: forget what is there.
        reuse: another prepared folder whose vectors may be taken.

    Attributes:
        encoded, copied, resumed, seconds: see `lirdrec.features.writer.FeatureResult`.

    Raises:
        ConfigError: the work that is there was begun with other settings.
        DataError: nothing to fit the encoder to.
    """

    def __init__(self, folder: Path, place: Path, job: FeatureJob, restart: bool = False, reuse: Path | None = None):
        self.folder, self.job, self.place = folder, job, place / job.name
        self.restart = restart
        self.folders = [folder] if reuse is None else [folder, reuse]
        if restart:
            shutil.rmtree(self.place, ignore_errors=True)
        plan = {"source": job.source.description, "inputs": job.source.digest()}
        if job.encoder.needs_fit:
            fitting = {**plan, "identity": json_like(job.encoder.identity)}
            fit(
                job.encoder,
                job.source,
                self.place / "fit",
                fitting,
                self._state_before,
                dear=has_partial_work(self.place),
            )
        self.identity = identity(job.encoder)
        self.shards = Shards(self.place, {**plan, "identity": self.identity}, len(job.source), job.encoder.shard_rows)
        (self.place / JOINING).unlink(missing_ok=True)
        self.encoded = self.copied = self.resumed = 0
        self.seconds = 0.0

    def run(self, batch_size: int | None, progress: bool, loop: Loop) -> None:
        """Make all shards that are not sealed yet, and those whose inputs are other ones now."""
        started = time.perf_counter()
        asked = self.job.encoder.batch_size if batch_size is None else batch_size
        pending = self._pending
        todo = sum(len(self.shards.rows(index)) for index in pending)
        self.resumed = self.shards.n_rows - todo
        if not pending:
            return
        self._batch_size, self._asked = self._batch_to_go_on_with(pending[0], asked), asked
        halfway: dict[int, _Halfway] = {}
        with progress_bar(self.job.name, self.shards.n_rows, self.resumed, progress) as advance:
            tasks = self._tasks(pending, halfway, advance)
            for index, arrays, facts in loop(self.job.encoder, tasks, self._batch_size, advance):
                self._batch_size = min(self._batch_size, facts["batch_size"])
                self._seal(index, *halfway.pop(index).merged(arrays, facts))
        self.__dict__.pop("_known", None)  # its maps of files
        self.seconds = time.perf_counter() - started

    def join(self, keep: np.ndarray | None = None) -> FeatureResult:
        """The files of the matrix, for the items of `keep` `(I,)` bool (by default all)."""
        state = self.job.encoder.state() if self.job.encoder.needs_fit else {}
        return join(self.shards, self.place / "joined", self.job.source.rows, state, keep)

    @property
    def problems_file(self) -> Path:
        """The list of problems, as long as the matrix has not joined the dataset."""
        return self.place / "joined" / f"matrix{PROBLEMS}"

    def manifest_entry(self, joined: FeatureResult) -> dict[str, Any]:
        """The entry of the matrix in `info["encoders"]` of the manifest."""
        return {
            "identity": self.identity,
            "source": self.job.source.description,
            "origin": None if self.job.origin is None else dict(self.job.origin),
            "dims": joined.dims,
            "present": joined.present,
            "missing": joined.missing,
            "problems": joined.n_problems,
            "cut": joined.cut,
            "lirdrec": __version__,
        }

    def waiting(self) -> Iterator[list[Input]]:
        """The inputs that `run` will encode, shard by shard, equal ones once: not those that have a vector already."""
        for index in self._pending:
            rows = self.shards.rows(index)
            items = self.job.source.read(rows.start, rows.stop)
            found, *_ = self._look_up(index, _keys(items))
            wanted = [item for item, has in zip(items, found, strict=True) if not has]
            yield list({item.key: item.value for item in wanted if item.value is not None}.values())

    @cached_property
    def _outdated(self) -> list[int]:
        return self._sealed_of_other_inputs()

    @cached_property
    def _pending(self) -> list[int]:
        return sorted([*self.shards.pending(), *self._outdated])

    @cached_property
    def _known(self) -> VectorCache:
        return VectorCache(self.folders, self.identity)

    def _look_up(self, index: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """The vectors of a shard that are known already, as `Known.look_up` gives them."""
        return self._sealed(index, keys) if index in self._outdated else self._known.look_up(keys)

    def _tasks(self, pending: Iterable[int], halfway: dict[int, _Halfway], advance: ProgressCallback) -> Iterator[Task]:
        for index in pending:
            rows = self.shards.rows(index)
            items = self.job.source.read(rows.start, rows.stop)
            keys = _keys(items)
            found, vectors, cut = self._look_up(index, keys)
            todo = np.flatnonzero(~found)
            wanted = [items[place] for place in todo]
            one = _Halfway(todo, keys, found, vectors, cut)
            advance(int(found.sum()), idle=True)
            if any(item.value is not None for item in wanted):
                halfway[index] = one
                yield index, wanted
            else:
                arrays, facts = encode_shard(self.job.encoder, wanted, self._batch_size, advance)
                self._seal(index, *one.merged(arrays, facts))

    def _seal(self, index: int, arrays: Arrays, facts: Facts) -> None:
        self.shards.seal(index, arrays, {**facts, "asked": self._asked, PLACE: self.job.source.place})
        self.encoded += facts["encoded"]
        self.copied += facts["copied"]

    def _batch_to_go_on_with(self, first: int, asked: int) -> int:
        """What memory had allowed when the work was stopped, so that the batches are those of an unstopped run."""
        if first == 0:
            return asked
        facts = self.shards.facts(first - 1)
        return facts["batch_size"] if facts["asked"] == asked else asked

    def _sealed_of_other_inputs(self) -> list[int]:
        """Sealed shards with an input that is another one now: pictures that were missing, broken or of another folder.

        What the table itself holds cannot have changed: its hash is in the plan. Pictures that had a vector are looked
        at again only where their folder is another one.
        """
        if self.job.source.place is None:
            return []
        pending = set(self.shards.pending())
        return [index for index in range(len(self.shards)) if index not in pending and self._has_other_inputs(index)]

    def _has_other_inputs(self, index: int) -> bool:
        facts, rows = self.shards.facts(index), self.shards.rows(index)
        places = [place for place, *_ in facts["problems"]]
        if facts.get(PLACE) != self.job.source.place:
            places = list(range(len(rows)))
        if not places:
            return False
        keys = self.shards.read(index).arrays["keys"]
        items = (self.job.source.read(rows[place], rows[place] + 1) for place in places)
        return any((_keys(item) != keys[place]).any() for place, item in zip(places, items, strict=True))

    def _sealed(self, index: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """The vectors of a sealed shard whose inputs are the same, as `Known.look_up` gives them."""
        before = self.shards.read(index).arrays
        found = before["present"] & (before["keys"] == keys).all(axis=1)
        return found, before["vectors"][found] if found.any() else None, before["cut"][found]

    def _state_before(self) -> State | None:
        """The state behind the matrix that is there, if it was made by this encoder of these texts, or `reuse`'s."""
        if self.restart:
            return None
        wanted = json_like(self.job.encoder.identity)
        for folder in self.folders:
            for name, told in read_manifest(folder)["info"].get("encoders", {}).items():
                if bare(told["identity"]) != wanted:
                    continue
                own = (self.job.name, self.job.source.description)
                if folder == self.folder and (name, told["source"]) != own:
                    continue  # fitted to other texts of this dataset
                if (state := fitted_state(folder, name)) is not None:
                    return state
        return None


def _keys(items: list[Item]) -> np.ndarray:
    keys = np.zeros((len(items), KEY_BYTES), dtype=np.uint8)
    for place, item in enumerate(items):
        if item.key is not None:
            keys[place] = np.frombuffer(item.key, dtype=np.uint8)
    return keys
