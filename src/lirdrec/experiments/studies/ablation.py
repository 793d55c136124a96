"""Experiment "ablation" (Table III of the paper): one part of LIRDRec changed or removed at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import variants
from lirdrec.experiments.studies.sentences import listed, over
from lirdrec.experiments.studies.variants import Group, Study, Variant
from lirdrec.experiments.trial import TrialSpec
from lirdrec.reporting import Section

MODELS = ("lirdrec",)
# every variant sets both options, since tuning may have chosen others: "full" is the published model
FULL = {"pwc": "released", "dct": "features"}
VARIANTS = (
    Variant("full", FULL),
    Variant("w/o PWC", {**FULL, "pwc": None}),
    Variant("uniform weights", {**FULL, "pwc": "uniform"}),
    Variant("PWC on logits", {**FULL, "pwc": "logits"}),
    Variant("w/o DCT", {**FULL, "dct": None}),
    Variant("DCT over matrix", {**FULL, "dct": "matrix"}),
)
NOTES = (
    "Uniform weights: α = 1/K for every user, nothing is learned.",
    "PWC on logits: θ receives logits instead of softmaxed weights.",
    "DCT over matrix: Eq. 12 read literally mixes the items, so it cannot take new ones.",
)
# names of variants in sentences
TITLES = {"full": "the full model", "w/o PWC": "without PWC", "w/o DCT": "without DCT"}


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """All variants with all seeds."""
    yield from variants.planned(_groups(config))


def report(config: ExperimentConfig, results: Results) -> Path:
    """A table, a figure, and the parts that matter."""
    study = Study(_groups(config), results, config.metric)
    table = study.table("ablation", "Variant", "LIRDRec with one part changed at a time.", NOTES)
    figure = study.figure("ablation", f"Test {study.metric} of the variants, {over(config.seeds)}.")
    return study.write_report(
        config,
        "Contribution of each part of LIRDRec",
        "Is LIRDRec worse when one of its parts is changed or removed?",
        _answer,
        Section("Variants", [table, *figure]),
    )


def _answer(study: Study, group: Group) -> str:
    text = study.describe(group, TITLES)
    if not study.tests:
        return text
    worse, better = (
        [TITLES.get(variant, variant) for variant in list(group.trials)[1:] if study.differs(group, variant) == sign]
        for sign in (-1, 1)
    )
    if worse:
        text += f" Shown to be worse than the full model: {listed(worse)}."
    else:
        text += " None is shown to be worse than the full model."
    return text + (f" Shown to be better: {listed(better)}." if better else "")


def _groups(config: ExperimentConfig) -> list[Group]:
    for model in config.models:
        if model not in MODELS:
            raise ConfigError(f"the ablation is defined for lirdrec only, not for {model}; omit --models")
    return variants.groups(config, MODELS, lambda modalities: VARIANTS)
