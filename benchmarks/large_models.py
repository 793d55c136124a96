"""Peak memory of a training step and an evaluation of models that learn an item graph (docs/performance.md).

    python benchmarks/large_models.py electronics --models lattice micro
    python benchmarks/large_models.py small

Data are planted as in speed.py, features mapped from disk. Each model has a process of its own. It takes the first
step of an epoch, which builds its graphs with gradients; steps after it; a scorer, which builds them again; and the
metrics of all users. The frozen graph gets random neighbors, which take the same memory: finding the real ones is
speed.py's `--graph-rows`. The learned one is found in blocks as always.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.evaluation.scorer_evaluation import GroundTruth, evaluate_scorer
from lirdrec.models.registry import build, config_type, model_names
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.training.memory_allocator import keep_freed_memory
from lirdrec.training.sampling import TripleSampler
from shapes import DIMS, SHAPES
from speed import RESULTS, peak_gb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=tuple(SHAPES))
    parser.add_argument("--models", nargs="+", choices=model_names(), default=["lattice", "micro"])
    parser.add_argument("--steps", type=int, default=1, help="steps after the one that builds the graphs")
    parser.add_argument("--data", help=argparse.SUPPRESS)  # the folder: one model, in this process
    arguments = parser.parse_args()
    if arguments.data:
        measured(arguments)
        return
    users, items, pairs = SHAPES[arguments.shape]
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # in another process too, so that no child starts with this one's memory
        pid = os.fork()
        if pid == 0:
            make_synthetic_dataset(users, items, pairs, DIMS, seed=0, folder=folder).save(f"{folder}/data")
            os._exit(0)
        if os.waitpid(pid, 0)[1] != 0:
            sys.exit(f"making the {arguments.shape} data failed")
        for model in arguments.models:
            command = [sys.executable, __file__, arguments.shape, "--models", model, "--data", f"{folder}/data"]
            found = subprocess.run([*command, "--steps", str(arguments.steps)], check=True, capture_output=True).stdout
            print(found.decode())
            (Path(RESULTS) / f"large-{model}-{arguments.shape}.json").write_bytes(found)


def measured(arguments: argparse.Namespace) -> None:
    """Print the figures of the one model in `arguments.models` as JSON."""
    keep_freed_memory()
    [name] = arguments.models
    data = Dataset.load(arguments.data)
    generator = torch.Generator().manual_seed(0)
    tables = {m: torch.randint(data.n_items, (data.n_items, 10), generator=generator) for m in DIMS}
    for table in tables.values():
        table[:, 0] = torch.arange(data.n_items)
    inputs = replace(make_model_inputs(data, cache=False), neighbors=lambda name, k: tables[name])
    model = build(name, inputs, config_type(name)())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    triples = [part[:2048] for part in TripleSampler(inputs.users, inputs.items, inputs.n_items, 0).epoch(1)]
    figures: dict[str, object] = {
        "model": name,
        "shape": arguments.shape,
        "users": data.n_users,
        "items": data.n_items,
        "training_pairs": len(data.train.users),
        "threads": torch.get_num_threads(),
        "peak_gb_before": peak_gb(),
    }

    def step() -> None:
        loss = model.loss(*triples)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    model.start_epoch(1)
    figures["first_step_s"] = seconds(step)
    figures["peak_gb_of_first_step"] = peak_gb()
    figures["steps_s"] = [seconds(step) for _ in range(arguments.steps)]
    figures["peak_gb_of_steps"] = peak_gb()
    started = time.perf_counter()
    scorer = model.scorer()
    figures["scorer_s"] = round(time.perf_counter() - started, 2)
    pairs = ((torch.from_numpy(p.users), torch.from_numpy(p.items)) for p in (data.train, data.test))
    truth = GroundTruth.from_pairs(*pairs, data.n_users)
    figures["evaluation_s"] = seconds(lambda: evaluate_scorer(scorer, truth, ("recall", "ndcg"), (20,)))
    figures["users_evaluated"] = len(truth.users)
    figures["peak_gb"] = peak_gb()
    print(json.dumps(figures, indent=2))


def seconds(work) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 2)


if __name__ == "__main__":
    main()
