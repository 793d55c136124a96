"""The workers of a Ray cluster: processes with an encoder each, the shards that they have, and how far they are."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError, LirdrecError, TrainingError
from lirdrec.features.encoder import Encoder
from lirdrec.features.encoding import Advance, Arrays, Done, Facts, Task, encode_shard
from lirdrec.features.sources import Item

AHEAD = 2  # shards that a worker has at once: one in work, one waiting
RETRIES = 3  # deaths that a worker survives, and that a shard survives
POLL_SECONDS = 1.0  # between two looks at the progress


@dataclass(frozen=True)
class Share:
    """Workers, and what each of them takes of the machine that it lives on."""

    workers: int
    cpus: int
    gpus: int


class Pool:
    """Workers with one encoder each, and the shards that they have."""

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
                advance(shard.more(facts["encoded"]))
                advance(shard.n_items - facts["encoded"], idle=True)
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
    """A shard on its way: how many of its inputs were told to the progress."""

    def __init__(self, index: int, n_items: int, worker: Any):
        self.index, self.n_items, self.worker = index, n_items, worker
        self.told = 0

    def more(self, done: int) -> int:
        """Inputs to tell now; none twice, also when the shard is done again."""
        new = max(0, min(done, self.n_items) - self.told)
        self.told += new
        return new


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
            self.encoder = import_ray().get(encoder[0])
        return encode_shard(self.encoder, items, batch_size, self._advance)

    def progress(self) -> tuple[int, int]:
        """The shard in work, and how many of its inputs are through."""
        return self.index, self.done

    def _advance(self, n: int, /, idle: bool = False) -> None:
        self.done += 0 if idle else n


def _check_files(items: list[Item]) -> None:
    """A machine that sees none of the pictures would call all of them missing."""
    paths = [item.value for item in items if isinstance(item.value, Path)]
    if paths and not any(path.exists() for path in paths):
        raise ConfigError(
            f"{platform.node()} does not see {paths[0]}; the pictures must lie under the same path on all machines"
            " of the cluster, such as on a shared disk"
        )


def import_ray() -> Any:
    """The module; raises a ConfigError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise ConfigError('a cluster needs Ray: pip install "lirdrec[ray]"') from None
    return ray
