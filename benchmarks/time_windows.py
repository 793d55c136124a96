"""Datasets of consecutive time windows of one log, each with its own cut in time; tests over the users of all of them.

    python benchmarks/time_windows.py make sample/movielens windows
    lirdrec experiment compare windows/1 windows/2 windows/3 windows/4 windows/5 windows/6 --models lirdrec_seq,sasrec,… \\
        --set ours=lirdrec_seq --output study
    python benchmarks/time_windows.py report study --ours lirdrec_seq

One cut in time (`global_time_last`) has few test users where each user is active for a short time. The log is cut at
the quantiles 0.4, 0.5, …, 1.0 of its times. The test of window n is the last interaction of each user between two
neighboring quantiles; what came before is train and validation; what came later is not in the dataset. Each window is
tuned for itself, on its own validation. A user who is in two windows counts twice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from lirdrec import Dataset
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.experiments.result_collection import Results

QUANTILES = (0.4, 0.6, 0.8, 1.0)


def make(source: Path, folder: Path) -> None:
    """Write the dataset of each window into the folder: 1, 2, …"""
    data = Dataset.load(source)
    log = pl.concat([data.frame(part) for part in ("train", "valid", "test")]).sort("timestamp", "user", "item")
    features = {name: (data.items.ids[one.present], one.values[one.present]) for name, one in data.features.items()}
    for number, (start, end) in enumerate(zip(QUANTILES, QUANTILES[1:], strict=False), 1):
        part = log.head(round(end * len(log)))
        window = Dataset.from_frames(
            part,
            items=data.item_table,
            features=features,
            name=f"window {number}",
            timestamp="timestamp",
            keep_all_items=False,
            unknown_features="drop",
            split="global_time_last",
            held_out=2 * (1 - start / end),
        )
        window.save(folder / str(number))
        print(window, f"test users: {window.frame('test')['user'].n_unique()}")


if __name__ == "__main__":
    make(Path("/work/main/sample/movielens"), Path("windows"))
