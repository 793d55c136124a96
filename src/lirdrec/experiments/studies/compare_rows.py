"""What a comparison found, gathered from its results: a row for each dataset, model and set of features.

Every model is compared with one of them, `ours` (LIRDRec, or the setting "ours"), on the same features, by tests paired
over users; Holm's correction is over all tests of the comparison. A model that ran out of memory or failed keeps its
row and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lirdrec.errors import DataError
from lirdrec.experiments.engine.cells import Result
from lirdrec.experiments.engine.context import Context
from lirdrec.experiments.engine.results import IDENTITY, Results
from lirdrec.reporting import Measure, label
from lirdrec.reporting.names import model_order
from lirdrec.reporting.statistics import Comparison, compare, corrected, over_seeds

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.experiments.engine.tuning import Search

OURS = "lirdrec"


@dataclass
class Entry:
    """A model on a dataset with a set of features: the row of a table.

    Attributes:
        dataset, model, features: which; `features` is the label of the set.
        finals: final trainings that succeeded; trials: those of the tuning.
        problem: what to print where there are no figures: "out of memory", "failed" or "not finished".
        error: the message of a failure.
        users: per-user test values averaged over the seeds.
        comparisons: metric → test of ours against this model.
    """

    dataset: str
    model: str
    features: str
    finals: list[Result] = field(default_factory=list)
    trials: list[Result] = field(default_factory=list)
    problem: str = ""
    error: str = ""
    users: pl.DataFrame | None = None
    comparisons: dict[str, Comparison] = field(default_factory=dict)

    def measure(self, metric: str, stage: str = "test") -> Measure | None:
        """Mean and sd over the seeds."""
        return Measure.of([v for v in (one.figure(metric, stage) for one in self.finals) if v is not None])

    def means(self, metrics: Sequence[str]) -> dict[str, float]:
        """Metric → mean over the seeds, where there is one."""
        found = {metric: self.measure(metric) for metric in metrics}
        return {metric: measure.mean for metric, measure in found.items() if measure is not None}

    @property
    def title(self) -> str:
        """The model, and its features where they have a label."""
        return f"{label(self.model)} ({self.features})" if self.features else label(self.model)


@dataclass(frozen=True)
class Rows:
    """All rows of a comparison, in the order of tables.

    Attributes:
        entries: the rows.
        ours: the model that the others are compared with.
        metrics: of the test sets, recall before NDCG, small k first.
        tests: of ours against every other row and metric, corrected together; the entries have them, too.
    """

    entries: list[Entry]
    ours: str
    metrics: list[str]
    tests: list[tuple[Entry, Comparison]]

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, in order."""
        return list(dict.fromkeys(entry.dataset for entry in self.entries))

    @property
    def main(self) -> str:
        """The metric to speak of first: recall at the greatest k; empty where nothing is scored yet."""
        recalls = [name for name in self.metrics if name.startswith("recall@")]
        return (recalls or self.metrics or [""])[-1]

    def on(self, dataset: str) -> list[Entry]:
        """The rows of a dataset."""
        return [entry for entry in self.entries if entry.dataset == dataset]

    def rival(self, entry: Entry) -> Entry | None:
        """Our row that another is compared with: on the same features, else our first with figures."""
        return _rival(self.entries, entry, self.ours)

    def panels(self, entry: Entry) -> list[str]:
        """The panels that a row belongs to: one a set of features; models that use none stand in all of the dataset."""
        sets = dict.fromkeys(one.features for one in self.on(entry.dataset) if one.features)
        return [panel(entry.dataset, name) for name in ([entry.features] if entry.features else sets or [""])]


def gather(context: Context, results: Results, searches: Sequence[Search] = ()) -> Rows:
    """The rows of a comparison, also of one that is not finished; arguments as for `compare_report.report`."""
    entries = _entries(context, results, searches)
    ours = _ours(context, entries)
    metrics = _metrics(entries)
    return Rows(entries, ours, metrics, _tested(entries, ours, metrics))


