"""Experiment "compare" (Table II of the paper): models tuned with the same budget, declared, and scored once.

For each dataset, model and feature set, the trials of `tuning.suggest` find the best configuration. It is then trained
with each seed, and scored on the sealed test. The report has the test metrics of all models, significance tests, cost,
chosen settings and published results; `compare_rows` collects the results, `compare_tables` makes tables of metrics.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lirdrec.experiments import external_list_scoring
from lirdrec.experiments.config import ExperimentConfig, option_names
from lirdrec.experiments.result_collection import Results, loss_of
from lirdrec.experiments.studies.compare_rows import Entry, Rows, answer, gather, panel
from lirdrec.experiments.studies.compare_tables import (
    beyond_accuracy_tables,
    interval_tables,
    metric_tables,
    plain,
    published_tables,
)
from lirdrec.experiments.studies.report_parts import count, draw, listed
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.experiments.tuning import TuningState, base_trial, keeps_order, n_trials, suggest
from lirdrec.models.registry import model_names, model_type
from lirdrec.reporting import Column, Measure, Report, Row, Section, Table, dots, label, points
from lirdrec.reporting import lines as line_chart
from lirdrec.reporting.formatting import MISSING, Value
from lirdrec.reporting.statistics import ALPHA

SETTINGS = {"ours": ("lirdrec", "the model that all other models are compared with")}
OPTIONS = ("keep", "losses", "minutes", "prune", "sampler", "trials")
HIDDEN = ("metric", "device")  # options that are not settings of the model


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the trials of all tuning searches, final trainings of finished searches, and lists made elsewhere."""
    extra: dict[str, Any] = {"keep": True} if config.keep else {}
    for base in searches(config):
        search = suggest(config, results, base)
        yield from search.cells
        if search.chosen is not None:
            for seed in config.seeds_of(base.model):
                yield search.final(seed, **extra)
    yield from external_list_scoring.planned(config.datasets, config.lists, config.output, config.evaluation)


def expected(config: ExperimentConfig) -> Counter[tuple[str, str]]:
    """Return (dataset, model) → greatest number of trials, in tuning and final; lists have the model ""."""
    numbers: Counter[tuple[str, str]] = Counter()
    for base in searches(config):
        numbers[base.dataset, base.model] += n_trials(config, base) + len(config.seeds_of(base.model))
    if config.lists:
        numbers[config.datasets[0], ""] += len(config.lists)
    return numbers


def searches(config: ExperimentConfig) -> Iterator[TrialSpec]:
    """Yield the base trial of each search: one for each dataset, model and, if it uses features, feature set."""
    for dataset in config.datasets:
        for model in config.models or default_models(dataset):
            for feature_set in config.sets if uses_features(model) else ("",):
                yield base_trial(config, dataset, model, feature_set)


def default_models(dataset: str) -> list[str]:
    """Return all models that suit a dataset; models of ordered histories only if it is split by time."""
    ordered = keeps_order(dataset)
    return [name for name in model_names() if ordered or not model_type(name).capabilities.ordered]


def uses_features(model: str) -> bool:
    """Whether the model can use features of items."""
    return model_type(model).capabilities.needs_features or "modalities" in option_names(model)


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report into the experiment's folder; return the path of the HTML page."""
    searched = [suggest(config, results, base) for base in searches(config)]
    return make_report(config, results, searched).write(config.output, results, config.formats)


