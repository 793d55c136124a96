"""Experiment "sensitivity" (Fig. 5 of the paper: λ and the weight w of PWC): a grid of two settings.

Validation only: the test must not be used to choose settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sentences
from lirdrec.experiments.studies.defaults import settled
from lirdrec.experiments.trial import TrialSpec
from lirdrec.models.registry import config_type
from lirdrec.reporting import Measure, Report, Section, Table, heatmap, label
from lirdrec.training.config import TrainConfig

MODELS = ("lirdrec",)
SETTINGS = {
    "down": ("regularization", "option that differs between the rows of the grid"),
    "down_values": ((1e-1, 1e-2, 1e-3, 1e-4, 1e-5), "its values"),
    "across": ("pwc_weight", "option that differs between the columns"),
    "across_values": ((0.7, 0.8, 0.9, 0.95, 0.99), "its values"),
}


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """All points of the grid with all seeds."""
    for _, _, cells in _grid(config):
        yield from cells


def report(config: ExperimentConfig, results: Results) -> Path:
    """A heat map for each dataset and model, and the difference between the best and the worst settings."""
    import polars as pl

    down, across = _names(config)
    rows: list[dict[str, Any]] = []
    places: dict[str, dict[tuple[Any, Any], Measure]] = {}
    for group, (a, b), cells in _grid(config):
        found = [results.get(cell) for cell in cells]
        for one in found:
            value = None if one is None or not one.done else one.figure(config.metric)
            if one is not None and value is not None:
                rows.append({"group": group, down: a, across: b, "seed": one.cell.seed, "value": value})
        measure = sentences.measured(found, config.metric, "valid")
        if measure is not None:
            places.setdefault(group, {})[a, b] = measure
    blocks: list[Any] = []
    if rows:
        frame = pl.DataFrame(rows)
        many = len(places) > 1
        caption = f"Validation {config.metric}, {sentences.over(config.seeds)}; the best is framed."
        blocks.append(
            heatmap(
                frame,
                "sensitivity",
                x=across,
                y=down,
                panel="group" if many else None,
                x_label=across,
                y_label=down,
                caption=caption,
            )
        )
        blocks.append(
            Table.pivot(frame, "sensitivity", [down], [across], block="group" if many else None, labels=_short)
        )
    return Report(
        title="Sensitivity to settings",
        question=f"How does validation {config.metric} change with {down} and {across}?",
        answer=" ".join(_answer(config, group, found) for group, found in places.items()) or "There are no results.",
        sections=[Section("The grid", blocks), *sentences.failures(results)],
        settings=sentences.settings(config),
        commands=sentences.commands(config),
        name=results.experiment,
    ).write(config.output, results, config.formats)


def _answer(config: ExperimentConfig, group: str, found: dict[tuple[Any, Any], Measure]) -> str:
    down, across = _names(config)
    best, worst = (pick(found, key=lambda at: found[at].mean) for pick in (max, min))
    top, low = found[best].mean, found[worst].mean
    places = [f"{down} = {a:g} and {across} = {b:g}" for a, b in (best, worst)]
    text = (
        f"On {group}, validation {config.metric} is best, **{sentences.format_mean_sd(found[best])}**, at "
        f"{places[0]}; worst, {sentences.format_mean_sd(found[worst])}, at {places[1]}."
    )

    def spread(at: int) -> float:
        """Range over this option's values, averaged over the values of the other option."""
        differences = []
        for other in dict.fromkeys(place[1 - at] for place in found):
            values = [measure.mean for place, measure in found.items() if place[1 - at] == other]
            differences.append(max(values) - min(values))
        return sum(differences) / len(differences)

    if top > low:
        shares = {name: 100 * spread(at) / top for at, name in enumerate((down, across))}
        more = max(shares, key=shares.__getitem__)
        less = across if more == down else down
        text += (
            f" {more} matters more: with the other option fixed, the metric varies by {shares[more]:.1f} % of "
            f"the best value, for {less} by {shares[less]:.1f} %."
        )
    noise = [measure.sd for measure in found.values() if measure.sd is not None]
    if noise:
        mean_sd = sum(noise) / len(noise)
        within = sum(top - measure.mean <= mean_sd for measure in found.values())
        text += f" {within} of {len(found)} settings are within one sd over the seeds ({mean_sd:.4f}) of the best."
    else:
        text += " One seed does not show how much of this is random: use more (--seeds)."
    return text


def _grid(config: ExperimentConfig) -> Iterator[tuple[str, tuple[Any, Any], list[TrialSpec]]]:
    """Name of the group, values (down, across), trials."""
    down, across = _names(config)
    values = [_values(config, name) for name in ("down_values", "across_values")]
    many_models, many_sets = len(config.models or MODELS) > 1, len(config.sets) > 1
    training = {one.name for one in fields(TrainConfig)}
    for dataset in config.datasets:
        for model in config.models or MODELS:
            for name in (down, across):
                if name not in training | {one.name for one in fields(config_type(model))}:
                    raise ConfigError(f"{model} has no option '{name}'; say which to change with --set down=… across=…")
            for feature_set in config.sets:
                base = settled(config, dataset, model, feature_set)
                said = [label(base.dataset_name)]
                said += [label(model)] * many_models + [feature_set] * (many_sets and bool(feature_set))
                for point in product(*values):
                    cell = base
                    for name, value in zip((down, across), point, strict=True):
                        where = "training" if name in training else "model_options"
                        cell = cell.with_(**{where: {**getattr(cell, where), name: value}})
                    point_name = f"{down} {point[0]:g}, {across} {point[1]:g}"
                    cells = [cell.with_(seed=seed, variant=point_name) for seed in config.seeds_of(model)]
                    yield " · ".join(said), point, cells


def _names(config: ExperimentConfig) -> tuple[str, str]:
    down, across = (str(config.setting(name, SETTINGS[name][0])) for name in ("down", "across"))
    if down == across:
        raise ConfigError(f"down and across are both '{down}'; a grid needs two options")
    return down, across


def _values(config: ExperimentConfig, name: str) -> Sequence[Any]:
    given = config.setting(name, SETTINGS[name][0])
    found = list(given) if isinstance(given, (list, tuple)) else [given]
    if not found or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in found):
        raise ConfigError(f"{name} is {given!r}; give numbers, for instance --set {name}=[0.1,0.2]")
    return found


def _short(name: Any) -> str:
    return f"{name:g}" if isinstance(name, float) else label(name)
