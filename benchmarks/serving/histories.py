"""A list for a history of 50 items beside one for a known user, with LIRDRec-Seq at Electronics' shape.

    python benchmarks/serving/histories.py

The engine without HTTP, batch after batch in turn, one thread: 63,001 items, embedding 64 × (image, text, shared),
random features and untrained weights of the default configuration. Medians of processor seconds for each list; the goal
is a ratio of at most 3. `encode` is the share of `fold_in` alone.
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

import numpy as np
import torch
from shape import ELECTRONICS, histories

from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.ids import IdMap
from lirdrec.models.lirdrec_seq import LIRDRecSeq, LIRDRecSeqConfig
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.batcher import MicroBatcher, Query
from lirdrec.server.state import LiveState
from lirdrec.server.store import Store

RESULT = Path(__file__).resolve().parents[1] / "results" / "serving-histories.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--users", type=int, default=5_000, help="known users, whose number does not change the cost")
    parser.add_argument("--items", type=int, default=ELECTRONICS[1])
    parser.add_argument("--length", type=int, default=50, help="items of a history")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder) / "run", arguments.users, arguments.items)
        engine = MicroBatcher(LiveState(run, Store(f"sqlite:///{folder}/live.sqlite")))
        found = [compared(engine, batch, arguments.turns, arguments.length) for batch in arguments.batches]
        engine.stop()
    report = {
        "load_average": os.getloadavg()[0],
        "items": arguments.items,
        "length": arguments.length,
        "batches": found,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for one in found:
        print(" ".join(f"{name}={value:.4g}" for name, value in one.items()))
    print(f"load average {report['load_average']:.1f}")


def write(folder: Path, users: int, items: int) -> Path:
    """A run folder of LIRDRec-Seq as it starts."""
    draw = np.random.default_rng(0)
    pairs = histories(users, items, ELECTRONICS[2] * users // ELECTRONICS[0], draw)
    pairs = type(pairs)(pairs.users, pairs.items, np.arange(len(pairs)))
    nothing = pairs.take(np.zeros(len(pairs), dtype=bool))
    features = {name: FeatureMatrix(draw.normal(size=(items, 64)).astype(np.float32)) for name in ("image", "text")}
    ids = IdMap(list(range(users)), "user"), IdMap(list(range(items)), "item")
    data = Dataset("random", *ids, pairs, nothing, nothing, features)
    model = LIRDRecSeq(make_model_inputs(data, "cpu", cache=False), LIRDRecSeqConfig())
    return Recommender.from_training(model.eval(), data).save(folder)


def compared(engine: MicroBatcher, batch: int, turns: int, length: int) -> dict[str, float]:
    recommender = engine.live.snapshot.recommender
    model, scorer = recommender.model(), recommender.scorer
    draw = np.random.default_rng(batch)
    known, folded, encoding = [], [], []
    for turn in range(-2, turns):  # two to warm up
        users = [Query(int(user), k=20) for user in draw.integers(0, recommender.n_users, batch)]
        rows = [draw.choice(recommender.n_items, length, replace=False) for _ in range(batch)]
        lists = [Query(history=row.tolist(), k=20) for row in rows]
        tensors = [torch.from_numpy(row) for row in rows]
        seconds = [
            processor(lambda: engine.rank(users)),  # noqa: B023
            processor(lambda: engine.rank(lists)),  # noqa: B023
            processor(lambda: model.fold_in(scorer, tensors)),  # noqa: B023
        ]
        if turn >= 0:
            for times, value in zip((known, folded, encoding), seconds, strict=True):
                times.append(value)
    user, history, encode = (1000 * statistics.median(times) / batch for times in (known, folded, encoding))
    return {"batch": batch, "user_ms": user, "history_ms": history, "encode_ms": encode, "ratio": history / user}


def processor(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
