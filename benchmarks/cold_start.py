"""Unseen items and unseen users on TikTok, both modes of the cold-start study (docs/results.md).

    python benchmarks/cold_start.py --tune
    python benchmarks/cold_start.py --seeds 0 1 2

`--tune` tries a small grid of item graphs on the validation items of split 0 (transductive, one training each);
the rest uses the best. The test items are not looked at.

Cold-start split by items: a fifth of the items is unseen, half of them valid, half test. `transductive`: the unseen
items' features are in the item graph. `inductive`: trained on warm items only, the unseen ones are added
afterwards with `add_items`; it trains for as many epochs as validation chose for the transductive run of the same seed.
Yardsticks: random ranking of the unseen items, and content kNN, whose mix is chosen on validation.
Users: on the general split, `fold_in` of every known user's own training items against the trained vectors, on the runs
of `python benchmarks/batch_size.py run tiktok --settings 8192-sqrt --seeds 0 1 2`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

import numpy as np
import torch

import lirdrec
import lirdrec.config
from lirdrec.data.cold_start import hold_out_items
from lirdrec.data.dataset import Dataset
from lirdrec.data.readers import read_any
from lirdrec.evaluation.scorer_evaluation import GroundTruth, evaluate_scorer
from lirdrec.ranking.scorers import Scorer, VectorScorer

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data"))
TUNED = ROOT / "benchmarks" / "results" / "cold_start-tuning.json"
GRID = [
    {"n_neighbors": k, "modality_weights": {"image": w, "audio": 1 - w}, "n_layers": layers}
    for layers, w, k in [(3, 0.1, 10), (3, 0.5, 10), (3, 0.9, 10), (3, 0.5, 20)]
]
KEPT = ("recall@20", "ndcg@20")


def config_of(options: dict) -> lirdrec.LIRDRecConfig:
    return lirdrec.LIRDRecConfig(pwc_weight=0.95, **options)


def tune(general: Dataset) -> None:
    data = general.resplit("cold_items", seed=0)
    _, training = lirdrec.preset("lirdrec", "fast")
    tried = json.loads(TUNED.read_text()) if TUNED.exists() else []
    mixes = [(image, 1 - image) for image in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)]
    content = [content_scorer(data, {"image": a, "audio": b}) for a, b in mixes]
    print("content kNN", [round(cold_figures(scorer, data, "valid")["cold"]["recall@20"], 4) for scorer in content])
    for options in GRID:
        if any(line["options"] == options for line in tried):
            continue
        found = lirdrec.fit(data, config_of(options), training, progress=sys.stderr.isatty()).info["metrics"]
        tried.append({"options": options, **found})
        TUNED.parent.mkdir(exist_ok=True)
        TUNED.write_text(json.dumps(tried, indent=2) + "\n")
        print(options, found, flush=True)


def tuned() -> lirdrec.LIRDRecConfig:
    tried = json.loads(TUNED.read_text())
    return config_of(max(tried, key=lambda line: line["valid"]["recall@20"])["options"])


def tensors(part) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(part.users)), torch.from_numpy(np.array(part.items))


def content_scorer(data: Dataset, weights: dict[str, float]) -> Scorer:
    config = lirdrec.ContentKNNConfig(n_neighbors=None, modality_weights=weights)
    return lirdrec.fit(data, config, progress=False, cache=False).scorer


def cold_figures(scorer, data: Dataset, split: str) -> dict[str, dict[str, float]]:
    cold = torch.from_numpy(np.setdiff1d(np.arange(data.n_items), data.train.items))
    found = {}
    for name, candidates in (("cold", cold), ("all", None)):
        truth = GroundTruth.from_pairs(
            tensors(data.train), tensors(data.split(split)), data.n_users, candidates=candidates
        )
        found[name] = evaluate_scorer(scorer, truth, ("recall", "ndcg"), (20,)).values
    return found


def content_knn(data: Dataset) -> dict[str, dict[str, float]]:
    mixes = [{"image": w, "audio": 1 - w} for w in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)]
    scored = [
        (cold_figures(content_scorer(data, mix), data, "valid")["cold"]["recall@20"], i) for i, mix in enumerate(mixes)
    ]
    return cold_figures(content_scorer(data, mixes[max(scored)[1]]), data, "test")


def random_floor(data: Dataset, seed: int) -> dict[str, dict[str, float]]:
    generator = torch.Generator().manual_seed(seed)
    noise = VectorScorer(
        torch.randn(data.n_users, 8, generator=generator), torch.randn(data.n_items, 8, generator=generator)
    )
    return cold_figures(noise, data, "test")


def one_seed(general: Dataset, seed: int, progress: bool) -> dict:
    data = general.resplit("cold_items", seed=seed)
    config = tuned()
    _, training = lirdrec.preset("lirdrec", "fast")
    options = {**lirdrec.config.to_dict(training), "seed": seed}
    result: dict = {"random": random_floor(data, seed), "content kNN": content_knn(data)}
    transductive = lirdrec.fit(data, config, lirdrec.TrainConfig(**options), progress=progress)
    result["transductive"] = figures_of(transductive, data)
    best = transductive.info["metrics"]["best_epoch"]
    result["epochs"] = best
    cold_ids = data.items.ids[np.setdiff1d(np.arange(data.n_items), data.train.items)]
    warm, table, features = hold_out_items(data, list(cold_ids))
    inductive = lirdrec.fit(warm, config, lirdrec.TrainConfig(**{**options, "epochs": best}), progress=progress)
    inductive.add_items(table, features)
    result["inductive"] = figures_of(inductive, data)

    return result


def folded_in(general: Dataset, seed: int) -> dict:
    """Known users as if they were new, against their trained vectors; on the run that the batch study keeps."""
    known = lirdrec.Recommender.load(ROOT / "runs" / "batch_size" / f"tiktok-8192-sqrt-{seed}")
    truth = GroundTruth.from_pairs(tensors(general.train), tensors(general.test), general.n_users)
    trained = evaluate_scorer(known.scorer, truth, ("recall", "ndcg"), (20,)).values
    histories = [truth.seen.of(int(user)) for user in range(general.n_users)]
    some = [
        h if len(h) else torch.zeros(1, dtype=torch.int64) for h in histories
    ]  # a user without a pair is not ranked
    queries = known.model("serve new users").fold_in(known.scorer, some)
    folded = VectorScorer(queries, known.scorer.item_vectors)
    return {
        "trained users": trained,
        "folded-in users": evaluate_scorer(folded, truth, ("recall", "ndcg"), (20,)).values,
    }


def figures_of(recommender, data: Dataset) -> dict[str, dict[str, float]]:
    return {
        name: {
            m: lirdrec.evaluate(recommender, data, k=20, metrics=("recall", "ndcg"), candidates=name)[m] for m in KEPT
        }
        for name in ("cold", "all")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tune", action="store_true")
    arguments = parser.parse_args()
    general = read_any(DATA / "tiktok")
    if arguments.tune:
        return tune(general)
    path = ROOT / "benchmarks" / "results" / "cold_start-tiktok.json"
    path.parent.mkdir(exist_ok=True)
    for seed in map(str, arguments.seeds):
        if seed not in read(path):
            found = one_seed(general, int(seed), sys.stderr.isatty()) | folded_in(general, int(seed))
            path.write_text(json.dumps(read(path) | {seed: found}, indent=2) + "\n")
    results = read(path)

    def show(what: str, *keys: str) -> None:
        cells = []
        for metric in KEPT:
            values = [_at(results[seed], (*keys, metric)) for seed in results]
            cells.append(f"{metric} {statistics.mean(values):.4f} ± {statistics.pstdev(values):.4f}")
        print(f"{what:32s} {'   '.join(cells)}")

    for who in ("random", "content kNN", "transductive", "inductive"):
        for candidates in ("cold", "all"):
            show(f"{who}, {candidates} candidates", who, candidates)
    for who in ("trained users", "folded-in users"):
        show(who, who)


def read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def _at(tree: dict, keys: tuple[str, ...]):
    for key in keys:
        tree = tree[key]
    return tree


if __name__ == "__main__":
    main()
