"""Training on from an earlier run against training from scratch, on two data sets in order of time (docs/updating.md).

    python benchmarks/train_on.py --seeds 0 1 2
    python benchmarks/train_on.py --report

Old data: the first 90 % of the interactions by time; new data: all of them. Both are split by `temporal`, so the newest
interactions of each user are validation and test. The MovieLens sample has timestamps: most users of its last tenth
are new. Scientific has each user's order: the time of an interaction is its relative position, so each user has new
interactions, and titles, brands and categories are encoded by MiniLM. Validation chooses the epoch of every training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

import lirdrec
from lirdrec.data.dataset import Dataset

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data"))
RUNS = Path(os.environ.get("LIRDREC_RUNS", ROOT / "runs")) / "train_on"
RESULTS = ROOT / "benchmarks" / "results" / "train_on.json"
DATASETS = ("movielens", "scientific")
METRICS = ("recall@20", "ndcg@20")
OLD_SHARE = 0.9


def movielens() -> tuple[pl.DataFrame, pl.DataFrame, dict]:
    """Interactions user, item, time; the item table; features."""
    data = Dataset.load(ROOT / "sample" / "movielens")
    frame = pl.concat([data.frame(split) for split in ("train", "valid", "test")])
    features = {name: (data.items.ids, np.where(m.present[:, None], m.values, 0)) for name, m in data.features.items()}
    return frame.rename({"timestamp": "time"}), data.item_table, features


def scientific() -> tuple[pl.DataFrame, pl.DataFrame, dict]:
    frame = pl.read_csv(DATA / "scientific" / "sequences.tsv", separator="\t")
    position = (pl.col("position") + 0.5) / pl.len().over("user")
    frame = frame.with_columns(time=(position * 1_000_000).cast(pl.Int64)).drop("position")
    table = DATA / "scientific" / "items.tsv"
    items = pl.read_csv(table, separator="\t", quote_char=None, infer_schema_length=0, truncate_ragged_lines=True)
    items = items.with_columns(pl.col("item").cast(pl.Int64))
    path = RUNS / "scientific-text.npy"
    if not path.exists():
        from lirdrec.features.encoder import encode_rows
        from lirdrec.features.encoder_specs import text_encoder

        columns = [name for name in ("title", "brand", "categories") if name in items.columns]
        texts = [". ".join(row[name] or "" for name in columns) for row in items.iter_rows(named=True)]
        encoder = text_encoder("minilm")
        rows = encode_rows(encoder, texts, 64)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rows.vectors.astype(np.float32))
    return frame, items.select("item", "title"), {"text": (items["item"].to_numpy(), np.load(path))}


def datasets(name: str) -> tuple[Dataset, Dataset]:
    """Old and new data."""
    frame, items, features = {"movielens": movielens, "scientific": scientific}[name]()
    ordered = frame.sort("time", "user", "item")
    made = []
    for part in (ordered.head(int(OLD_SHARE * ordered.height)), ordered):
        table = items.join(part.select("item").unique(), on="item", how="semi", maintain_order="left")
        data = Dataset.from_frames(
            part, items=table, features=features, timestamp="time", split="temporal", unknown_features="drop", name=name
        )
        made.append(data)
    return made[0], made[1]


def measure(name: str, seed: int) -> dict:
    """Metrics and cost of one seed: the old run, from scratch, and trained on from the old run."""
    old, new = datasets(name)
    config, training = lirdrec.preset("lirdrec")
    training = replace(training, seed=seed)
    before, found = timed(old, config, training)
    return {
        "dataset": name,
        "seed": seed,
        "old data": {"users": old.n_users, "items": old.n_items, "train": len(old.train)},
        "new data": {"users": new.n_users, "items": new.n_items, "train": len(new.train)},
        "old run": found,
        "from scratch": timed(new, config, training)[1],
        "train on": timed(new, warm_start=before)[1],
    }


def timed(data: Dataset, *arguments, **options) -> tuple[lirdrec.Recommender, dict]:
    """A training, its seconds of CPU time (of one thread: other processes do not count), and its metrics."""
    started = time.process_time()
    made = lirdrec.fit(data, *arguments, progress=sys.stderr.isatty(), cache=RUNS / "neighbors", **options)
    seconds = time.process_time() - started
    metrics = made.info["metrics"]
    found: dict = {"seconds": round(seconds, 1), "best_epoch": metrics["best_epoch"], "epochs": metrics["epochs"]}
    for split in ("valid", "test"):
        values = lirdrec.evaluate(made, data, split, k=20, metrics=("recall", "ndcg"))
        found[split] = {metric: float(values[metric]) for metric in METRICS}
    return made, found


def report() -> None:
    """Means and sd over the seeds of both ways of training; the mean and standard error of their paired difference."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in DATASETS:
        lines = [line for line in results.values() if line["dataset"] == name]
        for way in ("from scratch", "train on") if lines else ():
            of_way = [line[way] for line in lines]
            cells = [
                f"{key} {statistics.mean(x[key] for x in of_way):.1f}" for key in ("seconds", "best_epoch", "epochs")
            ]
            for split in ("valid", "test"):
                for metric in METRICS:
                    values = [x[split][metric] for x in of_way]
                    cells.append(f"{split} {metric} {statistics.mean(values):.4f} ± {spread(values):.4f}")
            print(f"{name}, {way} ({len(lines)} seeds): {', '.join(cells)}")
        for split, metric in itertools.product(("valid", "test"), METRICS) if lines else ():
            pairs = [100 * (x["train on"][split][metric] / x["from scratch"][split][metric] - 1) for x in lines]
            error = spread(pairs) / len(pairs) ** 0.5
            print(f"{name}, {split} {metric}, difference: {statistics.mean(pairs):+.1f} ± {error:.1f} %")


def spread(values: list[float]) -> float:
    """The standard deviation; 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--report", action="store_true", help="only show what was measured")
    arguments = parser.parse_args()
    for name in () if arguments.report else arguments.datasets:
        for seed in arguments.seeds:
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            if (key := f"{name}-{seed}") not in results:
                results[key] = measure(name, seed)
                RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    report()


if __name__ == "__main__":
    main()
