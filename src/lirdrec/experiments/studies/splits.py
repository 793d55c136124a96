"""Experiment "splits": the same models under several splits of the same interactions.

`random` holds out random interactions of each user (the paper's protocol), `temporal` the latest interactions of each
user, and `global_time` all interactions after one point in time. Of these three, only `global_time` keeps information
from the future out of the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lirdrec.data.splits import METHODS, ONE_CLOCK, TIMED
from lirdrec.errors import ConfigError, DataError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import report_parts
from lirdrec.experiments.studies.trial_settings import settled
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.reporting import Column, Figure, Row, Section, Table, bars, label

MODELS = ("popularity", "item_knn", "lightgcn", "vbpr", "freedom", "lirdrec")
SETTINGS = {"methods": (("random", "temporal", "global_time"), "splits to compare")}
NAMES = {
    "random": "random per user",
    "temporal": "time per user",
    "global_time": "one point in time",
    "global_time_last": "last after one point in time",
    "leave_last_out": "leave last out",
    "cold_items": "unseen items",
}

Runs = Mapping[tuple[str, str, str], Sequence[TrialResult]]  # (dataset's name, method, model) → results


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the trials of all models under all splits with all seeds."""
    for trials in _trials(config).values():
        yield from trials


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report: metrics and ranks of the models by split, and how well the ranks agree; return its path."""
    metric, metrics = report_parts.metrics_of(results, "test", config.metric)
    shown = report_parts.with_cutoff_of(metric, metrics)
    methods = _methods(config)
    runs = {key: results.of(trials) for key, trials in _trials(config).items()}
    means: dict[str, dict[str, dict[str, float]]] = {}  # dataset → method → model → mean
    cells: dict[tuple[str, str], dict[str, Any]] = {}  # (dataset, model) → cells of both tables
    for (dataset, method, model), some in runs.items():
        by_model = means.setdefault(dataset, {}).setdefault(method, {})
        if (measure := report_parts.measured(some, metric, "test")) is not None:
            by_model[model] = measure.mean
        failure = next((run.status for run in some if not run.done), None)
        row = cells.setdefault((dataset, model), {"model": label(model)})
        row |= {f"{method} {name}": report_parts.measured(some, name, "test") or failure for name in shown}
    for dataset, by_method in means.items():
        for method, by_model in by_method.items():
            for model, rank in _ranks(by_model).items():
                cells[dataset, model][method] = float(rank)
    by_metric = [
        Column(f"{method} {name}", label(name), NAMES.get(method, method), "higher")
        for method in methods
        for name in shown
    ]
    by_rank = [Column(method, NAMES.get(method, method), "Rank", None, "count", 0) for method in methods]
    table = _table("splits", by_metric, cells, "Test metrics by split.")
    return report_parts.write_report(
        config,
        results,
        "Does the split change which model is best?",
        "How do the metrics of the models, and their order, change with the data split?",
        " ".join(_answer(dataset, by_method, metric) for dataset, by_method in means.items()),
        [
            Section("Metrics", [*_figure(config, runs, metric), table]),
            Section("Order", [_table("splits-order", by_rank, cells, f"Ranks by test {metric}; 1 is the best.")]),
        ],
        {"methods": ", ".join(methods)},
    )


def _figure(config: ExperimentConfig, runs: Runs, metric: str) -> list[Figure]:
    """Draw bars for each model under each split; return [] without results."""
    rows = [
        (dataset, NAMES.get(method, method), model, value)
        for (dataset, method, model), some in runs.items()
        for run in some
        if run.done and (value := run.figure(metric, "test")) is not None
    ]
    panel = "dataset" if len(config.datasets) > 1 else None
    caption = f"Test {metric} of the models under each split, {report_parts.over(config.seeds)}."
    style = {"series": "model", "panel": panel, "y_label": f"test {label(metric)}", "caption": caption}
    return report_parts.draw(bars, rows, ["dataset", "split", "model", "value"], "splits", x="split", **style)


def _table(
    name: str, columns: Sequence[Column], cells: Mapping[tuple[str, str], Mapping[str, Any]], caption: str
) -> Table:
    """Return a table with a row for each (dataset, model): the model, and those of its cells that `columns` name."""
    all_columns = [Column("model", "Model", format="text"), *columns]
    many = len({dataset for dataset, _ in cells}) > 1
    rows = []
    for (dataset, model), values in cells.items():
        row = {column.key: values.get(column.key) for column in all_columns}
        rows.append(Row(row, label(dataset) if many else "", accent=model == "lirdrec"))
    return Table(name, all_columns, rows, caption)


def kendall(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Return Kendall's τ-b (1: the same order, -1: the opposite) of two rankings, each given as model → metric.

    Return None with fewer than two common models, or if one ranking has only equal values.
    """
    from scipy import stats

    names = [name for name in first if name in second]
    if len(names) < 2:
        return None
    tau = float(stats.kendalltau([first[n] for n in names], [second[n] for n in names]).statistic)
    return None if tau != tau else tau


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Return model → rank from model → metric; 1 is the best, and equal metrics share the better rank."""
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}


def _answer(dataset: str, by_method: Mapping[str, Mapping[str, float]], metric: str) -> str:
    methods = [method for method, values in by_method.items() if values]
    if not methods:
        return f"On {label(dataset)} there are no results."
    names = {method: NAMES.get(method, method) for method in methods}
    leaders = []
    for method in methods:
        values = by_method[method]
        best = max(values, key=values.__getitem__)
        leaders.append(f"**{label(best)}** ({names[method]}, {values[best]:.4f})")
    text = f"On {label(dataset)}, the best model by test {metric} is {report_parts.listed(leaders)}."
    first = methods[0]
    for method in methods[1:]:
        tau = kendall(by_method[first], by_method[method])
        shared = [model for model in by_method[first] if model in by_method[method]]
        before, after = ({model: by_method[split][model] for model in shared} for split in (first, method))
        old, new = _ranks(before), _ranks(after)
        changes = [] if tau is None else [f"Kendall's τ {tau:.2f}".replace("-", "−")]
        moved = max(shared, key=lambda model: abs(old[model] - new[model]), default=None)
        if moved is not None and old[moved] != new[moved]:
            changes.append(f"{label(moved)} changes most, from rank {old[moved]} to {new[moved]}")
        elif moved is not None:
            changes.append("every model keeps its rank")
        gain = report_parts.format_gain(sum(after.values()), sum(before.values()))
        text += f" From {names[first]} to {names[method]}: {', '.join(changes)}; metrics change by {gain} on average."
    return text


def _methods(config: ExperimentConfig) -> list[str]:
    given = config.setting("methods", SETTINGS["methods"][0])
    methods = list(dict.fromkeys([given] if isinstance(given, str) else given))
    for method in methods:
        if method not in METHODS or method == "none":
            known = ", ".join(m for m in METHODS if m != "none")
            raise ConfigError(f"methods: there is no split '{method}' with a test set; choose among {known}")
    if len(methods) < 2:
        raise ConfigError("methods: give two or more splits to compare, for instance --set methods=random,global_time")
    return methods


def _trials(config: ExperimentConfig) -> dict[tuple[str, str, str], list[TrialSpec]]:
    """Return (dataset's name, method, model) → trials, one per seed."""
    methods = _methods(config)
    trials: dict[tuple[str, str, str], list[TrialSpec]] = {}
    for dataset in config.datasets:
        if any(method in TIMED for method in methods) and not _has_times(dataset):
            raise DataError(
                f"{dataset}: splits by time need timestamps, and it has none; prepare it with a timestamp column, or "
                "choose other splits with --set methods=…"
            )
        if any(method in ONE_CLOCK for method in methods) and not _has_clock(dataset):
            raise DataError(
                f"{dataset} has positions in each user's history instead of times, so it cannot be split at one moment;"
                " choose other splits, for instance --set methods=random,temporal"
            )
        for method in methods:
            for model in config.models or MODELS:
                base = settled(config, dataset, model, next(iter(config.sets)))
                # the same settings under every split, so that only the split differs
                base = base.with_(
                    split={"split": method, "seed": 0}, variant=method, extra={**base.extra, "final": True}
                )
                trials[base.dataset_name, method, model] = [base.with_(seed=seed) for seed in config.seeds_of(model)]
    return trials


@lru_cache
def _has_times(dataset: str) -> bool:
    from lirdrec.data.column_names import SPLITS
    from lirdrec.data.readers import read_any

    data = read_any(dataset)
    return all(data.split(name).timestamps is not None for name in SPLITS if len(data.split(name)))


@lru_cache
def _has_clock(dataset: str) -> bool:
    from lirdrec.data.positions_or_times import timestamps_are_times
    from lirdrec.data.readers import read_any

    return timestamps_are_times(read_any(dataset).info)
