"""Does the split decide who is best? The same models under several splits of the same interactions.

`random` holds out pairs of each user at random (the paper's protocol), `temporal` the latest pairs of each user,
`global_time` all pairs after one moment: only there does training know nothing of the future.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lirdrec.data.splits import METHODS
from lirdrec.errors import ConfigError, DataError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sentences
from lirdrec.experiments.studies.defaults import settled
from lirdrec.experiments.trial import TrialSpec
from lirdrec.reporting import Column, Measure, Report, Row, Section, Table, bars, label

MODELS = ("popularity", "item_knn", "lightgcn", "vbpr", "freedom", "lirdrec")
SETTINGS = {"methods": (("random", "temporal", "global_time"), "splits to compare")}
NAMED = {
    "random": "random per user",
    "temporal": "time per user",
    "global_time": "one moment for all",
    "leave_last_out": "last one out",
    "cold_items": "unseen items",
}
BY_TIME = ("temporal", "global_time", "leave_last_out")


def plan(context: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Every model under every split with every seed."""
    for cells in _cells(context).values():
        yield from cells


def report(context: ExperimentConfig, results: Results) -> Path:
    """Figures by split, places by split, and how well the splits agree."""
    import polars as pl

    metrics = sentences.metrics_of(results, "test", (context.metric,))
    metric = context.metric if context.metric in metrics or not metrics else metrics[0]
    shown = [name for name in dict.fromkeys((metric, "recall@20", "ndcg@20")) if name in metrics]
    methods = _methods(context)
    found: dict[tuple[str, str, str], list[Any]] = {}
    for (dataset, method, model), cells in _cells(context).items():
        found[dataset, method, model] = [one for one in map(results.get, cells) if one is not None]
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in found))
    models = list(dict.fromkeys(model for _, _, model in found))
    figures = {place: sentences.measured(some, metric, "test") for place, some in found.items()}
    by_dataset = {one: {m: _column(figures, one, m, models) for m in methods} for one in datasets}
    many = len(datasets) > 1
    columns = [Column("model", "Model", format="text")]
    columns += [Column(f"{m} {x}", label(x), NAMED.get(m, m), "higher") for m in methods for x in shown]
    places = [Column("model", "Model", format="text")]
    places += [Column(m, NAMED.get(m, m), "Place", None, "count", 0) for m in methods]
    rows, ranks = [], []
    for dataset in datasets:
        for model in models:
            shown_cells: dict[str, Any] = {"model": label(model)}
            for m in methods:
                some = found.get((dataset, m, model), [])
                for x in shown:
                    shown_cells[f"{m} {x}"] = sentences.measured(some, x, "test") or next(
                        (one.status for one in some if not one.done), None
                    )
            rows.append(Row(shown_cells, label(dataset) if many else "", accent=model == "lirdrec"))
            place = {m: float(rank[model]) for m in methods if model in (rank := _ranks(by_dataset[dataset][m]))}
            ranks.append(Row({"model": label(model), **place}, label(dataset) if many else "", model == "lirdrec"))
    tidy = [
        {"dataset": d, "split": NAMED.get(m, m), "model": model, "value": one.figure(metric, "test")}
        for (d, m, model), some in found.items()
        for one in some
        if one.done and one.figure(metric, "test") is not None
    ]
    drawn = []
    if tidy:
        drawn = [
            bars(
                pl.DataFrame(tidy),
                "splits",
                x="split",
                series="model",
                panel="dataset" if many else None,
                y_label=f"test {label(metric)}",
                caption=f"Test {metric} of the models under each split, {sentences.over(context.seeds)}.",
            )
        ]
    return Report(
        title="Does the split decide who is best?",
        question="How do the figures of the models, and their order, change with the way the data are split?",
        answer=" ".join(_answer(one, by_dataset[one], metric) for one in datasets),
        sections=[
            Section("Figures", [*drawn, Table("splits", columns, rows, "Test figures by split.")]),
            Section("Order", [Table("splits-order", places, ranks, f"Places by test {metric}; 1 is the best.")]),
            *sentences.failures(results),
        ],
        settings=sentences.settings(context) | {"methods": ", ".join(methods)},
        commands=sentences.commands(context),
        name=results.experiment,
    ).write(context.output, results, context.formats)


