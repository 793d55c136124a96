"""Experiment "layers" (Fig. 6 of the paper): number of layers over the user-item graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import variants
from lirdrec.experiments.studies.sentences import count, format_mean_sd, listed, over
from lirdrec.experiments.studies.variants import Group, Study, Variant
from lirdrec.experiments.trial import TrialSpec
from lirdrec.models.registry import config_type
from lirdrec.reporting import Section, label, lines

MODELS = ("lirdrec",)
SETTINGS = {"layers": ((1, 2, 3, 4), "numbers of user-item layers to try")}
OPTION = "n_layers"


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """All numbers of layers with all seeds."""
    yield from variants.planned(_groups(config))


def report(config: ExperimentConfig, results: Results) -> Path:
    """A figure of the metric over the number of layers, a table, and the best number."""
    import polars as pl

    study = Study(_groups(config), results, config.metric)
    names = listed(dict.fromkeys(label(group.model) for group in study.found))
    table = study.table("layers", "Layers", f"{names} by number of layers.")
    frame = study.frame().filter(pl.col("metric") == study.metric)
    frame = frame.with_columns(pl.col("variant").cast(pl.Int64).alias("layers"))
    drawn = []
    if frame.height:
        many = len(study.found) > 1
        drawn = [
            lines(
                frame,
                "layers",
                x="layers",
                panel="group" if many else None,
                x_label="layers over the user-item graph",
                y_label=f"{study.stage} {label(study.metric)}",
                points=True,
                caption=f"{study.stage.capitalize()} {study.metric} by the number of layers, {over(config.seeds)}.",
            )
        ]
    return variants.write(
        config,
        results,
        study,
        title="Number of layers",
        question="How many layers of propagation over the user-item graph are best, and does the number matter?",
        answer=" ".join(_answer(study, group) for group in study.found),
        sections=[Section("Layers", [*drawn, table])],
    )


def _answer(study: Study, group: Group) -> str:
    known = {one: study.measure(group, one) for one in group.cells}
    figures = {one: measure for one, measure in known.items() if measure is not None}
    if not figures:
        return f"On {label(group.dataset)} there are no results."
    best, worst = (pick(figures, key=lambda one: figures[one].mean) for pick in (max, min))
    where = f"On {label(group.dataset)}" + (f" ({group.name})" if len(study.found) > 1 else "")
    text = f"{where}, **{count(int(best), 'layer')}** reach{'es' if best == '1' else ''} the best {study.stage} "
    text += f"{study.metric}, **{format_mean_sd(figures[best])}**"
    if best != worst:
        share = 100 * (figures[best].mean - figures[worst].mean) / max(figures[best].mean, 1e-12)
        text += (
            f"; {count(int(worst), 'layer')} the worst, {format_mean_sd(figures[worst])}, which is {share:.1f} % less"
        )
    # the number of layers must be chosen on validation, so report that choice, too
    if study.stage == "test":
        valid = {one: study.measure(group, one, stage="valid") for one in group.cells}
        seen = {one: measure.mean for one, measure in valid.items() if measure is not None}
        if seen:
            chosen = max(seen, key=seen.__getitem__)
            text += f". Validation chooses {count(int(chosen), 'layer')}"
    return text + "."


def _groups(config: ExperimentConfig) -> list[Group]:
    given = config.setting("layers", SETTINGS["layers"][0])
    numbers = [given] if isinstance(given, int) else list(given)
    if not numbers or not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        raise ConfigError(f"layers is {given!r}; give integers, for instance --set layers=[1,2,3]")
    models = config.models or MODELS
    for model in models:
        if OPTION not in {one.name for one in fields(config_type(model))}:
            raise ConfigError(f"{model} has no layers over the user-item graph; name other models")
    found = [Variant(str(one), {OPTION: one}) for one in dict.fromkeys(numbers)]
    return variants.groups(config, models, lambda dataset, model, modalities: found)
