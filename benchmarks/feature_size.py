"""What the size of features costs and saves: quality, time of a step, and Electronics' shape (docs/performance.md).

    OMP_NUM_THREADS=1 python benchmarks/feature_size.py quality tiktok movielens scientific sports --seeds 0 1 2
    OMP_NUM_THREADS=1 python benchmarks/feature_size.py time tiktok movielens scientific sports
    python benchmarks/feature_size.py electronics
    python benchmarks/feature_size.py report

Every result is a line of `benchmarks/results/feature_size.jsonl` (`--output`); what is there is not measured again.

`quality`: LIRDRec, fast preset but for the size, one training for each dataset, size and seed. A seed draws a launch
(`draw_launch`): a tenth of the items is added after the training. Measured on validation: Recall@20 of known items, at
the epoch that it chose, and of the added items, ranked alone and among all items (`none`: no offset, so that
calibration cannot help).
`time`: processor time of a step of the fast preset, medians, sizes in turn in one process.
`electronics`: synthetic data with the shape of Electronics, 4,096 + 384 columns: fitting and projecting once, a step of
the paper's setting (batch 2,048, BPR, 2 layers), and an epoch of the fast preset (`order="users"`), whose steps but the
first two are extrapolated. The item graph has random neighbors.

Datasets: folders of `LIRDREC_DATA` (tiktok, sports); `scientific` is a prepared dataset with features, in the folder
`scientific_llo` or as `--folder scientific=PATH`; `movielens` is the sample with the 1,280 columns of its posters.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lirdrec
from lirdrec.data.cold_start import draw_launch
from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.readers import read_any
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.evaluation.new_item_metrics import evaluate_launch
from lirdrec.models.lirdrec import LIRDRec
from lirdrec.ranking.histories import Histories
from lirdrec.recommender.feature_pca import fit_projections
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.new_item_encoder import NewItemPolicy
from lirdrec.training.memory_allocator import keep_freed_memory
from lirdrec.training.sampling import make_sampler

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data"))
OUTPUT = ROOT / "benchmarks" / "results" / "feature_size.jsonl"
DATASETS = ("tiktok", "movielens", "scientific", "sports")
SIZES = (256, 128, 64)
ELECTRONICS = (192_403, 63_001, 1_689_188)
DIMS = {"image": 4096, "text": 384}


def variants(data: Dataset) -> dict[str, dict[str, Any]]:
    """Name → options of LIRDRec: raw, and each size below the widest modality, plain and whitened."""
    widest = max(matrix.dims for matrix in data.features.values())
    raw = {"feature_size": None}  # not the preset's size
    found: dict[str, dict[str, Any]] = {"raw": raw, "whitened": raw | {"whiten": True}}
    for size in SIZES:
        if size < widest:
            found[f"{size}"] = {"feature_size": size}
            found[f"{size} whitened"] = {"feature_size": size, "whiten": True}
    return found


def dataset(name: str, folders: dict[str, Path]) -> Dataset:
    if name == "movielens":
        return with_posters(Dataset.load(folders.get(name, ROOT / "sample" / "movielens")))
    return read_any(folders.get(name, DATA / ("scientific_llo" if name == "scientific" else name)))


def with_posters(sample: Dataset) -> Dataset:
    """The sample with all 1,280 columns of its posters instead of the first 128 principal components."""
    archive = np.load(DATA / "movielens-small" / "poster_features.npz")
    rows = {int(item): row for row, item in enumerate(archive["movieId"])}
    values = np.zeros((sample.n_items, archive["x"].shape[1]), np.float32)
    for position, item in enumerate(sample.items.series.to_list()):
        if int(item) in rows:
            values[position] = archive["x"][rows[int(item)]]
    return replace(sample, features={**sample.features, "image": FeatureMatrix(values)}, folder=None)


class Lines:
    """The file of results: a JSON object a line, found again by what it measures."""

    def __init__(self, path: Path):
        self.path = path
        self.found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has(self, **key: Any) -> bool:
        return any(all(line.get(name) == value for name, value in key.items()) for line in self.found)

    def add(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.found.append(line)
        print(json.dumps(line), flush=True)


def measure_quality(lines: Lines, name: str, data: Dataset, seeds: Iterable[int], chosen: Sequence[str]) -> None:
    for seed in seeds:
        launch = draw_launch(data, seed)
        for variant, options in variants(data).items():
            key = {"kind": "quality", "dataset": name, "variant": variant, "seed": seed}
            if lines.has(**key) or (chosen and variant not in chosen):
                continue
            config, training = lirdrec.preset()
            started = time.process_time()
            recommender = lirdrec.fit(
                launch.dataset, replace(config, **options), replace(training, seed=seed), progress=False, cache=False
            )
            seconds = time.process_time() - started
            metrics = recommender.info["metrics"]
            columns = {m: p.n_columns for m, p in recommender.features.projections.items()}
            recommender.add_items(launch.valid.table, launch.valid.features)
            lines.add(
                key
                | {"known": metrics["valid"]["recall@20"], **launched_items(recommender, launch)}
                | {"epochs": metrics["epochs"], "best_epoch": metrics["best_epoch"]}
                | {"processor_seconds": round(seconds, 1), "columns": columns}
            )


def launched_items(recommender: Any, launch: Any) -> dict[str, float]:
    """Validation Recall@20 of the added items, alone and among all, without an offset."""
    n, first, pairs, new = launch.dataset.n_users, launch.dataset.n_items, launch.dataset.valid, launch.valid
    known = Histories(torch.tensor(pairs.users), torch.tensor(pairs.items), n)
    added = Histories(torch.tensor(new.users), torch.tensor(new.items + first), n)
    scorer = recommender.policy_scorer(NewItemPolicy.parse("none"))
    metrics = evaluate_launch(scorer, recommender.histories, known, added, first)
    return {"unseen": metrics.alone, "unseen_among_all": metrics.among}


def step_of(data: Dataset, config: Any, training: Any, random_graph: bool = False) -> tuple[Callable[[], None], dict]:
    """A function that takes one training step, and what making it took."""
    started = time.process_time()
    projections = fit_projections(data, config)
    fitted = time.process_time()
    inputs = make_model_inputs(data, cache=False, projections=projections)
    projected = time.process_time()
    if random_graph:
        generator = torch.Generator().manual_seed(0)
        tables = {m: torch.randint(data.n_items, (data.n_items, 10), generator=generator) for m in inputs.features}
        inputs = replace(inputs, neighbors=lambda name, k: tables[name])
    model = LIRDRec(inputs, config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    batches = make_sampler(model, training).batches(1, training.batch_size, torch.device("cpu"))
    model.start_epoch(1)
    batch = next(iter(batches))[1]

    def step() -> None:
        loss = model.loss(*batch)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step, {"fit_seconds": fitted - started, "project_seconds": projected - fitted}


def measure_time(lines: Lines, name: str, data: Dataset, steps: int) -> None:
    keys = [v for v in variants(data) if not lines.has(kind="time", dataset=name, variant=v)]
    if not keys:
        return
    config, training = lirdrec.preset()
    training = training.resolved(len(data.train.users))
    made = {v: step_of(data, replace(config, **variants(data)[v]), training) for v in {"raw", *keys}}
    times: dict[str, list[float]] = {v: [] for v in made}
    for number in range(steps + 1):
        for variant, (step, _) in made.items():
            started = time.process_time()
            step()
            if number > 0:
                times[variant].append(time.process_time() - started)
    raw = statistics.median(times["raw"])
    for variant in keys:
        seconds = statistics.median(times[variant])
        line = {"kind": "time", "dataset": name, "variant": variant, "step_seconds": seconds, "ratio": seconds / raw}
        lines.add(line | made[variant][1] | {"batch": training.batch_size, "threads": torch.get_num_threads()})


def measure_electronics(lines: Lines, folder: Path, steps: int, chosen: Sequence[str]) -> None:
    if not (folder / "data").is_dir():
        make_synthetic_dataset(*ELECTRONICS, DIMS, seed=0, folder=str(folder)).save(folder / "data")
    data = Dataset.load(folder / "data")
    config, training = lirdrec.preset()
    training = training.resolved(len(data.train.users))
    paper = lirdrec.LIRDRecConfig(n_layers=2), lirdrec.TrainConfig(batch_size=2048)
    settings = {"step": paper, "epoch": (config, training)}
    found = {v: o for v, o in variants(data).items() if v in chosen or (not chosen and v != "whitened")}
    for variant, options in found.items():
        for what, (base, options_of_training) in settings.items():
            if lines.has(kind="electronics", variant=variant, what=what):
                continue
            step, line = step_of(data, replace(base, **options), options_of_training, random_graph=True)
            times = {"seconds": [], "processor_seconds": []}
            for number in range(steps + 1):
                started = time.perf_counter(), time.process_time()
                step()
                if number > 0 or what == "epoch":
                    times["seconds"].append(time.perf_counter() - started[0])
                    times["processor_seconds"].append(time.process_time() - started[1])
            medians = {name: statistics.median(values) for name, values in times.items()}
            if what == "epoch":
                n_steps = -(-len(data.train.users) // options_of_training.batch_size)
                medians = {name: value * n_steps for name, value in medians.items()} | {"steps": n_steps}
            key = {"kind": "electronics", "variant": variant, "what": what, "threads": torch.get_num_threads()}
            lines.add(key | medians | line)
            del step


def report(lines: Lines) -> None:
    """Markdown tables of all results."""
    quality = [line for line in lines.found if line["kind"] == "quality"]
    times = {(line["dataset"], line["variant"]): line["ratio"] for line in lines.found if line["kind"] == "time"}
    print("| dataset | size | seeds | known items | unseen items | unseen among all | step / raw |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in dict.fromkeys(line["dataset"] for line in quality):
        of_dataset = [line for line in quality if line["dataset"] == name]
        for variant in dict.fromkeys(line["variant"] for line in of_dataset):
            runs = [line for line in of_dataset if line["variant"] == variant]
            cells = []
            for metric in ("known", "unseen", "unseen_among_all"):
                values = [line[metric] for line in runs]
                sd = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.4f}{sd}")
            ratio = f"{times[name, variant]:.2f}" if (name, variant) in times else ""
            print(f"| {name} | {variant} | {len(runs)} | {' | '.join(cells)} | {ratio} |")
    for line in lines.found:
        if line["kind"] == "electronics":
            print(json.dumps(line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("quality", "time", "electronics", "report"))
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=[], help="only raw, whitened, 256, '256 whitened' …")
    parser.add_argument("--steps", type=int, default=5, help="steps timed, after one that is not")
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=PATH", help="where a dataset is")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    lines, folders = Lines(arguments.output), dict(text.split("=", 1) for text in arguments.folder)
    paths = {name: Path(path) for name, path in folders.items()}
    keep_freed_memory()
    if arguments.kind == "report":
        return report(lines)
    if arguments.kind == "electronics":
        if "electronics" in paths:
            return measure_electronics(lines, paths["electronics"], arguments.steps, arguments.variants)
        with tempfile.TemporaryDirectory() as folder:
            return measure_electronics(lines, Path(folder), arguments.steps, arguments.variants)
    for name in arguments.datasets or DATASETS:
        data = dataset(name, paths)
        if arguments.kind == "quality":
            measure_quality(lines, name, data, arguments.seeds, arguments.variants)
        else:
            measure_time(lines, name, data, arguments.steps)


if __name__ == "__main__":
    main()
