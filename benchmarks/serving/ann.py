"""Recall of the 20 best items against the time of a batch: the exact ranking, HNSW and IVF, for growing catalogs.

    python benchmarks/serving/ann.py                # 63,001, 250,000 and 1,000,000 items of 192 columns
    python benchmarks/serving/ann.py --plot         # only the plot, from the results that are there

Vectors are random with the spectrum of trained ones (`shape.vectors`); seen items are left out. Times are of
`Ranker.rank` for batches of 16 queries on one thread: median of processor seconds, which other programs on the machine
disturb little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from shape import histories, vectors

from lirdrec.data.ids import IdMap
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.engine.query import Query
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.snapshot import PersistentMap, Snapshot

RESULTS = Path(__file__).resolve().parents[1] / "results"
USERS, BATCH, BATCHES, K = 20_000, 16, 24, 20
TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]
SETTINGS = {"hnsw": [32, 64, 128, 256, 512], "ivf": [1 / 96, 1 / 48, 1 / 24, 1 / 12, 1 / 6]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[63_001, 250_000, 1_000_000])
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--kinds", nargs="+", default=["ivf", "hnsw"], choices=tuple(SETTINGS))
    parser.add_argument("--plot", action="store_true", help="only draw")
    arguments = parser.parse_args()
    path = RESULTS / "serving-ann.json"
    if not arguments.plot:
        for n_items in arguments.items:
            for row in measured(n_items, arguments.width, arguments.kinds):
                same = ("items", "kind", "setting")
                rows = json.loads(path.read_text()) if path.is_file() else []  # another process may measure too
                rows = [one for one in rows if any(one[name] != row[name] for name in same)] + [row]
                print(json.dumps(row), file=sys.stderr, flush=True)
                path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    draw(json.loads(path.read_text()))


def measured(n_items: int, width: int, kinds: list[str]):
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    scorer = VectorScorer(vectors(USERS, width, random), vectors(n_items, width, random))
    users, items = IdMap(np.arange(USERS), "user"), IdMap(np.arange(n_items), "item")
    made = Recommender(scorer, users, items, train=histories(USERS, n_items, 9 * USERS, random))
    rows = [PersistentMap({row: row for row in range(n)}) for n in (USERS, n_items)]
    gone = torch.zeros(n_items, dtype=torch.bool)
    snapshot = Snapshot(made, 0, gone, rows[0], rows[1], PersistentMap(), Path("none"))
    asked = random.permutation(USERS)[: BATCH * BATCHES].reshape(BATCHES, BATCH).tolist()
    batches = [[Query(user, k=K) for user in some] for some in asked]
    truth, seconds = ranked(Ranker(), snapshot, batches)
    yield {"items": n_items, "kind": "exact", "setting": 0, "ms_batch": 1000 * seconds, "recall": 1.0, "build_s": 0.0}
    for kind in kinds:
        index = ApproximateIndex(kind)
        index._faiss.omp_set_num_threads(2)
        started = time.perf_counter()
        index.update(scorer)
        build = time.perf_counter() - started
        index._faiss.omp_set_num_threads(1)
        for setting in SETTINGS[kind]:
            if kind == "hnsw":
                index.beam = int(setting)
            else:
                index._index.nprobe = max(1, round(index._index.nlist * setting))
            found, seconds = ranked(Ranker(index), snapshot, batches)
            hits = [len({*one} & {*other}) / len(other) for one, other in zip(found, truth, strict=True)]
            yield {
                "items": n_items,
                "kind": kind,
                "setting": setting,
                "ms_batch": 1000 * seconds,
                "recall": statistics.fmean(hits),
                "build_s": build,
            }


def ranked(ranker: Ranker, snapshot: Snapshot, batches: list[list[Query]]) -> tuple[list[list[int]], float]:
    lists, times = [], []
    for batch in batches:
        started = time.process_time()
        answers = ranker.rank(snapshot, batch)
        times.append(time.process_time() - started)
        lists += [one.items for one in answers]
    return lists, statistics.median(times)


def draw(rows: list[dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sizes = sorted({row["items"] for row in rows})
    figure, axes = plt.subplots(1, len(sizes), figsize=(4.2 * len(sizes), 3.6), squeeze=False, sharey=True)
    for axis, size in zip(axes[0], sizes, strict=True):
        own = [row for row in rows if row["items"] == size]
        exact = next(row["ms_batch"] / BATCH for row in own if row["kind"] == "exact")
        axis.axvline(exact, color="#444444", linestyle="--", linewidth=1)
        axis.annotate("exact", (exact, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="right", fontsize=8)
        for kind, color, mark in (("hnsw", "#1b6ca8", "o"), ("ivf", "#c2571a", "s")):
            some = sorted((row for row in own if row["kind"] == kind), key=lambda row: row["setting"])
            line = [(row["ms_batch"] / BATCH, row["recall"]) for row in some]
            if line:
                axis.plot(*zip(*line, strict=True), color=color, marker=mark, markersize=4, label=kind.upper())
        axis.set(title=f"{size:,} items", xlabel="processor ms per recommendation", xscale="log")
        low, high = axis.get_xlim()
        axis.set_xticks([tick for tick in TICKS if low <= tick <= high], minor=False)
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("recall@20 of the exact list")
    axes[0, 0].legend(frameon=False, loc="lower right")
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(RESULTS / f"serving-ann.{kind}", dpi=150)


if __name__ == "__main__":
    main()
