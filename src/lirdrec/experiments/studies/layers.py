"""Experiment "layers" (Fig. 6 of the paper): number of layers over the user-item graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig, option_names
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import variant_study
from lirdrec.experiments.studies.report_parts import count, draw, format_mean_sd, over
from lirdrec.experiments.studies.variant_study import Group, Study, Variant
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.reporting import Section, label, lines

MODELS = ("lirdrec",)
SETTINGS = {"layers": ((1, 2, 3, 4), "numbers of user-item layers to try")}
OPTION = "n_layers"


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the trials of all numbers of layers with all seeds."""
    yield from variant_study.planned(_groups(config))


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report: a figure of the metric by number of layers, a table, and the best number; return its path."""
    study = Study(_groups(config), results, config.metric)
    table = study.table("layers", "Layers", f"{study.models} by number of layers.")
    figures = draw(
        lines,
        [(group, int(layers), value) for group, layers, value in study.values()],
        ["group", "layers", "value"],
        "layers",
        x="layers",
        panel=study.panel,
        x_label="layers over the user-item graph",
        y_label=f"{study.stage} {label(study.metric)}",
        points=True,
        caption=f"{study.stage.capitalize()} {study.metric} by the number of layers, {over(config.seeds)}.",
    )
    return study.write_report(
        config,
        "Number of layers",
        "How many layers of propagation over the user-item graph are best, and does the number matter?",
        _answer,
        Section("Layers", [*figures, table]),
    )


def _answer(study: Study, group: Group) -> str:
    measures = {layers: measure for layers in group.trials if (measure := study.measure(group, layers)) is not None}
    if not measures:
        return f"On {label(group.dataset)} there are no results."
    best, worst = (pick(measures, key=lambda layers: measures[layers].mean) for pick in (max, min))
    text = f"{study.on_dataset(group)}, **{count(int(best), 'layer')}** reach{'es' if best == '1' else ''} the best "
    text += f"{study.stage} {study.metric}, **{format_mean_sd(measures[best])}**"
    if best != worst:
        share = 100 * (measures[best].mean - measures[worst].mean) / max(measures[best].mean, 1e-12)
        text += f"; {count(int(worst), 'layer')} the worst, {format_mean_sd(measures[worst])} ({share:.1f} % less)"
    # the number of layers must be chosen on validation, so report that choice, too
    valid = {
        layers: measure.mean for layers in group.trials if (measure := study.measure(group, layers, stage="valid"))
    }
    if study.stage == "test" and valid:
        text += f". Validation chooses {count(int(max(valid, key=valid.__getitem__)), 'layer')}"
    return text + "."


def _groups(config: ExperimentConfig) -> list[Group]:
    given = config.setting("layers", SETTINGS["layers"][0])
    numbers = [given] if isinstance(given, int) else list(given)
    if not numbers or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise ConfigError(f"layers is {given!r}; give integers, for instance --set layers=[1,2,3]")
    models = config.models or MODELS
    for model in models:
        if OPTION not in option_names(model):
            raise ConfigError(f"{model} has no layers over the user-item graph; choose other models with --models")
    tried = [Variant(str(number), {OPTION: number}) for number in dict.fromkeys(numbers)]
    return variant_study.groups(config, models, lambda model, modalities: tried)
