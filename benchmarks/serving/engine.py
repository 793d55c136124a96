"""The engine without HTTP beside the bare product: processor time for each recommendation, batch after batch in turn.

    python benchmarks/serving/engine.py

The engine asks the store for news, looks up users, multiplies, leaves out what was seen, selects, and names the items.
The yardstick is `scores = U_batch @ V.T; scores.topk(20)`. One thread; medians of processor seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from shape import ELECTRONICS, write

from lirdrec.server.engine.batcher import MicroBatcher, Query
from lirdrec.server.state import LiveState
from lirdrec.server.store import Store

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--run", type=Path, help="where the run of random vectors lies, or is written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = write(arguments.run or Path(folder) / "run", *ELECTRONICS)
        live = LiveState(run, Store(f"sqlite:///{folder}/live.sqlite"))
        engine = MicroBatcher(live)
        found = [compared(engine, batch, arguments.turns, arguments.k) for batch in arguments.batches]
        engine.stop()
    RESULTS.mkdir(exist_ok=True)
    report = {"load_average": os.getloadavg()[0], "batches": found}
    (RESULTS / "serving-engine.json").write_text(json.dumps(report, indent=1) + "\n")
    for one in found:
        print(" ".join(f"{name}={value:.4g}" for name, value in one.items()))


def compared(engine: MicroBatcher, batch: int, turns: int, k: int) -> dict[str, float]:
    recommender = engine.live.snapshot.recommender
    users, items = recommender.scorer.user_vectors, recommender.scorer.item_vectors
    generator = torch.Generator().manual_seed(batch)
    own, bare = [], []
    for turn in range(-3, turns):  # three to warm up
        rows = torch.randint(len(users), (batch,), generator=generator)
        queries = [Query(f"A{row:013d}", k=k) for row in rows.tolist()]
        seconds = [processor(lambda: engine.rank(queries)), processor(lambda: (users[rows] @ items.T).topk(k, dim=1))]  # noqa: B023
        if turn >= 0:
            own.append(seconds[0])
            bare.append(seconds[1])
    one, other = statistics.median(own) / batch, statistics.median(bare) / batch
    return {
        "batch": batch,
        "processor_ms_each": 1000 * one,
        "bare_processor_ms_each": 1000 * other,
        "ratio": one / other,
    }


def processor(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
