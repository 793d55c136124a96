"""Experiment "splits": the same models under several splits of the same interactions.

`random` holds out random interactions of each user (the paper's protocol), `temporal` the latest of each user,
`global_time` all interactions after one point in time: only then is there no information from the future in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lirdrec.data.splits import METHODS
from lirdrec.errors import ConfigError, DataError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sentences
from lirdrec.experiments.studies.defaults import settled
from lirdrec.experiments.trial import TrialResult, TrialSpec
from lirdrec.reporting import Column, Figure, Report, Row, Section, Table, bars, label

MODELS = ("popularity", "item_knn", "lightgcn", "vbpr", "freedom", "lirdrec")
SETTINGS = {"methods": (("random", "temporal", "global_time"), "splits to compare")}
NAMES = {
    "random": "random per user",
    "temporal": "time per user",
    "global_time": "one point in time",
    "leave_last_out": "leave last out",
    "cold_items": "unseen items",
}
BY_TIME = ("temporal", "global_time", "leave_last_out")

Runs = Mapping[tuple[str, str, str], Sequence[TrialResult]]  # (dataset's name, method, model) → results


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """All models under all splits with all seeds."""
    for cells in _cells(config).values():
        yield from cells


def report(config: ExperimentConfig, results: Results) -> Path:
    """Metrics and ranks by split, and how well the splits agree."""
    metrics = sentences.metrics_of(results, "test", (config.metric,))
    metric = config.metric if config.metric in metrics or not metrics else metrics[0]
    shown = [name for name in dict.fromkeys((metric, "recall@20", "ndcg@20")) if name in metrics]
    methods = _methods(config)
    runs: Runs = {
        key: [result for result in map(results.get, cells) if result is not None]
        for key, cells in _cells(config).items()
    }
    means: dict[str, dict[str, dict[str, float]]] = {}  # dataset → method → model → mean
    for (dataset, method, model), some in runs.items():
        by_model = means.setdefault(dataset, {}).setdefault(method, {})
        if (measure := sentences.measured(some, metric, "test")) is not None:
            by_model[model] = measure.mean
    return Report(
        title="Does the split change which model is best?",
        question="How do the metrics of the models, and their order, change with the data split?",
        answer=" ".join(_answer(dataset, by_method, metric) for dataset, by_method in means.items()),
        sections=[
            Section("Metrics", [*_figure(config, runs, metric), _metric_table(runs, methods, shown)]),
            Section("Order", [_rank_table(runs, means, metric)]),
            *sentences.failures(results),
        ],
        settings=sentences.settings(config) | {"methods": ", ".join(methods)},
        commands=sentences.commands(config),
        name=results.experiment,
    ).write(config.output, results, config.formats)


def _figure(config: ExperimentConfig, runs: Runs, metric: str) -> list[Figure]:
    """Bars of each model under each split; [] without results."""
    import polars as pl

    rows = [
        {"dataset": dataset, "split": NAMES.get(method, method), "model": model, "value": run.figure(metric, "test")}
        for (dataset, method, model), some in runs.items()
        for run in some
        if run.done and run.figure(metric, "test") is not None
    ]
    if not rows:
        return []
    return [
        bars(
            pl.DataFrame(rows),
            "splits",
            x="split",
            series="model",
            panel="dataset" if _has_blocks(runs) else None,
            y_label=f"test {label(metric)}",
            caption=f"Test {metric} of the models under each split, {sentences.over(config.seeds)}.",
        )
    ]


def _metric_table(runs: Runs, methods: Sequence[str], metrics: Sequence[str]) -> Table:
    columns = [Column("model", "Model", format="text")]
    columns += [
        Column(f"{m} {metric}", label(metric), NAMES.get(m, m), "higher") for m in methods for metric in metrics
    ]
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for (dataset, method, model), some in runs.items():
        failure = next((run.status for run in some if not run.done), None)
        row = cells.setdefault((dataset, model), {"model": label(model)})
        row |= {f"{method} {metric}": sentences.measured(some, metric, "test") or failure for metric in metrics}
    return Table("splits", columns, _table_rows(runs, cells), "Test metrics by split.")


def _rank_table(runs: Runs, means: Mapping[str, Mapping[str, Mapping[str, float]]], metric: str) -> Table:
    methods = dict.fromkeys(method for _, method, _ in runs)
    columns = [Column("model", "Model", format="text")]
    columns += [Column(method, NAMES.get(method, method), "Rank", None, "count", 0) for method in methods]
    cells: dict[tuple[str, str], dict[str, Any]] = {
        (dataset, model): {"model": label(model)} for dataset, _, model in runs
    }
    for dataset, by_method in means.items():
        for method, by_model in by_method.items():
            for model, rank in _ranks(by_model).items():
                cells[dataset, model][method] = float(rank)
    return Table("splits-order", columns, _table_rows(runs, cells), f"Ranks by test {metric}; 1 is the best.")


def _table_rows(runs: Runs, cells: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Row]:
    """The rows of a table from the cells of each (dataset, model)."""
    blocks = _has_blocks(runs)
    return [
        Row(row, label(dataset) if blocks else "", accent=model == "lirdrec") for (dataset, model), row in cells.items()
    ]


def _has_blocks(runs: Runs) -> bool:
    return len({dataset for dataset, _, _ in runs}) > 1


def kendall(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Kendall's τ-b of two rankings of the same models; None with fewer than two common models, or only ties."""
    from scipy import stats

    names = [name for name in one if name in other]
    if len(names) < 2:
        return None
    tau = float(stats.kendalltau([one[n] for n in names], [other[n] for n in names]).statistic)
    return None if tau != tau else tau


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Rank of each model, 1 for the best; equal values share the better rank."""
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}


def _answer(dataset: str, by_method: Mapping[str, Mapping[str, float]], metric: str) -> str:
    methods = [method for method, values in by_method.items() if values]
    if not methods:
        return f"On {label(dataset)} there are no results."
    leaders = []
    for method in methods:
        values = by_method[method]
        best = max(values, key=values.__getitem__)
        leaders.append(f"**{label(best)}** ({NAMES.get(method, method)}, {values[best]:.4f})")
    text = f"On {label(dataset)}, the best model by test {metric} is {sentences.listed(leaders)}."
    first = methods[0]
    for method in methods[1:]:
        tau = kendall(by_method[first], by_method[method])
        shared = [model for model in by_method[first] if model in by_method[method]]
        changes = [] if tau is None else [f"Kendall's τ {tau:.2f}".replace("-", "−")]
        before, after = (_ranks({m: by_method[split][m] for m in shared}) for split in (first, method))
        moved = max(shared, key=lambda model: abs(before[model] - after[model]), default=None)
        if moved is not None and before[moved] != after[moved]:
            changes.append(f"{label(moved)} changes most, from rank {before[moved]} to {after[moved]}")
        elif moved is not None:
            changes.append("every model keeps its rank")
        mean = [sum(by_method[split][m] for m in shared) / max(1, len(shared)) for split in (first, method)]
        text += (
            f" From {NAMES.get(first, first)} to {NAMES.get(method, method)}: {', '.join(changes)}; metrics change by "
            f"{sentences.format_gain(mean[1], mean[0])} on average."
        )
    return text


def _methods(config: ExperimentConfig) -> list[str]:
    given = config.setting("methods", SETTINGS["methods"][0])
    methods = list(dict.fromkeys([given] if isinstance(given, str) else given))
    for method in methods:
        if method not in METHODS or method == "none":
            known = ", ".join(m for m in METHODS if m != "none")
            raise ConfigError(f"methods: there is no split '{method}' with a test set; choose among {known}")
    if len(methods) < 2:
        raise ConfigError("methods names one split; two or more are needed to compare, for instance random,global_time")
    return methods


def _cells(config: ExperimentConfig) -> dict[tuple[str, str, str], list[TrialSpec]]:
    """(dataset's name, method, model) → cells."""
    methods = _methods(config)
    found: dict[tuple[str, str, str], list[TrialSpec]] = {}
    for dataset in config.datasets:
        if any(method in BY_TIME for method in methods) and not _has_times(dataset):
            raise DataError(
                f"{dataset}: splits by time need timestamps, and it has none; prepare it with a timestamp column, or "
                "choose other splits with --set methods=…"
            )
        for method in methods:
            for model in config.models or MODELS:
                base = settled(config, dataset, model, next(iter(config.sets)))
                # the same settings under every split, so that only the split differs
                base = base.with_(split={"split": method, "seed": 0}, variant=method, extra={"final": True})
                cells = [base.with_(seed=seed) for seed in config.seeds_of(model)]
                found[base.dataset_name, method, model] = cells
    return found


@lru_cache
def _has_times(dataset: str) -> bool:
    from lirdrec.data.readers import read_any
    from lirdrec.data.schema import SPLITS

    data = read_any(dataset)
    return all(data.split(name).timestamps is not None for name in SPLITS if len(data.split(name)))
