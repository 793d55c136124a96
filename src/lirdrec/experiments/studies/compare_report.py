"""The report of `compare`: test figures of all models with their spread, tests over users, cost, settings, landmarks.

`compare_rows` says what is compared with what; the tables of figures are made in `compare_tables`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results, loss_of
from lirdrec.experiments.studies.compare_rows import Rows, answer, gather, panel, plain
from lirdrec.experiments.studies.compare_tables import figure_tables, landmark_tables
from lirdrec.experiments.studies.sentences import count, listed
from lirdrec.models.registry import model_type
from lirdrec.reporting import Column, Measure, Report, Row, Section, Table, dots, label, lines, points
from lirdrec.reporting.formatting import MISSING, Value
from lirdrec.reporting.statistics import ALPHA

if TYPE_CHECKING:
    from lirdrec.experiments.tuning import TuningState

HIDDEN = ("metric", "device")  # options that say nothing about the model


def write(context: ExperimentConfig, results: Results, searches: Sequence[TuningState] = ()) -> Path:
    """Write `report` into the experiment's folder; gives the path of the page."""
    return report(context, results, searches).write(context.output, results, context.formats)


def report(context: ExperimentConfig, results: Results, searches: Sequence[TuningState] = ()) -> Report:
    """The report of a comparison, also of one that is not finished.

    Args:
        context: as for the plan. Its setting "ours" names the model that the others are compared with; without it that
            is LIRDRec, or, where it takes no part, the first of the context's models.
        results: of the trials and of the final trainings.
        searches: where the tunings stand: a model that has no result at all gets its row from here.
    """
    found = gather(context, results, searches)
    sections = []
    if found.main:
        sections.append(Section("Test figures", figure_tables(found)))
        sections.append(Section("How sure is it?", _differences(found)))
        sections.append(Section("Accuracy and cost", _cost(found)))
    sections.append(Section("Tuning", _tuning(context, found)))
    sections.append(Section("Beside published figures", landmark_tables(found, context.datasets)))
    troubles = [
        f"- **{e.title} on {label(e.dataset)}**: {e.problem}. {e.error}".rstrip() for e in found.entries if e.problem
    ]
    if troubles:
        sections.append(Section("What did not finish", ["\n".join(troubles)]))
    models = len({entry.model for entry in found.entries})
    names = listed([label(name) for name in found.datasets])
    return Report(
        f"{count(models, 'model')} on {names}",
        "Which model recommends best when all are tuned with the same budget and the test set is scored once?",
        answer(found),
        [section for section in sections if section.blocks],
        settings=_settings(context),
        commands=[context.command] if context.command else [],
        name="compare",
    )


def _differences(found: Rows) -> list[Any]:
    """Tests over users: a figure of the differences, a table of the p-values."""
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
        caption=f"How much {label(ours)} is above each model in {label(main)}: mean over users and its 95 % confidence "
        "interval. Intervals that cross the line show no difference.",
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
        Column("verdict", "Shown", format="text"),
    ]
    notes = [
        "Each user's value is averaged over the seeds; the tests are paired over users and two-sided. p is corrected "
        f"by Holm's procedure over the {n} tests of this report (all metrics); shown means p < {ALPHA:g} by both.",
    ]
    table = Table("tests", columns, rows, f"{label(ours)} against each model: {label(main)}", notes)
    return [figure, table]


def _cost(found: Rows) -> list[Any]:
    """Figures of the accuracy, and of the accuracy over the minutes of a training."""
    import polars as pl

    main, ours = found.main, found.ours
    with_figures = [entry for entry in found.entries if entry.finals and entry.measure(main)]
    if len(with_figures) < 2:
        return []
    frame = pl.DataFrame(
        [
            {"panel": heading, "model": entry.model, "value": value, "minutes": max(one.seconds, 0.06) / 60}
            for entry in with_figures
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
        caption=f"Test {label(main)}, mean ± one standard deviation of the seeds.",
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
        caption="What accuracy costs: up and to the left is better. Minutes of one training with the chosen settings, "
        "validation included, tuning not.",
    )
    return [recall, cost]


def _tuning(context: ExperimentConfig, found: Rows) -> list[Any]:
    """A table of the chosen settings, a figure of what the trials brought."""
    import polars as pl

    rows, trials, numbers = [], [], []
    for entry in found.entries:
        chosen = entry.finals[0] if entry.finals else None
        cells: dict[str, Value] = {"model": entry.title, "trials": len(entry.trials)}
        cells["tuned"] = sum(one.seconds for one in entry.trials) if entry.trials else None
        if chosen is not None:
            trained = model_type(entry.model).capabilities.training == "gradient"
            options = {**chosen.cell.model_options, **(chosen.cell.training if trained else {})}
            cells["loss"] = loss_of(chosen) or MISSING
            cells["rate"] = plain(options.pop("learning_rate", MISSING))
            cells["batch"] = plain(options.pop("batch_size", MISSING))
            by_hand = {*context.training, *context.model_options}  # the same for all, and told below
            left = [f"{k} {plain(v)}" for k, v in sorted(options.items()) if k not in (*HIDDEN, "loss", *by_hand)]
            cells["options"] = ", ".join(left) or "defaults"
            cells["epoch"] = Measure.of([one.best_epoch for one in entry.finals if one.best_epoch])
            cells["valid"] = entry.measure(context.metric, "valid")
        else:
            cells["options"] = entry.problem
        best = -math.inf
        for number, one in enumerate(entry.trials, 1):
            value = one.figure(context.metric) if one.done else None
            best = max(best, -math.inf if value is None else value)
            if best > -math.inf:
                numbers.append(number)
                trials += [
                    {"panel": heading, "model": entry.model, "trial": number, "value": best}
                    for heading in found.panels(entry)
                ]
        rows.append(Row(cells, block=label(entry.dataset), accent=entry.model == found.ours))
    columns = [
        Column("model", "Model", format="text"),
        Column("valid", f"Valid {label(context.metric)}"),
        Column("loss", "Loss", format="text"),
        Column("rate", "Learning rate", format="text"),
        Column("batch", "Batch", format="text"),
        Column("epoch", "Best epoch", digits=0),
        Column("trials", "Trials", format="count"),
        Column("tuned", "Tuned in", format="duration"),
        Column("options", "Other options", format="text"),
    ]
    note = f"Chosen by validation {label(context.metric)}; the test set played no part. Options left out: defaults."
    blocks: list[Any] = [Table("settings", columns, rows, "Chosen settings", [note])]
    if any(number > 1 for number in numbers):
        frame = pl.DataFrame(trials)
        blocks.append(
            lines(
                frame,
                "tuning",
                "trial",
                series="model",
                panel="panel" if frame["panel"].n_unique() > 1 else None,
                accent=found.ours,
                x_label="trial",
                y_label=f"best validation {label(context.metric)}",
                caption="What tuning brought: the best validation figure after each trial.",
            )
        )
    return blocks


def _settings(context: ExperimentConfig) -> dict[str, Any]:
    budget = f"{context.minutes:g} minutes each" if context.minutes else f"{context.trials} trials each"
    found = {
        "datasets": [Path(path).name for path in context.datasets],
        "models": list(context.models) or "all",
        "feature sets": {name or "all": list(values) for name, values in context.feature_sets.items()},
        "seeds": context.seeds,
        "tuning": f"{budget}, {context.sampler}, by validation {context.metric}",
        "losses": list(context.losses) or "all",
        "set by hand": {**context.model_options, **context.training, **context.settings},
        "device": context.device,
    }
    return {name: value for name, value in found.items() if value not in ({}, [])}
