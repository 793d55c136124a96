"""Common part of the studies that change one thing at a time (ablation, modality, layers): groups of variants.

A `Group` has the variants of one dataset, model, feature set and loss, trained with the same seeds; each variant is
compared with the first one by paired tests over users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import report_parts
from lirdrec.experiments.studies.report_parts import count, draw, format_gain, format_mean_sd
from lirdrec.experiments.studies.trial_settings import losses_of, settled
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.experiments.tuning import feature_names
from lirdrec.reporting import Column, Figure, Measure, Row, Section, Table, dots, label
from lirdrec.reporting.statistics import ALPHA, compare_pairs

NOTES = (
    "Valid: validation metric of the chosen epoch. The test was scored once for each variant and seed.",
    f"† differs from the first row at level {ALPHA:g}: paired t-test and Wilcoxon signed-rank test over users, both "
    "with Holm's correction over all tests of this page; values of users are means over the seeds.",
)


@dataclass(frozen=True)
class Variant:
    """A variant of a model: its label, and what is changed.

    Attributes:
        label: label of the row.
        options: changed fields of the model's config → their values.
        modalities: feature matrices to use; None: those of the feature set.
        work: kind of work, see `TrialSpec.work`.
        extra: further arguments of the work, see `TrialSpec.extra`.
    """

    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    modalities: tuple[str, ...] | None = None
    work: str = "train"
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Variants that are compared with each other.

    Attributes:
        name: heading over the rows, which says how the groups differ; "" if there is only one group.
        dataset, model: their names.
        trials: label of the variant → its trials, one per seed; the first variant is the reference.
    """

    name: str
    dataset: str
    model: str
    trials: Mapping[str, Sequence[TrialSpec]]

    @property
    def reference(self) -> str:
        """Label of the reference variant."""
        return next(iter(self.trials))


def groups(
    config: ExperimentConfig, models: Sequence[str], variants: Callable[[str, tuple[str, ...]], Sequence[Variant]]
) -> list[Group]:
    """Return a group for each dataset, model, feature set and loss, of the variants `variants(model, modalities)`."""
    names, unnamed = [], []
    for dataset, model, (feature_set, modalities) in product(config.datasets, models, config.sets.items()):
        for loss in losses_of(config, model):
            base = settled(config, dataset, model, feature_set, loss=loss)
            chosen = variants(model, feature_names(dataset) if modalities is None else modalities)
            trials = {variant.label: _trials(config, base, variant, loss) for variant in chosen}
            names.append((base.dataset_name, model, feature_set, loss or ""))
            unnamed.append(Group("", base.dataset_name, model, trials))
    # the names of groups contain only the parts in which groups differ
    differs = [len(set(parts)) > 1 for parts in zip(*names, strict=True)]
    named = []
    for parts, group in zip(names, unnamed, strict=True):
        shown = [label(part) for part, differ in zip(parts, differs, strict=True) if differ and part]
        named.append(replace(group, name=" · ".join(shown)))
    return named


def _trials(config: ExperimentConfig, base: TrialSpec, variant: Variant, loss: str | None) -> list[TrialSpec]:
    options = {**base.model_options, **variant.options}
    modalities = base.modalities
    if variant.modalities is not None:
        modalities = variant.modalities
        options.pop("modalities", None)  # the field `modalities` of the trial replaces this option
        if isinstance(options.get("modality_weights"), Mapping):
            kept = {name: options["modality_weights"].get(name, 0.0) for name in modalities}
            options["modality_weights"] = kept if sum(kept.values()) > 0 else None
    # declarations are named by variant, so each loss needs its own variant name
    name = variant.label if loss is None or len(config.losses) < 2 else f"{variant.label}, {loss}"
    extra = {**base.extra, "final": True, **variant.extra}
    changed = base.with_(work=variant.work, model_options=options, modalities=modalities, variant=name, extra=extra)
    return [changed.with_(seed=seed) for seed in config.seeds_of(base.model)]


def planned(groups: Iterable[Group]) -> Iterator[TrialSpec]:
    """Yield the trials of all groups."""
    for group in groups:
        for trials in group.trials.values():
            yield from trials


