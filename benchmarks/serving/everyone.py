"""Lists for every user into a file, beside the bare product and top-k: users a second and memory (docs/exporting.md).

    python benchmarks/serving/everyone.py                    # 16,384 users, 63,001 items, k = 50
    python benchmarks/serving/everyone.py --users 192403     # all of Electronics

The bare figure is of blocks as large as the file's, taken before and after. Memory is what the process held at most,
less what it held with the vectors loaded and one block ranked.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import polars as pl
import torch
from shape import ELECTRONICS, write

from lirdrec.ranking.top_k import MEMORY_LIMIT, block_rows
from lirdrec.recommender.recommend_all import recommend_all
from lirdrec.recommender.recommender import Recommender

RESULT = Path(__file__).resolve().parents[1] / "results" / "everyone.json"
BLOCKS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=16_384)
    parser.add_argument("-k", type=int, default=50)
    asked = parser.parse_args()
    all_users, items, pairs = ELECTRONICS
    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder) / "run", asked.users, items, pairs * asked.users // all_users)
        recommender = Recommender.load(run)
        before = bare(recommender, asked.k)
        held = peak()
        started = time.perf_counter()
        output = Path(folder) / "recs.parquet"
        done = recommend_all(recommender, output, asked.k)
        whole = time.perf_counter() - started
        grown = peak() - held
        assert pl.scan_parquet(output).select(pl.len()).collect().item() == done.rows
        megabytes = output.stat().st_size / 2**20
        after = bare(recommender, asked.k)
    figures = {
        "users": asked.users,
        "items": items,
        "k": asked.k,
        "threads": torch.get_num_threads(),
        "users_per_second": round(asked.users / whole, 1),
        "bare_users_per_second": [round(before, 1), round(after, 1)],
        "memory_grown_mib": round(grown),
        "file_mib": round(megabytes, 1),
    }
    print(json.dumps(figures, indent=1))
    RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def bare(recommender: Recommender, k: int) -> float:
    """Users a second of `V @ U_batch; topk` alone."""
    users, items = recommender.scorer.user_vectors, recommender.scorer.item_vectors
    size = block_rows(len(items), 4, MEMORY_LIMIT)
    blocks = users.split(size)[:BLOCKS]
    (blocks[0] @ items.T).topk(k, dim=1)
    started = time.perf_counter()
    for block in blocks:
        (block @ items.T).topk(k, dim=1)
    return sum(map(len, blocks)) / (time.perf_counter() - started)


def peak() -> float:
    """Most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
