"""Weak scaling of training on several devices: twice the users and items by two processes (docs/distributed.md).

    python benchmarks/weak_scaling.py
    python benchmarks/weak_scaling.py --model lightgcn --rounds 5

Three configurations, one thread a process, all with the same batch: one process with half of the data, two processes
with all of it, and one process with all of it. They are run in turn, several rounds, so that the load of the machine
falls on all alike. A rank draws the features of its own items only; the item neighbors are random.

Prints, for each configuration, the least and the median seconds of a step, the processor seconds of a step per process,
and the peak memory per process, less that of the program before it has any data. On a machine with other load the
processor seconds say more than the time of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lirdrec.config import make_config
from lirdrec.models.base import Features, ModelInputs
from lirdrec.models.registry import config_type, model_type
from lirdrec.parallel.ranks_and_shards import Ranks
from lirdrec.training.loop import sum_gradients
from lirdrec.training.memory_allocator import keep_freed_memory

CONFIGURATIONS = {"one process, half": (1, 0.5), "two processes": (2, 1.0), "one process, all": (1, 1.0)}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def inputs_of(options: argparse.Namespace, share: float, ranks: Ranks) -> ModelInputs:
    """Random pairs, and this rank's rows of random features."""
    n_users, n_items, n_pairs = (int(share * n) for n in (options.users, options.items, options.pairs))
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(n_users * n_items, (n_pairs,), generator=generator).unique()
    rows = ranks.shard(n_items)
    own = torch.Generator().manual_seed(1 + ranks.rank)
    present = torch.ones(rows.length, dtype=torch.bool)
    features = {
        f"modality {number}": Features(torch.randn(rows.length, width, generator=own), present)
        for number, width in enumerate(options.features)
    }
    neighbors = torch.randint(n_items, (n_items, 10), generator=generator)
    pairs = keys // n_items, keys % n_items
    return ModelInputs(n_users, n_items, *pairs, features, lambda name, k: neighbors[:, :k], ranks=ranks)


def measure(options: argparse.Namespace, share: float, ranks: Ranks) -> dict[str, Any]:
    """Seconds and processor seconds of the steps, and the peak memory of this process."""
    keep_freed_memory()
    base = peak_bytes()
    inputs = inputs_of(options, share, ranks)
    settings = json.loads(options.settings)
    model = model_type(options.model)(inputs, make_config(config_type(options.model), settings))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(2)
    chosen = torch.randint(len(inputs.users), (options.batch,), generator=generator)
    negatives = torch.randint(inputs.n_items, (options.batch,), generator=generator)
    model.start_epoch(1)
    steps: list[tuple[float, float]] = []
    for number in range(options.steps + 1):  # the first builds the graphs
        ranks.wait_for_all()
        started, used = time.perf_counter(), time.process_time()
        loss = model.loss(inputs.users[chosen], inputs.items[chosen], negatives)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        sum_gradients(model)
        optimizer.step()
        if number:
            steps.append((time.perf_counter() - started, time.process_time() - used))
    seconds, processor = zip(*steps, strict=True)
    return {"seconds": seconds, "processor": processor, "bytes": peak_bytes() - base, "program_bytes": base}


def run(options: argparse.Namespace, size: int, share: float) -> list[dict[str, Any]]:
    """The measurements of all processes of a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", folder, str(size), str(share)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(size)]
        if any([process.wait() for process in processes]):
            raise SystemExit("a process failed")
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]


def work(options: argparse.Namespace) -> None:
    folder, size, share, rank = options.worker[0], int(options.worker[1]), float(options.worker[2]), options.worker[3]
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=size)
    found = measure(options, share, Ranks(int(rank), size))
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def summary(parts: list[dict[str, Any]]) -> dict[str, float]:
    """Of the processes of all rounds; a step takes as long as its slowest process."""
    seconds = [s for part in parts for s in part["seconds"]]
    return {
        "least_seconds": min(seconds),
        "median_seconds": statistics.median(seconds),
        "processor_seconds": statistics.median(s for part in parts for s in part["processor"]),
        "megabytes": max(part["bytes"] for part in parts) / 1e6,
        "megabytes_with_program": max(part["bytes"] + part["program_bytes"] for part in parts) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lirdrec")
    parser.add_argument(
        "--settings", default='{"n_layers": 2, "loss": "softmax"}', help="options of the model, as JSON"
    )
    parser.add_argument("--users", type=int, default=30_000)
    parser.add_argument("--items", type=int, default=16_000)
    parser.add_argument("--pairs", type=int, default=300_000)
    parser.add_argument("--features", type=int, nargs="*", default=[1024, 384])
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also append the figures to this file, a JSON line")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options)
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in CONFIGURATIONS}
    loads = []
    for _ in range(options.rounds):
        for name, (size, share) in CONFIGURATIONS.items():
            loads.append(os.getloadavg()[0])
            parts[name] += run(options, size, share)
    found: dict[str, Any] = {name: summary(measured) for name, measured in parts.items()}
    half, two, whole = (found[name] for name in CONFIGURATIONS)
    found["ratios"] = {
        "least step": two["least_seconds"] / half["least_seconds"],
        "median step": two["median_seconds"] / half["median_seconds"],
        "processor": two["processor_seconds"] / half["processor_seconds"],
        "memory": two["megabytes"] / whole["megabytes"],
        "memory with program": two["megabytes_with_program"] / whole["megabytes_with_program"],
    }
    found["load"] = [round(load, 1) for load in loads]
    for name, values in found.items():
        print(name, {k: round(v, 3) for k, v in values.items()} if isinstance(values, dict) else values)
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"options": {k: str(v) for k, v in vars(options).items()}, **found}) + "\n")


if __name__ == "__main__":
    main()
