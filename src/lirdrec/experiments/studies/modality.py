"""Experiment "modality" (Table IV of the paper): train with all modalities, without each one, and with each one alone.

Controls ask whether a model uses the content of its features, or only gains from having more parameters: features
shuffled over the items, noise with the same singular values, and a modality removed after the training ("Are
Multimodal Embeddings Truly Beneficial for Recommendation?", ECIR 2026, arXiv 2508.07399, which uses constant and random
features; see also arXiv 2508.05377). `--set controls=false` leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lirdrec.errors import DataError
from lirdrec.experiments import feature_controls
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import variant_study
from lirdrec.experiments.studies.compare import uses_features
from lirdrec.experiments.studies.report_parts import format_gain, format_mean_sd, listed, over
from lirdrec.experiments.studies.variant_study import Group, Study, Variant
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.reporting import Section

MODELS = ("lirdrec",)
ALL = "all modalities"
SETTINGS = {
    "controls": (True, "also train with shuffled features and with noise, and remove each modality after the training")
}
SHUFFLED, NOISE = "features shuffled over the items", "noise of the same spectrum"
KNOCKED_OUT = "knocked out after training"
NOTES = (
    f"{SHUFFLED.capitalize()}: each item has the vector of another one. {NOISE.capitalize()}: random vectors with the "
    "same mean and singular values. Both have as many parameters, and their validation is of the changed features.",
    f"{KNOCKED_OUT.capitalize()}: trained with all modalities; then no item has this one.",
)


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the trials of all sets of modalities, and of the controls, with all seeds."""
    yield from variant_study.planned(_groups(config))


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report: a table, a figure, the most important modality, the use of content; return its path."""
    study = Study(_groups(config), results, config.metric)
    caption = f"{study.models} with subsets of the modalities."
    table = study.table("modality", "Modalities", caption, NOTES if config.setting("controls", True) else ())
    figure = study.figure("modality", f"{study.stage.capitalize()} {study.metric} by modalities, {over(config.seeds)}.")
    return study.write_report(
        config,
        "Contribution of each modality",
        "How good are the recommendations without one modality, with one alone, and with features without content?",
        _answer,
        Section("Modalities", [table, *figure]),
    )


def sets_of(modalities: Sequence[str]) -> list[Variant]:
    """Return the variants: all modalities, all but one, and each one alone.

    With two modalities, "all but one" is left out, since it is the same as "each one alone".

    Raises:
        DataError: there are fewer than two modalities.
    """
    names = tuple(modalities)
    if len(names) < 2:
        have = f"only {names[0]!r}" if names else "no features"
        raise DataError(
            f"the experiment compares subsets of modalities and needs two or more; this dataset, or"
            f" the set of --features, has {have}"
        )
    subsets = [Variant(ALL)]
    if len(names) > 2:
        subsets += [Variant(f"w/o {name}", modalities=tuple(n for n in names if n != name)) for name in names]
    return subsets + [Variant(f"{name} only", modalities=(name,)) for name in names]


def controls_of(modalities: Sequence[str]) -> list[Variant]:
    """Return the control variants: shuffled features, noise, and each modality removed after the training."""
    kinds = {SHUFFLED: feature_controls.SHUFFLED, NOISE: feature_controls.NOISE}
    trained = [Variant(name, work=feature_controls.WORK, extra={"control": kind}) for name, kind in kinds.items()]
    return trained + [
        Variant(
            f"{name} {KNOCKED_OUT}",
            work=feature_controls.WORK,
            extra={"control": feature_controls.KNOCKED_OUT, "knocked_out": name},
        )
        for name in modalities
    ]


def _content(study: Study, group: Group) -> str:
    """Return a sentence: does the content of the features matter, or only the parameters that they add?

    Return "" without the results of both trained controls.
    """
    base = study.measure(group, group.reference)
    measures = {name: study.measure(group, name) for name in (SHUFFLED, NOISE) if name in group.trials}
    found = {name: measure for name, measure in measures.items() if measure is not None}
    if base is None or len(found) < 2:
        return ""
    best = max(found, key=lambda name: found[name].mean)
    loss = format_gain(found[best].mean, base.mean)
    if found[best].mean >= base.mean:
        return f" **No use of content is shown**: the model is as good with {best}, with as many parameters."
    several = min(base.n, *(measure.n for measure in found.values())) > 1
    if several and all(study.differs(group, name) == -1 for name in found):
        return (
            f" **The model uses the content of the features**: with as many parameters and features without content it"
            f" is significantly worse ({loss} with {best}, the better of the two controls)."
        )
    why = "the difference is not significant" if several else "one seed does not show how trainings vary"
    return f" Features without content are worse ({loss} with {best}), which suggests a use of content; {why}."


def _answer(study: Study, group: Group) -> str:
    text = study.describe(group) + _content(study, group)
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
    with_controls = bool(config.setting("controls", True))

    def tried(model: str, names: tuple[str, ...]) -> list[Variant]:
        return sets_of(names) + (controls_of(names) if with_controls else [])

    return variant_study.groups(config, models, tried)
