"""Seconds and peak memory of reading Amazon reviews (2014's JSON lines, gzipped), in a process of its own.

    python benchmarks/reading_amazon.py
    python benchmarks/reading_amazon.py --reviews 10000000

The reviews are made up: a third as many users as reviews, a fifteenth as many items, texts of 90 words. The file is
written into a temporary folder first; only reading is measured: unpacking, parsing, preparation and the split.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READ = """
import resource, sys, time
from lirdrec.data.readers.amazon import read_amazon

started = time.perf_counter()
dataset = read_amazon(sys.argv[1])
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(f"{dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.info['preparation']['rows']:,} reviews")
print(f"{seconds:.1f} s ({dataset.info['preparation']['rows'] / seconds:,.0f} a second), peak {peak / 2**30:.2f} GB")
"""
BATCH = 10_000


def write_reviews(path: Path, n: int, seed: int = 0) -> int:
    """Write `n` reviews; returns the bytes before packing."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(3000)]
    texts = [" ".join(rng.choices(words, k=90)) for _ in range(2000)]
    users, items = max(10, n // 3), max(10, n // 15)
    size = 0
    with gzip.open(path, "wb", compresslevel=1) as file:
        for start in range(0, n, BATCH):
            lines = [
                json.dumps(
                    {
                        "reviewerID": f"A{rng.randrange(users) * 7919:013d}",
                        "asin": f"B{int(items * rng.random() ** 2):09d}",
                        "reviewerName": "Somebody",
                        "helpful": [0, 0],
                        "reviewText": texts[rng.randrange(2000)],
                        "overall": float(rng.randint(1, 5)),
                        "summary": words[number % 3000],
                        "unixReviewTime": 1_300_000_000 + rng.randrange(10**8),
                        "reviewTime": "07 16, 2013",
                    }
                )
                for number in range(start, min(start + BATCH, n))
            ]
            block = ("\n".join(lines) + "\n").encode()
            size += len(block)
            file.write(block)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=1_000_000)
    n = parser.parse_args().reviews
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reviews_Synthetic.json.gz"
        started = time.perf_counter()
        size = write_reviews(path, n)
        packed = path.stat().st_size
        took = time.perf_counter() - started
        print(f"{n:,} reviews: {size / 1e9:.2f} GB, {packed / 1e9:.2f} GB gzipped, written in {took:.0f} s", flush=True)
        subprocess.run([sys.executable, "-c", READ, str(path)], check=True)


if __name__ == "__main__":
    main()
