"""Experiment "cold" (Fig. 4 of the paper): recommending unseen items, in two modes, among two lists of candidates.

A random fifth of the items with all their interactions is held out, half for validation, half for the test; each seed
draws its own items. Models know only the features of unseen items.

    transductive   as in the paper: training uses the features of unseen items, for instance in the item graph
    inductive      trained without unseen items, which are added afterwards by `Recommender.add_items`; trained for the
                   best number of epochs of the transductive run of the same seed, since validation needs unseen items

Candidates: only unseen items, or all items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sentences
from lirdrec.experiments.studies.defaults import settled
from lirdrec.experiments.trial import TrialResult, TrialSpec
from lirdrec.experiments.tuning import base_cell, suggest
from lirdrec.models.registry import model_type
from lirdrec.reporting import Column, Report, Row, Section, Table, bars, label

if TYPE_CHECKING:
    from lirdrec.experiments.worker import Job

MODELS = ("content_knn", "vbpr", "lattice", "freedom", "lirdrec")
MODES = ("transductive", "inductive")
# stage of the metrics → heading
STAGES = {"test": "Only unseen items", "test_all": "All items"}
CANNOT = "cannot"


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Transductive trials, and inductive ones as soon as the number of epochs is known."""
    for dataset in config.datasets:
        for model in config.models or MODELS:
            for seed in range(config.seeds):
                for cell in _transductive(config, results, dataset, model, seed):
                    yield cell
                    if cell.work != "trial":
                        inductive = _inductive(cell, results.get(cell))
                        if inductive is not None:
                            yield inductive


def transductive(job: Job) -> dict[str, Any]:
    """Work: train with the features of unseen items; score validation, and the test with both lists of candidates."""
    recommender = job.fit()
    return _scored(job, recommender)


def inductive(job: Job) -> dict[str, Any]:
    """Work: train without unseen items, add them, and score in the same way."""
    import numpy as np

    from lirdrec.data.holdout import hold_out_items

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
    """Metrics of both modes and both lists of candidates, compared with random ranking."""
    import polars as pl

    found = _found(config, results)
    have = sentences.metrics_of(results, "test", (config.metric,))
    metric = config.metric if config.metric in have or not have else have[0]
    shown = [name for name in dict.fromkeys((metric, metric.replace("recall", "ndcg"))) if name in have] or [metric]
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in found))
    blocks: list[Any] = []
    rows = [
        {
            "panel": " · ".join([label(d)] * (len(datasets) > 1) + [STAGES[stage]]),
            "model": model,
            "mode": mode,
            "value": one.figures[stage][metric],
        }
        for stage in STAGES
        for (d, model, mode), some in found.items()
        for one in some
        if metric in one.figures.get(stage, {})
    ]
    if rows:
        caption = f"Test {metric} for unseen items, {sentences.over(config.seeds)}."
        blocks.append(
            bars(
                pl.DataFrame(rows),
                "cold",
                x="model",
                series="mode",
                panel="panel",
                accent="inductive",
                y_label=f"test {label(metric)}",
                caption=caption,
            )
        )
    blocks.append(_table(found, datasets, shown))
    return Report(
        title="Recommending unseen items",
        question="How well are items without interactions recommended, from their features alone?",
        answer=" ".join(_answer(one, found, metric) for one in datasets) or "There are no results yet.",
        sections=[Section("Unseen items", blocks), *sentences.failures(results)],
        settings=sentences.settings(config),
        commands=sentences.commands(config),
        name=results.experiment,
    ).write(config.output, results, config.formats)


def expected_recall(results: list[TrialResult], k: int) -> float | None:
    """Expected recall of random ranking: each of `C` candidates is in the top k with probability k / C."""
    sizes = [one.data["unseen"] for one in results if one.done and one.data]
    return sum(min(1.0, k / size) for size in sizes) / len(sizes) if sizes else None


def _found(config: ExperimentConfig, results: Results) -> dict[tuple[str, str, str], list[TrialResult]]:
    """(dataset's name, model, mode) → finished results."""
    found: dict[tuple[str, str, str], list[TrialResult]] = {}
    for result in results.where(work=("cold:transductive", "cold:inductive"), status="done"):
        cell = result.cell
        found.setdefault((cell.dataset_name, cell.model, cell.variant), []).append(result)
    return found


