"""How fast models learn (Fig. 3 of the paper): validation over the first epochs, and over seconds of training.

Nothing is stopped early and the test is not looked at. Seconds are those of training alone, without validation, as the
cells' own processes measured them; on a busy machine they say little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sentences
from lirdrec.experiments.studies.defaults import settled
from lirdrec.experiments.trial import TrialResult, TrialSpec
from lirdrec.models.registry import model_type
from lirdrec.reporting import Column, Measure, Report, Row, Section, Table, label, lines

MODELS = ("lattice", "bm3", "freedom", "lirdrec")
EPOCHS = 60
SHARE = 0.9  # of a model's own best


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """All models with all seeds, for all epochs."""
    for cells in _cells(config).values():
        yield from cells


def report(config: ExperimentConfig, results: Results) -> Path:
    """Curves over epochs and seconds, a table of selected epochs, and the leading models."""
    import polars as pl

    found = {place: [results.get(cell) for cell in cells] for place, cells in _cells(config).items()}
    done = {place: [one for one in some if one is not None and one.done] for place, some in found.items()}
    frame = results.where(status="done").histories().filter(pl.col("metric") == config.metric)
    datasets = list(dict.fromkeys(dataset for dataset, _ in found))
    accent = "lirdrec" if any(model == "lirdrec" for _, model in found) else next(model for _, model in found)
    blocks: list[Any] = []
    if frame.height:
        timed = _in_seconds(frame)
        wide = bool(timed.select(pl.col("seconds").max() > 20 * pl.col("seconds").min()).item())
        panel = "dataset" if len(datasets) > 1 else None
        about = f"Validation {config.metric}"
        blocks = [
            lines(
                frame,
                "startup-epochs",
                x="epoch",
                series="model",
                panel=panel,
                accent=accent,
                y_label=f"valid {label(config.metric)}",
                caption=f"{about} over the epochs, {sentences.over(config.seeds)}.",
            ),
            lines(
                timed,
                "startup-seconds",
                x="seconds",
                series="model",
                panel=panel,
                accent=accent,
                x_label="seconds of training",
                y_label=f"valid {label(config.metric)}",
                log_x=wide,
                points=False,
                caption=f"{about} over the seconds of training without validation; each epoch at its mean time.",
            ),
            _table(config, done),
        ]
    answers = [
        _answer(config, {m: some for (d, m), some in done.items() if d == dataset}, dataset) for dataset in datasets
    ]
    return Report(
        title="Speed of learning",
        question="Which model leads after a few epochs of training, and after equal training time?",
        answer=" ".join(answers),
        sections=[Section("The first epochs", blocks), *sentences.failures(results)],
        settings=sentences.settings(config) | {"epochs": _epochs(config)},
        commands=sentences.commands(config),
        name=results.experiment,
    ).write(config.output, results, config.formats)


def curve(results: Sequence[TrialResult], metric: str) -> list[tuple[int, float, float]]:
    """(epoch, seconds, metric) as means over the runs, for the epochs that all runs have."""
    lines_of = [{line["epoch"]: line for line in one.history if metric in line} for one in results]
    epochs = sorted(set.intersection(*map(set, lines_of))) if lines_of else []
    found = []
    for epoch in epochs:
        seconds, values = ([of[epoch][name] for of in lines_of] for name in ("seconds", metric))
        found.append((epoch, sum(seconds) / len(seconds), sum(values) / len(values)))
    return found


def _table(config: ExperimentConfig, done: dict[tuple[str, str], list[TrialResult]]) -> Table:
    """Table of selected points of each curve."""
    columns = [
        Column("model", "Model", format="text"),
        *(Column(f"at {n}", f"epoch {n}", f"Valid {label(config.metric)} after", "higher") for n in _landmarks(config)),
        Column("near", "epochs", f"{SHARE:.0%} of its best after", "lower", "count", 0),
        Column("near seconds", "time", f"{SHARE:.0%} of its best after", None, "duration"),
        Column("epoch seconds", "Seconds an epoch", digits=2),
    ]
    rows = []
    many = len({dataset for dataset, _ in done}) > 1
    for (dataset, model), results in done.items():
        points = curve(results, config.metric)
        if not points:
            continue
        cells: dict[str, Any] = {"model": label(model), "epoch seconds": points[-1][1] / points[-1][0]}
        for n in _landmarks(config):
            values = [line[config.metric] for one in results for line in one.history if line["epoch"] == n]
            cells[f"at {n}"] = Measure.of(values)
        near = next(point for point in points if point[2] >= SHARE * max(value for _, _, value in points))
        cells |= {"near": near[0], "near seconds": near[1]}
        rows.append(Row(cells, label(dataset) if many else "", accent=model == "lirdrec"))
    return Table("startup", columns, rows, "Selected points of the curves, means over the seeds.")


def _landmarks(config: ExperimentConfig) -> list[int]:
    last = _epochs(config)
    return sorted({n for n in (1, 5, 10, 20) if n < last} | {last})


def _answer(config: ExperimentConfig, done: dict[str, list[TrialResult]], dataset: str) -> str:
    curves = {model: curve(results, config.metric) for model, results in done.items()}
    curves = {model: points for model, points in curves.items() if points}
    if not curves:
        return f"On {label(dataset)} there are no results."
    said = []
    for n in _landmarks(config):
        at = {model: value for model, points in curves.items() for epoch, _, value in points if epoch == n}
        if at:
            leader = max(at, key=at.__getitem__)
            said.append(f"**{label(leader)}** after {sentences.count(n, 'epoch')} ({at[leader]:.4f})")
    text = f"On {label(dataset)}, the model with the highest validation {config.metric} is {sentences.listed(said)}."
    best = {model: max(value for _, _, value in points) for model, points in curves.items()}
    ours = "lirdrec" if "lirdrec" in curves else max(best, key=best.__getitem__)
    others = {model: value for model, value in best.items() if model != ours}
    if others:
        rival = max(others, key=others.__getitem__)
        past = next((point for point in curves[ours] if point[2] > others[rival]), None)
        theirs = next(point for point in curves[rival] if point[2] == others[rival])
        if past is None:
            text += f" {label(ours)} does not pass {label(rival)}'s best, {others[rival]:.4f}, within these epochs."
        else:
            text += (
                f" {label(ours)} passes {label(rival)}'s best, {others[rival]:.4f} in epoch {theirs[0]} after "
                f"{theirs[1]:.1f} s of training, in epoch {past[0]} after {past[1]:.1f} s."
            )
    return text


def _in_seconds(frame: Any) -> Any:
    """Set the time of each epoch to its mean over the seeds, so that seeds can be averaged."""
    import polars as pl

    place = ["dataset", "model", "epoch"]
    return frame.with_columns(pl.col("seconds").mean().over(place)).sort("seconds")


def _epochs(config: ExperimentConfig) -> int:
    return int(config.training.get("epochs", EPOCHS))


def _cells(config: ExperimentConfig) -> dict[tuple[str, str], list[TrialSpec]]:
    """(dataset's name, model) → trials."""
    found: dict[tuple[str, str], list[TrialSpec]] = {}
    epochs = _epochs(config)
    for dataset in config.datasets:
        for model in config.models or MODELS:
            if model_type(model).capabilities.training != "gradient":
                raise ConfigError(f"{model} has no epochs, since it is not trained by gradients; name other models")
            training = {"epochs": epochs, "patience": epochs, "evaluate_every": 1}
            for feature_set in list(config.sets)[:1]:
                base = settled(config, dataset, model, feature_set, training=training, variant="startup")
                cells = [base.with_(seed=seed) for seed in config.seeds_of(model)]
                found.setdefault((base.dataset_name, model), []).extend(cells)
    return found
