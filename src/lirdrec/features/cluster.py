"""The same run on a Ray cluster: shards are encoded by workers of other processes and machines, and sealed here.

Why not Ray Data? It was the first choice, and it does not fit what the run promises. It wants to read its input itself,
on the workers, or to be given all of it at once; here the inputs are drawn one shard at a time, because the next shard
depends on what is sealed or known already, and must never all be in memory. Each of its executions starts and ends its
own pool of actors, so that handing it the shards in portions would load the weights again for each. A pool of actors
that is fed by hand has neither fault, and Ray's own retries mend it: an actor whose process dies is started anew and
does its shards again.

A shard is encoded whole by one worker and by the same function as everywhere (`encoding.encode_shard`), in the same
batches and in as many threads as this process would take (another number of threads gives other last bits). So the
bytes are those of a single process, as far as the machines compute alike (processors, versions of libraries), and
unless memory runs out: that halves the batches of a shard, here not those of the following ones.

All machines need the same lirdrec, and see pictures and models in folders under the same paths.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from lirdrec.data.identifiers import count
from lirdrec.errors import ConfigError
from lirdrec.features.cluster_workers import Pool, Share, import_ray
from lirdrec.features.encoder import Encoder
from lirdrec.features.encoding import Advance, Done, Task, unheard

LOCAL = "local"
LOCAL_WORKERS = 2
STORE_BYTES = 160 * 2**20  # shared memory of a local Ray; shards beyond it go to the disk
KNOCK_SECONDS = 5.0


class RayLoop:
    """A loop for `make_features(…, loop=…)` that spreads the shards over the workers of a Ray cluster.

        with RayLoop("auto") as loop:
            make_features(folder, jobs, loop=loop)

    Ray is started or connected at the first use, and left at the end of the block. A process that is connected to Ray
    already stays so.

    Args:
        address: "local" starts Ray on this machine; "auto" is the cluster of this machine; or "HOST:PORT", or
            "ray://HOST:PORT".
        workers: processes that encode; by default one for each GPU of the cluster, or, where it has none, one for each
            `OMP_NUM_THREADS` processors (those of this machine, where that is not set); two with "local".

    Raises:
        ConfigError: Ray is not installed, or fewer than one worker is asked for. At the first use: no cluster answers,
            or it has no room for so many workers.
    """

    def __init__(self, address: str = LOCAL, workers: int | None = None):
        if workers is not None and workers < 1:
            raise ConfigError(f"{workers} workers cannot encode anything; give 1 or more")
        import_ray()
        self.address, self.workers = address, workers
        self._started = False

    def __enter__(self) -> RayLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._started:
            import_ray().shutdown()
            self._started = False

    def __call__(
        self, encoder: Encoder, tasks: Iterable[Task], batch_size: int, advance: Advance = unheard
    ) -> Iterator[Done]:
        """See `encoding` for the contract of a loop.

        Raises:
            TrainingError: one input does not fit into a worker's memory, or workers die again and again.
            ConfigError: a worker does not see the files.
        """
        ray = self._connect()
        machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
        own = self._started and self.address == LOCAL
        workers = LOCAL_WORKERS if own and not any("GPU" in one for one in machines) else None
        threads = _threads()
        share = share_out(machines, self.workers or workers, threads)
        # workers with an environment of their own start slowly
        pool = Pool(ray, encoder, share, {} if own else {"OMP_NUM_THREADS": str(threads)})
        try:
            # Ray tells of dead workers on the output stream, where a program may expect our JSON
            with contextlib.redirect_stdout(sys.stderr):
                yield from pool.run(tasks, batch_size, advance)
        finally:
            pool.end()

    def _connect(self) -> Any:
        ray = import_ray()
        if ray.is_initialized():
            return ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            if self.address == LOCAL:
                options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
                threads = _threads()
                # a little more work than there are processors, rather than other bits
                n = max((self.workers or LOCAL_WORKERS) * threads, os.cpu_count() or 1)
                with _environment("OMP_NUM_THREADS", str(threads)):  # inherited by all that Ray starts
                    ray.init(address=LOCAL, num_cpus=n, **options)
            else:
                _knock(self.address)  # Ray itself goes on trying for many minutes
                ray.init(address=self.address, **options)
        except (OSError, ValueError, RuntimeError) as error:
            if _wants_a_token(error):
                raise ConfigError(
                    f"the Ray cluster at '{self.address}' asks for a token: set RAY_AUTH_MODE=token, and give the"
                    " cluster's token as Ray's documentation says"
                ) from error
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"no Ray cluster answers at '{self.address}' ({first}); start one with ray start --head, or use 'local'"
            ) from error
        self._started = True
        return ray


def share_out(machines: Sequence[Mapping[str, float]], workers: int | None, threads: int) -> Share:
    """How many workers there are, so that all of them find a place.

    Args:
        machines: "CPU" and "GPU" of each.
        workers: by default as many as have room: one a GPU, or, where there is none, one for `threads` processors.
        threads: that a worker computes in.

    Raises:
        ConfigError: there is no room for so many.
    """
    if gpus := sum(int(one.get("GPU", 0)) for one in machines):
        cpus, room = 0, gpus
    else:
        hosts = [int(one["CPU"]) for one in machines if one.get("CPU", 0) >= 1]
        cpus = min([threads, *hosts])
        room = sum(host // cpus for host in hosts)
    if not room or (workers or 1) > room:
        raise ConfigError(
            f"the Ray cluster has room for {room} workers of {'a GPU' if gpus else count(threads, 'thread')} each, not"
            f" for {workers or 1}: take fewer workers" + ("" if gpus else ", or fewer threads (OMP_NUM_THREADS)")
        )
    return Share(workers or room, cpus, min(gpus, 1))


def _threads() -> int:
    """That this process computes in."""
    import torch

    return torch.get_num_threads()


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _wants_a_token(error: BaseException | None) -> bool:
    while error is not None:
        if "AuthenticationError" in f"{type(error).__name__} {error}":  # Ray puts the cause into the message
            return True
        error = error.__cause__ or error.__context__
    return False


def _knock(address: str) -> None:
    """Raise an OSError if nobody listens at HOST:PORT; other kinds of address are left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
