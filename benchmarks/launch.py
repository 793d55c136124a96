"""The table and the plot of docs/new_items.md, from the folders of `lirdrec experiment launch`.

    python benchmarks/launch.py runs/launch-movielens runs/launch-tiktok runs/launch-scientific runs/launch-sports

prints the table of the test launches (means and sd over the draws, and the change from content vectors)
and writes docs/images/launch.png; `--stage valid` prints that of the validation launches.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

METRICS = ("known", "alone", "among", "together")
ROWS = (("content", "lirdrec"), ("calibrated", "lirdrec"), ("content", "content_knn"))
NAMES = {
    ("content", "lirdrec"): "content vectors, no offset",
    ("calibrated", "lirdrec"): "**mixture, content and offset**",
    ("content", "content_knn"): "content kNN",
}


def read(folders: list[Path]) -> pl.DataFrame:
    """Columns dataset, model, seed, stage, policy, metric, value."""
    frames = [pl.read_parquet(folder / "results.parquet") for folder in folders]
    frame = pl.concat([f.select("dataset", "model", "seed", "stage", "metric", "value") for f in frames])
    parts = pl.col("stage").str.splitn(" ", 2).struct
    return frame.with_columns(parts.field("field_1").alias("policy"), parts.field("field_0").alias("stage"))


def table(frame: pl.DataFrame, stage: str) -> str:
    """A Markdown table: a row for each dataset and way of scoring new items."""
    lines = [
        "| dataset (draws) | new items | known | new alone | new among all | together | places of new items |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (dataset,), of_dataset in frame.filter(pl.col("stage") == stage).group_by(["dataset"], maintain_order=True):
        values = {
            (policy, model, metric): part.sort("seed")["value"].to_numpy()
            for (policy, model, metric), part in of_dataset.group_by(["policy", "model", "metric"])
        }
        base = {metric: values["content", "lirdrec", metric] for metric in METRICS}
        for policy, model in ROWS:
            if (policy, model, "known") not in values:
                continue
            cells = []
            for metric in METRICS:
                mine = values[policy, model, metric]
                sd = f" ± {mine.std(ddof=1):.4f}" if len(mine) > 1 else ""
                change = (
                    "" if policy == "content" else f" ({mine.mean() / base[metric].mean() - 1:+.1%})".replace("-", "−")
                )
                cells.append(f"{mine.mean():.4f}{sd}{change}")
            share = values[policy, model, "share"].mean()
            title = f"{dataset} ({len(base['known'])})" if (policy, model) == ROWS[0] else ""
            lines.append(f"| {title} | {NAMES[policy, model]} | {' | '.join(cells)} | {share:.1%} |")
    return "\n".join(lines)


def plot(frame: pl.DataFrame, path: Path) -> None:
    """Recall of new items among all, and their places, against the loss of known items, along the offsets."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    test = frame.filter((pl.col("stage") == "test") & (pl.col("model") == "lirdrec"))
    means = test.group_by("dataset", "policy", "metric").agg(pl.col("value").mean())
    for (dataset,), part in means.sort("dataset").group_by(["dataset"], maintain_order=True):
        values = {(policy, metric): value for _, policy, metric, value in part.iter_rows()}
        offsets = sorted((p for p, _ in values if p.startswith("boost=")), key=lambda p: float(p[6:]))
        offsets = list(dict.fromkeys(offsets))
        loss = [100 * (1 - values[p, "known"] / values["content", "known"]) for p in offsets]
        calibrated_loss = 100 * (1 - values["calibrated", "known"] / values["content", "known"])
        for axis, metric, base in ((axes[0], "among", values["content", "among"]), (axes[1], "share", 0.01)):
            (line,) = axis.plot(loss, [values[p, metric] / base for p in offsets], marker=".", label=dataset)
            axis.plot(calibrated_loss, values["calibrated", metric] / base, "o", color=line.get_color(), markersize=8)
    axes[0].set_ylabel("recall of new items among all,\nmultiples of content vectors")
    axes[1].set_ylabel("places of new items, %")
    for axis in axes:
        axis.set_xlabel("loss of recall on known items, %")
        axis.axvline(3, color="0.8", zorder=0)
        axis.set_xlim(-1, 12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--stage", default="test", choices=("test", "valid"))
    parser.add_argument("--plot", type=Path, default=Path("docs/images/launch.png"))
    arguments = parser.parse_args()
    results = read(arguments.folders)
    print(table(results, arguments.stage))
    plot(results, arguments.plot)
