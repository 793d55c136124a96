"""Experiment "cold" (Fig. 4 of the paper): recommending unseen items, in two modes, among two lists of candidates.

A random fifth of the items with all their interactions is held out, half for validation, half for the test; each seed
draws its own items. Models have only the features of unseen items.

    transductive   as in the paper: training uses the features of unseen items, for instance in the item graph
    inductive      trained without unseen items, which are added afterwards by `Recommender.add_items`; trained for the
                   best number of epochs of the transductive run of the same seed, since validation needs unseen items

Candidates: only unseen items, or all items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import report_parts
from lirdrec.experiments.studies.report_parts import format_mean_sd, listed
from lirdrec.experiments.studies.trial_settings import settled
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.experiments.tuning import base_trial, suggest
from lirdrec.models.registry import model_type
from lirdrec.reporting import Column, Figure, Measure, Row, Section, Table, bars, label

if TYPE_CHECKING:
    from lirdrec.experiments.worker import Job

MODELS = ("content_knn", "vbpr", "lattice", "freedom", "lirdrec")
OPTIONS = ("losses", "minutes", "prune", "sampler", "trials", "tuned")
MODES = ("transductive", "inductive")
# stage of the metrics → heading
STAGES = {"test": "Only unseen items", "test_all": "All items"}
CANNOT = "cannot"

Runs = dict[tuple[str, str], list[TrialResult]]  # (model, mode) → finished results


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the transductive trials, and each inductive trial as soon as its transductive one has a result.

    For closed-form models, tuning trials come first.
    """
    for dataset in config.datasets:
        for model in config.models or MODELS:
            for seed in range(config.seeds):
                for trial in _transductive(config, results, dataset, model, seed):
                    yield trial
                    if trial.work != "trial":
                        yield from _inductive(trial, results.get(trial))


def transductive(job: Job) -> dict[str, Any]:
    """Do the work "transductive": train with the features of unseen items; score validation, and the test twice.

    The test is scored among unseen items only, and among all items. Return the numbers of unseen and of all items, and
    why the training ended.
    """
    return _scored(job, job.fit()) | job.end


def inductive(job: Job) -> dict[str, Any]:
    """Do the work "inductive": train without unseen items, add them, and score as in `transductive`.

    It trains a given number of epochs, so why the training ended says nothing and is not returned.
    """
    import numpy as np

    from lirdrec.data.cold_start import hold_out_items

    data = job.dataset
    unseen = data.items.ids[np.setdiff1d(np.arange(data.n_items), data.train.items)]
    warm, table, features = hold_out_items(data, list(unseen))
    recommender = job.fit(warm)
    recommender.add_items(table, features)
    return _scored(job, recommender)