def make_report(config: ExperimentConfig, results: Results, searches: Sequence[TuningState] = ()) -> Report:
    """Return the report of a comparison, finished or not; it is not written.

    Args:
        config: as for `plan`. Its setting "ours" names the model that all others are compared with (default: LIRDRec);
            if it has no row, the first of `config.models` takes its place.
        results: results of the tuning trials and of the final trainings.
        searches: states of the tuning searches; they add rows for models without any result.
    """
    rows = gather(config, results, searches)
    sections = []
    if rows.main:
        sections.append(Section("Test metrics", [*metric_tables(rows), *interval_tables(rows)]))
        sections.append(Section("Beyond accuracy", beyond_accuracy_tables(rows)))
        sections.append(Section("Tests over users", _differences(rows)))
        sections.append(Section("Accuracy and cost", _cost(rows)))
    sections.append(Section("Tuning", _tuning(config, rows)))
    sections.append(Section("Published results", published_tables(rows, config.datasets)))
    problems = [
        f"- **{e.title} on {label(e.dataset)}**: {e.problem}. {e.error}".rstrip() for e in rows.entries if e.problem
    ]
    sections.append(Section("Unfinished and failed trainings", ["\n".join(problems)] if problems else []))
    models = len({entry.model for entry in rows.entries if not entry.is_lists})
    return Report(
        f"{count(models, 'model')} on {listed(map(label, rows.datasets))}",
        "Which model recommends best if all have the same tuning budget and the test set is scored once?",
        answer(rows),
        [section for section in sections if section.blocks],
        settings=_settings(config),
        commands=[config.command] if config.command else [],
        name="compare",
    )


def _differences(rows: Rows) -> list[Any]:
    """Return a figure of the differences from our model over users, and a table of their p-values; [] without tests."""
    main, ours = label(rows.main), label(rows.ours)
    tested = [(entry, entry.comparisons[rows.main]) for entry in rows.entries if rows.main in entry.comparisons]
    if not tested:
        return []
    values, cells = [], []
    for entry, comparison in tested:
        test, rival = comparison.test, rows.rival(entry)
        heading = panel(entry.dataset, entry.features or (rival.features if rival else ""))
        values.append((heading, entry.model, test.difference, test.low, test.high))
        verdict = {1: f"{ours} better", -1: f"{ours} worse", 0: "no difference"}[comparison.significant()]
        row: dict[str, Value] = {"model": entry.title, "n": test.n, "d": test.difference, "verdict": verdict}
        cells.append(Row({**row, "t": comparison.t_p_holm, "w": comparison.w_p_holm}, block=label(entry.dataset)))
    figure = draw(
        dots,
        values,
        ["panel", "model", "value", "low", "high"],
        "differences",
        rows="model",
        panel=_several(values),
        low="low",
        high="high",
        reference=0.0,
        accent=None,
        x_label=f"{main} of {ours} − {main} of the model",
        caption=f"Difference in {main} between {ours} and each model: mean over users with its 95 % confidence "
        "interval. Intervals that cross the line show no difference.",
    )
    columns = [
        Column("model", "Model", format="text"),
        Column("n", "Users", format="count"),
        Column("d", "Difference"),
        Column("t", "p, t-test", format="p"),
        Column("w", "p, Wilcoxon", format="p"),
        Column("verdict", "Result", format="text"),
    ]
    note = (
        "Values of each user are averaged over the seeds; the tests are paired over users and two-sided. p-values are "
        f"corrected by Holm's procedure over the {sum(len(entry.comparisons) for entry in rows.entries)} tests of this "
        f"report (all metrics); a difference is shown by p < {ALPHA:g} in both tests."
    )
    return [*figure, Table("tests", columns, cells, f"{ours} against each model: {main}", [note])]


def _several(rows: Sequence[Sequence[Any]]) -> str | None:
    """Return "panel", the column to divide a figure by, if the first values of the rows differ; else None."""
    return "panel" if len({row[0] for row in rows}) > 1 else None


def _cost(rows: Rows) -> list[Any]:
    """Return two figures: the main metric of the models, and this metric against training time; [] for one model."""
    main, ours = rows.main, rows.ours
    scored = [entry for entry in rows.entries if entry.measure(main) and not entry.is_lists]
    if len(scored) < 2:
        return []
    values = [
        (heading, entry.model, value, max(result.seconds, 0.06) / 60)
        for entry in scored
        for heading in rows.panels(entry)
        for result in entry.finals
        if (value := result.figure(main, "test")) is not None
    ]
    columns, axis = ["panel", "model", "value", "minutes"], f"test {label(main)}"
    style: dict[str, Any] = {"panel": _several(values), "accent": ours}
    caption = f"Test {label(main)}, mean ± one standard deviation over the seeds."
    accuracy = draw(dots, values, columns, "accuracy", rows="model", x_label=axis, caption=caption, **style)
    style |= {"x": "minutes", "x_label": "minutes of one final training (logarithmic)", "log_x": True}
    style |= {"y": "value", "y_label": axis, "series": "model"}
    caption = (
        "Accuracy against cost; the upper left is best. Minutes of one training with the chosen settings, including "
        "validation, without tuning."
    )
    return accuracy + draw(points, values, columns, "cost", caption=caption, **style)


