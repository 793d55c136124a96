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
from lirdrec.reporting import Section, label

MODELS = ("lirdrec",)
ALL = "all modalities"


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """All sets of modalities with all seeds."""
    yield from variants.planned(_groups(config))


def report(config: ExperimentConfig, results: Results) -> Path:
    """A table, a figure, and the most important modality."""
    study = Study(_groups(config), results, config.metric)
    names = listed(dict.fromkeys(label(group.model) for group in study.found))
    table = study.table("modality", "Modalities", f"{names} with subsets of the modalities.")
    drawn = study.figure("modality", f"{study.stage.capitalize()} {study.metric} by modalities, {over(config.seeds)}.")
    return variants.write(
        config,
        results,
        study,
        title="Contribution of each modality",
        question="How good are the recommendations without one modality, and with one alone?",
        answer=" ".join(_answer(study, group) for group in study.found),
        sections=[Section("Modalities", [table, *drawn])],
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
    found = [Variant(ALL)]
    if len(names) > 2:
        found += [Variant(f"w/o {one}", modalities=tuple(n for n in names if n != one)) for one in names]
    return found + [Variant(f"{one} only", modalities=(one,)) for one in names]


def _answer(study: Study, group: Group) -> str:
    text = study.describe(group)
    # of two modalities, the variant without one is the variant with the other alone
    single = {one.removesuffix(" only"): one for one in group.cells if one.endswith(" only")}
    without = {one.removeprefix("w/o "): one for one in group.cells if one.startswith("w/o ")}
    if len(single) == 2:
        first, second = single
        without = {first: single[second], second: single[first]}
    known = {one: study.measure(group, variant) for one, variant in without.items()}
    figures = {one: measure for one, measure in known.items() if measure is not None}
    base = study.measure(group, group.reference)
    if not figures or base is None:
        return text
    missed = min(figures, key=lambda one: figures[one].mean)
    if figures[missed].mean < base.mean:
        text += f" **{missed}** matters most: without it, the metric is {format_mean_sd(figures[missed])}."
    useless = [one for one, measure in figures.items() if measure.mean >= base.mean]
    if useless:
        text += f" Removing {listed(useless)} does not lower it."
    return text


def _groups(config: ExperimentConfig) -> list[Group]:
    models = [model for model in config.models or MODELS if uses_features(model)]
    return variants.groups(config, models, lambda dataset, model, modalities: sets_of(modalities))
