"""What one more item costs after 10, 1,000 and 10,000 that were added while serving: it must not grow.

    python benchmarks/serving/adding.py

A LIRDRec with the weights that it starts with; items come one by one, each with its vectors, into a store in SQLite, as
POST /items brings them. Means of 50 additions, by the clock and in seconds of processor. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from load import RESULTS

from lirdrec.config import make_config
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.models.registry import build, config_type, model_type
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.state import LiveState
from lirdrec.server.store import NewItem, Store

USERS, ITEMS, DIMS, EACH = 500, 1_000, {"image": 64, "text": 96}, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--after", type=int, nargs="+", default=[10, 1_000, 10_000])
    parser.add_argument("--model", default="lirdrec")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        live = LiveState(trained(arguments.model).save(Path(folder) / "run"), Store(f"sqlite:///{folder}/live.sqlite"))
        looks = []
        for after in arguments.after:
            add(live, after - added(live), draw)
            clock, processor = time.perf_counter(), time.process_time()
            add(live, EACH, draw)
            looks.append(
                {
                    "after": after,
                    "ms": 1000 * (time.perf_counter() - clock) / EACH,
                    "processor_ms": 1000 * (time.process_time() - processor) / EACH,
                }
            )
            print(" ".join(f"{name}={value:.4g}" for name, value in looks[-1].items()), flush=True)
    report = {"model": arguments.model, "load_average": os.getloadavg()[0], "additions": looks}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"serving-adding-{arguments.model}.json").write_text(json.dumps(report) + "\n")


def trained(name: str) -> Recommender:
    data = make_synthetic_dataset(USERS, ITEMS, 10 * ITEMS, DIMS, groups=10, noise=0.3, seed=1)
    model = build(name, make_model_inputs(data, "cpu", seed=3), make_config(config_type(name), {}, name))
    if model_type(name).capabilities.training == "closed_form":
        model.solve()
    return Recommender.from_training(model, data)


def added(live: LiveState) -> int:
    return live.snapshot.recommender.n_items - ITEMS


def add(live: LiveState, n: int, draw: np.random.Generator) -> None:
    first = 10 * ITEMS + added(live)
    for id in range(first, first + n):
        live.add_items([NewItem(id, {}, {one: draw.normal(size=width) for one, width in DIMS.items()})])


if __name__ == "__main__":
    main()
