"""Experiment "startup" (Fig. 3 of the paper): the validation metric over first epochs, and over seconds of training.

There is no early stopping, and the test is not used. Seconds are the time of training without validation, as measured
by the process of each trial; they mean little on a busy machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import report_parts
from lirdrec.experiments.studies.trial_settings import settled
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.models.registry import model_type
from lirdrec.reporting import Column, Measure, Row, Section, Table, label, lines

MODELS = ("lattice", "bm3", "freedom", "lirdrec")
EPOCHS = 60
SHARE = 0.9  # a value is "near" a model's best value if it is at least this share of it
EVALUATION = ()  # no option has an effect, since only validation is scored

Runs = Mapping[tuple[str, str], Sequence[TrialResult]]  # (dataset's name, model) → results


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the trials of all models with all seeds; they train for all epochs, without early stopping."""
    for trials in _trials(config).values():
        yield from trials


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report: curves over epochs and seconds, a table of selected epochs, the best model at each of them.

    Return its path.
    """
    done = {key: results.done(trials) for key, trials in _trials(config).items()}
    datasets: dict[str, dict[str, list[TrialResult]]] = {}
    for (dataset, model), some in done.items():
        datasets.setdefault(dataset, {})[model] = some
    return report_parts.write_report(
        config,
        results,
        "Speed of learning",
        "Which model leads after a few epochs of training, and after equal training time?",
        " ".join(_answer(config, by_model, dataset) for dataset, by_model in datasets.items()),
        [Section("The first epochs", _blocks(config, results, done))],
        {"epochs": _epochs(config)},
    )


def _blocks(config: ExperimentConfig, results: Results, done: Runs) -> list[Any]:
    """Return the two figures of curves, and the table; [] without results."""
    import polars as pl

    frame = results.where(status="done").histories().filter(pl.col("metric") == config.metric)
    if not frame.height:
        return []
    # each epoch gets its mean time over the seeds, so that values of the seeds can be averaged
    timed = frame.with_columns(pl.col("seconds").mean().over("dataset", "model", "epoch")).sort("seconds")
    models = [model for _, model in done]
    style: dict[str, Any] = {
        "series": "model",
        "panel": "dataset" if len({dataset for dataset, _ in done}) > 1 else None,
        "accent": "lirdrec" if "lirdrec" in models else models[0],
        "y_label": f"valid {label(config.metric)}",
    }
    about = f"Validation {config.metric} over the"
    in_epochs = lines(
        frame, "startup-epochs", x="epoch", caption=f"{about} epochs, {report_parts.over(config.seeds)}.", **style
    )
    in_seconds = lines(
        timed,
        "startup-seconds",
        x="seconds",
        x_label="seconds of training",
        log_x=bool(timed.select(pl.col("seconds").max() > 20 * pl.col("seconds").min()).item()),
        points=False,
        caption=f"{about} seconds of training without validation; each epoch at its mean time.",
        **style,
    )
    return [in_epochs, in_seconds, _table(config, done)]


def curve(results: Sequence[TrialResult], metric: str) -> list[tuple[int, float, float]]:
    """Return (epoch, seconds, metric) for each epoch that all results have; the last two are means over the results.

    Seconds are counted from the start of the training, without validation.
    """
    histories = [{line["epoch"]: line for line in result.history if metric in line} for result in results]
    epochs = sorted(set.intersection(*map(set, histories))) if histories else []
    return [
        (epoch, *(statistics.fmean(history[epoch][name] for history in histories) for name in ("seconds", metric)))
        for epoch in epochs
    ]


def _table(config: ExperimentConfig, done: Runs) -> Table:
    """Return the table of selected epochs of each curve."""
    metric, landmarks = config.metric, _landmarks(config)
    near, many = f"{SHARE:.0%} of its best after", len({dataset for dataset, _ in done}) > 1
    columns = [Column("model", "Model", format="text")]
    columns += [Column(f"at {n}", f"epoch {n}", f"Valid {label(metric)} after", "higher") for n in landmarks]
    columns.append(Column("near", "epochs", near, "lower", "count", 0))
    columns.append(Column("near seconds", "time", near, None, "duration"))
    columns.append(Column("epoch seconds", "Seconds an epoch", digits=2))
    rows = []
    for (dataset, model), results in done.items():
        points = curve(results, metric)
        if not points:
            continue
        best = max(value for _, _, value in points)
        epoch, seconds, _ = next(point for point in points if point[2] >= SHARE * best)
        cells: dict[str, Any] = {"model": label(model), "near": epoch, "near seconds": seconds}
        cells["epoch seconds"] = points[-1][1] / points[-1][0]
        for n in landmarks:
            cells[f"at {n}"] = Measure.of(
                line[metric] for result in results for line in result.history if line["epoch"] == n
            )
        rows.append(Row(cells, label(dataset) if many else "", accent=model == "lirdrec"))
    return Table("startup", columns, rows, "Selected points of the curves, means over the seeds.")


def _landmarks(config: ExperimentConfig) -> list[int]:
    last = _epochs(config)
    return sorted({n for n in (1, 5, 10, 20) if n < last} | {last})


def _answer(config: ExperimentConfig, done: Mapping[str, Sequence[TrialResult]], dataset: str) -> str:
    curves = {model: points for model, results in done.items() if (points := curve(results, config.metric))}
    if not curves:
        return f"On {label(dataset)} there are no results."
    leaders = []
    for n in _landmarks(config):
        values = {model: value for model, points in curves.items() for epoch, _, value in points if epoch == n}
        if values:
            leader = max(values, key=values.__getitem__)
            leaders.append(f"**{label(leader)}** after {report_parts.count(n, 'epoch')} ({values[leader]:.4f})")
    text = (
        f"On {label(dataset)}, the model with the highest validation {config.metric} is {report_parts.listed(leaders)}."
    )
    best = {model: max(value for _, _, value in points) for model, points in curves.items()}
    ours = "lirdrec" if "lirdrec" in curves else max(best, key=best.__getitem__)
    rival = max((model for model in best if model != ours), key=best.__getitem__, default=None)
    if rival is None:
        return text
    passed = next((point for point in curves[ours] if point[2] > best[rival]), None)
    if passed is None:
        return f"{text} {label(ours)} does not pass {label(rival)}'s best, {best[rival]:.4f}, within these epochs."
    theirs = next(point for point in curves[rival] if point[2] == best[rival])
    return text + (
        f" {label(ours)} passes {label(rival)}'s best, {best[rival]:.4f} in epoch {theirs[0]} after "
        f"{theirs[1]:.1f} s of training, in epoch {passed[0]} after {passed[1]:.1f} s."
    )


def _epochs(config: ExperimentConfig) -> int:
    return int(config.training.get("epochs", EPOCHS))


def _trials(config: ExperimentConfig) -> dict[tuple[str, str], list[TrialSpec]]:
    """Return (dataset's name, model) → trials, one per seed."""
    trials: dict[tuple[str, str], list[TrialSpec]] = {}
    training = {"epochs": _epochs(config), "patience": _epochs(config), "evaluate_every": 1}
    for dataset in config.datasets:
        for model in config.models or MODELS:
            if model_type(model).capabilities.training != "gradient":
                raise ConfigError(
                    f"{model} has no epochs, since it is not trained by gradients; choose other models with --models"
                )
            base = settled(config, dataset, model, next(iter(config.sets)), training=training)
            base = base.with_(variant="startup")
            trials.setdefault((base.dataset_name, model), []).extend(
                base.with_(seed=seed) for seed in config.seeds_of(model)
            )
    return trials