def kendall(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Kendall's τ-b of two rankings of the same models; None with fewer than two models in both, or only ties."""
    from scipy import stats

    names = [name for name in one if name in other]
    if len(names) < 2:
        return None
    tau = float(stats.kendalltau([one[n] for n in names], [other[n] for n in names]).statistic)
    return None if tau != tau else tau


def _column(figures: Mapping[Any, Measure | None], dataset: str, method: str, models: list[str]) -> dict[str, float]:
    known = {model: figures.get((dataset, method, model)) for model in models}
    return {model: measure.mean for model, measure in known.items() if measure is not None}


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """1 for the best; equal figures share the better place."""
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}


def _answer(dataset: str, by_method: Mapping[str, Mapping[str, float]], metric: str) -> str:
    methods = [method for method, values in by_method.items() if values]
    if not methods:
        return f"On {label(dataset)} there is no figure."
    said = []
    for method in methods:
        values = by_method[method]
        best = max(values, key=values.__getitem__)
        said.append(f"**{label(best)}** ({NAMED.get(method, method)}, {values[best]:.4f})")
    text = f"On {label(dataset)}, the best model by test {metric} is {sentences.listed(said)}."
    first = methods[0]
    for method in methods[1:]:
        tau = kendall(by_method[first], by_method[method])
        shared = [model for model in by_method[first] if model in by_method[method]]
        told = "" if tau is None else f"Kendall's τ {tau:.2f}".replace("-", "−")
        one, other = (_ranks({m: by_method[at][m] for m in shared}) for at in (first, method))
        moved = max(shared, key=lambda model: abs(one[model] - other[model]), default=None)
        if moved is not None and one[moved] != other[moved]:
            told += f"{', ' if told else ''}{label(moved)} moves most, from place {one[moved]} to {other[moved]}"
        elif moved is not None:
            told += f"{', ' if told else ''}every model keeps its place"
        mean = [sum(by_method[at][m] for m in shared) / max(1, len(shared)) for at in (first, method)]
        text += (
            f" From {NAMED.get(first, first)} to {NAMED.get(method, method)}: {told}; figures change by "
            f"{sentences.format_gain(mean[1], mean[0])} on average."
        )
    return text


def _methods(context: ExperimentConfig) -> list[str]:
    given = context.setting("methods", SETTINGS["methods"][0])
    methods = list(dict.fromkeys([given] if isinstance(given, str) else given))
    for one in methods:
        if one not in METHODS or one == "none":
            known = ", ".join(m for m in METHODS if m != "none")
            raise ConfigError(f"methods: there is no split '{one}' to test on; choose among {known}")
    if len(methods) < 2:
        raise ConfigError("methods names one split; two or more are needed to compare, for instance random,global_time")
    return methods


def _cells(context: ExperimentConfig) -> dict[tuple[str, str, str], list[TrialSpec]]:
    """(dataset's name, method, model) → cells."""
    methods = _methods(context)
    found: dict[tuple[str, str, str], list[TrialSpec]] = {}
    for dataset in context.datasets:
        if any(method in BY_TIME for method in methods) and not _has_times(dataset):
            raise DataError(
                f"{dataset}: splits by time need timestamps, and it has none; prepare it with a timestamp column, or "
                "choose others with --set methods=…"
            )
        for method in methods:
            for model in context.models or MODELS:
                base = settled(context, dataset, model, next(iter(context.sets)))
                # the same settings under every split: the question is what the split does, not what tuning does
                base = base.with_(split={"split": method, "seed": 0}, variant=method, extra={"final": True})
                cells = [base.with_(seed=seed) for seed in context.seeds_of(model)]
                found[base.dataset_name, method, model] = cells
    return found


@lru_cache
def _has_times(dataset: str) -> bool:
    from lirdrec.data.readers import read_any
    from lirdrec.data.schema import SPLITS

    data = read_any(dataset)
    return all(data.split(name).timestamps is not None for name in SPLITS if len(data.split(name)))
