"""What each part of LIRDRec brings (Table III of the paper): one part changed or left out at a time."""

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
# every variant says both, since tuning may have chosen equal weights: "full" is the model as it was published
FULL = {"pwc": "released", "dct": "features"}
VARIANTS = (
    Variant("full", FULL),
    Variant("w/o PWC", {**FULL, "pwc": None}),
    Variant(
        "uniform weights",
        {**FULL, "pwc": "uniform"},
        note="Uniform weights: α = 1/K for every user, nothing is learned.",
    ),
    Variant(
        "PWC on logits",
        {**FULL, "pwc": "logits"},
        note="PWC on logits: θ receives logits instead of softmaxed weights.",
    ),
    Variant("w/o DCT", {**FULL, "dct": None}),
    Variant(
        "DCT over matrix",
        {**FULL, "dct": "matrix"},
        note="DCT over matrix: Eq. 12 read literally mixes the items, so it cannot take new ones.",
    ),
)
# in a sentence
TOLD = {"full": "the full model", "w/o PWC": "without PWC", "w/o DCT": "without DCT"}


def plan(context: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Every variant with every seed."""
    yield from variants.planned(_groups(context))


def report(context: ExperimentConfig, results: Results) -> Path:
    """One table, one figure, and which parts matter."""
    study = Study(_groups(context), results, context.metric)
    notes = [one.note for one in VARIANTS if one.note]
    table = study.table("ablation", "Variant", "LIRDRec with one part changed at a time.", notes)
    figure = study.picture("ablation", f"Test {study.metric} of the variants, {over(context.seeds)}.")
    return variants.write(
        context,
        results,
        study,
        title="What each part of LIRDRec brings",
        question="Does LIRDRec get worse when one of its parts is changed or left out?",
        answer=" ".join(_answer(study, group) for group in study.found),
        sections=[Section("Variants", [table, *figure])],
    )


def _answer(study: Study, group: Group) -> str:
    text = study.sentences(group, TOLD)
    worse = [one for one in list(group.cells)[1:] if study.differs(group, one) < 0]
    better = [one for one in list(group.cells)[1:] if study.differs(group, one) > 0]
    if not study.tests:
        return text
    said = (
        f"Shown to be worse than the full model: {listed(TOLD.get(one, one) for one in worse)}."
        if worse
        else "None is shown to be worse than the full model."
    )
    return f"{text} {said}" + (
        f" Shown to be better: {listed(TOLD.get(one, one) for one in better)}." if better else ""
    )


def _groups(context: ExperimentConfig) -> list[Group]:
    for model in context.models:
        if model not in MODELS:
            raise ConfigError(f"ablation takes lirdrec apart; it knows no parts of {model}: leave out --models")
    return variants.groups(context, MODELS, lambda dataset, model, modalities: VARIANTS)