def _tuning(config: ExperimentConfig, rows: Rows) -> list[Any]:
    """Return a table of the chosen settings, and a figure of the best validation metric after each tuning trial."""
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
    cells = [
        Row(_chosen_cells(config, entry), block=label(entry.dataset), accent=entry.model == rows.ours)
        for entry in rows.entries
        if not entry.is_lists
    ]
    note = (
        f"Chosen by validation {label(config.metric)}, without the test set. Its values and the best epochs are those"
        " of the final trainings. Options not listed: defaults."
    )
    return [Table("settings", columns, cells, "Chosen settings", [note]), *_tuning_curves(config, rows)]


def _chosen_cells(config: ExperimentConfig, entry: Entry) -> dict[str, Value]:
    """Return the cells of one row of the table of chosen settings."""
    cells: dict[str, Value] = {"model": entry.title, "trials": len(entry.trials)}
    cells["tuned"] = sum(trial.seconds for trial in entry.trials) if entry.trials else None
    if not entry.finals:
        return cells | {"options": entry.problem}
    chosen = entry.finals[0]
    trained = model_type(entry.model).capabilities.training == "gradient"
    options = {**chosen.trial.model_options, **(chosen.trial.training if trained else {})}
    cells["loss"] = loss_of(chosen) or MISSING
    cells["rate"] = plain(options.pop("learning_rate", MISSING))
    cells["batch"] = plain(options.pop("batch_size", MISSING))
    hidden = {*HIDDEN, "loss", *config.training, *config.model_options}  # options set by hand are listed below
    others = [f"{name} {plain(value)}" for name, value in sorted(options.items()) if name not in hidden]
    cells["options"] = ", ".join(others) or "defaults"
    cells["epoch"] = Measure.of(final.best_epoch for final in entry.finals if final.best_epoch)
    cells["valid"] = entry.measure(config.metric, "valid")
    return cells


def _tuning_curves(config: ExperimentConfig, rows: Rows) -> list[Any]:
    """Return a list of one figure, the best validation metric after each trial; [] if no model has two trials."""
    values: list[tuple[str, str, int, float]] = []
    for entry in rows.entries:
        best = -math.inf
        for number, trial in enumerate(entry.trials, 1):
            value = trial.figure(config.metric) if trial.done else None
            best = max(best, -math.inf if value is None else value)
            if best > -math.inf:
                values += [(heading, entry.model, number, best) for heading in rows.panels(entry)]
    if all(trial < 2 for _, _, trial, _ in values):
        return []
    style: dict[str, Any] = {"x": "trial", "series": "model", "panel": _several(values), "accent": rows.ours}
    style |= {"x_label": "trial", "y_label": f"best validation {label(config.metric)}"}
    caption = "Progress of tuning: the best validation metric after each trial."
    return draw(line_chart, values, ["panel", "model", "trial", "value"], "tuning", caption=caption, **style)


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    budget = f"{config.minutes:g} minutes each" if config.minutes else f"{config.trials} trials each"
    settings = {
        "datasets": [Path(path).name for path in config.datasets],
        "models": list(config.models) or "all",
        "feature sets": {name or "all": list(values) for name, values in config.feature_sets.items()},
        "seeds": config.seeds,
        "tuning": f"{budget}, {config.sampler}, by validation {config.metric}",
        "losses": list(config.losses) or "all",
        "set by hand": {**config.model_options, **config.training, **config.settings},
        "lists made elsewhere": [f"{name}={Path(file).name}" for name, file in config.lists.items()],
        "device": config.device,
    }
    return {name: value for name, value in settings.items() if value not in ({}, [])}
