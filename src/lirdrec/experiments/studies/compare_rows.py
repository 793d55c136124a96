"""Rows of a comparison: the results of each model, tests against our model, and the answer in sentences.

Our model, `ours`, is LIRDRec or the model that the setting "ours" names. Every other model is compared with it by
paired tests over users, on the same features if our model has results with them. Holm's correction is over all tests of
the comparison. A model that ran out of memory or failed keeps its row, with its problem instead of metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.experiments.config import BEYOND_ACCURACY, ExperimentConfig
from lirdrec.experiments.external_list_scoring import WORK
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies.report_parts import format_mean_sd, measured
from lirdrec.experiments.trial_spec_and_result import TrialResult
from lirdrec.models.registry import model_type
from lirdrec.reporting import Measure, label
from lirdrec.reporting.formatting import NARROW, model_order
from lirdrec.reporting.statistics import (
    Comparison,
    bootstrap_intervals,
    compare_pairs,
    gain,
)

if TYPE_CHECKING:
    from lirdrec.experiments.tuning import TuningState

OURS = "lirdrec"
KINDS = ("recall", "ndcg")  # order of the metrics of a table
NOT_FINISHED = "not finished"


@dataclass
class Entry:
    """A model on a dataset with a feature set: the row of a table.

    Attributes:
        dataset, model: their names; for lists made elsewhere, `model` is the name of the lists.
        features: label of the feature set; "": no label.
        finals: results of the final trainings that succeeded.
        trials: results of the tuning trials.
        problem: text instead of metrics: "out of memory", "failed" or "not finished"; "": there are metrics.
        error: message of a failure.
        comparisons: metric → test of our model against this model.
        intervals: metric → 95 % bootstrap interval of the mean over users.
        is_lists: whether the row is of recommendation lists that were made elsewhere.
    """

    dataset: str
    model: str
    features: str
    finals: list[TrialResult] = field(default_factory=list)
    trials: list[TrialResult] = field(default_factory=list)
    problem: str = ""
    error: str = ""
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    is_lists: bool = False

    @property
    def varies(self) -> bool:
        """Whether another seed may give other metrics: not for closed-form models; assumed for lists made elsewhere."""
        return self.is_lists or model_type(self.model).capabilities.training != "closed_form"

    def measure(self, metric: str, stage: str = "test") -> Measure | None:
        """Return mean and sd of a metric over the seeds, at the stage "test" or "valid"; None without values."""
        return measured(self.finals, metric, stage)

    def means(self, metrics: Sequence[str]) -> dict[str, float]:
        """Return metric → mean over the seeds in the test; metrics that were not evaluated are left out."""
        return {metric: measure.mean for metric in metrics if (measure := self.measure(metric)) is not None}

    @property
    def title(self) -> str:
        """The model and, if they have a label, its features."""
        return f"{label(self.model)} ({self.features})" if self.features else label(self.model)


@dataclass(frozen=True)
class Rows:
    """All rows of a comparison, in the order of tables.

    Attributes:
        entries: the rows.
        ours: the model that all others are compared with.
        metrics: test metrics, small k first, recall before NDCG.
        tuned: the validation metric that the settings were chosen by.
    """

    entries: list[Entry]
    ours: str
    metrics: list[str]
    tuned: str = ""

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, in order."""
        return list(dict.fromkeys(entry.dataset for entry in self.entries))

    @property
    def main(self) -> str:
        """The metric of figures and sentences: the tuning metric or, if it is not tested, recall at the greatest k.

        Without recall it is the last test metric, and "" without test metrics.
        """
        if self.tuned in self.metrics:
            return self.tuned
        recalls = [name for name in self.metrics if name.startswith("recall@")]
        return (recalls or self.metrics or [""])[-1]

    def on(self, dataset: str) -> list[Entry]:
        """Return the rows of a dataset."""
        return [entry for entry in self.entries if entry.dataset == dataset]

    def unfinished(self, dataset: str) -> list[Entry]:
        """Return a dataset's rows whose trainings are not finished; while there are any, no model is called the best.

        Rows that failed or ran out of memory are not among them.
        """
        return [entry for entry in self.on(dataset) if entry.problem == NOT_FINISHED]

    def rival(self, entry: Entry) -> Entry | None:
        """Return the row of our model to compare a row with: on the same features, else the first one with results.

        Return None for a row of our model, or if our model has no results on the dataset.
        """
        mine = [e for e in self.on(entry.dataset) if e.model == self.ours and e.finals]
        if entry.model == self.ours or not mine:
            return None
        return next((e for e in mine if e.features == entry.features), mine[0])

    def panels(self, entry: Entry) -> list[str]:
        """Return the headings of the panels (parts of a figure) that show a row.

        Each feature set of a dataset has a panel. A row without a feature set is in all panels of its dataset.
        """
        sets = dict.fromkeys(e.features for e in self.on(entry.dataset) if e.features)
        return [panel(entry.dataset, name) for name in ([entry.features] if entry.features else sets or [""])]


