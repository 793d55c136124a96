"""What likes do for new items, without training, against training again with these likes (docs/new_items.md).

    python benchmarks/warm_up.py movielens --seeds 0 1 2 3 4 --likes 0 1 2 5 10 --retrain 1 5 10
    python benchmarks/warm_up.py tiktok --seeds 0 1 2 --retrain 10
    python benchmarks/warm_up.py PREPARED_FOLDER --seeds 0 1 2 --retrain 10
    python benchmarks/warm_up.py movielens --report

A random fifth of the items is unseen in training and added by `add_items`; those with 15 interactions or more are
launched: of each, 0, 1, 2, 5 or 10 random likes are given to `update`, and its other users, the first ten left out, are
those who should find it. `--retrain` trains from scratch with the likes of all launched items. Metrics are means over
the launched items: the share of these users who have the item among their 20 best, of all items and of the launched
items alone; and recall@20 of the validation and test
interactions of known items.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

import lirdrec
from lirdrec.data.dataset import Dataset
from lirdrec.data.readers import read_any
from lirdrec.recommender.refit_settings import merge_splits

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results" / "warm_up.json"
UNSEEN, ENOUGH, LARGEST, K = 0.2, 15, 10, 20
LIKES = (0, 1, 2, 5, 10)


class Launch:
    """One draw of unseen items.

    Args:
        name: "movielens" (the sample), a folder of `LIRDREC_DATA`, or the folder of a prepared dataset.
        seed: of the draw, the split, the likes and the trainings.
    """

    def __init__(self, name: str, seed: int):
        places = (ROOT / "sample" / name, DATA / name, Path(name))
        data = read_any(next((place for place in places if place.exists()), places[-1]))
        self.seed, draw = seed, np.random.default_rng(seed)
        self.features = {name: (data.items.ids, m.values * m.present[:, None]) for name, m in data.features.items()}
        self.items = data.items.series
        pairs = merge_splits(data).frame("train").select("user", "item").sort("user", "item")
        unseen = draw.choice(data.items.ids, int(UNSEEN * data.n_items), replace=False)
        is_unseen = pairs["item"].is_in(unseen.tolist())
        self.unseen = sorted(unseen.tolist())
        self.known = self.dataset(pairs.filter(~is_unseen), split="random", seed=seed)
        there = pairs.filter(is_unseen & pairs["user"].is_in(self.known.users.series.implode()))
        self.likers = {
            item: draw.permutation(there.filter(pl.col("item") == item)["user"].to_numpy()) for item in self.unseen
        }
        self.launched = [item for item, users in self.likers.items() if len(users) >= ENOUGH]

    def dataset(self, frame: pl.DataFrame, **options) -> Dataset:
        """A dataset of the interactions, with the features of its items."""
        items = pl.DataFrame({"item": self.items.filter(self.items.is_in(frame["item"].unique().implode()))})
        return Dataset.from_frames(
            frame, items=items, features=self.features, name="launch", unknown_features="drop", **options
        )

    def revealed(self, k: int) -> list[tuple]:
        """The first k likes of each launched item, as (user, item)."""
        return [(user, item) for item in self.launched for user in self.likers[item][:k].tolist()]

    def first(self) -> lirdrec.Recommender:
        """Trained on the known items, with the unseen ones added."""
        made = lirdrec.fit(self.known, training=self.training(), progress=sys.stderr.isatty())
        rows = [self.items.to_list().index(item) for item in self.unseen]
        made.add_items(self.unseen, {name: values[rows] for name, (_, values) in self.features.items()})
        return made

    def retrained(self, k: int) -> lirdrec.Recommender:
        """Trained from scratch with k likes of each launched item."""
        parts = [
            self.known.frame(name).select("user", "item").with_columns(part=pl.lit(name)) for name in ("train", "valid")
        ]
        likes = pl.DataFrame(self.revealed(k), schema=["user", "item"], orient="row").with_columns(part=pl.lit("train"))
        test = self.known.frame("test").select("user", "item").with_columns(part=pl.lit("test"))
        frame = pl.concat([*parts, test, likes.cast({"user": test["user"].dtype, "item": test["item"].dtype})])
        return lirdrec.fit(self.dataset(frame, split="part"), training=self.training(), progress=sys.stderr.isatty())

    def training(self) -> lirdrec.TrainConfig:
        return replace(lirdrec.preset("lirdrec")[1], seed=self.seed)

    def measure(self, made: lirdrec.Recommender, k: int) -> dict:
        """Metrics of a recommender that knows k likes of each launched item."""
        train = self.known.frame("train")
        seen = set(zip(train["user"].to_list(), train["item"].to_list(), strict=True)) | set(self.revealed(k))
        by_user: dict = {}
        for user, item in seen:
            by_user.setdefault(user, []).append(int(made.items.row(item)))
        wanted = {"launched": [(u, item) for item in self.launched for u in self.likers[item][LARGEST:].tolist()]}
        for name in ("valid", "test"):
            frame = self.known.frame(name)
            wanted[name] = list(zip(frame["user"].to_list(), frame["item"].to_list(), strict=True))
        unseen = torch.tensor(made.items.rows(pl.Series(self.unseen)))
        unseen = unseen[unseen >= 0]
        launched = torch.tensor(made.items.rows(pl.Series(self.launched)))
        hits: dict[str, dict] = {"among all": {}, "alone": {}, "valid": {}, "test": {}}
        todo: dict = {}
        for kind, pairs in wanted.items():
            for user, item in pairs:
                todo.setdefault(user, []).append((kind, item))
        users = list(todo)
        places = 0.0
        for start in range(0, len(users), 500):
            block = users[start : start + 500]
            scores = made.scorer.scores(made.scorer.queries(torch.tensor(made.users.rows(pl.Series(block)))))
            for row, user in enumerate(block):
                own = scores[row]
                own[by_user.get(user, [])] = -torch.inf
                places += float(torch.isin(own.topk(K).indices, unseen).double().mean()) / len(users)
                for kind, item in todo[user]:
                    score = own[int(made.items.row(item))]
                    hit = float((own > score).sum() < K)
                    if kind == "launched":
                        hits["among all"].setdefault(item, []).append(hit)
                        hits["alone"].setdefault(item, []).append(float((own[launched] > score).sum() < K))
                    else:
                        hits[kind].setdefault(user, []).append(hit)
        found = {name: statistics.mean(map(statistics.mean, values.values())) for name, values in hits.items()}
        return found | {"places of unseen items": places, "launched": len(self.launched)}


def report(name: str) -> None:
    """Means and sd over the draws of each way and number of likes, and of moved to trained again in each draw."""
    found = {tuple(key.rsplit(" ", 3)): value for key, value in json.loads(RESULTS.read_text()).items()}
    ours = {key[1:]: value for key, value in found.items() if key[0] == name}
    for way, k in dict.fromkeys((way, k) for _, way, k in ours):
        runs = {seed: value for (seed, *rest), value in ours.items() if rest == [way, k]}
        cells = [
            f"{metric} {_mean_and_sd([run[metric] for run in runs.values()])}" for metric in next(iter(runs.values()))
        ]
        again = [
            run["alone"] / ours[seed, "retrain", k]["alone"]
            for seed, run in runs.items()
            if (seed, "retrain", k) in ours
        ]
        ratio = f"; alone, of trained again: {_mean_and_sd(again)}" if way == "update" and again else ""
        print(f"{name}, {k} likes, {way}, {len(runs)} draws: {', '.join(cells)}{ratio}")


def _mean_and_sd(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="movielens (the sample), a folder of LIRDREC_DATA, or a prepared dataset")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--likes", type=int, nargs="*", default=list(LIKES))
    parser.add_argument("--retrain", type=int, nargs="*", default=[])
    parser.add_argument("--report", action="store_true", help="only show what was measured")
    arguments = parser.parse_args()
    if max([*arguments.likes, *arguments.retrain], default=0) > LARGEST:
        parser.error(f"at most {LARGEST} likes: those of other users are measured")
    for seed in () if arguments.report else arguments.seeds:
        launch, first = Launch(arguments.dataset, seed), None
        name = Path(arguments.dataset).name
        for way, numbers in (("update", arguments.likes), ("retrain", arguments.retrain)):
            for k in numbers:
                results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                if (key := f"{name} {seed} {way} {k}") in results:
                    continue
                if way == "update":
                    first = launch.first() if first is None else first
                    made = lirdrec.Recommender.from_state(first.state)
                    made.update(launch.revealed(k)) if k else None
                else:
                    made = launch.retrained(k)
                found = launch.measure(made, k)
                results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                RESULTS.write_text(json.dumps(results | {key: found}, indent=2) + "\n")
                print(key, found, flush=True)
    if arguments.report:
        report(Path(arguments.dataset).name)


if __name__ == "__main__":
    main()
