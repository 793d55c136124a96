"""Common part of the studies that change one thing at a time (ablation, modality, layers): groups of variants.

A `Group` has the variants of one dataset, model, feature set and loss, trained with the same seeds; each variant is
compared with the first one by paired tests over users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import DataError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sentences
from lirdrec.experiments.studies.defaults import losses_of, settled
from lirdrec.experiments.trial import TrialResult, TrialSpec
from lirdrec.reporting import Column, Measure, Row, Section, Table, dots, label
from lirdrec.reporting.statistics import ALPHA, Comparison, compare, corrected, over_seeds

if TYPE_CHECKING:
    import polars as pl

NOTES = (
    "Valid: validation metric of the chosen epoch. The test was scored once for each variant and seed.",
    f"† differs from the first row at level {ALPHA:g}: paired t-test and Wilcoxon signed-rank test over users, both "
    "with Holm's correction over all tests of this page; values of users are means over the seeds.",
)


@dataclass(frozen=True)
class Variant:
    """A changed model.

    Attributes:
        label: label of the row.
        options: changed fields of the model's config.
        modalities: feature matrices to use; None: those of the feature set.
        note: one line below the table.
    """

    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    modalities: tuple[str, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Variants that are compared with each other.

    Attributes:
        name: heading over the rows; "" if there is only one group.
        dataset: name of the dataset; model: name of the model.
        cells: label of the variant → its trials, one per seed; the first variant is the reference.
    """

    name: str
    dataset: str
    model: str
    cells: Mapping[str, tuple[TrialSpec, ...]]

    @property
    def reference(self) -> str:
        """Label of the reference variant."""
        return next(iter(self.cells))


def groups(
    config: ExperimentConfig,
    models: Sequence[str],
    variants: Callable[[str, str, tuple[str, ...]], Sequence[Variant]],
    final: bool = True,
) -> list[Group]:
    """One group for each dataset, model, feature set and loss.

    Args:
        config: the experiment's configuration.
        models: names of models.
        variants: `(dataset, model, modalities) -> list of Variant`, the reference first.
        final: score the sealed test.
    """
    from lirdrec.experiments.tuning import feature_names

    found = []
    for dataset in config.datasets:
        for model in models:
            for feature_set, names in config.sets.items():
                modalities = names if names is not None else feature_names(dataset)
                for loss in losses_of(config, model):
                    base = settled(config, dataset, model, feature_set, loss=loss)
                    cells = {
                        one.label: tuple(_cells(config, base, one, loss, final))
                        for one in variants(dataset, model, tuple(modalities))
                    }
                    name = [base.dataset_name, model, feature_set, loss or ""]
                    found.append((name, Group("", base.dataset_name, model, cells)))
    # the names of groups contain only the parts in which groups differ
    differs = [len({name[part] for name, _ in found}) > 1 for part in range(4)]
    named = []
    for name, group in found:
        parts = [label(part) for part, shown in zip(name, differs, strict=True) if shown and part]
        named.append(Group(" · ".join(parts), group.dataset, group.model, group.cells))
    return named


def _cells(
    config: ExperimentConfig, base: TrialSpec, variant: Variant, loss: str | None, final: bool
) -> Iterator[TrialSpec]:
    options = {**base.model_options, **variant.options}
    modalities = base.modalities
    if variant.modalities is not None:
        modalities = variant.modalities
        options.pop("modalities", None)  # `modalities` of the trial replaces them
        if isinstance(options.get("modality_weights"), Mapping):
            kept = {name: options["modality_weights"].get(name, 0.0) for name in modalities}
            options["modality_weights"] = kept if sum(kept.values()) > 0 else None
    # declarations are named by variant, so each loss needs its own variant name
    name = variant.label if loss is None or len(config.losses) < 2 else f"{variant.label}, {loss}"
    for seed in config.seeds_of(base.model):
        extra = {**base.extra, "final": True} if final else base.extra
        yield base.with_(model_options=options, modalities=modalities, variant=name, seed=seed, extra=extra)