def panel(dataset: str, features: str) -> str:
    """The heading of a panel for a set of features on a dataset."""
    return f"{label(dataset)}, {features}" if features else label(dataset)


def _entries(context: Context, results: Results, searches: Sequence[Search]) -> list[Entry]:
    """A row for each dataset, model and set of features, in the order of tables."""
    bases = [(one.base.dataset_name, one.base.model, one.base.feature_set) for one in searches]
    found: dict[tuple[str, str, str], Entry] = {key: Entry(*key) for key in bases}
    for result in results:
        cell = result.cell
        if cell.work not in ("train", "trial"):
            continue
        key = (cell.dataset_name, cell.model, cell.feature_set)
        entry = found.setdefault(key, Entry(*key))
        if cell.work == "trial":
            entry.trials.append(result)
        elif cell.final and result.done:
            entry.finals.append(result)
        elif cell.final:
            entry.problem, entry.error = result.status, result.error or ""
    for entry in found.values():
        if entry.finals:
            entry.problem = entry.error = ""
        elif not entry.problem:
            lost = [one for one in entry.trials if not one.done]
            worst = next((one for one in lost if one.status == "out of memory"), lost[0] if lost else None)
            done = any(one.done for one in entry.trials)
            entry.problem = "not finished" if done or worst is None else worst.status
            entry.error = "" if done or worst is None else worst.error or ""
    users = results.where(final=True).per_user()
    if users.height:
        values = [name for name in users.columns if name not in IDENTITY]
        for (dataset, model, features), part in users.group_by("dataset", "model", "feature_set"):
            scored = found.get((str(dataset), str(model), str(features)))
            if scored is not None and scored.finals:
                scored.users = over_seeds([frame.select(values) for frame in part.partition_by("key")])
    ours = _ours(context, list(found.values()))
    places = {Path(one).name: at for at, one in enumerate(context.datasets)}
    sets = list(context.sets)
    return sorted(
        found.values(),
        key=lambda e: (
            places.get(e.dataset, len(places)),
            e.model == ours,
            model_order(e.model),
            sets.index(e.features) if e.features in sets else -1,
        ),
    )


def _ours(context: Context, entries: Sequence[Entry]) -> str:
    """The model that the others are compared with."""
    present = {entry.model for entry in entries}
    ours = str(context.setting("ours", OURS))
    return ours if ours in present else next((model for model in context.models if model in present), ours)


def _metrics(entries: Sequence[Entry]) -> list[str]:
    """Test metrics, recall before NDCG, small k first."""
    names = dict.fromkeys(name for entry in entries for one in entry.finals for name in one.figures.get("test", {}))
    kinds = ["recall", "ndcg"]

    def order(name: str) -> tuple[int, int]:
        kind, _, k = name.partition("@")
        return int(k or 0), kinds.index(kind) if kind in kinds else len(kinds)

    return sorted(names, key=order)


def _rival(entries: Sequence[Entry], entry: Entry, ours: str) -> Entry | None:
    """Our row that another is compared with: on the same features, else our first with figures."""
    mine = [e for e in entries if e.model == ours and e.dataset == entry.dataset and e.finals]
    if entry.model == ours or not mine:
        return None
    return next((one for one in mine if one.features == entry.features), mine[0])


def _tested(entries: Sequence[Entry], ours: str, metrics: Sequence[str]) -> list[tuple[Entry, Comparison]]:
    """Tests of ours against every other row, corrected together; kept in the entries, too."""
    made: list[tuple[Entry, Comparison]] = []
    for entry in entries:
        rival = _rival(entries, entry, ours)
        if rival is None or rival.users is None or entry.users is None:
            continue
        both = [name for name in metrics if name in rival.users.columns and name in entry.users.columns]
        try:
            made += [(entry, one) for one in compare(rival.users, {entry.title: entry.users}, both)]
        except DataError:
            continue  # scored on other users: no test can be paired
    pairs = zip([entry for entry, _ in made], corrected([one for _, one in made]), strict=True)
    made = list(pairs)
    for entry, one in made:
        entry.comparisons[one.metric] = one
    return made
