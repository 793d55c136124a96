"""Report of `compare`: test metrics of all models, significance tests, cost, chosen settings, published results.

`compare_rows` collects the results; `compare_tables` makes the tables of metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results, loss_of
from lirdrec.experiments.studies.compare_rows import Entry, Rows, answer, gather, panel, plain
from lirdrec.experiments.studies.compare_tables import metric_tables, published_tables
from lirdrec.experiments.studies.sentences import count, listed
from lirdrec.models.registry import model_type
from lirdrec.reporting import Column, Measure, Report, Row, Section, Table, dots, label, lines, points
from lirdrec.reporting.formatting import MISSING, Value
from lirdrec.reporting.statistics import ALPHA

if TYPE_CHECKING:
    from lirdrec.experiments.tuning import TuningState

HIDDEN = ("metric", "device")  # options that are not settings of the model


def write(config: ExperimentConfig, results: Results, searches: Sequence[TuningState] = ()) -> Path:
    """Write `report` into the experiment's folder; returns the path of the HTML page."""
    return report(config, results, searches).write(config.output, results, config.formats)


def report(config: ExperimentConfig, results: Results, searches: Sequence[TuningState] = ()) -> Report:
    """The report of a comparison, finished or not.

    Args:
        config: as for the plan. Its setting "ours" names the model that the others are compared with; default:
            LIRDRec or, if it is not among the models, the first of them.
        results: results of the tuning trials and of the final trainings.
        searches: states of the tunings; they give the rows of models without any result.
    """
    found = gather(config, results, searches)
    sections = []
    if found.main:
        sections.append(Section("Test metrics", metric_tables(found)))
        sections.append(Section("Tests over users", _differences(found)))
        sections.append(Section("Accuracy and cost", _cost(found)))
    sections.append(Section("Tuning", _tuning(config, found)))
    sections.append(Section("Published results", published_tables(found, config.datasets)))
    problems = [
        f"- **{e.title} on {label(e.dataset)}**: {e.problem}. {e.error}".rstrip() for e in found.entries if e.problem
    ]
    if problems:
        sections.append(Section("Unfinished and failed trainings", ["\n".join(problems)]))
    models = len({entry.model for entry in found.entries})
    names = listed([label(name) for name in found.datasets])
    return Report(
        f"{count(models, 'model')} on {names}",
        "Which model recommends best if all have the same tuning budget and the test set is scored once?",
        answer(found),
        [section for section in sections if section.blocks],
        settings=_settings(config),
        commands=[config.command] if config.command else [],
        name="compare",
    )


def _differences(found: Rows) -> list[Any]:
    """Paired tests over users: a figure of the differences and a table of the p-values."""
    import polars as pl

    main, ours = found.main, found.ours
    shown = [(entry, one) for entry, one in found.tests if one.metric == main]
    if not shown:
        return []
    rivals = {id(entry): found.rival(entry) for entry, _ in shown}
    frame = pl.DataFrame(
        [
            {
                "panel": panel(entry.dataset, entry.features or (rival.features if rival else "")),
                "model": entry.model,
                "value": one.test.difference,
                "low": one.test.low,
                "high": one.test.high,
            }
            for entry, one in shown
            for rival in [rivals[id(entry)]]
        ]
    )
    n = len(found.tests)
    figure = dots(
        frame,
        "differences",
        "model",
        panel="panel" if frame["panel"].n_unique() > 1 else None,
        low="low",
        high="high",
        reference=0.0,
        accent=None,
        sort=True,
        x_label=f"{label(main)} of {label(ours)} − {label(main)} of the model",
        caption=f"Difference in {label(main)} between {label(ours)} and each model: mean over users with its 95 % "
        "confidence interval. Intervals that cross the line show no difference.",
    )
    rows = []
    for entry, one in shown:
        verdict = {1: f"{label(ours)} better", -1: f"{label(ours)} worse", 0: "no difference"}[one.significant()]
        cells: dict[str, Value] = {"model": entry.title, "n": one.test.n, "d": one.test.difference}
        cells |= {"t": one.t_p_holm, "w": one.w_p_holm, "verdict": verdict}
        rows.append(Row(cells, block=label(entry.dataset)))
    columns = [
        Column("model", "Model", format="text"),
        Column("n", "Users", format="count"),
        Column("d", "Difference"),
        Column("t", "p, t-test", format="p"),
        Column("w", "p, Wilcoxon", format="p"),
        Column("verdict", "Result", format="text"),
    ]
    notes = [
        "Values of each user are averaged over the seeds; the tests are paired over users and two-sided. p-values are "
        f"corrected by Holm's procedure over the {n} tests of this report (all metrics); a difference is shown by "
        f"p < {ALPHA:g} in both tests.",
    ]
    table = Table("tests", columns, rows, f"{label(ours)} against each model: {label(main)}", notes)
    return [figure, table]


