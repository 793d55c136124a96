"""Predictions of `lirdrec plan` against this machine: one thread, the shapes of Baby and a quarter of Electronics.

    OMP_NUM_THREADS=1 python benchmarks/plan.py
    OMP_NUM_THREADS=1 python benchmarks/plan.py --cases baby-fast --rounds 5 --output plan.jsonl

First the rate of float32 products and the bandwidth of the memory are measured; they are the device of the plan. Then
each case runs in a process of its own: a training step, the validation, the sampling of an epoch, and the peak memory
of the process. Seconds are processor seconds, which other programs change little; the least of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from device_data import planted, with_columns
from lirdrec.evaluation.scorer_evaluation import evaluate_scorer
from lirdrec.models.registry import build
from lirdrec.planning.device_speeds import DEVICES, Cluster, Device
from lirdrec.planning.plan import SAMPLING_SECONDS, make_plan, seconds
from lirdrec.planning.workload import Sizes
from lirdrec.recommender.presets import preset
from lirdrec.training.memory_allocator import keep_freed_memory
from lirdrec.training.sampling import TripleSampler
from shapes import DIMS, SHAPES

# name: shape, what it is divided by, model, preset, options that differ from the preset's
CASES: dict[str, tuple[str, int, str, str, dict[str, Any]]] = {
    "baby-fast": ("baby", 1, "lirdrec", "fast", {}),
    "baby-fast-all": ("baby", 1, "lirdrec", "fast", {"feature_size": None}),
    "baby-paper": ("baby", 1, "lirdrec", "paper", {}),
    "baby-lightgcn": ("baby", 1, "lightgcn", "fast", {}),
    "electronics-fast": ("electronics", 4, "lirdrec", "fast", {}),
    "electronics-fast-all": ("electronics", 4, "lirdrec", "fast", {"feature_size": None}),
    "electronics-paper": ("electronics", 4, "lirdrec", "paper", {}),
}
TARGET = 1.5


def least(work: Callable[[], Any], times: int) -> float:
    """The least processor seconds of a call."""
    found = []
    for _ in range(times):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def measured_device(times: int) -> Device:
    """This machine with one thread: products as large as a step's, and a sum of vectors beyond all caches."""
    a, b = torch.randn(2048, 4096), torch.randn(4096, 512)
    out = torch.empty(2048, 512)
    products = 2 * 2048 * 4096 * 512 / least(lambda: torch.mm(a, b, out=out), times + 2)
    x, y = torch.ones(64 * 2**20), torch.ones(64 * 2**20)
    bandwidth = 3 * 4 * len(x) / least(lambda: x.add_(y), times + 2)
    return replace(
        DEVICES["cpu-core"], float32=products, tf32=products, bfloat16=products, bandwidth=bandwidth, efficiency=1.0
    )


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def case(name: str, rounds: int) -> dict[str, Any]:
    """Measured and predicted figures of one case."""
    shape, divisor, model_name, settings, options = CASES[name]
    n_users, n_items, n_pairs = (n // divisor for n in SHAPES[shape])
    torch.set_num_threads(1)
    keep_freed_memory()
    config, training = preset(model_name, settings)
    config = replace(config, **options)
    dims = DIMS if model_name == "lirdrec" else {}
    data = planted((n_users, n_items, n_pairs), dims, torch.device("cpu"))
    data = with_columns(data, getattr(config, "feature_size", None))
    n_training = len(data.inputs.users)
    training = training.resolved(n_training)
    model = build(model_name, data.inputs, config)
    sampler = TripleSampler(data.inputs.users, data.inputs.items, n_items, 0, training.order)
    started = time.process_time()
    epoch = sampler.epoch(1)
    sampling = time.process_time() - started
    batch = [part[: training.pairs_per_step(n_training)] for part in epoch]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    model.start_epoch(1)

    def step() -> None:
        loss = model.loss(*batch)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    step()  # builds the graphs
    best = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    step_seconds = least(step, rounds)
    memory = peak_bytes()
    del best
    validation = least(
        lambda: evaluate_scorer(model.validation_scorer(), data.truth, ("recall", "ndcg"), (20,)), max(1, rounds - 1)
    )
    device = measured_device(rounds)  # last, since its vectors would be the peak of the memory
    plan = make_plan(config, training, Sizes(n_users, n_items, n_training, tuple(dims.values())), Cluster(1, device))
    parts = {name: seconds(work, device, "float32") for name, work in plan.work.validation.items()}
    ranking = (
        (parts["scores"] + parts["selection"]) * len(data.truth.users) / n_users
    )  # of the users with held-out items
    measured = {"step": step_seconds, "validation": validation, "sampling": sampling, "bytes": memory}
    predicted = {
        "step": plan.step_seconds,
        "validation": parts["forward"] + ranking,
        "sampling": SAMPLING_SECONDS * n_training,
        "bytes": plan.memory - plan.work.memory.get("PCA, more than a step", 0),  # there is no PCA here
    }
    steps = plan.work.n_steps
    for figures in (measured, predicted):
        figures["epoch"] = steps * figures["step"] + figures["sampling"] + figures["validation"]
    return {
        "case": name,
        "gigaflops": device.float32 / 1e9,
        "gigabytes_per_second": device.bandwidth / 1e9,
        "measured": measured,
        "predicted": predicted,
        "ratios": {key: predicted[key] / measured[key] for key in measured},
        "parts": plan.step,
        "memory": plan.work.memory,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="append each result as a JSON line; cases that it has are left out")
    parser.add_argument("--worker", choices=tuple(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(case(arguments.worker, arguments.rounds)))
        return
    done = {}
    if arguments.output is not None and arguments.output.exists():
        done = {line["case"]: line for line in map(json.loads, arguments.output.read_text().splitlines())}
    for name in arguments.cases:
        if name not in done:
            command = [sys.executable, __file__, "--worker", name, "--rounds", str(arguments.rounds)]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            done[name] = json.loads(text)
            if arguments.output is not None:
                with arguments.output.open("a", encoding="utf-8") as file:
                    file.write(text + "\n")
        found = done[name]
        for key, ratio in found["ratios"].items():
            within = "" if 1 / TARGET <= ratio <= TARGET else f"  beyond {TARGET}"
            shown = f"{found['predicted'][key]:12.5g} predicted {found['measured'][key]:12.5g} measured"
            print(f"{name:20} {key:12} {shown}  {ratio:5.2f}{within}", flush=True)


if __name__ == "__main__":
    main()
