"""The same run on a Ray cluster: shards are encoded by workers of other processes and machines, and sealed here.

Why not Ray Data? It was the first choice, and it does not fit what the run promises. It wants to read its input itself,
on the workers, or to be given all of it at once; here the inputs are drawn one shard at a time, because the next shard
depends on what is sealed or known already, and must never all be in memory. Each of its executions starts and ends its
own pool of actors, so that handing it the shards in portions would load the weights again for each. A pool of actors
that is fed by hand has neither fault, and Ray's own retries mend it: an actor whose process dies is started anew and
does its shards again.

A shard is encoded whole by one worker and by the same function as everywhere (`encoding.encode_shard`), in the same
batches, so that the bytes are those of a single process: as far as the machines' arithmetic is the same (processor,
versions, number of threads), and unless memory runs out, which halves the batches of that shard alone.

All machines need the same lirdrec, and see pictures and models in folders under the same paths.
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
from types import TracebackType
from typing import Any

from lirdrec.errors import ConfigError, LirdrecError, TrainingError
from lirdrec.features.encoder import Encoder
from lirdrec.features.encoding import Advance, Arrays, Done, Facts, Task, encode_shard
from lirdrec.features.sources import Item

LOCAL = "local"
LOCAL_WORKERS = 2
AHEAD = 2  # shards that a worker has at once: one in work, one waiting
RETRIES = 3  # deaths that a worker survives, and that a shard survives
STORE_BYTES = 160 * 2**20  # shared memory of a local Ray; shards beyond it go to the disk
KNOCK_SECONDS = 5.0
POLL_SECONDS = 1.0  # between two looks at the progress


class RayLoop:
    """A loop for `make_features(…, loop=…)` that spreads the shards over the workers of a Ray cluster.

        with RayLoop("auto") as loop:
            make_features(folder, jobs, loop=loop)

    Ray is started or connected at the first use, and left at the end of the block. A process that is connected to Ray
    already stays so.

    Args:
        address: "local" starts Ray on this machine; "auto" is the cluster of this machine; or "HOST:PORT", or
            "ray://HOST:PORT".
        workers: processes that encode; by default 2 with "local", else one for each GPU of the cluster, or, where it
            has none, one for each machine.

    The processors of the cluster are shared out among the workers: each computes in so many threads.

    Raises:
        ConfigError: Ray is not installed, or fewer than one worker is asked for. At the first use: no cluster answers,
            or it has no room for so many workers.
    """

    def __init__(self, address: str = LOCAL, workers: int | None = None):
        if workers is not None and workers < 1:
            raise ConfigError(f"{workers} workers cannot encode anything; give 1 or more")
        _ray()
        self.address, self.workers = address, workers
        self._started = False

    def __enter__(self) -> RayLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._started:
            _ray().shutdown()
            self._started = False

    def __call__(
        self, encoder: Encoder, tasks: Iterable[Task], batch_size: int, advance: Advance = lambda n: None
    ) -> Iterator[Done]:
        """See `encoding` for the contract of a loop.

        Raises:
            TrainingError: one input does not fit into a worker's memory, or workers die again and again.
            ConfigError: a worker does not see the files.
        """
        ray = self._connect()
        machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
        share = share_out(machines, LOCAL_WORKERS if self.address == LOCAL and not self.workers else self.workers)
        pool = _Pool(ray, encoder, share)
        try:
            # Ray tells of dead workers on the output stream, where a program may expect our JSON
            with contextlib.redirect_stdout(sys.stderr):
                yield from pool.run(tasks, batch_size, advance)
        finally:
            pool.end()

    def _connect(self) -> Any:
        ray = _ray()
        if ray.is_initialized():
            return ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            if self.address == LOCAL:
                options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
                ray.init(address=LOCAL, num_cpus=max(self.workers or LOCAL_WORKERS, os.cpu_count() or 1), **options)
            else:
                _knock(self.address)  # Ray itself goes on trying for many minutes
                ray.init(address=self.address, **options)
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"no Ray cluster answers at '{self.address}' ({first}); start one with ray start --head, or use 'local'"
            ) from error
        self._started = True
        return ray


@dataclass(frozen=True)
class Share:
    """Workers, and what each of them gets."""

    workers: int
    cpus: int
    gpus: int


def share_out(machines: Sequence[Mapping[str, float]], workers: int | None) -> Share:
    """How many workers, with how many processors each, so that all of them find a place.

    Args:
        machines: "CPU" and "GPU" of each.
        workers: by default one a GPU, or, where there is none, one a machine.

    Raises:
        ConfigError: there is no room for so many.
    """
    gpus = sum(int(one.get("GPU", 0)) for one in machines)
    hosts = [one for one in machines if int(one.get("GPU" if gpus else "CPU", 0))]
    room = gpus or sum(int(one["CPU"]) for one in hosts)
    workers = (gpus or len(hosts)) if workers is None else workers
    if workers > room or not room:
        what = "GPUs" if gpus else "processors"
        raise ConfigError(f"{workers} workers need as many {what}; the Ray cluster has {room}: take fewer workers")
    if gpus:
        cpus = min(int(one.get("CPU", 0)) // int(one["GPU"]) for one in hosts)
    else:
        each = -(-workers // len(hosts))
        cpus = min(int(one["CPU"]) // each for one in hosts)
    return Share(workers, max(1, cpus), 1 if gpus else 0)


class _Pool:
    """Workers with one encoder each, and the shards that they have."""

    def __init__(self, ray: Any, encoder: Encoder, share: Share):
        self._ray = ray
        worker = ray.remote(
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            # a second thread answers while the first encodes
            concurrency_groups={"encode": 1, "progress": 1},
        )(_Worker)
        self._encoder = [ray.put(encoder)]  # in a list, so that a worker fetches it once and not for each shard
        self._workers = [worker.remote() for _ in range(share.workers)]
        self._shards: dict[Any, _Shard] = {}

    def run(self, tasks: Iterable[Task], batch_size: int, advance: Advance) -> Iterator[Done]:
        """Encode all tasks; never more than `AHEAD` a worker are drawn and not yielded."""
        drawn = iter(tasks)
        more = True
        while True:
            while more and (worker := self._least_busy()) is not None:
                task = next(drawn, None)
                if task is None:
                    more = False
                    break
                index, items = task
                encode = worker.encode.options(concurrency_group="encode")
                reference = encode.remote(self._encoder, index, items, batch_size)
                self._shards[reference] = _Shard(index, len(items), worker)
            if not self._shards:
                return
            ready, _ = self._ray.wait(list(self._shards), timeout=POLL_SECONDS)
            if not ready:
                self._look(advance)
            for reference in ready:
                arrays, facts = self._get(reference)
                shard = self._shards.pop(reference)
                advance(shard.rest())
                yield shard.index, arrays, facts

    def end(self) -> None:
        """Let the workers go; what they have is lost."""
        for worker in self._workers:
            self._ray.kill(worker)

    def _least_busy(self) -> Any:
        busy = [sum(shard.worker is worker for shard in self._shards.values()) for worker in self._workers]
        fewest = min(busy)
        return self._workers[busy.index(fewest)] if fewest < AHEAD else None

    def _look(self, advance: Advance) -> None:
        """Ask the workers how far they are; one that is starting or dead says nothing."""
        asked = {worker.progress.options(concurrency_group="progress").remote(): worker for worker in self._workers}
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


class _Shard:
    """A shard on its way: how many of its items were told to the progress."""

    def __init__(self, index: int, n_items: int, worker: Any):
        self.index, self.n_items, self.worker = index, n_items, worker
        self.told = 0

    def more(self, done: int) -> int:
        """Items to tell now; none twice, also when the shard is done again."""
        new = max(0, min(done, self.n_items) - self.told)
        self.told += new
        return new

    def rest(self) -> int:
        """Items that were not told yet."""
        return self.more(self.n_items)


class _Worker:
    """Lives in a process of its own, with its encoder; whatever it loads stays loaded for all shards of a matrix."""

    def __init__(self) -> None:
        self.encoder: Encoder | None = None
        self.index, self.done = -1, 0

    def encode(self, encoder: list[Any], index: int, items: list[Item], batch_size: int) -> tuple[Arrays, Facts]:
        """One shard."""
        self.index, self.done = index, 0
        _check_files(items)
        if self.encoder is None:
            self.encoder = _ray().get(encoder[0])
        return encode_shard(self.encoder, items, batch_size, self._advance)

    def progress(self) -> tuple[int, int]:
        """The shard in work, and how many of its items are through."""
        return self.index, self.done

    def _advance(self, n: int) -> None:
        self.done += n


def _knock(address: str) -> None:
    """Raise an OSError if nobody listens at HOST:PORT; other kinds of address are left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _check_files(items: list[Item]) -> None:
    """A machine that sees none of the pictures would call all of them missing."""
    paths = [item.value for item in items if isinstance(item.value, Path)]
    if paths and not any(path.exists() for path in paths):
        raise ConfigError(
            f"{platform.node()} does not see {paths[0]}; the pictures must lie under the same path on all machines"
            " of the cluster, such as on a shared disk"
        )


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError('a cluster needs Ray: pip install "lirdrec[ray]"') from None
    return ray
