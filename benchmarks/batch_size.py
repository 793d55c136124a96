"""How much time larger batches save: time to the paper setting's best validation NDCG@20 (docs/performance.md).

    python benchmarks/batch_size.py run tiktok --seeds 0 1 2
    python benchmarks/batch_size.py report tiktok

`run` trains every setting that `runs/batch_size` does not hold yet and may be stopped and started again. `report` reads
the histories, writes `benchmarks/results/batch_size-DATASET.json` and prints the table. The learning rate grows in
proportion to the batch. A step's cost does not depend on what else was learned, so time = steps to the target × the
median seconds of an epoch of that setting (median: the machine may not have been quiet all the time).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

import lirdrec

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data"))
RUNS = ROOT / "runs" / "batch_size"
BATCHES = (2048, 4096, 8192, 16384, 32768)
MODEL = {
    "tiktok": {"n_layers": 3, "pwc_weight": 0.95, "modality_weights": {"image": 0.1, "audio": 0.9}},
    "sports": {"n_layers": 3},
}


def setting(dataset: str, batch: int, seed: int, epochs: int):
    config = lirdrec.LIRDRecConfig(regularization=1e-3, **MODEL[dataset])
    training = lirdrec.TrainConfig(batch_size=batch, learning_rate=1e-4 * batch / 2048, seed=seed, epochs=epochs)
    return config, training


def run(dataset: str, batches: list[int], seeds: list[int], epochs: int) -> None:
    from lirdrec.data.readers import read_any

    data = read_any(DATA / dataset)
    for seed in seeds:
        for batch in batches:
            folder = RUNS / f"{dataset}-{batch}-{seed}"
            if not (folder / "manifest.json").exists():
                config, training = setting(dataset, batch, seed, epochs)
                lirdrec.fit(data, config, training, run=folder, resume=True, progress=sys.stderr.isatty())
            print(folder.name, json.loads((folder / "metrics.json").read_text()), flush=True)


def report(dataset: str) -> None:
    histories: dict[int, dict[int, list[dict]]] = {}
    for folder in sorted(RUNS.glob(f"{dataset}-*")):
        if (folder / "manifest.json").exists():
            batch, seed = map(int, folder.name.rsplit("-", 2)[1:])
            lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
            histories.setdefault(batch, {})[seed] = lines
    paper = histories[2048]
    target = statistics.mean(max(line["valid"]["ndcg@20"] for line in lines) for lines in paper.values())
    rows = []
    for batch, seeds in sorted(histories.items()):
        best = [max(line["valid"]["ndcg@20"] for line in lines) for lines in seeds.values()]
        recall = [max(line["valid"]["recall@20"] for line in lines) for lines in seeds.values()]
        own = [max(line["valid"]["ndcg@20"] for line in lines) for lines in (paper[s] for s in seeds)]
        reached = [
            next((line["epoch"] for line in lines if line["valid"]["ndcg@20"] >= goal), None)
            for lines, goal in zip(seeds.values(), own, strict=True)
        ]
        near = [
            next((line["epoch"] for line in lines if line["valid"]["ndcg@20"] >= 0.99 * goal), None)
            for lines, goal in zip(seeds.values(), own, strict=True)
        ]
        seconds = statistics.median(line["seconds_with_validation"] for lines in seeds.values() for line in lines)
        rows.append(
            {
                "batch_size": batch,
                "learning_rate": 1e-4 * batch / 2048,
                "seeds": list(seeds),
                "best_ndcg@20": best,
                "best_recall@20": recall,
                "epochs_to_target": reached,
                "epochs_to_99%": near,
                "epochs_run": [len(lines) for lines in seeds.values()],
                "median_seconds_per_epoch": seconds,
            }
        )
    result = {"dataset": dataset, "target_mean_ndcg@20": target, "settings": rows}
    path = ROOT / "benchmarks" / "results" / f"batch_size-{dataset}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    for row in rows:
        mean, sd = statistics.mean(row["best_ndcg@20"]), statistics.pstdev(row["best_ndcg@20"])
        print(
            f"{row['batch_size']:6d}  lr {row['learning_rate']:.1e}  ndcg@20 {mean:.4f} ± {sd:.4f}  recall@20 "
            f"{statistics.mean(row['best_recall@20']):.4f}  epochs to target {row['epochs_to_target']}, to 99 % "
            f"{row['epochs_to_99%']}, run {row['epochs_run']}, {row['median_seconds_per_epoch']:.2f} s an epoch"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("dataset", choices=tuple(MODEL))
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.dataset, arguments.batches, arguments.seeds, arguments.epochs)
    else:
        report(arguments.dataset)
