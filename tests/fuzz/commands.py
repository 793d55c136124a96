"""The small files that are mutated, and the commands that read them."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from pathlib import Path

import mutations
import numpy as np

OF_RUN = (
    ["-q", "recommend", "run", "--all", "-k", "5", "--json"],
    ["-q", "recommend", "run", "--history", "i1,i5", "-k", "5", "--json"],
    ["-q", "similar", "run", "--item", "i3", "-k", "5", "--json"],
)
OF_DATASET = (
    ["-q", "train", "ds", "--run", "new", "--model", "content_knn"],
    ["-q", "recommend", "new", "--all", "-k", "5", "--json"],
)
PREPARE = ["prepare", "pairs.csv", "--user", "user", "--item", "item", "-o", "out"]
ADD = ["add-items", "run", "--items", "items_new.csv", "--save-as", "out", "--features"]
# The file that is mutated, and a command that reads it.
OF_FILES: tuple[tuple[str, list[str]], ...] = (
    ("pairs.csv", PREPARE),
    ("pairs.csv", [*PREPARE, "--rating", "rating", "--min-rating", "3", "--timestamp", "time", "--split", "temporal"]),
    ("pairs.tsv", ["prepare", "pairs.tsv", *PREPARE[2:]]),
    ("pairs.parquet", ["prepare", "pairs.parquet", *PREPARE[2:]]),
    ("pairs.csv.gz", ["prepare", "pairs.csv.gz", *PREPARE[2:]]),
    ("items.csv", [*PREPARE, "--items", "items.csv"]),
    ("items.parquet", [*PREPARE, "--items", "items.parquet"]),
    ("text.npy", [*PREPARE, "--items", "items.csv", "--features", "text=text.npy"]),
    ("text.npz", [*PREPARE, "--items", "items.csv", "--features", "text=text.npz"]),
    ("text.safetensors", [*PREPARE, "--items", "items.csv", "--features", "text=text.safetensors"]),
    ("text.parquet", [*PREPARE, "--items", "items.csv", "--features", "text=text.parquet"]),
    ("reviews.jsonl", ["prepare", "reviews.jsonl", "-o", "out"]),
    ("reviews.jsonl", ["prepare", "reviews.jsonl", "--skip-bad-lines", "-o", "out"]),
    ("reviews.json.gz", ["prepare", "reviews.json.gz", "-o", "out"]),
    ("meta.jsonl", ["prepare", "reviews.jsonl", "--metadata", "meta.jsonl", "-o", "out"]),
    ("config.toml", ["-q", "train", "ds", "--run", "kept", "--model", "mf", "--config", "config.toml",
                     "--set", "epochs=1", "--set", "batch_size=32"]),
    ("items_new.csv", [*ADD, "text=new.npy"]),
    ("new.npy", [*ADD, "text=new.npy"]),
    ("new.npz", [*ADD, "text=new.npz"]),
    ("text.npz", ["features", "ds", "--import", "other=text.npz"]),
    ("keys.json", ["keys", "list", "keys.json"]),
)  # fmt: skip
# Commands of which one argument is mutated.
OF_OPTIONS: tuple[list[str], ...] = (
    [*PREPARE, "--k-core", "2", "--seed", "1", "--split", "random", "--held-out", "0.2", "--name", "shop"],
    [*PREPARE, "--items", "items.csv", "--features", "text=text.npz", "--rating", "rating", "--min-rating", "3"],
    ["inspect", "ds", "--verify"],
    ["inspect", "ds", "--modality", "text", "--seed", "3"],
    ["recommend", "run", "--user", "u3", "-k", "5", "--candidates", "i1,i2,i3"],
    ["recommend", "run", "--history", "i1,i2", "-k", "5", "-o", "out.csv"],
    ["recommend", "run", "--all", "--filter", '{"price": {"lt": 5}}', "-o", "out.parquet"],
    ["recommend", "run", "--user", "u3", "--unknown-users", "skip", "--device", "cpu"],
    ["similar", "run", "--item", "i3", "-k", "5", "-o", "out.json"],
    ["similar", "run", "--user", "u3"],
    ["explain", "run", "--user", "u3", "--item", "i3", "--history-size", "2", "-o", "out.json"],
    ["evaluate", "run", "ds", "--split", "test", "-k", "5", "--metric", "recall", "--memory-limit", "100"],
    ["-q", "train", "ds", "--run", "kept", "--model", "item_knn", "--set", "n_neighbors=5", "--seed", "3"],
    ["-q", "train", "ds", "--run", "kept", "--model", "mf", "--preset", "fast", "--set", "metric=recall@5",
     "--set", "learning_rate=0.01", "--set", "embedding_size=8", "--set", "batch_size=32", "--set", "epochs=1"],
    ["config", "--model", "lirdrec", "--preset", "paper"],
    ["strip", "run", "-o", "out"],
    ["export", "run", "-o", "kept", "--format", "arrays"],
    ["keys", "add", "keys.json", "--name", "shop"],
)  # fmt: skip


def mutated(base: Path, place: Path, rng: random.Random) -> tuple[list[str], str]:
    """Copy the small files to `place`, mutate one of them or an argument; gives the arguments and what was mutated."""
    for path in base.iterdir():
        if path.is_file():
            shutil.copy(path, place / path.name)
    for name in ("ds", "run"):
        shutil.copytree(base / name, place / name)
    (place / "folder").mkdir()
    os.mkfifo(place / "fifo")
    if rng.random() < 0.6:
        name, arguments = rng.choice(OF_FILES)
        path = place / name
        content = path.read_bytes()
        if name.endswith(".gz") and rng.random() < 0.7:  # damage within the archive, and to it
            changed = gzip.compress(mutations.bytes_of(gzip.decompress(content), rng))
        else:
            changed = mutations.bytes_of(content, rng)
        path.write_bytes(changed)
        return arguments, name
    arguments = list(rng.choice(OF_OPTIONS))
    first = 2 if arguments[0] == "-q" else 1
    index = rng.choice([index for index, one in enumerate(arguments) if index >= first and not one.startswith("-")])
    arguments[index] = _new_value(arguments[index], rng)
    return arguments, f"argument {index} of {arguments[first - 1]}"


def _new_value(old: str, rng: random.Random) -> str:
    key, equals, value = old.partition("=")
    if key == "epochs":  # more epochs are more work, and no fault
        return old
    if equals and rng.random() < 0.7:
        return f"{key}={mutations.value(value, rng)}"
    return mutations.value(old, rng)


def make(folder: Path) -> None:
    """Write the small files, a dataset and a run that was trained on it."""
    import polars as pl
    from safetensors.numpy import save_file

    from lirdrec.data import Dataset
    from lirdrec.models.registry import config_type
    from lirdrec.recommender.fit import fit
    from lirdrec.server.auth import add_key
    from lirdrec.training.config import TrainConfig

    rng = np.random.default_rng(5)
    cells = rng.permutation(12 * 20)[:110]
    pairs = pl.DataFrame(
        {
            "user": [f"u{cell // 20}" for cell in cells],
            "item": [f"i{cell % 20}" for cell in cells],
            "rating": rng.integers(1, 6, len(cells)).astype(float),
            "time": 1_500_000_000 + 1000 * np.arange(len(cells)),
        }
    )
    ids = [f"i{index}" for index in range(20)]
    items = pl.DataFrame(
        {"item": ids, "title": [f"Film {index}, é" for index in range(20)], "price": np.arange(20) / 2}
    )
    vectors = rng.standard_normal((20, 6), dtype=np.float32)
    pairs.write_csv(folder / "pairs.csv")
    pairs.write_csv(folder / "pairs.tsv", separator="\t")
    pairs.write_parquet(folder / "pairs.parquet")
    (folder / "pairs.csv.gz").write_bytes(gzip.compress((folder / "pairs.csv").read_bytes()))
    items.write_csv(folder / "items.csv")
    items.write_parquet(folder / "items.parquet")
    np.save(folder / "text.npy", vectors)
    np.savez(folder / "text.npz", ids=np.array(ids), v=vectors)
    save_file({"v": vectors}, folder / "text.safetensors")
    pl.DataFrame({"item": ids, "v": vectors.tolist()}).write_parquet(folder / "text.parquet")
    items.head(3).with_columns(pl.Series("item", ["n0", "n1", "n2"])).write_csv(folder / "items_new.csv")
    np.save(folder / "new.npy", vectors[:3])
    np.savez(folder / "new.npz", ids=np.array(["n0", "n1", "n2"]), v=vectors[:3])
    _write_reviews(folder, pairs)
    toml = '[model]\nembedding_size = 8\n[training]\nlearning_rate = 0.01\nmetric = "recall@5"\nseed = 3\n'
    (folder / "config.toml").write_text(toml, encoding="utf-8")
    add_key(folder / "keys.json", "shop", "read")
    dataset = Dataset.from_frames(pairs.drop("rating"), items=items, features={"text": (ids, vectors)}, name="shop")
    dataset.save(folder / "ds")
    config = config_type("lirdrec")(embedding_size=8)
    training = TrainConfig(epochs=2, batch_size=64, metric="recall@5")
    fit(Dataset.load(folder / "ds"), config, training, run=folder / "run", progress=False, cache=folder / "cache")


def _write_reviews(folder: Path, pairs: object) -> None:
    lines, described = [], []
    for user, item, rating, time in pairs.rows():
        asin = f"B{int(item[1:]):09d}"
        lines.append({"reviewerID": user, "asin": asin, "overall": rating, "unixReviewTime": time})
    for index in range(20):
        described.append(
            {"asin": f"B{index:09d}", "title": f"<b>Film</b> {index}", "price": f"${index}.50", "category": ["a"]}
        )
    for name, records in (("reviews.jsonl", lines), ("meta.jsonl", described)):
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    (folder / "reviews.json.gz").write_bytes(gzip.compress((folder / "reviews.jsonl").read_bytes()))