def _scored(job: Job, recommender: Any) -> dict[str, Any]:
    import numpy as np

    data = job.dataset
    job.score_valid(recommender)
    job.score_test(recommender, candidates="cold", stage="test")
    job.score_test(recommender, candidates="all", stage="test_all")
    return {"unseen": data.n_items - len(np.unique(data.train.items)), "items": data.n_items}


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report: metrics of both modes and both lists of candidates, and of random ranking; return its path."""
    metric, metrics = report_parts.metrics_of(results, "test", config.metric)
    shown = report_parts.with_cutoff_of(metric, metrics)
    datasets: dict[str, Runs] = {}
    for result in results.where(work=("cold:transductive", "cold:inductive"), status="done"):
        trial = result.trial
        runs = datasets.setdefault(trial.dataset_name, {})
        runs.setdefault((trial.model, trial.variant), []).append(result)
    answers = [_answer(dataset, runs, metric) for dataset, runs in datasets.items()]
    return report_parts.write_report(
        config,
        results,
        "Recommending unseen items",
        "How well are items without interactions recommended, from their features alone?",
        " ".join(answers) or "There are no results yet.",
        [Section("Unseen items", [*_figure(config, datasets, metric), _table(datasets, shown)])],
    )


def expected_recall(results: Sequence[TrialResult], metric: str) -> float | None:
    """Return the expected recall of a random ranking of the unseen items; None for other metrics, or without results.

    Each of C unseen items is in the top k with probability k / C.

    Args:
        results: results that give C; several draws of unseen items are averaged.
        metric: "recall@k".
    """
    kind, _, k = metric.partition("@")
    sizes = [result.data["unseen"] for result in results if result.done and result.data]
    return sum(min(1.0, int(k) / size) for size in sizes) / len(sizes) if sizes and kind == "recall" else None


def _figure(config: ExperimentConfig, datasets: Mapping[str, Runs], metric: str) -> list[Figure]:
    """Draw bars for each model and mode; return [] without results."""
    rows = [
        (f"{label(dataset)} · {heading}" if len(datasets) > 1 else heading, model, mode, value)
        for stage, heading in STAGES.items()
        for dataset, runs in datasets.items()
        for (model, mode), some in runs.items()
        for result in some
        if (value := result.figure(metric, stage)) is not None
    ]
    caption = f"Test {metric} for unseen items, {report_parts.over(config.seeds)}."
    style = {"series": "mode", "panel": "panel", "accent": "inductive", "y_label": f"test {label(metric)}"}
    return report_parts.draw(
        bars, rows, ["panel", "model", "mode", "value"], "cold", x="model", caption=caption, **style
    )


def _table(datasets: Mapping[str, Runs], shown: Sequence[str]) -> Table:
    columns = [Column("model", "Model", format="text"), Column("mode", "Unseen in training", format="text")]
    for stage, heading in STAGES.items():
        columns += [Column(f"{stage} {name}", label(name), heading, "higher") for name in shown]
    rows = []
    for dataset, runs in datasets.items():
        block = label(dataset) if len(datasets) > 1 else ""
        for model, mode in product(dict.fromkeys(model for model, _ in runs), MODES):
            cells: dict[str, Any] = {"model": label(model), "mode": mode}
            if (model, mode) in runs:
                for stage, name in product(STAGES, shown):
                    cells[f"{stage} {name}"] = report_parts.measured(runs[model, mode], name, stage)
                rows.append(Row(cells, block, accent=model == "lirdrec"))
            elif mode == "inductive" and not model_type(model).capabilities.cold_items:
                rows.append(Row({**cells, f"test {shown[0]}": CANNOT}, block))
        expected = {f"test {name}": expected_recall(next(iter(runs.values())), name) for name in shown}
        rows.append(Row({"model": "Random ranking", "mode": "expected", **expected}, block, muted=True))
    notes = [
        "Each seed draws its own unseen items; the sd is over draws and trainings together.",
        "Random ranking: exact expectation, k / number of unseen items.",
    ]
    return Table("cold", columns, rows, "Test metrics for unseen items.", notes)


def _answer(dataset: str, runs: Runs, metric: str) -> str:
    measures: dict[tuple[str, str], dict[str, Measure]] = {
        (stage, mode): {
            model: measure
            for (model, m), some in runs.items()
            if m == mode and (measure := report_parts.measured(some, metric, stage)) is not None
        }
        for stage, mode in product(STAGES, MODES)
    }
    test = {mode: measures["test", mode] for mode in MODES}
    leaders = []
    for mode, models in test.items():
        if models:
            best, *others = sorted(models, key=lambda model: -models[model].mean)
            second = f", then {label(others[0])} ({models[others[0]].mean:.4f})" if others else ""
            leaders.append(f"{mode}, **{label(best)}** with {format_mean_sd(models[best])}{second}")
    if not leaders:
        return f"On {label(dataset)} there are no results."
    text = f"On {label(dataset)}, the best models among unseen items (test {metric}) are: {'; '.join(leaders)}."
    floor = expected_recall(next(iter(runs.values())), metric)
    if floor is not None:
        lost = [
            f"{label(model)} ({mode})"
            for mode, models in test.items()
            for model, measure in models.items()
            if measure.mean <= floor
        ]
        text += f" Random ranking would reach {floor:.4f}" + (f"; not better: {listed(lost)}." if lost else ".")
    with_items, added = test["transductive"], test["inductive"]
    changes = [
        f"{label(model)} {report_parts.format_gain(added[model].mean, with_items[model].mean)}"
        for model in added
        if model in with_items
    ]
    if changes:
        text += f" Change from adding the items after training instead of training with them: {listed(changes)}."
    among_all = [(m.mean, model, mode) for mode in MODES for model, m in measures["test_all", mode].items()]
    if among_all:
        value, model, mode = max(among_all, key=lambda entry: entry[0])
        kind = "recall of unseen ones" if metric.startswith("recall@") else "value"
        alone = test[mode].get(model)
        share = value / alone.mean if alone is not None and alone.mean else 0.0
        text += f" Among all items the best {kind} is {value:.4f} ({label(model)}, {mode}): "
        text += f"{share:.0%} of what it reaches among unseen items alone."
    return text


def _transductive(
    config: ExperimentConfig, results: Results, dataset: str, model: str, seed: int
) -> Iterator[TrialSpec]:
    """Yield the transductive trial of one seed.

    Closed-form models, which train fast, are tuned on the same split; before that is finished, only the tuning trials
    are yielded.
    """
    feature_set = next(iter(config.sets))
    base = settled(config, dataset, model, feature_set)
    cold: dict[str, Any] = {
        "split": {"split": "cold_items", "seed": seed},
        "extra": {**base.extra, "candidates": "cold"},
    }
    base = base.with_(**cold)
    if model_type(model).capabilities.training == "closed_form":
        search = suggest(config, results, base_trial(config, dataset, model, feature_set).with_(**cold))
        yield from search.cells
        if search.chosen is None:
            return
        base = base.with_(model_options=search.chosen.model_options, training=search.chosen.training)
    yield base.with_(work="cold:transductive", variant="transductive", seed=seed, extra={**base.extra, "final": True})


def _inductive(trial: TrialSpec, result: TrialResult | None) -> Iterator[TrialSpec]:
    """Yield the inductive trial if the transductive one has succeeded, and the model can add items."""
    capabilities = model_type(trial.model).capabilities
    if result is not None and result.done and capabilities.cold_items:
        epochs = {"epochs": max(1, result.best_epoch)} if capabilities.training == "gradient" else {}
        yield trial.with_(work="cold:inductive", variant="inductive", training={**trial.training, **epochs})
