"""Cost of an epoch against interactions, items and feature dims: it must grow linearly (docs/performance.md).

    python benchmarks/scaling.py

One thing grows at a time, the others stay. A point is the median of several steps times the steps of an epoch. Writes
`benchmarks/results/scaling.json` and `docs/images/scaling.png`; prints the exponent of the best power law, which is at
most 1 where the cost grows linearly (less where a fixed part is still felt).
"""

from __future__ import annotations

import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import lirdrec
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.models.lirdrec import LIRDRec
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.training.memory_allocator import keep_freed_memory
from lirdrec.training.sampling import TripleSampler

ROOT = Path(__file__).resolve().parents[1]
BASE = {"interactions": 100_000, "items": 4_000, "dims": 512}
GROWTH = {
    "interactions": [50_000, 100_000, 200_000, 400_000, 800_000],
    "items": [2_000, 4_000, 8_000, 16_000, 32_000],
    "dims": [256, 512, 1024, 2048, 4096],
}
USERS, BATCH, STEPS = 10_000, 8192, 5


def seconds(interactions: int, items: int, dims: int) -> tuple[float, float]:
    """Seconds of a step and of an epoch at this size."""
    data = make_synthetic_dataset(USERS, items, interactions, {"text": dims}, seed=0, split="none")
    inputs = make_model_inputs(data, cache=False)
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(items, (items, 10), generator=generator)  # the graph's building is measured elsewhere
    object.__setattr__(inputs, "neighbors", lambda name, k: table)
    model = LIRDRec(inputs, lirdrec.LIRDRecConfig(n_layers=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    sampler = TripleSampler(inputs.users, inputs.items, items, 0)
    batch = [part[:BATCH] for part in sampler.epoch(1)]
    times = []
    for number in range(STEPS + 2):
        started = time.perf_counter()
        loss = model.loss(*batch)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if number >= 2:
            times.append(time.perf_counter() - started)
    step = statistics.median(times)
    return step, step * math.ceil(len(sampler) / BATCH)


def main() -> None:
    keep_freed_memory()
    results: dict[str, list[dict[str, float]]] = {}
    for axis, sizes in GROWTH.items():
        for size in sizes:
            step, epoch = seconds(**{**BASE, axis: size})
            results.setdefault(axis, []).append({"size": size, "step_seconds": step, "epoch_seconds": epoch})
            print(f"{axis} {size:>8,}: {1e3 * step:7.1f} ms a step, {epoch:6.2f} s an epoch", flush=True)
    exponents = {}
    for axis, points in results.items():
        x, y = (np.log([point[key] for point in points]) for key in ("size", "step_seconds"))
        exponents[axis] = float(np.polyfit(x, y, 1)[0])
        print(f"a step grows like {axis}^{exponents[axis]:.2f}")
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    (folder / "scaling.json").write_text(json.dumps({"points": results, "exponents": exponents}, indent=2) + "\n")
    plot(results)


def plot(results: dict[str, list[dict[str, float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), dpi=130, layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(results)), results.items(), strict=True):
        sizes = [point["size"] for point in points]
        axes.plot(sizes, [1e3 * point["step_seconds"] for point in points], "o-", color="#3b6ea5")
        axes.set(xlabel=name, ylabel="ms a step" if name == "interactions" else None)
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    target = ROOT / "docs" / "images"
    target.mkdir(parents=True, exist_ok=True)
    figure.savefig(target / "scaling.png")


if __name__ == "__main__":
    main()
