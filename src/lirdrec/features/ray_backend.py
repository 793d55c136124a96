"""Encoding on a Ray cluster: remote workers encode the shards, and this process saves them.

Ray Data does not fit: it reads its input on the workers or receives all of it at once, and each execution starts new
actors. Here one shard is read at a time, since the inputs may not fit into memory, and the actors keep their weights
for all shards. An actor whose process dies is started again by Ray and repeats its shards.

A worker encodes a complete shard with `encode.encode_shard`, in the same batches and with as many threads as this
process (another number changes the last bits). So the bytes are those of a single process, if the machines compute
alike (processors, versions of libraries) and memory suffices: a batch size halved in a shard is not kept for the next.

All machines need the same lirdrec, and see images and models in folders of the same paths.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lirdrec.data.ids import pluralize
from lirdrec.errors import ConfigError, LirdrecError, TrainingError
from lirdrec.features.encode import Arrays, Done, Facts, Task, encode_shard
from lirdrec.features.encoder import Encoder
from lirdrec.features.sources import Item
from lirdrec.files.progress_bars import ProgressCallback, no_progress

AHEAD = 2  # shards of a worker at once: one in work, one waiting
RETRIES = 3  # restarts of a worker, and of a shard
POLL_SECONDS = 1.0  # between two checks of the progress
LOCAL = "local"
LOCAL_WORKERS = 2
STORE_BYTES = 160 * 2**20  # shared memory of a local Ray; shards beyond it are stored on disk
CONNECT_SECONDS = 5.0


class RayLoop(contextlib.AbstractContextManager["RayLoop"]):
    """A loop for `make_features(…, loop=…)` that distributes the shards over the workers of a Ray cluster.

        with RayLoop("auto") as loop:
            make_features(folder, jobs, loop=loop)

    Ray is started or connected at the first use, and left at the end of the block, unless this process was already
    connected.

    Args:
        address: "local" starts Ray on this machine, "auto" is its cluster; or "HOST:PORT", or "ray://HOST:PORT".
        workers: processes that encode; by default one for each GPU of the cluster, or without GPUs one for each
            `OMP_NUM_THREADS` processors (by default those of this machine); two with "local".

    Raises:
        ConfigError: Ray is not installed, or `workers` is below 1. At the first use: no cluster answers, or it has no
            room for so many workers.
    """

    def __init__(self, address: str = LOCAL, workers: int | None = None):
        if workers is not None and workers < 1:
            raise ConfigError(f"{workers} workers cannot encode anything; give 1 or more")
        import_ray()
        self.address, self.workers = address, workers
        self._started = False

    def __exit__(self, *error: object) -> None:
        if self._started:
            import_ray().shutdown()
            self._started = False

    def __call__(
        self, encoder: Encoder, tasks: Iterable[Task], batch_size: int, advance: ProgressCallback = no_progress
    ) -> Iterator[Done]:
        """Run the tasks; see `encode.py` for the contract of a loop.

        Raises:
            TrainingError: one input does not fit into a worker's memory, or workers die again and again.
            ConfigError: a worker does not see the files.
        """
        import torch

        threads = torch.get_num_threads()
        ray = self._connect(threads)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        started_here = self._started and self.address == LOCAL
        default = LOCAL_WORKERS if started_here and not any("GPU" in machine for machine in machines) else None
        share = share_out(machines, self.workers or default, threads)
        # workers with their own environment start slowly
        pool = Pool(ray, encoder, share, {} if started_here else {"OMP_NUM_THREADS": str(threads)})
        try:
            # Ray reports dead workers on the output stream, where a program may expect our JSON
            with contextlib.redirect_stdout(sys.stderr):
                yield from pool.run(tasks, batch_size, advance)
        finally:
            for worker in pool.workers:
                ray.kill(worker)

    def _connect(self, threads: int) -> Any:
        ray = import_ray()
        if ray.is_initialized():
            return ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            if self.address == LOCAL:
                options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
                # rather more work than processors than other bits
                n = max((self.workers or LOCAL_WORKERS) * threads, os.cpu_count() or 1)
                with _environment("OMP_NUM_THREADS", str(threads)):  # inherited by all that Ray starts
                    ray.init(address=LOCAL, num_cpus=n, **options)
            else:
                _check_listens(self.address)  # Ray itself retries for many minutes
                ray.init(address=self.address, **options)
        except (OSError, ValueError, RuntimeError) as error:
            if _wants_token(error):
                raise ConfigError(
                    f"the Ray cluster at '{self.address}' asks for a token: set RAY_AUTH_MODE=token, and give the"
                    " cluster's token as Ray's documentation says"
                ) from error
            reason = str(error).strip() or type(error).__name__
            raise ConfigError(
                f"no Ray cluster answers at '{self.address}' ({reason.splitlines()[0]}); start one with"
                " ray start --head, or use 'local'"
            ) from error
        self._started = True
        return ray


@dataclass(frozen=True)
class Share:
    """Number of workers, and the processors and GPUs of each."""

    workers: int
    cpus: int
    gpus: int


def share_out(machines: Sequence[Mapping[str, float]], workers: int | None, threads: int) -> Share:
    """Share of the machines ("CPU" and "GPU" of each) for workers of one GPU, or without GPUs of `threads` processors.

    By default as many workers as have room; raises a ConfigError if there is no room for so many.
    """
    if gpus := sum(int(machine.get("GPU", 0)) for machine in machines):
        cpus, room = 0, gpus
    else:
        hosts = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
        cpus = min([threads, *hosts])
        room = sum(host // cpus for host in hosts)
    if not room or (workers or 1) > room:
        raise ConfigError(
            f"the Ray cluster has room for {room} workers of {'a GPU' if gpus else pluralize(threads, 'thread')} each,"
            f" not for {workers or 1}: take fewer workers" + ("" if gpus else ", or fewer threads (OMP_NUM_THREADS)")
        )
    return Share(workers or room, cpus, min(gpus, 1))


class _Worker:
    """Actor of Ray in its own process; its encoder stays loaded for all shards of a matrix."""

    def __init__(self) -> None:
        self.encoder: Encoder | None = None
        self.index, self.done = -1, 0

    def encode(self, encoder: list[Any], index: int, items: list[Item], batch_size: int) -> tuple[Arrays, Facts]:
        """Encode one shard."""
        self.index, self.done = index, 0
        _check_files(items)
        if self.encoder is None:
            self.encoder = import_ray().get(encoder[0])
        return encode_shard(self.encoder, items, batch_size, self._advance)

    def progress(self) -> tuple[int, int]:
        """The shard in work, and the number of its finished inputs."""
        return self.index, self.done

    def _advance(self, n: int, /, idle: bool = False) -> None:
        self.done += 0 if idle else n


@dataclass
class _Shard:
    """A shard in progress: `reported` of its inputs were counted by the progress bar."""

    index: int
    n_items: int
    worker: Any
    reported: int = 0

    def more(self, done: int) -> int:
        """Number of inputs to report now; none is counted twice, even when the shard is repeated."""
        new = max(0, min(done, self.n_items) - self.reported)
        self.reported += new
        return new


class Pool:
    """Workers with one encoder each, and the shards they work on."""

    def __init__(self, ray: Any, encoder: Encoder, share: Share, environment: dict[str, str]):
        self._ray = ray
        worker = ray.remote(
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            runtime_env={"env_vars": environment} if environment else None,
            # a second thread answers while the first encodes
            concurrency_groups={"encode": 1, "progress": 1},
        )(_Worker)
        self._encoder = [ray.put(encoder)]  # in a list, so that a worker fetches it once and not for each shard
        self.workers = [worker.remote() for _ in range(share.workers)]
        self._shards: dict[Any, _Shard] = {}

    def run(self, tasks: Iterable[Task], batch_size: int, advance: ProgressCallback) -> Iterator[Done]:
        """Encode all tasks; at most `AHEAD` a worker are read and not yet yielded."""
        unread: Iterator[Task] | None = iter(tasks)
        while True:
            while unread is not None and (worker := self._least_busy()) is not None:
                if (task := next(unread, None)) is None:
                    unread = None
                    break
                index, items = task
                encode = worker.encode.options(concurrency_group="encode")
                reference = encode.remote(self._encoder, index, items, batch_size)
                self._shards[reference] = _Shard(index, len(items), worker)
            if not self._shards:
                return
            ready, _ = self._ray.wait(list(self._shards), timeout=POLL_SECONDS)
            if not ready:
                self._report_progress(advance)
            for reference in ready:
                arrays, facts = self._get(reference)
                shard = self._shards.pop(reference)
                advance(shard.more(facts["encoded"]))
                advance(shard.n_items - facts["encoded"], idle=True)
                yield shard.index, arrays, facts

    def _least_busy(self) -> Any:
        busy = [sum(shard.worker is worker for shard in self._shards.values()) for worker in self.workers]
        fewest = min(busy)
        return self.workers[busy.index(fewest)] if fewest < AHEAD else None

    def _report_progress(self, advance: ProgressCallback) -> None:
        """Ask the workers for their progress; one that is starting or dead does not answer."""
        asked = {worker.progress.options(concurrency_group="progress").remote(): worker for worker in self.workers}
        answered, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=POLL_SECONDS)
        for reference in answered:
            try:
                index, done = self._ray.get(reference)
            except self._ray.exceptions.RayError:
                continue
            for shard in self._shards.values():
                if shard.index == index and shard.worker is asked[reference]:
                    advance(shard.more(done))

    def _get(self, reference: Any) -> tuple[Arrays, Facts]:
        exceptions = self._ray.exceptions
        try:
            arrays, facts = self._ray.get(reference)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, LirdrecError):
                raise error.cause from None
            raise
        except exceptions.RayError as error:
            raise TrainingError(
                f"the workers of the Ray cluster died {RETRIES + 1} times with one shard"
                f" ({str(error).strip().splitlines()[0]}); they may have too little memory: take fewer of them, or a"
                " smaller batch. What was finished is kept"
            ) from error
        return arrays, facts


def import_ray() -> Any:
    """The module `ray`; raises a ConfigError if it is not installed."""
    try:
        import ray
    except ImportError:
        raise ConfigError('a cluster needs Ray: pip install "lirdrec[ray]"') from None
    return ray


def _check_files(items: list[Item]) -> None:
    """Raise a ConfigError if this machine sees none of the files; all would count as missing."""
    paths = [item.value for item in items if isinstance(item.value, Path)]
    if paths and not any(path.exists() for path in paths):
        raise ConfigError(
            f"{platform.node()} does not see {paths[0]}; the files must have the same path on all machines of the"
            " cluster, such as on a shared disk"
        )


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.copy()
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        os.environ.update({name: before[name]} if name in before else {})


def _wants_token(error: BaseException | None) -> bool:
    while error is not None:
        if "AuthenticationError" in f"{type(error).__name__} {error}":  # Ray puts the cause into the message
            return True
        error = error.__cause__ or error.__context__
    return False


def _check_listens(address: str) -> None:
    """Raise an OSError if no process listens at HOST:PORT; other kinds of address are left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
