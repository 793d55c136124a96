"""Experiment "ablation" (Table III of the paper): one part of LIRDRec or LIRDRec-Seq changed or removed at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import variant_study
from lirdrec.experiments.studies.report_parts import listed, over
from lirdrec.experiments.studies.variant_study import Group, Study, Variant
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.reporting import Section, label

MODELS = ("lirdrec",)
# every variant sets both options, since tuning may have chosen other values; "full" is the published model
FULL = {"pwc": "released", "dct": "features"}
VARIANTS = (
    Variant("full", FULL),
    Variant("w/o PWC", {**FULL, "pwc": None}),
    Variant("uniform weights", {**FULL, "pwc": "uniform"}),
    Variant("PWC on logits", {**FULL, "pwc": "logits"}),
    Variant("w/o DCT", {**FULL, "dct": None}),
    Variant("DCT over matrix", {**FULL, "dct": "matrix"}),
)
# "full" has the defaults of LIRDRec-Seq
FULL_SEQUENTIAL = {"pwc": "learned", "item_graph": "transitions", "whiten": True, "encoder": "shared"}
SEQUENTIAL_VARIANTS = (
    Variant("full", FULL_SEQUENTIAL),
    Variant("PWC as released", {**FULL_SEQUENTIAL, "pwc": "released"}),
    Variant("PWC on logits", {**FULL_SEQUENTIAL, "pwc": "logits"}),
    Variant("uniform weights", {**FULL_SEQUENTIAL, "pwc": "uniform"}),
    Variant("w/o item graph", {**FULL_SEQUENTIAL, "item_graph": "none"}),
    Variant("graph of features", {**FULL_SEQUENTIAL, "item_graph": "features"}),
    Variant("both graphs", {**FULL_SEQUENTIAL, "item_graph": "both"}),
    Variant("w/o whitening", {**FULL_SEQUENTIAL, "whiten": False}),
    Variant("a transformer a branch", {**FULL_SEQUENTIAL, "encoder": "branches"}),
)
VARIANTS_OF = {"lirdrec": VARIANTS, "lirdrec_seq": SEQUENTIAL_VARIANTS}
NOTES = (
    "Uniform weights: α = 1/K for every user, nothing is learned.",
    "PWC on logits: θ receives logits instead of softmaxed weights.",
    "DCT over matrix: Eq. 12 read literally mixes the items, so it cannot take new ones.",
)
SEQUENTIAL_NOTES = (
    "Full: the weights of each step come from the network alone, and item vectors are smoothed over transitions.",
    "PWC as released, on logits: θ receives each user's mean weights or logits after an epoch.",
    NOTES[0],
)
# names of variants in sentences
TITLES = {
    "full": "the full model",
    "w/o PWC": "without PWC",
    "w/o DCT": "without DCT",
    "w/o item graph": "without the item graph",
    "w/o whitening": "without whitening",
}


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """Yield the trials of all variants of the models, with all seeds."""
    yield from variant_study.planned(_groups(config))


def report(config: ExperimentConfig, results: Results) -> Path:
    """Write the report: a table and a figure of the variants, and which ones are worse; return its path."""
    study = Study(_groups(config), results, config.metric)
    name = " and ".join(map(label, config.models or MODELS))
    notes = NOTES if set(config.models or MODELS) == set(MODELS) else SEQUENTIAL_NOTES
    table = study.table("ablation", "Variant", f"{name} with one part changed at a time.", notes)
    figure = study.figure("ablation", f"Test {study.metric} of the variants, {over(config.seeds)}.")
    return study.write_report(
        config,
        f"Contribution of each part of {name}",
        f"Is {name} worse when one of its parts is changed or removed?",
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
        if model not in VARIANTS_OF:
            known = " and ".join(VARIANTS_OF)
            raise ConfigError(
                f"the ablation is defined for {known}, not for {model}; choose among these with --models, or omit it"
            )
    return variant_study.groups(config, config.models or MODELS, lambda model, modalities: VARIANTS_OF[model])