def _table(found: Mapping[tuple[str, str, str], list[TrialResult]], datasets: list[str], shown: list[str]) -> Table:
    columns = [Column("model", "Model", format="text"), Column("mode", "Unseen in training", format="text")]
    for stage, said in STAGES.items():
        columns += [Column(f"{stage} {name}", label(name), said, "higher") for name in shown]
    many = len(datasets) > 1
    lines = []
    for dataset in datasets:
        block = label(dataset) if many else ""
        here = {(model, mode): some for (d, model, mode), some in found.items() if d == dataset}
        for model in dict.fromkeys(model for model, _ in here):
            for mode in MODES:
                cells: dict[str, Any] = {"model": label(model), "mode": mode}
                if (model, mode) not in here:
                    if mode == "inductive" and not model_type(model).capabilities.cold_items:
                        cells[f"test {shown[0]}"] = CANNOT
                        lines.append(Row(cells, block))
                    continue
                for stage in STAGES:
                    for name in shown:
                        cells[f"{stage} {name}"] = sentences.measured(here[model, mode], name, stage)
                lines.append(Row(cells, block, accent=model == "lirdrec"))
        floor: dict[str, Any] = {"model": "Random ranking", "mode": "expected"}
        anyone = next(iter(here.values()), [])
        for name in shown:
            kind, _, k = name.partition("@")
            if kind == "recall":
                floor[f"test {name}"] = expected_recall(anyone, int(k))
        lines.append(Row(floor, block, muted=True))
    notes = [
        "Each seed draws its own unseen items; the sd is over draws and trainings together.",
        "Random ranking: exact expectation, k / number of unseen items.",
    ]
    return Table("cold", columns, lines, "Test metrics for unseen items.", notes)


def _answer(dataset: str, found: Mapping[tuple[str, str, str], list[TrialResult]], metric: str) -> str:
    figures = {
        (stage, mode): {
            model: measure
            for (d, model, m), some in found.items()
            if d == dataset and m == mode and (measure := sentences.measured(some, metric, stage)) is not None
        }
        for stage in STAGES
        for mode in MODES
    }
    name = label(dataset)
    said = []
    for mode in MODES:
        models = figures["test", mode]
        if models:
            ordered = sorted(models, key=lambda model: -models[model].mean)
            second = f", then {label(ordered[1])} ({models[ordered[1]].mean:.4f})" if len(ordered) > 1 else ""
            said.append(f"{mode}, **{label(ordered[0])}** with {sentences.format_mean_sd(models[ordered[0]])}{second}")
    if not said:
        return f"On {name} there are no results."
    text = f"On {name}, the best models among unseen items (test {metric}) are: {'; '.join(said)}."
    kind, _, k = metric.partition("@")
    anyone = next((some for (d, _, _), some in found.items() if d == dataset), [])
    floor = expected_recall(anyone, int(k)) if kind == "recall" else None
    if floor is not None:
        lost = [
            f"{label(model)} ({mode})"
            for mode in MODES
            for model, measure in figures["test", mode].items()
            if measure.mean <= floor
        ]
        text += f" Random ranking would reach {floor:.4f}" + (
            f"; not better: {sentences.listed(lost)}." if lost else "."
        )
    both = [model for model in figures["test", "inductive"] if model in figures["test", "transductive"]]
    if both:
        changes = [
            f"{label(model)} "
            + sentences.format_gain(
                figures["test", "inductive"][model].mean, figures["test", "transductive"][model].mean
            )
            for model in both
        ]
        text += (
            f" Change from adding the items after training instead of training with them: {sentences.listed(changes)}."
        )
    every = [(model, mode, m.mean) for mode in MODES for model, m in figures["test_all", mode].items()]
    if every:
        model, mode, value = max(every, key=lambda one: one[2])
        text += (
            f" Among all items the best recall of unseen ones is {value:.4f} ({label(model)}, {mode}): "
            if kind == "recall"
            else f" Among all items the best value is {value:.4f} ({label(model)}, {mode}): "
        )
        alone = figures["test", mode].get(model)
        part = value / alone.mean if alone is not None and alone.mean else 0.0
        text += f"{part:.0%} of what it reaches among unseen items alone."
    return text


def _transductive(
    config: ExperimentConfig, results: Results, dataset: str, model: str, seed: int
) -> Iterator[TrialSpec]:
    """The trial; closed-form models, which train fast, are first tuned on the same split."""
    split = {"split": "cold_items", "seed": seed}
    extra = {"candidates": "cold"}
    feature_set = next(iter(config.sets))
    base = settled(config, dataset, model, feature_set)
    base = base.with_(split=split, extra=extra)
    if model_type(model).capabilities.training == "closed_form":
        asked = base_cell(config, dataset, model, feature_set, split=split, extra=extra)
        found = suggest(config, results, asked)
        yield from found.cells
        if found.chosen is None:
            return
        base = base.with_(model_options=found.chosen.model_options, training=found.chosen.training)
    yield base.with_(work="cold:transductive", variant="transductive", seed=seed, extra={**base.extra, "final": True})


def _inductive(cell: TrialSpec, result: TrialResult | None) -> TrialSpec | None:
    """The inductive trial after a transductive one; None before its result, or if the model cannot add items."""
    kind = model_type(cell.model)
    if result is None or not result.done or not kind.capabilities.cold_items:
        return None
    training = dict(cell.training)
    if kind.capabilities.training == "gradient":
        training["epochs"] = max(1, result.best_epoch)
    return cell.with_(work="cold:inductive", variant="inductive", training=training)
