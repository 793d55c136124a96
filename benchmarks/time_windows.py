"""Consecutive time windows of a log, each a dataset with its own cut in time; tests over the users of all windows.

    python benchmarks/time_windows.py make sample/movielens windows
    lirdrec experiment compare windows/1 windows/2 windows/3 --models lirdrec_seq,sasrec --output study \\
        --set ours=lirdrec_seq
    python benchmarks/time_windows.py report study --ours lirdrec_seq

One cut in time (`global_time_last`) has few test users where each user is active for a short time only. Here the log is
cut at the quantiles 0.4, 0.6, 0.8 and 1.0 of its times. In the test of a window the last interaction of each user
between two neighboring quantiles is predicted. What came before is training and validation; what came later is not in
the dataset. Each window has its own tuning, on its own validation. A user of two windows counts twice.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import polars as pl

from lirdrec import Dataset
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.reporting.statistics import Measure, bootstrap_intervals, compare, over_seeds

QUANTILES = (0.4, 0.6, 0.8, 1.0)


def make(source: Path, folder: Path) -> None:
    """Write the dataset of each window into the folder, as 1, 2, …; print their sizes."""
    data = Dataset.load(source)
    if data.train.timestamps is None:
        raise SystemExit(f"{source} has no times; prepare it with --timestamp")
    log = pl.concat([data.frame(part) for part in ("train", "valid", "test")]).sort("timestamp", "user", "item")
    features = {name: (data.items.ids[one.present], one.values[one.present]) for name, one in data.features.items()}
    for number, (start, end) in enumerate(itertools.pairwise(QUANTILES), 1):
        window = Dataset.from_frames(
            log.head(round(end * len(log))),
            items=data.item_table,
            features=features,
            name=f"window {number}",
            timestamp="timestamp",
            keep_all_items=False,
            unknown_features="drop",
            split="global_time_last",
            held_out=2 * (1 - start / end),
        )
        window.save(folder / str(number))
        print(window, f"users after the cut: {window.frame('test')['user'].n_unique()}")


def pooled(results: Results) -> list[pl.DataFrame]:
    """The test metrics of each user of all windows, in a frame for each seed."""
    seeds = sorted({one.trial.seed for one in results})
    frames = []
    for seed in seeds:
        rows = results.where(seed=seed).per_user()
        named = rows.with_columns(user=pl.concat_str("dataset", pl.lit(" "), "user"))
        frames.append(named.select("user", pl.col("^.*@[0-9]+$")).sort("user"))
    return frames


def report(study: Path, ours: str) -> None:
    """Print a table of all models: means over the users of all windows, and where our model is better or worse."""
    finals = Results.load(TrialStore(study)).where(work="train", final=True, status="done")
    models = list(dict.fromkeys(one.trial.model for one in finals))
    if ours not in models:
        raise SystemExit(f"{study} has no final result of {ours}; it has {', '.join(models) or 'none'}")
    frames = {model: pooled(finals.where(model=model)) for model in models}
    users = {model: over_seeds(of_seeds) for model, of_seeds in frames.items()}
    metrics = [name for name in users[ours].columns if name.partition("@")[0] in ("hit", "ndcg")]
    tests = compare(users[ours], {model: frame for model, frame in users.items() if model != ours}, metrics)
    marks = {(one.theirs, one.metric): {1: "*", -1: "+", 0: ""}[one.significant()] for one in tests}
    print("| model |", " | ".join(metrics), "| validation |")
    print("|---" * (len(metrics) + 2) + "|")
    for model in sorted(models, key=lambda name: -users[name]["ndcg@10"].mean()):
        cells = [_measure([frame[m].mean() for frame in frames[model]], marks.get((model, m), "")) for m in metrics]
        print(f"| {model} |", " | ".join(cells), "|", _measure(_validation(finals.where(model=model))), "|")
    low, high = bootstrap_intervals({"ndcg@10": users[ours]["ndcg@10"].to_numpy()})["ndcg@10"]
    print(f"\n{users[ours].height} users; 95 % interval of NDCG@10 of {ours}: {low:.4f} to {high:.4f}")
    print(f"* {ours} is better, + worse: p < .01 by both tests, Holm-corrected over {len(tests)} tests")
    for one in tests:
        if one.metric == "ndcg@10":
            interval = f"[{one.test.low:+.4f}, {one.test.high:+.4f}]"
            print(f"{one.theirs}: {one.test.difference:+.4f} {interval}, p {one.t_p_holm:.3g}, {one.w_p_holm:.3g}")


def _validation(results: Results) -> list[float]:
    """The validation NDCG@10 of each seed, as the mean over the windows."""
    by_seed: dict[int, list[float]] = {}
    for one in results:
        by_seed.setdefault(one.trial.seed, []).append(one.figures["valid"]["ndcg@10"])
    return [sum(values) / len(values) for values in by_seed.values()]


def _measure(values: list[float], mark: str = "") -> str:
    measure = Measure.of(values)
    assert measure is not None
    return f"{measure.mean:.4f}{mark}" + (f" ± {measure.sd:.4f}" if measure.sd is not None else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the datasets")
    making.add_argument("dataset", type=Path)
    making.add_argument("folder", type=Path)
    reporting = commands.add_parser("report", help="print the table")
    reporting.add_argument("study", type=Path, help="folder of the comparison")
    reporting.add_argument("--ours", default="lirdrec_seq")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.dataset, arguments.folder)
    else:
        report(arguments.study, arguments.ours)


if __name__ == "__main__":
    main()
