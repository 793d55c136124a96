"""Peak memory of making features against the number of items: it must not grow with them (docs/features.md).

    python benchmarks/features_memory.py
    python benchmarks/features_memory.py --items 10000 100000

An encoder of 64 dims that costs nothing stands for the real one, so that the pipeline itself is measured: reading the
item table, templates, hashes, shards, joining, the dataset's switch to the new matrix. Each size runs in a process of
its own, on a prepared dataset that another process made. Memory is what the system counts for the process at its peak,
the interpreter and the libraries included. Writes `benchmarks/results/features_memory.json`, `.png` and `.svg`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from lirdrec.data.dataset import Dataset
from lirdrec.features.encoder import Encoded, Encoder, Prepared
from lirdrec.features.job_runner import FeatureJob
from lirdrec.features.pipeline import make_features
from lirdrec.features.sources import TextSource
from lirdrec.files.atomic import atomic_write

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = (10_000, 100_000, 300_000, 1_000_000, 3_000_000)
DIMS = 64


class Free(Encoder):
    """Vectors that cost nothing."""

    kind = "text"
    batch_size = 256
    identity: ClassVar[dict[str, Any]] = {"encoder": "free"}
    dims = DIMS

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        vectors = np.ones((len(batch), DIMS), dtype=np.float32)
        vectors[:, 0] = [len(one.value) for one in batch]
        return Encoded(vectors)


def prepare(folder: Path, items: int) -> None:
    """A dataset of so many items with a title, a brand and a description, about 250 letters together, all different."""
    rows = pl.int_range(items, eager=True)
    number = rows.cast(pl.String)
    table = pl.DataFrame(
        {
            "item": rows,
            "title": "A thing of the shop, number " + number,
            "brand": "Maker " + (rows % 1000).cast(pl.String),
            "description": "What a shop says about a thing: its color, its material, whom it is for. " * 2 + number,
        }
    )
    pairs = pl.DataFrame({"user": [0, 0, 1], "item": [0, 1, 0]})
    Dataset.from_frames(pairs, items=table, split="none", keep_all_items=True).save(folder)


def measure(folder: Path) -> dict[str, float]:
    """Make the features in this process; peak memory in bytes before and after."""
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    started = time.perf_counter()
    template = "{title}. {brand}. {description}"
    (made,) = make_features(folder, [FeatureJob("text", Free(), TextSource(folder, template))], progress=False)
    seconds = time.perf_counter() - started
    assert made.present == made.encoded == made.items
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"items": made.items, "start_bytes": before, "peak_bytes": peak, "seconds": seconds}


def in_a_process(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=SIZES, help="sizes of the catalog")
    parser.add_argument("--step", nargs=2, metavar=("prepare|measure", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step, folder = arguments.step
        if step == "prepare":
            return prepare(Path(folder), arguments.items[0])
        return print(json.dumps(measure(Path(folder))))
    points = []
    print(f"{'items':>10} {'peak':>9} {'at the start':>13} {'items/s':>9}")
    for items in arguments.items:
        with tempfile.TemporaryDirectory() as place:
            in_a_process("--items", str(items), "--step", "prepare", f"{place}/data")
            point = json.loads(in_a_process("--step", "measure", f"{place}/data"))
        points.append(point)
        speed = items / point["seconds"]
        print(
            f"{items:>10,} {point['peak_bytes'] / 1e6:>6.0f} MB {point['start_bytes'] / 1e6:>10.0f} MB {speed:>9,.0f}",
            flush=True,
        )
    growth = {}
    for small, large in itertools.pairwise(points):
        bytes_an_item = (large["peak_bytes"] - small["peak_bytes"]) / (large["items"] - small["items"])
        growth[f"{small['items']} to {large['items']}"] = bytes_an_item
        print(f"from {small['items']:,} to {large['items']:,} items: {bytes_an_item:.1f} bytes an item")
    RESULTS.mkdir(exist_ok=True)
    with atomic_write(RESULTS / "features_memory.json") as temporary:
        temporary.write_text(json.dumps({"dims": DIMS, "points": points, "bytes_an_item": growth}, indent=2) + "\n")
    plot(points)


def plot(points: Sequence[dict[str, float]]) -> None:
    from lirdrec.reporting import drawn
    from lirdrec.reporting.figure import GRAY, RED

    def draw(drawing: Any) -> None:
        axes = drawing.subplots()
        items = np.array([point["items"] for point in points])
        fine = np.geomspace(items[0], items[-1])
        matrix = fine * DIMS * 4 / 1e6
        axes.plot(fine, matrix, color=GRAY, linestyle=(0, (4, 1.6)), label=f"the matrix on disk ({DIMS} dims, float32)")
        axes.plot(
            items, [point["peak_bytes"] / 1e6 for point in points], color=RED, marker="o", ms=4, label="peak memory"
        )
        axes.set_xscale("log")
        axes.set_xticks(items, [f"{n:,}" for n in items.astype(int)])
        axes.minorticks_off()
        axes.set_ylim(0, 1.08 * max(*matrix, *(point["peak_bytes"] / 1e6 for point in points)))
        axes.set_xlabel("items")
        axes.set_ylabel("MB")
        axes.grid(axis="y")
        axes.legend(frameon=False, loc="upper left")

    figure = drawn("features_memory", draw, size=(6.4, 3.2))
    for kind in ("png", "svg"):
        with atomic_write(RESULTS / f"features_memory.{kind}") as temporary:
            temporary.write_bytes(figure.image(kind))


if __name__ == "__main__":
    main()
