"""Studies that change one thing at a time: variants of a model, trained alike with several seeds, against one of them.

Ablation, modalities and layers are such studies. A `Group` is what stands together in the tables: one dataset, model,
feature set and loss; its variants are compared with the first of them, user by user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import DataError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sentences as telling
from lirdrec.experiments.studies.defaults import losses_of, settled
from lirdrec.experiments.trial import TrialResult, TrialSpec
from lirdrec.reporting import Column, Measure, Row, Section, Table, dots, label
from lirdrec.reporting.statistics import ALPHA, Comparison, compare, corrected, over_seeds

if TYPE_CHECKING:
    import polars as pl

NOTES = (
    "Valid is the figure that chooses the epoch. The test was scored once for each variant and seed.",
    f"† differs from the first row at the level {ALPHA:g}: paired t-test and Wilcoxon's signed ranks over users, both "
    "with Holm's correction over all tests of this page; users' values are means over the seeds.",
)


@dataclass(frozen=True)
class Variant:
    """A way to change the model.

    Attributes:
        label: of the row.
        options: fields of the model's config.
        modalities: feature matrices to keep; None: those of the feature set.
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
        name: heading over its rows, "" where there is only one group.
        dataset: what to call the dataset; model: the model's name.
        cells: label of the variant → its cells, a seed each; the first variant is the one to compare with.
    """

    name: str
    dataset: str
    model: str
    cells: Mapping[str, tuple[TrialSpec, ...]]

    @property
    def reference(self) -> str:
        """Label of the variant that the others are compared with."""
        return next(iter(self.cells))


def groups(
    context: ExperimentConfig,
    models: Sequence[str],
    variants: Callable[[str, str, tuple[str, ...]], Sequence[Variant]],
    final: bool = True,
) -> list[Group]:
    """A group for each dataset, model, feature set and loss.

    Args:
        context: of the experiment.
        models: names.
        variants: `(dataset, model, modalities) -> list of Variant`, the reference first.
        final: score the sealed test.
    """
    from lirdrec.experiments.tuning import feature_names

    found = []
    for dataset in context.datasets:
        for model in models:
            for feature_set, names in context.sets.items():
                modalities = names if names is not None else feature_names(dataset)
                for loss in losses_of(context, model):
                    base = settled(context, dataset, model, feature_set, loss=loss)
                    cells = {
                        one.label: tuple(_cells(context, base, one, loss, final))
                        for one in variants(dataset, model, tuple(modalities))
                    }
                    name = [base.dataset_name, model, feature_set, loss or ""]
                    found.append((name, Group("", base.dataset_name, model, cells)))
    # only what tells the groups apart is said
    differs = [len({name[at] for name, _ in found}) > 1 for at in range(4)]
    made = []
    for name, group in found:
        said = [label(part) for part, there in zip(name, differs, strict=True) if there and part]
        made.append(Group(" · ".join(said), group.dataset, group.model, group.cells))
    return made


def _cells(
    context: ExperimentConfig, base: TrialSpec, variant: Variant, loss: str | None, final: bool
) -> Iterator[TrialSpec]:
    options = {**base.model_options, **variant.options}
    modalities = base.modalities
    if variant.modalities is not None:
        modalities = variant.modalities
        options.pop("modalities", None)  # the cell's own say which there are
        if isinstance(options.get("modality_weights"), Mapping):
            kept = {name: options["modality_weights"].get(name, 0.0) for name in modalities}
            options["modality_weights"] = kept if sum(kept.values()) > 0 else None
    # a declaration is named by its variant, so variants of two losses need two names
    name = variant.label if loss is None or len(context.losses) < 2 else f"{variant.label}, {loss}"
    for seed in context.seeds_of(base.model):
        extra = {**base.extra, "final": True} if final else base.extra
        yield base.with_(model_options=options, modalities=modalities, variant=name, seed=seed, extra=extra)


def planned(found: Iterable[Group]) -> Iterator[TrialSpec]:
    """The cells of all groups."""
    for group in found:
        for cells in group.cells.values():
            yield from cells


@dataclass
class Study:
    """Groups with their results.

    Args:
        found: the groups.
        results: of their cells, as far as there are any.
        metric: what the answer looks at.
    """

    found: Sequence[Group]
    results: Results
    metric: str

    def __post_init__(self) -> None:
        self.stage = telling.stage_of(self.results)
        have = telling.metrics_of(self.results, self.stage, (self.metric,))
        self.metric = self.metric if self.metric in have or not have else have[0]
        self.metrics = tuple(name for name in telling.SHOWN if name in have) or have
        self.tests = self._tests()

    def of(self, group: Group, variant: str) -> list[TrialResult]:
        """The results of a variant, those that failed too."""
        found = (self.results.get(cell) for cell in group.cells[variant])
        return [one for one in found if one is not None]

    def measure(self, group: Group, variant: str, metric: str = "", stage: str = "") -> Measure | None:
        """A figure of a variant over its seeds."""
        return telling.measured(self.of(group, variant), metric or self.metric, stage or self.stage)

    def status(self, group: Group, variant: str) -> str:
        """ "" where there is a figure, else why not."""
        if self.measure(group, variant) is not None:
            return ""
        return next((one.status for one in self.of(group, variant) if not one.done), "not computed")

    def _tests(self) -> dict[tuple[str, str], dict[str, Comparison]]:
        """(group, variant) → metric → paired test against the reference, with Holm's correction over all of them."""
        places, made = [], []
        for group in self.found:
            reference = self._per_user(group, group.reference)
            for variant in list(group.cells)[1:]:
                theirs = self._per_user(group, variant)
                if reference is None or theirs is None:
                    continue
                try:
                    tests = compare(theirs, {group.reference: reference}, self.metrics)
                except DataError:
                    continue  # evaluated on other users: nothing can be paired
                places += [(group.name, variant, test.metric) for test in tests]
                made += tests
        found: dict[tuple[str, str], dict[str, Comparison]] = {}
        for (name, variant, metric), test in zip(places, corrected(made), strict=True):
            found.setdefault((name, variant), {})[metric] = test
        return found

    def _per_user(self, group: Group, variant: str) -> pl.DataFrame | None:
        import polars as pl

        frames = []
        for one in self.of(group, variant):
            if one.done and one.per_user is not None and self.results.folder is not None:
                frames.append(pl.read_parquet(self.results.folder / one.per_user, glob=False))
        return over_seeds(frames).select("user", *self.metrics) if frames else None

    def differs(self, group: Group, variant: str, metric: str = "") -> int:
        """1 or -1 where the variant is shown to be better or worse than the reference, else 0."""
        test = self.tests.get((group.name, variant), {}).get(metric or self.metric)
        return 0 if test is None else test.significant()

    # ---------------------------------------------------------------------------------------------------- for reports

    def table(self, name: str, heading: str, caption: str, notes: Sequence[str] = ()) -> Table:
        """A row a variant: validation, test, and by how much it differs from the reference."""
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
                if said := self.status(group, variant):
                    cells[self.metrics[0] if self.metrics else "change"] = said
                else:
                    if self.stage == "test":
                        cells["valid"] = self.measure(group, variant, stage="valid")
                    for metric in self.metrics:
                        one = self.measure(group, variant, metric)
                        marks = "†" if self.differs(group, variant, metric) else ""
                        cells[metric] = one and Measure(one.mean, one.sd, one.n, marks)
                    own = self.measure(group, variant)
                    if own and base and base.mean and variant != group.reference:
                        cells["change"] = 100 * (own.mean - base.mean) / base.mean
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

    def picture(self, name: str, caption: str) -> list[Any]:
        """A dot a variant, in the order of the table; [] where there is nothing to draw."""
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

    def sentences(self, group: Group, described: Mapping[str, str] | None = None) -> str:
        """What came of a group: the reference's figure, then each variant's, the largest loss first."""
        base = self.measure(group, group.reference)
        where = f"On {label(group.dataset)}" + (f" ({group.name})" if len(self.found) > 1 else "")
        if base is None:
            return f"{where}, there is no figure of {group.reference}: {self.status(group, group.reference)}."
        reached = (
            f"a {self.stage} {self.metric} of **{telling.format_mean_sd(base)}** ({telling.count(base.n, 'seed')})"
        )
        text = f"{where}, {(described or {}).get(group.reference, f'**{group.reference}**')} reaches {reached}."
        said = []
        for variant in list(group.cells)[1:]:
            own = self.measure(group, variant)
            name = (described or {}).get(variant, variant)
            if own is None:
                said.append((float("inf"), f"{name}: {self.status(group, variant)}"))
                continue
            against = telling.format_gain(own.mean, base.mean) + self._shown(group, variant)
            said.append((own.mean, f"{name} {telling.format_mean_sd(own)} ({against})"))
        said.sort(key=lambda one: one[0])
        rest = "; ".join(part for _, part in said)
        return f"{text} {rest[:1].upper()}{rest[1:]}." if said else text

    def _shown(self, group: Group, variant: str) -> str:
        test = self.tests.get((group.name, variant), {}).get(self.metric)
        if test is None:
            return ""
        p = max(test.t_p_holm, test.w_p_holm)
        measures = [self.measure(group, one) for one in (group.reference, variant)]
        if min(0 if one is None else one.n for one in measures) < 2:  # nothing is known of how trainings differ
            return f", p = {p:.2f} over the users of one seed"
        return ", significant over users" if test.significant() else f", not significant: p = {p:.2f}"


def write(
    context: ExperimentConfig,
    results: Results,
    study: Study,
    *,
    title: str,
    question: str,
    answer: str,
    sections: Sequence[Section],
) -> Path:
    """Write the report of a study into the context's folder; gives the page."""
    from lirdrec.reporting import Report

    return Report(
        title=title,
        question=question,
        answer=answer,
        sections=[*sections, *telling.failures(results)],
        settings=telling.settings(context),
        commands=telling.commands(context),
        name=results.experiment,
    ).write(context.output, results, context.formats)
