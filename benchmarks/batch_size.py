"""How much time larger batches save: time to the paper setting's best validation NDCG@20 (docs/performance.md).

    python benchmarks/batch_size.py run tiktok --seeds 0 1 2
    python benchmarks/batch_size.py report tiktok
    python benchmarks/batch_size.py time tiktok --settings 2048 8192-sqrt 16384-sqrt

`run` trains every setting that `runs/batch_size` does not hold yet and may be stopped and started again. `report` reads
the histories, writes `benchmarks/results/batch_size-DATASET.json` and prints the table. The learning rate grows in
proportion to the batch, or with its root, or falls as a cosine. A step's cost does not depend on what was learned, so
time = epochs to the target × the seconds of an epoch of that setting on a quiet machine, which `time` measures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import lirdrec

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data"))
RUNS = ROOT / "runs" / "batch_size"
# name of a setting → options of training; the first is the paper's
SETTINGS: dict[str, dict] = {
    **{str(b): {"batch_size": b, "learning_rate": 1e-4 * b / 2048} for b in (2048, 4096, 8192, 16384, 32768)},
    "4096-sqrt": {"batch_size": 4096, "learning_rate": 1.4e-4},
    "8192-sqrt": {"batch_size": 8192, "learning_rate": 2e-4},
    "16384-sqrt": {"batch_size": 16384, "learning_rate": 2.8e-4},
    "32768-sqrt": {"batch_size": 32768, "learning_rate": 4e-4},
    "4096-cosine": {"batch_size": 4096, "learning_rate": 4e-4, "schedule": "cosine", "epochs": 40},
    "8192-softmax": {"batch_size": 8192, "learning_rate": 2e-3, "loss": "softmax"},
    "8192-softmax-2048": {"batch_size": 8192, "learning_rate": 2e-3, "loss": "softmax", "n_negatives": 2048},
    "fast": {
        "batch_size": 8192,
        "order": "users",
        "learning_rate": 2e-3,
        "loss": "softmax",
        "n_layers": 4,
        "scoring": "cosine",
    },
    "8192-cosine": {"batch_size": 8192, "learning_rate": 6e-4, "schedule": "cosine", "epochs": 60},
}
OF_THE_MODEL = ("loss", "n_negatives", "n_layers", "scoring")  # the other options are of training
PAPER = "2048"
MODEL = {
    "tiktok": {"n_layers": 3, "pwc_weight": 0.95, "modality_weights": {"image": 0.1, "audio": 0.9}},
    "sports": {"n_layers": 3},
}
PAIRS = {"tiktok": 59_541, "sports": 218_409}  # training pairs


def run(dataset: str, names: list[str], seeds: list[int], epochs: int) -> None:
    from lirdrec.data.readers import read_any

    data = read_any(DATA / dataset)
    for seed in seeds:
        for name in names:
            folder = RUNS / f"{dataset}-{name}-{seed}"
            if not (folder / "manifest.json").exists():
                config, training = configured(dataset, name, epochs=epochs, seed=seed)
                lirdrec.fit(data, config, training, run=folder, resume=True, progress=sys.stderr.isatty())
            print(folder.name, json.loads((folder / "metrics.json").read_text()), flush=True)


def configured(dataset: str, name: str, **training) -> tuple[lirdrec.LIRDRecConfig, lirdrec.TrainConfig]:
    options = SETTINGS[name]
    of_model = {key: value for key, value in options.items() if key in OF_THE_MODEL}
    of_training = {key: value for key, value in options.items() if key not in OF_THE_MODEL}
    config = lirdrec.LIRDRecConfig(regularization=1e-3, **{**MODEL[dataset], **of_model})
    return config, lirdrec.TrainConfig(**{**training, **of_training})


def seconds(dataset: str, names: list[str]) -> None:
    """Median seconds of six epochs with validation; for a quiet machine."""
    import tempfile

    from lirdrec.data.readers import read_any

    data = read_any(DATA / dataset)
    for name in names:
        config, training = configured(dataset, name)
        with tempfile.TemporaryDirectory() as folder:
            training = replace(training, epochs=6)
            lirdrec.fit(data, config, training, run=f"{folder}/run", progress=False)
            lines = [json.loads(line) for line in Path(folder, "run", "history.jsonl").read_text().splitlines()]
        print(f"{name}: {statistics.median(line['seconds_with_validation'] for line in lines):.2f} s an epoch")


def report(dataset: str) -> None:
    histories: dict[str, dict[int, list[dict]]] = {}
    for folder in sorted(RUNS.glob(f"{dataset}-*")):
        if (folder / "manifest.json").exists():
            name, seed = folder.name.removeprefix(f"{dataset}-").rsplit("-", 1)
            lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
            histories.setdefault(name, {})[int(seed)] = lines
    path = ROOT / "benchmarks" / "results" / f"batch_size-{dataset}.json"
    before = json.loads(path.read_text())["settings"] if path.exists() else []
    known = {row["setting"]: row for row in before}  # measured earlier; their run folders may be gone
    paper = {seed: best(lines, "ndcg@20") for seed, lines in histories.get(PAPER, {}).items()}
    if not paper:
        paper = dict(zip(known[PAPER]["seeds"], known[PAPER]["best_ndcg@20"], strict=True))
    rows = []
    for name in (name for name in SETTINGS if name in histories or name in known):
        if name not in histories:
            rows.append(known[name])
            continue
        seeds = histories[name]
        epochs: dict[float, list[int | None]] = {}
        for share in (1.0, 0.98):
            goals = [share * paper[seed] for seed in seeds]
            epochs[share] = [
                next((line["epoch"] for line in lines if line["valid"]["ndcg@20"] >= goal), None)
                for lines, goal in zip(seeds.values(), goals, strict=True)
            ]
        batch = SETTINGS[name]["batch_size"]
        rows.append(
            {
                "setting": name,
                **SETTINGS[name],
                "seeds": list(seeds),
                "best_ndcg@20": [best(lines, "ndcg@20") for lines in seeds.values()],
                "best_recall@20": [best(lines, "recall@20") for lines in seeds.values()],
                "epochs_to_paper": epochs[1.0],
                "epochs_to_98%_of_paper": epochs[0.98],
                "epochs_to_best": [
                    max(lines, key=lambda line: line["valid"]["recall@20"])["epoch"] for lines in seeds.values()
                ],
                "steps_per_epoch": -(-PAIRS[dataset] // batch),
                "median_seconds_per_epoch": statistics.median(
                    line["seconds_with_validation"] for lines in seeds.values() for line in lines
                ),
            }
        )
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"dataset": dataset, "settings": rows}, indent=2) + "\n")
    for row in rows:
        figures = "  ".join(
            f"{metric} {statistics.mean(row[f'best_{metric}']):.4f} ± {statistics.pstdev(row[f'best_{metric}']):.4f}"
            for metric in ("ndcg@20", "recall@20")
        )
        print(
            f"{row['setting']:12s} lr {row['learning_rate']:.1e}  {figures}  epochs to best {row['epochs_to_best']}, "
            f"to the paper's NDCG {row['epochs_to_paper']}, to 98 % of it {row['epochs_to_98%_of_paper']}; "
            f"{row['steps_per_epoch']} steps, {row['median_seconds_per_epoch']:.2f} s an epoch"
        )


def best(lines: list[dict], metric: str) -> float:
    return max(line["valid"][metric] for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report", "time"))
    parser.add_argument("dataset", choices=tuple(MODEL))
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.dataset, arguments.settings, arguments.seeds, arguments.epochs)
    elif arguments.what == "time":
        seconds(arguments.dataset, arguments.settings)
    else:
        report(arguments.dataset)