def planned(found: Iterable[Group]) -> Iterator[TrialSpec]:
    """The trials of all groups."""
    for group in found:
        for cells in group.cells.values():
            yield from cells


@dataclass
class Study:
    """Groups with their results.

    Args:
        found: the groups.
        results: results of their trials so far.
        metric: metric of the answer.
    """

    found: Sequence[Group]
    results: Results
    metric: str

    def __post_init__(self) -> None:
        self.stage = sentences.stage_of(self.results)
        have = sentences.metrics_of(self.results, self.stage, (self.metric,))
        self.metric = self.metric if self.metric in have or not have else have[0]
        self.metrics = tuple(name for name in sentences.SHOWN if name in have) or have
        self.tests = self._tests()

    def of(self, group: Group, variant: str) -> list[TrialResult]:
        """The results of a variant, including failures."""
        return [result for result in map(self.results.get, group.cells[variant]) if result is not None]

    def measure(self, group: Group, variant: str, metric: str = "", stage: str = "") -> Measure | None:
        """Mean and sd of a metric over the seeds of a variant."""
        return sentences.measured(self.of(group, variant), metric or self.metric, stage or self.stage)

    def status(self, group: Group, variant: str) -> str:
        """ "" if the variant has a metric, else the reason why not."""
        if self.measure(group, variant) is not None:
            return ""
        return next((result.status for result in self.of(group, variant) if not result.done), "not computed")

    def _tests(self) -> dict[tuple[str, str], dict[str, Comparison]]:
        """(group, variant) → metric → paired test against the reference, with Holm's correction over all of them."""
        keys: list[tuple[str, str]] = []
        comparisons: list[Comparison] = []
        for group in self.found:
            reference = self._per_user(group, group.reference)
            for variant in list(group.cells)[1:]:
                theirs = self._per_user(group, variant)
                if reference is None or theirs is None:
                    continue
                try:
                    tests = compare(theirs, {group.reference: reference}, self.metrics)
                except DataError:
                    continue  # evaluated on other users, so tests cannot be paired
                keys += [(group.name, variant)] * len(tests)
                comparisons += tests
        found: dict[tuple[str, str], dict[str, Comparison]] = {}
        for key, test in zip(keys, corrected(comparisons), strict=True):
            found.setdefault(key, {})[test.metric] = test
        return found

    def _per_user(self, group: Group, variant: str) -> pl.DataFrame | None:
        import polars as pl

        frames = []
        for one in self.of(group, variant):
            if one.done and one.per_user is not None and self.results.folder is not None:
                frames.append(pl.read_parquet(self.results.folder / one.per_user, glob=False))
        return over_seeds(frames).select("user", *self.metrics) if frames else None

    def differs(self, group: Group, variant: str, metric: str = "") -> int:
        """1 or -1 if the variant is shown to be better or worse than the reference, else 0."""
        test = self.tests.get((group.name, variant), {}).get(metric or self.metric)
        return 0 if test is None else test.significant()

    # ---------------------------------------------------------------------------------------------------- for reports

    def table(self, name: str, heading: str, caption: str, notes: Sequence[str] = ()) -> Table:
        """Table with one row per variant: validation, test, and the change from the reference."""
        columns = [Column("variant", heading, format="text")]
        if self.stage == "test":
            columns.append(Column("valid", label(self.metric), "Valid", "higher"))
        title = self.stage.capitalize()
        columns += [Column(metric, label(metric), title, "higher") for metric in self.metrics]
        columns.append(Column("change", label(self.metric), "Change", format="percent", digits=1))
        rows = []
        for group in self.found:
            base = self.measure(group, group.reference)
            for variant in group.cells:
                cells: dict[str, Any] = {"variant": variant}
                if status := self.status(group, variant):
                    cells[self.metrics[0] if self.metrics else "change"] = status
                else:
                    if self.stage == "test":
                        cells["valid"] = self.measure(group, variant, stage="valid")
                    for metric in self.metrics:
                        one = self.measure(group, variant, metric)
                        marks = "†" if self.differs(group, variant, metric) else ""
                        cells[metric] = one and Measure(one.mean, one.sd, one.n, marks)
                    changed = self.measure(group, variant)
                    if changed and base and base.mean and variant != group.reference:
                        cells["change"] = 100 * (changed.mean - base.mean) / base.mean
                rows.append(Row(cells, group.name, accent=variant == group.reference))
        general = NOTES if self.tests else NOTES[:1] if self.stage == "test" else ()
        return Table(name, columns, rows, caption, [*general, *notes])

    def frame(self) -> pl.DataFrame:
        """One row per run and metric at the reported stage: group, variant, seed, metric, value."""
        import polars as pl

        rows = [
            {"group": group.name, "variant": variant, "seed": one.cell.seed, "metric": metric, "value": value}
            for group in self.found
            for variant in group.cells
            for one in self.of(group, variant)
            if one.done
            for metric, value in one.figures.get(self.stage, {}).items()
        ]
        kinds = {"group": pl.String, "variant": pl.String, "seed": pl.Int64, "metric": pl.String, "value": pl.Float64}
        return pl.DataFrame(rows, schema=kinds)

    def figure(self, name: str, caption: str) -> list[Any]:
        """Figure with one dot per variant, in the order of the table; [] without results."""
        import polars as pl

        frame = self.frame().filter(pl.col("metric") == self.metric)
        if not frame.height:
            return []
        many = len(self.found) > 1
        order = list(dict.fromkeys(variant for group in self.found for variant in group.cells))
        drawn = dots(
            frame,
            name,
            rows="variant",
            panel="group" if many else None,
            row_order=order,
            accent=self.found[0].reference,
            x_label=f"{self.stage} {self.metric}",
            caption=caption,
        )
        return [drawn]

    def describe(self, group: Group, described: Mapping[str, str] | None = None) -> str:
        """Sentence on a group: the metric of the reference, then of each variant, the largest loss first."""
        base = self.measure(group, group.reference)
        where = f"On {label(group.dataset)}" + (f" ({group.name})" if len(self.found) > 1 else "")
        if base is None:
            return f"{where}, there is no result of {group.reference}: {self.status(group, group.reference)}."
        reached = (
            f"a {self.stage} {self.metric} of **{sentences.format_mean_sd(base)}** ({sentences.count(base.n, 'seed')})"
        )
        text = f"{where}, {(described or {}).get(group.reference, f'**{group.reference}**')} reaches {reached}."
        parts = []
        for variant in list(group.cells)[1:]:
            changed = self.measure(group, variant)
            name = (described or {}).get(variant, variant)
            if changed is None:
                parts.append((float("inf"), f"{name}: {self.status(group, variant)}"))
                continue
            gain = sentences.format_gain(changed.mean, base.mean) + self._significance(group, variant)
            parts.append((changed.mean, f"{name} {sentences.format_mean_sd(changed)} ({gain})"))
        parts.sort(key=lambda part: part[0])
        rest = "; ".join(sentence for _, sentence in parts)
        return f"{text} {rest[:1].upper()}{rest[1:]}." if parts else text

    def _significance(self, group: Group, variant: str) -> str:
        test = self.tests.get((group.name, variant), {}).get(self.metric)
        if test is None:
            return ""
        p = max(test.t_p_holm, test.w_p_holm)
        measures = [self.measure(group, one) for one in (group.reference, variant)]
        if min(0 if one is None else one.n for one in measures) < 2:  # the variation between trainings is unknown
            return f", p = {p:.2f} over the users of one seed"
        return ", significant over users" if test.significant() else f", not significant: p = {p:.2f}"


def write(
    config: ExperimentConfig,
    results: Results,
    study: Study,
    *,
    title: str,
    question: str,
    answer: str,
    sections: Sequence[Section],
) -> Path:
    """Write the report of a study into the experiment's folder; returns the HTML page."""
    from lirdrec.reporting import Report

    return Report(
        title=title,
        question=question,
        answer=answer,
        sections=[*sections, *sentences.failures(results)],
        settings=sentences.settings(config),
        commands=sentences.commands(config),
        name=results.experiment,
    ).write(config.output, results, config.formats)