def gather(config: ExperimentConfig, results: Results, searches: Sequence[TuningState] = ()) -> Rows:
    """Return the rows of a comparison, finished or not, with their tests; arguments as for `compare.make_report`."""
    entries = _entries(results, searches)
    models = {entry.model for entry in entries}
    ours = str(config.setting("ours", OURS))
    if ours not in models:
        ours = next((model for model in config.models if model in models), ours)
    datasets, sets = [Path(path).name for path in config.datasets], list(config.sets)

    def order(entry: Entry) -> tuple[Any, ...]:
        dataset = datasets.index(entry.dataset) if entry.dataset in datasets else len(datasets)
        features = sets.index(entry.features) if entry.features in sets else -1
        return dataset, entry.model == ours, model_order(entry.model), features

    def metric_order(name: str) -> tuple[int, int]:
        kind, _, k = name.partition("@")
        return int(k or 0), KINDS.index(kind) if kind in KINDS else len(KINDS)

    names = dict.fromkeys(name for entry in entries for final in entry.finals for name in final.figures.get("test", {}))
    names = {name: None for name in names if name.partition("@")[0] not in BEYOND_ACCURACY}
    rows = Rows(sorted(entries, key=order), ours, sorted(names, key=metric_order), config.metric)
    users = [results.mean_per_user(entry.finals) for entry in rows.entries]
    for entry, frame in zip(rows.entries, users, strict=True):
        if frame is not None:
            known = [name for name in rows.metrics if name in frame.columns]
            entry.intervals = bootstrap_intervals({name: frame[name].to_numpy() for name in known})
    pairs = []
    for number, entry in enumerate(rows.entries):
        rival = rows.rival(entry)
        if rival is not None:
            pairs.append((number, users[rows.entries.index(rival)], users[number]))
    for number, tests in compare_pairs(pairs, rows.metrics).items():
        rows.entries[number].comparisons = tests
    return rows


def panel(dataset: str, features: str) -> str:
    """Return the heading of a panel for a feature set on a dataset."""
    return f"{label(dataset)}, {features}" if features else label(dataset)


def _entries(results: Results, searches: Sequence[TuningState]) -> list[Entry]:
    """Return a row for each dataset, model and feature set, and for each file of lists made elsewhere."""
    bases = [search.base for search in searches]
    entries: dict[tuple[str, str, str], Entry] = {}
    for trial in [*bases, *(result.trial for result in results if result.trial.work in ("train", "trial"))]:
        key = (trial.dataset_name, trial.model, trial.feature_set)
        entries.setdefault(key, Entry(*key))
    for (dataset, model, features), entry in entries.items():
        mine = results.where(dataset=dataset, model=model, feature_set=features)
        entry.trials = list(mine.where(work="trial"))
        finals = mine.where(work="train", final=True)
        entry.finals = list(finals.where(status="done"))
        if entry.finals:
            continue
        failed = list(finals) or ([] if any(trial.done for trial in entry.trials) else entry.trials)
        worst = next((trial for trial in failed if trial.status == "out of memory"), failed[0] if failed else None)
        entry.problem, entry.error = (worst.status, worst.error or "") if worst else (NOT_FINISHED, "")
    return [*entries.values(), *map(_entry_of_lists, results.where(work=WORK))]


def _entry_of_lists(result: TrialResult) -> Entry:
    problem, error = ("", "") if result.done else (result.status, result.error or "")
    finals = [result] if result.done else []
    return Entry(result.trial.dataset_name, result.trial.variant, "", finals, [], problem, error, is_lists=True)


def answer(rows: Rows) -> str:
    """Return the answer of the report as a text: sentences on each dataset, and the models without metrics."""
    parts = [_answer(rows, dataset) for dataset in rows.datasets]
    problems = [f"{entry.title} on {label(entry.dataset)} ({entry.problem})" for entry in rows.entries if entry.problem]
    if problems:
        parts.append(f"Without metrics: {', '.join(problems)}.")
    return "\n\n".join(parts) or "There are no results yet."


def _answer(rows: Rows, dataset: str) -> str:
    main, ours = rows.main, rows.ours
    scored = [(entry, measure) for entry in rows.on(dataset) if main and (measure := entry.measure(main))]
    if not scored:
        return f"On {label(dataset)} no model has test metrics yet."
    ranked = [entry for entry, _ in sorted(scored, key=lambda pair: -pair[1].mean)]
    values = [format_mean_sd(entry.measure(main)) for entry in ranked]
    if rows.unfinished(dataset):
        reached = ", ".join(f"{entry.title} {value}" for entry, value in zip(ranked, values, strict=True))
        of_all = f"{len(ranked)} of {len(rows.on(dataset))} models"
        return f"On {label(dataset)} {of_all} are finished, so no best one is named: {label(main)} of {reached}."
    best = ranked[0]
    verb = "has the highest" if ranked[1:] else "reaches"
    text = f"On {label(dataset)}, **{best.title}** {verb} {label(main)}: {values[0]}"
    others = [entry for entry in ranked if entry.model != ours]
    mine = next((entry for entry in ranked if entry.model == ours), None)
    if mine is None or not others:
        return text + (f"; next is {ranked[1].title} ({values[1]})." if others[1:] else ".")
    above = gain(mine.means([main])[main], others[0].means([main])[main])
    if best is mine:
        other = values[ranked.index(others[0])]
        text += f", {above:.1f}{NARROW}% above {others[0].title} ({other}), the best other"
    else:
        text += f"; {mine.title} reaches {values[ranked.index(mine)]}, {abs(above):.1f}{NARROW}% below"
    against_best = others[0].comparisons.get(main)
    text += "." if against_best is None or against_best.significant() else ", which is no significant difference."
    tests = [entry.comparisons[main] for entry in others if main in entry.comparisons]
    if not tests:
        return text
    won, lost = (sum(test.significant() == sign for test in tests) for sign in (1, -1))
    many = f"all {won}" if won == len(tests) > 1 else f"{won} of {len(tests)}" if won else "none of the"
    each = ", each on the same features" if any(entry.features for entry in others) else ""
    # with a single training, tests over users do not show how trainings differ
    several = not any(len(entry.finals) == 1 and entry.varies for entry in [mine, *others])
    surely = "significantly " if several else ""
    text += f" {label(ours)} is {surely}better than {many} models{each}"
    text += f" and {surely}worse than {lost}" if lost else ""
    return text + ("." if several else ", over the users of one seed; the variation between seeds is not known.")