def _cost(found: Rows) -> list[Any]:
    """Figures of accuracy, and of accuracy against training time."""
    import polars as pl

    main, ours = found.main, found.ours
    scored = [entry for entry in found.entries if entry.finals and entry.measure(main)]
    if len(scored) < 2:
        return []
    frame = pl.DataFrame(
        [
            {"panel": heading, "model": entry.model, "value": value, "minutes": max(one.seconds, 0.06) / 60}
            for entry in scored
            for heading in found.panels(entry)
            for one in entry.finals
            if (value := one.figure(main, "test")) is not None
        ]
    )
    several = "panel" if frame["panel"].n_unique() > 1 else None
    recall = dots(
        frame,
        "recall",
        "model",
        panel=several,
        accent=ours,
        x_label=f"test {label(main)}",
        caption=f"Test {label(main)}, mean ± one standard deviation over the seeds.",
    )
    cost = points(
        frame,
        "cost",
        "minutes",
        "value",
        "model",
        panel=several,
        accent=ours,
        log_x=True,
        x_label="minutes of one final training (logarithmic)",
        y_label=f"test {label(main)}",
        caption="Accuracy against cost; the upper left is best. Minutes of one training with the chosen settings, "
        "including validation, without tuning.",
    )
    return [recall, cost]


def _tuning(config: ExperimentConfig, comparison: Rows) -> list[Any]:
    """A table of the chosen settings, and a figure of the best validation metric after each trial."""
    rows = [
        Row(_chosen_cells(config, entry), block=label(entry.dataset), accent=entry.model == comparison.ours)
        for entry in comparison.entries
    ]
    columns = [
        Column("model", "Model", format="text"),
        Column("valid", f"Valid {label(config.metric)}"),
        Column("loss", "Loss", format="text"),
        Column("rate", "Learning rate", format="text"),
        Column("batch", "Batch", format="text"),
        Column("epoch", "Best epoch", digits=0),
        Column("trials", "Trials", format="count"),
        Column("tuned", "Tuned in", format="duration"),
        Column("options", "Other options", format="text"),
    ]
    note = f"Chosen by validation {label(config.metric)}, without the test set. Options not listed: defaults."
    return [Table("settings", columns, rows, "Chosen settings", [note]), *_tuning_curves(config, comparison)]


def _chosen_cells(config: ExperimentConfig, entry: Entry) -> dict[str, Value]:
    """The cells of the table of chosen settings for a row of the comparison."""
    cells: dict[str, Value] = {"model": entry.title, "trials": len(entry.trials)}
    cells["tuned"] = sum(trial.seconds for trial in entry.trials) if entry.trials else None
    if not entry.finals:
        return cells | {"options": entry.problem}
    chosen = entry.finals[0]
    trained = model_type(entry.model).capabilities.training == "gradient"
    options = {**chosen.cell.model_options, **(chosen.cell.training if trained else {})}
    cells["loss"] = loss_of(chosen) or MISSING
    cells["rate"] = plain(options.pop("learning_rate", MISSING))
    cells["batch"] = plain(options.pop("batch_size", MISSING))
    hidden = {*HIDDEN, "loss", *config.training, *config.model_options}  # options set by hand are listed below
    others = [f"{name} {plain(value)}" for name, value in sorted(options.items()) if name not in hidden]
    cells["options"] = ", ".join(others) or "defaults"
    cells["epoch"] = Measure.of([final.best_epoch for final in entry.finals if final.best_epoch])
    cells["valid"] = entry.measure(config.metric, "valid")
    return cells


def _tuning_curves(config: ExperimentConfig, comparison: Rows) -> list[Any]:
    """A figure of the best validation metric after each trial; [] if no model has two trials."""
    import polars as pl

    points: list[dict[str, Any]] = []
    for entry in comparison.entries:
        best = -math.inf
        for number, trial in enumerate(entry.trials, 1):
            value = trial.figure(config.metric) if trial.done else None
            best = max(best, -math.inf if value is None else value)
            if best > -math.inf:
                points += [
                    {"panel": heading, "model": entry.model, "trial": number, "value": best}
                    for heading in comparison.panels(entry)
                ]
    if not any(point["trial"] > 1 for point in points):
        return []
    frame = pl.DataFrame(points)
    return [
        lines(
            frame,
            "tuning",
            "trial",
            series="model",
            panel="panel" if frame["panel"].n_unique() > 1 else None,
            accent=comparison.ours,
            x_label="trial",
            y_label=f"best validation {label(config.metric)}",
            caption="Progress of tuning: the best validation metric after each trial.",
        )
    ]


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    budget = f"{config.minutes:g} minutes each" if config.minutes else f"{config.trials} trials each"
    found = {
        "datasets": [Path(path).name for path in config.datasets],
        "models": list(config.models) or "all",
        "feature sets": {name or "all": list(values) for name, values in config.feature_sets.items()},
        "seeds": config.seeds,
        "tuning": f"{budget}, {config.sampler}, by validation {config.metric}",
        "losses": list(config.losses) or "all",
        "set by hand": {**config.model_options, **config.training, **config.settings},
        "device": config.device,
    }
    return {name: value for name, value in found.items() if value not in ({}, [])}
