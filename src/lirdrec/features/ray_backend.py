"""Encoding on a Ray cluster: remote workers encode the shards, and this process saves them.

Ray Data is not used: it reads its input on the workers or receives all of it at once, and each execution starts new
actors. Here one shard is read at a time, since the inputs may not fit into memory, and each worker is a Ray actor that
keeps its weights for all shards. An actor whose process dies is started again by Ray and repeats its shards.

A worker encodes a complete shard with `encode.encode_shard`, in the same batches and with as many threads as this
process (another number of threads changes the last bits). So the result has the same bytes as that of a single process,
if two conditions hold. The machines compute alike (same processors, same versions of libraries). And memory suffices:
here a batch size that was halved in a shard is not kept for the next shard.

All machines need the same version of lirdrec, and must find images and models under the same paths.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError, TrainingError
from lirdrec.features.encode import Arrays, Done, Facts, Task, encode_shard
from lirdrec.features.encoder import Encoder
from lirdrec.features.sources import Item
from lirdrec.files.progress_bars import ProgressCallback, no_progress
from lirdrec.ray_cluster import LOCAL, RETRIES, LostTaskError, RayCluster, Share, import_ray, quiet_output, result_of

AHEAD = 2  # shards that a worker has at once: it encodes one, the other waits
POLL_SECONDS = 1.0  # between two checks of the progress


class RayLoop(contextlib.AbstractContextManager["RayLoop"]):
    """A loop for `make_features(…, loop=…)` that distributes the shards over the workers of a Ray cluster.

        with RayLoop("auto") as loop:
            make_features(folder, jobs, loop=loop)

    The first use starts Ray or connects to it. The end of the block disconnects, unless this process was connected
    before.

    Args:
        address: "local" starts Ray on this machine, "auto" is the cluster of this machine; or "HOST:PORT", or
            "ray://HOST:PORT".
        workers: number of processes that encode. By default one for each GPU of the cluster. Without GPUs: two with
            "local", else as many as the cluster has processors for, if each gets as many as this process has threads
            (`OMP_NUM_THREADS`; by default the number of processors of this machine).

    Raises:
        ConfigError: Ray is not installed, or `workers` is below 1. At the first use: no cluster answers, or the cluster
            is too small for so many workers.
    """

    def __init__(self, address: str = LOCAL, workers: int | None = None):
        if workers is not None and workers < 1:
            raise ConfigError(f"{workers} workers cannot encode anything; give 1 or more")
        self.cluster, self.workers = RayCluster(address), workers

    def __exit__(self, *error: object) -> None:
        self.cluster.__exit__(*error)

    def __call__(
        self, encoder: Encoder, tasks: Iterable[Task], batch_size: int, advance: ProgressCallback = no_progress
    ) -> Iterator[Done]:
        """Encode the shards of `tasks` on the workers, and yield the results; see `encode.py` for the arguments.

        Raises:
            TrainingError: one input does not fit into a worker's memory, or workers die again and again.
            ConfigError: the machine of a worker does not have the files.
        """
        import torch

        threads = torch.get_num_threads()
        ray = self.cluster.connect(threads, self.workers)
        share = self.cluster.share(ray, threads, self.workers)
        # workers with their own environment start slowly
        pool = Pool(ray, encoder, share, {} if self.cluster.is_started_here else {"OMP_NUM_THREADS": str(threads)})
        try:
            with quiet_output():
                yield from pool.run(tasks, batch_size, advance)
        finally:
            for worker in pool.workers:
                ray.kill(worker)


class _Worker:
    """Encodes shards as a Ray actor, in a process of its own; its encoder stays loaded for all shards of a matrix."""

    def __init__(self) -> None:
        self.encoder: Encoder | None = None
        self.index, self.done = -1, 0

    def encode(self, encoder: list[Any], index: int, items: list[Item], batch_size: int) -> tuple[Arrays, Facts]:
        """Encode the items of one shard; `encoder` is a list with the Ray reference of the encoder."""
        self.index, self.done = index, 0
        _check_files(items)
        if self.encoder is None:
            self.encoder = import_ray().get(encoder[0])
        return encode_shard(self.encoder, items, batch_size, self._advance)

    def progress(self) -> tuple[int, int]:
        """Return the index of the shard that is being encoded, and the number of its finished inputs."""
        return self.index, self.done

    def _advance(self, n: int, /, idle: bool = False) -> None:
        self.done += 0 if idle else n


@dataclass
class _Shard:
    """A shard that a worker has to encode; `reported` is how many of its inputs the progress bar has counted."""

    index: int
    n_items: int
    worker: Any
    reported: int = 0

    def more(self, done: int) -> int:
        """Return how many inputs to report now that `done` are finished.

        No input is counted twice, even if the shard is repeated.
        """
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
        """Encode all tasks; for each worker, at most `AHEAD` tasks are read before their results are yielded."""
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
        """Ask the workers for their progress, and pass it to `advance`; a worker that is starting or dead has none."""
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
        try:
            arrays, facts = result_of(self._ray, reference)
        except LostTaskError as error:
            raise TrainingError(
                f"the workers of the Ray cluster died {RETRIES + 1} times with the same items ({error}); they may have"
                " too little memory: use fewer workers, or a smaller batch. Finished shards are kept"
            ) from error
        return arrays, facts


def _check_files(items: list[Item]) -> None:
    """Raise a ConfigError if this machine has none of the files, since all of them would count as missing."""
    paths = [item.value for item in items if isinstance(item.value, Path)]
    if paths and not any(path.exists() for path in paths):
        raise ConfigError(
            f"{platform.node()} does not see {paths[0]}; the files must have the same path on all machines of the"
            " cluster, such as on a shared disk"
        )
