"""Seconds to encode the Sports texts: lirdrec's shards and batches against sentence-transformers' own `encode`.

    export HF_HUB_OFFLINE=1
    python benchmarks/encoding_text.py --output benchmarks/results/encoding_text.json
    python benchmarks/encoding_text.py --joined 10 --items 4096 --output benchmarks/results/encoding_text.json

Both run in one process, in turns, with the same model (all-MiniLM-L6-v2), batch size and threads; the first 256 texts
are encoded beforehand by each and not counted. `--joined` makes longer texts, of so many items each. The ratio of the
medians is what counts: a busy machine slows both. Seconds of the processor are given too; with OMP_NUM_THREADS=1 those
hardly depend on what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoders.model_loading import minilm_folder
from lirdrec.features.encoders.sentence_encoder import SentenceEncoder
from lirdrec.files.atomic import atomic_write

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data"))
BATCH_SIZE = 32


def sports(items: int | None, joined: int) -> list[str]:
    table = pl.read_csv(DATA / "sports" / "items.tsv", separator="\t", quote_char=None)
    texts = table["text"].fill_null("").to_list()
    texts = [" ".join(texts[(index + step) % len(texts)] for step in range(joined)) for index in range(len(texts))]
    return texts[:items]


def ours() -> Callable[[list[str]], np.ndarray]:
    """Shard by shard, as `lirdrec features` does it."""
    encoder = SentenceEncoder(minilm_folder(), device="cpu")

    def encode(texts: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), encoder.shard_rows):
            parts.append(encode_rows(encoder, texts[start : start + encoder.shard_rows], BATCH_SIZE).vectors)
        return np.concatenate(parts)

    return encode


def theirs() -> Callable[[list[str]], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    return lambda texts: model.encode(texts, batch_size=BATCH_SIZE, show_progress_bar=False)


def measure(texts: list[str], repeats: int) -> dict:
    encoders = {"lirdrec": ours(), "sentence-transformers": theirs()}
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    processor: dict[str, list[float]] = {name: [] for name in encoders}
    for encode in encoders.values():
        encode(texts[:256])
    vectors = {}
    for turn in range(repeats):
        for name, encode in encoders.items():
            start, used = time.perf_counter(), time.process_time()
            vectors[name] = encode(texts)
            seconds[name].append(round(time.perf_counter() - start, 3))
            processor[name].append(round(time.process_time() - used, 3))
            print(
                f"turn {turn + 1}, {name}: {seconds[name][-1]:.2f} s, of the processor {processor[name][-1]:.2f} s",
                flush=True,
            )
    return {
        "texts": len(texts),
        "mean_words": round(sum(len(text.split()) for text in texts) / len(texts), 1),
        "seconds": seconds,
        "processor_seconds": processor,
        "ratio": ratio(seconds),
        "processor_ratio": ratio(processor),
        "largest_difference": float(np.abs(vectors["lirdrec"] - vectors["sentence-transformers"]).max()),
    }


def ratio(seconds: dict[str, list[float]]) -> float:
    """Of the medians."""
    return round(statistics.median(seconds["lirdrec"]) / statistics.median(seconds["sentence-transformers"]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--items", type=int, help="the first so many only")
    parser.add_argument("--joined", type=int, default=1, help="items whose texts are joined to one")
    parser.add_argument("--output", type=Path, help="a JSON file; what it holds of other lengths is kept")
    options = parser.parse_args()
    import torch

    found = measure(sports(options.items, options.joined), options.repeats)
    found["threads"] = torch.get_num_threads()
    print(f"{found['texts']:,} texts of {found['mean_words']} words: {found['ratio']:.2f} × sentence-transformers")
    print(f"seconds of the processor: {found['processor_ratio']:.2f} ×")
    print(f"largest difference between vectors: {found['largest_difference']:.1e}")
    if options.output:
        kept = json.loads(options.output.read_text()) if options.output.exists() else {}
        kept[f"joined {options.joined}"] = found
        with atomic_write(options.output) as temporary:
            temporary.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
