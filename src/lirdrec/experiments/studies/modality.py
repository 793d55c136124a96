"""Experiment "modality" (Table IV of the paper): each modality removed, each alone, all together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lirdrec.errors import DataError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import variants
from lirdrec.experiments.studies.compare import uses_features
from lirdrec.experiments.studies.sentences import format_mean_sd, listed, over
from lirdrec.experiments.studies.variants import Group, Study, Variant
from lirdrec.experiments.trial import TrialSpec
from lirdrec.reporting import Section

MODELS = ("lirdrec",)
ALL = "all modalities"


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """All sets of modalities with all seeds."""
    yield from variants.planned(_groups(config))


def report(config: ExperimentConfig, results: Results) -> Path:
    """A table, a figure, and the most important modality."""
    study = Study(_groups(config), results, config.metric)
    table = study.table("modality", "Modalities", f"{study.models} with subsets of the modalities.")
    figure = study.figure("modality", f"{study.stage.capitalize()} {study.metric} by modalities, {over(config.seeds)}.")
    return study.write_report(
        config,
        "Contribution of each modality",
        "How good are the recommendations without one modality, and with one alone?",
        _answer,
        Section("Modalities", [table, *figure]),
    )


def sets_of(modalities: Sequence[str]) -> list[Variant]:
    """Variants: all modalities, all but one, single ones; with two modalities, the last two kinds are the same.

    Raises:
        DataError: fewer than two modalities.
    """
    names = tuple(modalities)
    if len(names) < 2:
        have = f"only {names[0]!r}" if names else "no features"
        raise DataError(f"the experiment compares subsets of modalities, and there is {have}; it needs two or more")
    subsets = [Variant(ALL)]
    if len(names) > 2:
        subsets += [Variant(f"w/o {name}", modalities=tuple(n for n in names if n != name)) for name in names]
    return subsets + [Variant(f"{name} only", modalities=(name,)) for name in names]


def _answer(study: Study, group: Group) -> str:
    text = study.describe(group)
    # of two modalities, the variant without one is the variant with the other alone
    single = {name.removesuffix(" only"): name for name in group.trials if name.endswith(" only")}
    without = {name.removeprefix("w/o "): name for name in group.trials if name.startswith("w/o ")}
    if len(single) == 2:
        without = dict(zip(single, reversed(single.values()), strict=True))
    measures = {
        name: measure for name, variant in without.items() if (measure := study.measure(group, variant)) is not None
    }
    base = study.measure(group, group.reference)
    if not measures or base is None:
        return text
    missed = min(measures, key=lambda name: measures[name].mean)
    if measures[missed].mean < base.mean:
        text += f" **{missed}** matters most: without it, the metric is {format_mean_sd(measures[missed])}."
    useless = [name for name, measure in measures.items() if measure.mean >= base.mean]
    return text + (f" Removing {listed(useless)} does not lower it." if useless else "")


def _groups(config: ExperimentConfig) -> list[Group]:
    models = [model for model in config.models or MODELS if uses_features(model)]
    return variants.groups(config, models, sets_of)