class Study:
    """Groups of variants with their results; makes the table, the figure and the sentences of a report.

    Args:
        groups: the groups.
        results: results of their trials so far.
        metric: the metric that the answer is about; another one if the results do not have it.
    """

    def __init__(self, groups: Sequence[Group], results: Results, metric: str):
        self.groups, self.results = groups, results
        self.stage = report_parts.stage_of(results)
        self.metric, self.metrics = report_parts.metrics_of(results, self.stage, metric)
        self.panel = "group" if len(groups) > 1 else None
        self.models = report_parts.listed(dict.fromkeys(label(group.model) for group in groups))
        users = {
            (group.name, variant): results.mean_per_user(results.done(trials))
            for group in groups
            for variant, trials in group.trials.items()
        }
        # (group, variant) → metric → paired test against the reference, with Holm's correction over all of them
        self.tests = compare_pairs(
            [
                ((group.name, variant), users[group.name, variant], users[group.name, group.reference])
                for group in groups
                for variant in list(group.trials)[1:]
            ],
            self.metrics,
        )

    def measure(self, group: Group, variant: str, metric: str = "", stage: str = "") -> Measure | None:
        """Return mean and sd of a metric over the seeds of a variant; None without results.

        By default, metric and stage are those of the study (`self.metric`, `self.stage`).
        """
        return report_parts.measured(self.results.of(group.trials[variant]), metric or self.metric, stage or self.stage)

    def status(self, group: Group, variant: str) -> str:
        """Return why a variant has no metric: the status of its first failed trial, or "not computed"."""
        results = self.results.of(group.trials[variant])
        return next((result.status for result in results if not result.done), "not computed")

    def differs(self, group: Group, variant: str, metric: str = "") -> int:
        """Return 1 if the variant is significantly better than the reference, -1 if it is worse, else 0.

        Also return 0 if there is no test. `metric` is by default the metric of the study.
        """
        test = self.tests.get((group.name, variant), {}).get(metric or self.metric)
        return 0 if test is None else test.significant()

    def table(self, name: str, heading: str, caption: str, notes: Sequence[str] = ()) -> Table:
        """Return a table with one row per variant: validation, test, and the change from the reference in percent.

        Args:
            name: name of the table's file.
            heading: heading of the column with the variants' labels.
            caption: caption of the table.
            notes: notes below it, after the general ones.
        """
        columns = [Column("variant", heading, format="text")]
        if self.stage == "test":
            columns.append(Column("valid", label(self.metric), "Valid", "higher"))
        columns += [Column(metric, label(metric), self.stage.capitalize(), "higher") for metric in self.metrics]
        columns.append(Column("change", label(self.metric), "Change", format="percent", digits=1))
        rows = [
            Row(self._row(group, variant), group.name, accent=variant == group.reference)
            for group in self.groups
            for variant in group.trials
        ]
        general = NOTES if self.tests else NOTES[:1] if self.stage == "test" else ()
        return Table(name, columns, rows, caption, [*general, *notes])

    def _row(self, group: Group, variant: str) -> dict[str, Any]:
        base, changed = (self.measure(group, name) for name in (group.reference, variant))
        if changed is None:
            return {"variant": variant, self.metrics[0] if self.metrics else "change": self.status(group, variant)}
        cells: dict[str, Any] = {"variant": variant}
        if self.stage == "test":
            cells["valid"] = self.measure(group, variant, stage="valid")
        for metric in self.metrics:
            measure = self.measure(group, variant, metric)
            cells[metric] = measure and replace(measure, marks="†" if self.differs(group, variant, metric) else "")
        if base and base.mean and variant != group.reference:
            cells["change"] = 100 * (changed.mean - base.mean) / base.mean
        return cells

    def values(self) -> list[tuple[str, str, float]]:
        """Return (group, variant, value of the metric) for each trial that has a value."""
        return [
            (group.name, variant, value)
            for group in self.groups
            for variant, trials in group.trials.items()
            for result in self.results.done(trials)
            if (value := result.figure(self.metric, self.stage)) is not None
        ]

    def figure(self, name: str, caption: str) -> list[Figure]:
        """Draw a figure with one dot per variant, in the order of the table; return [] without results."""
        order = list(dict.fromkeys(variant for group in self.groups for variant in group.trials))
        style: dict[str, Any] = {"panel": self.panel, "row_order": order, "accent": next(iter(order), None)}
        style |= {"x_label": f"{self.stage} {self.metric}", "caption": caption}
        return draw(dots, self.values(), ["group", "variant", "value"], name, rows="variant", **style)

    def on_dataset(self, group: Group) -> str:
        """Return the start of a sentence: "On", the dataset and, if there are several groups, the group's name."""
        return f"On {label(group.dataset)}" + (f" ({group.name})" if self.panel else "")

    def describe(self, group: Group, titles: Mapping[str, str] | None = None) -> str:
        """Return sentences on a group: the metric of the reference, then of each variant, the lowest metric first.

        Args:
            group: the group.
            titles: variant → its name in sentences; default: the label.
        """
        titles = titles or {}
        base, reference = self.measure(group, group.reference), group.reference
        if base is None:
            return f"{self.on_dataset(group)}, there is no result of {reference}: {self.status(group, reference)}."
        text = (
            f"{self.on_dataset(group)}, {titles.get(reference, f'**{reference}**')} reaches a {self.stage}"
            f" {self.metric} of **{format_mean_sd(base)}** ({count(base.n, 'seed')})."
        )
        parts = []
        for variant in list(group.trials)[1:]:
            changed, title = self.measure(group, variant), titles.get(variant, variant)
            if changed is None:
                parts.append((float("inf"), f"{title}: {self.status(group, variant)}"))
                continue
            gain = format_gain(changed.mean, base.mean) + self._significance(group, variant, min(base.n, changed.n))
            parts.append((changed.mean, f"{title} {format_mean_sd(changed)} ({gain})"))
        rest = "; ".join(sentence for _, sentence in sorted(parts, key=lambda part: part[0]))
        return f"{text} {rest[:1].upper()}{rest[1:]}." if rest else text

    def _significance(self, group: Group, variant: str, n_seeds: int) -> str:
        test = self.tests.get((group.name, variant), {}).get(self.metric)
        if test is None:
            return ""
        p = max(test.t_p_holm, test.w_p_holm)
        if n_seeds < 2:  # the variation between trainings is unknown
            return f", p = {p:.2f} over the users of one seed"
        return ", significant over users" if test.significant() else f", not significant: p = {p:.2f}"

    def write_report(
        self, config: ExperimentConfig, title: str, question: str, answer: Callable[[Study, Group], str], main: Section
    ) -> Path:
        """Write the report with the section `main` and the answer of each group; return the path of the HTML page."""
        answers = " ".join(answer(self, group) for group in self.groups)
        return report_parts.write_report(config, self.results, title, question, answers, [main])
