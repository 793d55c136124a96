"""Experiment "sensitivity" (Fig. 5 of the paper: λ and the weight w of PWC): all pairs of values of two options.

Validation only: the test must not be used to choose settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig, option_names
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.search_spaces import all_numbers
from lirdrec.experiments.studies import report_parts
from lirdrec.experiments.studies.report_parts import format_mean_sd
from lirdrec.experiments.studies.trial_settings import settled
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.reporting import Measure, Section, Table, heatmap, label
from lirdrec.training.config import TrainConfig

MODELS = ("lirdrec",)
EVALUATION = ("mask_seen",)  # no other option has an effect, since only validation is scored
SETTINGS = {
    "down": ("regularization", "option that differs between the rows of the grid"),
    "down_values": ((1e-1, 1e-2, 1e-3, 1e-4, 1e-5), "values of the option in `down`"),
    "across": ("pwc_weight", "option that differs between the columns of the grid"),
    "across_values": ((0.7, 0.8, 0.9, 0.95, 0.99), "values of the option in `across`"),
}

Point = tuple[Any, Any]  # values (down, across)


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the trials of all points of the grid with all seeds."""
    for _, _, trials in _grid(config):
        yield from trials


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report: a heat map for each dataset and model, the best and the worst settings; return its path."""
    import polars as pl

    down, across = _names(config)
    rows: list[tuple[Any, ...]] = []
    measures: dict[str, dict[Point, Measure]] = {}
    for group, point, trials in _grid(config):
        values = [result.figure(config.metric) for result in results.done(trials)]
        rows += [(group, *point, value) for value in values if value is not None]
        measure = Measure.of(value for value in values if value is not None)
        if measure is not None:
            measures.setdefault(group, {})[point] = measure
    columns, panel = ["group", down, across, "value"], "group" if len(measures) > 1 else None
    caption = f"Validation {config.metric}, {report_parts.over(config.seeds)}; the best is framed."
    axes = {"x": across, "y": down, "x_label": across, "y_label": down}
    figure = report_parts.draw(heatmap, rows, columns, "sensitivity", panel=panel, caption=caption, **axes)
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    table = Table.pivot(frame, "sensitivity", [down], [across], block=panel, labels=_short)
    answers = [_answer(config, group, by_point) for group, by_point in measures.items()]
    return report_parts.write_report(
        config,
        results,
        "Sensitivity to settings",
        f"How does validation {config.metric} change with {down} and {across}?",
        " ".join(answers) or "There are no results.",
        [Section("The grid", [*figure, *([table] if rows else [])])],
    )


def _answer(config: ExperimentConfig, group: str, measures: Mapping[Point, Measure]) -> str:
    names = _names(config)
    best, worst = (pick(measures, key=lambda point: measures[point].mean) for pick in (max, min))
    top, low = measures[best].mean, measures[worst].mean
    first, last = (f"{names[0]} = {point[0]:g} and {names[1]} = {point[1]:g}" for point in (best, worst))
    text = (
        f"On {group}, validation {config.metric} is best, **{format_mean_sd(measures[best])}**, at "
        f"{first}; worst, {format_mean_sd(measures[worst])}, at {last}."
    )

    def spread(axis: int) -> float:
        """Return the range over the values of one option, averaged over the values of the other option."""
        lines: dict[Any, list[float]] = {}
        for point, measure in measures.items():
            lines.setdefault(point[1 - axis], []).append(measure.mean)
        return sum(max(values) - min(values) for values in lines.values()) / len(lines)

    if top > low:
        shares = [(100 * spread(axis) / top, name) for axis, name in enumerate(names)]
        (more_share, more), (less_share, less) = sorted(shares, key=lambda share: -share[0])
        text += (
            f" {more} matters more: with the other option fixed, the metric varies by {more_share:.1f} % of "
            f"the best value, for {less} by {less_share:.1f} %."
        )
    noise = [measure.sd for measure in measures.values() if measure.sd is not None]
    if noise:
        mean_sd = sum(noise) / len(noise)
        within = sum(top - measure.mean <= mean_sd for measure in measures.values())
        text += f" {within} of {len(measures)} settings are within one sd over the seeds ({mean_sd:.4f}) of the best."
    else:
        text += " One seed does not show how much of this is random: use more (--seeds)."
    return text


def _grid(config: ExperimentConfig) -> Iterator[tuple[str, Point, list[TrialSpec]]]:
    """Yield for each point of the grid: name of its heat map, its values (down, across), its trials, one per seed."""
    names, models = _names(config), config.models or MODELS
    values = [_values(config, name) for name in ("down_values", "across_values")]
    training = {entry.name for entry in fields(TrainConfig)}
    for dataset, model in product(config.datasets, models):
        for name in names:
            if name not in training | option_names(model):
                raise ConfigError(f"{model} has no option '{name}'; choose the two options with --set down=… across=…")
        for feature_set in config.sets:
            base = settled(config, dataset, model, feature_set)
            parts = [label(base.dataset_name)] + [label(model)] * (len(models) > 1)
            parts += [feature_set] * (len(config.sets) > 1 and bool(feature_set))
            for point in product(*values):
                changed = dict(zip(names, point, strict=True))
                trial = base.with_(
                    model_options={**base.model_options, **{k: v for k, v in changed.items() if k not in training}},
                    training={**base.training, **{k: v for k, v in changed.items() if k in training}},
                    variant=", ".join(f"{name} {value:g}" for name, value in changed.items()),
                )
                yield " · ".join(parts), point, [trial.with_(seed=seed) for seed in config.seeds_of(model)]


def _names(config: ExperimentConfig) -> tuple[str, str]:
    down, across = (str(config.setting(name, SETTINGS[name][0])) for name in ("down", "across"))
    if down == across:
        raise ConfigError(f"down and across are both '{down}'; a grid needs two options: --set down=… across=…")
    return down, across


def _values(config: ExperimentConfig, name: str) -> list[Any]:
    given = config.setting(name, SETTINGS[name][0])
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    if not values or not all_numbers(values):
        raise ConfigError(f"{name} is {given!r}; give numbers, for instance --set {name}=[0.1,0.2]")
    return values


def _short(name: Any) -> str:
    return f"{name:g}" if isinstance(name, float) else label(name)
