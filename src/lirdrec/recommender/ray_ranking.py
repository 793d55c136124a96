"""Rank users on a Ray cluster, in shards; each machine holds the vectors of the run once, for all its processes."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
import torch

from lirdrec.errors import ConfigError, TrainingError
from lirdrec.ray_cluster import RETRIES, LostTaskError, RayCluster, import_ray, quiet_output, result_of
from lirdrec.recommender.ranking_for_workers import UserRanking

AHEAD = 2  # shards given to a process at once: it works on one, and one waits
_held: dict[str, UserRanking] = {}  # the ranking of the last task of this process


def rank_on_ray(
    address: str, ranking: UserRanking, shards: Iterable[range]
) -> Generator[tuple[range, dict[str, np.ndarray]], None, None]:
    """Rank shards (ranges of users) on a Ray cluster; yield each shard with its arrays, as soon as it is ranked.

    The arrays have the same bytes as the result of `ranking.shard` in this process, if the machines compute alike; the
    number of threads is the same. A shard whose process or machine died is ranked again, up to `RETRIES` times.

    Raises:
        ConfigError: another device than cpu and cuda, Ray is not installed, no cluster answers, or it has no room.
        TrainingError: processes died again and again with one shard.
    """
    if ranking.device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{ranking.device}': on a Ray cluster choose cpu or cuda")
    threads = torch.get_num_threads()
    with RayCluster(address) as cluster, quiet_output():
        ray = cluster.connect(threads)
        share = cluster.share(ray, threads, None, gpus=ranking.device.type == "cuda")
        resources = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_retries": 0}
        task, held = ray.remote(**resources)(_rank), [ray.put(ranking)]
        waiting, running, deaths = iter(shards), dict[Any, range](), dict[int, int]()
        try:
            while True:
                while len(running) < AHEAD * share.workers and (rows := next(waiting, None)) is not None:
                    running[task.remote(held, rows, threads)] = rows
                if not running:
                    return
                (ready, *_), _ = ray.wait(list(running))
                rows = running.pop(ready)
                try:
                    arrays = result_of(ray, ready)
                except LostTaskError as error:
                    deaths[rows.start] = deaths.get(rows.start, 0) + 1
                    if deaths[rows.start] > RETRIES:
                        raise TrainingError(
                            f"the processes of the Ray cluster died {deaths[rows.start]} times while they ranked the"
                            f" users in rows {rows.start} to {rows.stop - 1} ({error}); finished shards are kept, so"
                            " repeat the call to continue"
                        ) from error
                    running[task.remote(held, rows, threads)] = rows
                    continue
                yield rows, arrays
        finally:
            for reference in running:
                ray.cancel(reference)


def _rank(held: list[Any], rows: range, threads: int) -> dict[str, np.ndarray]:
    """Rank one shard, in a process of the cluster."""
    torch.set_num_threads(threads)
    name = held[0].hex()
    if name not in _held:
        _held.clear()
        _held[name] = import_ray().get(held[0])
    return _held[name].shard(rows)
