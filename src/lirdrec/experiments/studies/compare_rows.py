"""What a comparison found, gathered from its results: a row for each dataset, model and set of features.

Every model is compared with one of them, `ours` (LIRDRec, or the setting "ours"), on the same features, by tests paired
over users; Holm's correction is over all tests of the comparison. A model that ran out of memory or failed keeps its
row and says so.

The words of a comparison's report: its answer, and how figures, settings and problems are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import DataError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import IDENTITY, Results
from lirdrec.experiments.studies.sentences import format_mean_sd
from lirdrec.experiments.trial import TrialResult
from lirdrec.reporting import Measure, label
from lirdrec.reporting.formatting import NARROW, model_order
from lirdrec.reporting.statistics import Comparison, compare, corrected, gain, over_seeds

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.experiments.tuning import TuningState

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
    finals: list[TrialResult] = field(default_factory=list)
    trials: list[TrialResult] = field(default_factory=list)
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


def gather(config: ExperimentConfig, results: Results, searches: Sequence[TuningState] = ()) -> Rows:
    """The rows of a comparison, also of one that is not finished; arguments as for `compare_report.report`."""
    entries = _entries(config, results, searches)
    ours = _ours(config, entries)
    metrics = _metrics(entries)
    return Rows(entries, ours, metrics, _tested(entries, ours, metrics))


def panel(dataset: str, features: str) -> str:
    """The heading of a panel for a set of features on a dataset."""
    return f"{label(dataset)}, {features}" if features else label(dataset)


def _entries(config: ExperimentConfig, results: Results, searches: Sequence[TuningState]) -> list[Entry]:
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
    ours = _ours(config, list(found.values()))
    places = {Path(one).name: at for at, one in enumerate(config.datasets)}
    sets = list(config.sets)
    return sorted(
        found.values(),
        key=lambda e: (
            places.get(e.dataset, len(places)),
            e.model == ours,
            model_order(e.model),
            sets.index(e.features) if e.features in sets else -1,
        ),
    )


def _ours(config: ExperimentConfig, entries: Sequence[Entry]) -> str:
    """The model that the others are compared with."""
    present = {entry.model for entry in entries}
    ours = str(config.setting("ours", OURS))
    return ours if ours in present else next((model for model in config.models if model in present), ours)


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


def answer(rows: Rows) -> str:
    """What came out, a sentence or two a dataset; no more than the figures say."""
    main, ours = rows.main, rows.ours
    parts = []
    for dataset in rows.datasets:
        mine = [entry for entry in rows.on(dataset) if main and entry.measure(main)]
        ranked = sorted(mine, key=lambda entry: -entry.means([main])[main])
        if not ranked:
            parts.append(f"On {label(dataset)} no model has test figures yet.")
            continue
        best = ranked[0]
        place = "is best:" if ranked[1:] else "reaches"
        text = f"On {label(dataset)}, **{best.title}** {place} {label(main)} {format_mean_sd(best.measure(main))}"
        others = [entry for entry in ranked if entry.model != ours]
        own = next((entry for entry in ranked if entry.model == ours), None)
        if own is None or not others:
            parts.append(
                text
                + (f"; next is {ranked[1].title} ({format_mean_sd(ranked[1].measure(main))})." if others[1:] else ".")
            )
            continue
        top = others[0]
        above = gain(own.means([main])[main], top.means([main])[main])
        if best is own:
            text += f", {above:.1f}{NARROW}% above {top.title} ({format_mean_sd(top.measure(main))}), the best other."
        else:
            text += f"; {own.title} reaches {format_mean_sd(own.measure(main))}, {abs(above):.1f}{NARROW}% "
            text += "below." if above <= 0 else "above."
        tests = [entry.comparisons[main] for entry in others if main in entry.comparisons]
        if tests:
            won, lost = (sum(test.significant() == sign for test in tests) for sign in (1, -1))
            many = f"all {won}" if won == len(tests) > 1 else f"{won} of {len(tests)}" if won else "none of the"
            each = ", each on the same features" if any(entry.features for entry in others) else ""
            # over the users of one training nothing is known of how trainings differ
            several = min(len(entry.finals) for entry in [own, *others] if entry.finals) > 1
            surely = "significantly " if several else ""
            text += f" {label(ours)} is {surely}better than {many} models{each}"
            text += f" and {surely}worse than {lost}" if lost else ""
            text += "." if several else ", over the users of one seed; how much seeds differ is not known."
        parts.append(text)
    problems = [f"{entry.title} on {label(entry.dataset)} ({entry.problem})" for entry in rows.entries if entry.problem]
    if problems:
        parts.append(f"Without figures: {', '.join(problems)}.")
    return "\n\n".join(parts) or "There are no results yet."


def plain(value: Any) -> str:
    """The value of an option."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} {plain(v)}" for k, v in value.items()) + "}"
    return "+".join(map(plain, value)) if isinstance(value, (list, tuple)) else str(value)


def short(problem: str) -> str:
    """A problem, short enough for a narrow cell."""
    return "OOM" if problem == "out of memory" else problem


def slug(name: str) -> str:
    """A name as part of a file name."""
    return (
        "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower()).strip("-")
        or "data"
    )
