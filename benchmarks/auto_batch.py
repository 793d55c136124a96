"""Time of an epoch of the fast preset against interactions: batches of 8,192, and batch_size="auto".

    OMP_NUM_THREADS=1 python benchmarks/auto_batch.py

Users and items are as many as in MovieLens-1M after filtering (6,040 × 3,256), the interactions are synthetic; only the
time is measured. A point is the median of several steps times the steps of an epoch, in seconds of the processor, which
other programs on the machine change little. Writes `benchmarks/results/auto_batch.json` and
`docs/images/auto_batch.png`; prints the exponents of the best power laws over the larger half of the sizes.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import replace
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
USERS, ITEMS, DIMS = 6_040, 3_256, {"image": 128, "text": 384}
SIZES = (50_000, 100_000, 200_000, 400_000, 800_000)
BATCHES = (8192, "auto")
STEPS = 3


def seconds(interactions: int) -> dict[str, dict[str, float]]:
    """Batch size → pairs of a step, steps and processor seconds of an epoch."""
    data = make_synthetic_dataset(USERS, ITEMS, interactions, DIMS, seed=0, split="none")
    inputs = make_model_inputs(data, cache=False)
    config, training = lirdrec.preset()
    model = LIRDRec(inputs, config)  # all columns: no feature_size is applied
    found = {}
    for batch in BATCHES:
        chosen = replace(training, batch_size=batch).resolved(interactions)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
        sampler = TripleSampler(inputs.users, inputs.items, ITEMS, 0, chosen.order)
        size = chosen.pairs_per_step(len(sampler))
        rows = [part[:size] for part in sampler.epoch(1)]
        times = []
        for number in range(STEPS + 1):
            started = time.process_time()
            loss = model.loss(*rows)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if number >= 1:
                times.append(time.process_time() - started)
        steps = math.ceil(len(sampler) / size)
        found[str(batch)] = {"pairs": size, "steps": steps, "epoch_seconds": steps * statistics.median(times)}
    return found


def main() -> None:
    keep_freed_memory()
    results = {}
    for size in SIZES:
        results[size] = seconds(size)
        lines = (f"{batch}: {r['steps']} steps, {r['epoch_seconds']:.2f} s" for batch, r in results[size].items())
        print(f"{size:>8,} interactions: " + "; ".join(lines), flush=True)
    exponents = {}
    for batch in map(str, BATCHES):
        larger = SIZES[len(SIZES) // 2 :]
        y = [results[size][batch]["epoch_seconds"] for size in larger]
        exponents[batch] = float(np.polyfit(np.log(larger), np.log(y), 1)[0])
        print(f"batch_size={batch}: an epoch grows like interactions^{exponents[batch]:.2f} from {larger[0]:,} on")
    found = {"points": results, "exponents": exponents}
    (ROOT / "benchmarks" / "results" / "auto_batch.json").write_text(json.dumps(found, indent=2) + "\n")
    plot(results)


def plot(results: dict[int, dict[str, dict[str, float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for batch, color in zip(BATCHES, ("#c0504d", "#3b6ea5"), strict=True):
        y = [found[str(batch)]["epoch_seconds"] for found in results.values()]
        axes.plot(list(results), y, "o-", color=color, label=f"batch_size={batch}")
    axes.set(xlabel="interactions", ylabel="processor seconds of an epoch", xlim=0, ylim=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "images" / "auto_batch.png")


if __name__ == "__main__":
    main()
