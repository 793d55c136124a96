"""The report of `compare`: test figures of all models with their spread, tests over users, cost, settings, landmarks.

Every model is compared with one of them, `ours` (LIRDRec, or the setting "ours"), on the same features: gains in
percent and tests paired over users, Holm's correction over all tests of the report. A model that ran out of memory or
failed keeps its row and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import DataError, LirdrecError
from lirdrec.experiments.engine.cells import Result
from lirdrec.experiments.engine.context import Context
from lirdrec.experiments.engine.results import IDENTITY, Results, loss_of
from lirdrec.experiments.reporting import (
    Column,
    Measure,
    Report,
    Row,
    Section,
    Table,
    dots,
    label,
    lines,
    points,
)
from lirdrec.experiments.reporting.names import model_order
from lirdrec.experiments.reporting.statistics import (
    ALPHA,
    Comparison,
    average_gain,
    compare,
    corrected,
    gain,
    over_seeds,
)
from lirdrec.experiments.reporting.tables import MISSING, NARROW, Value
from lirdrec.experiments.studies.published import SOURCES, Split, published

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.experiments.engine.tuning import Search

OURS = "lirdrec"
WORSE, BETTER = "*", "†"  # marks of models that ours is shown better, or worse, than
BLANK = ("features", "gain", "seconds", "memory", "gpu")  # columns that the last row of a table leaves empty
HIDDEN = ("metric", "device")  # options that say nothing about the model


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


def write(context: Context, results: Results, searches: Sequence[Search] = ()) -> Path:
    """Write `report` into the experiment's folder; gives the path of the page."""
    return report(context, results, searches).write(context.output, results, context.formats)


def report(context: Context, results: Results, searches: Sequence[Search] = ()) -> Report:
    """The report of a comparison, also of one that is not finished.

    Args:
        context: as for the plan. Its setting "ours" names the model that the others are compared with; without it that
            is LIRDRec, or, where it takes no part, the first of the context's models.
        results: of the trials and of the final trainings.
        searches: where the tunings stand: a model that has no result at all gets its row from here.
    """
    entries = _entries(context, results, searches)
    ours = _ours(context, entries)
    metrics = _metrics(entries)
    comparisons = _tested(entries, ours, metrics)
    datasets = list(dict.fromkeys(entry.dataset for entry in entries))
    main = _main(metrics)
    sections = []
    if main:
        sections.append(Section("Test figures", _test_blocks(entries, datasets, metrics, ours)))
        sections.append(Section("How sure is it?", _difference_blocks(entries, comparisons, ours, main)))
        sections.append(Section("Accuracy and cost", _cost_blocks(entries, datasets, main, ours)))
    sections.append(Section("Tuning", _tuning_blocks(context, entries, datasets, ours)))
    landmarks = _landmark_blocks(context, entries, datasets, ours)
    if landmarks:
        sections.append(Section("Beside published figures", landmarks))
    troubles = [f"- **{e.title} on {label(e.dataset)}**: {e.problem}. {e.error}".rstrip() for e in entries if e.problem]
    if troubles:
        sections.append(Section("What did not finish", ["\n".join(troubles)]))
    models = len({entry.model for entry in entries})
    names = _listed([label(name) for name in datasets])
    return Report(
        f"{models} models on {names}",
        "Which model recommends best when all are tuned with the same budget and the test set is scored once?",
        _answer(entries, datasets, main, ours),
        [section for section in sections if section.blocks],
        settings=_settings(context),
        commands=[context.command] if context.command else [],
        name="compare",
    )


# ----------------------------------------------------------------------------------------------------------- gathering


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


def _main(metrics: Sequence[str]) -> str:
    """The metric to speak of first: recall at the greatest k."""
    recalls = [name for name in metrics if name.startswith("recall@")]
    return (recalls or list(metrics) or [""])[-1]


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


# ------------------------------------------------------------------------------------------------------------ sections


def _test_blocks(entries: Sequence[Entry], datasets: Sequence[str], metrics: Sequence[str], ours: str) -> list[Any]:
    blocks: list[Any] = []
    if len(datasets) > 1:
        blocks.append(_overview(entries, datasets, metrics, ours))
    blocks += [_table(entries, dataset, metrics, ours) for dataset in datasets]
    return blocks


def _table(entries: Sequence[Entry], dataset: str, metrics: Sequence[str], ours: str) -> Table:
    """All models on one dataset."""
    mine = [entry for entry in entries if entry.dataset == dataset]
    named = any(entry.features for entry in mine)
    gains = any(_rival(mine, entry, ours) for entry in mine)
    gpu = any(one.peak_gpu_memory for entry in mine for one in entry.finals)
    columns = [Column("model", "Model", format="text")]
    columns += [Column("features", "Features", format="text")] if named else []
    columns += [Column(metric, label(metric), better="higher") for metric in metrics]
    columns += [Column("gain", f"{label(ours)} gains", format="percent", digits=1)] if gains else []
    columns += [Column("seconds", "Training", format="duration"), Column("memory", "Memory", format="memory")]
    columns += [Column("gpu", "GPU memory", format="memory")] if gpu else []
    rows = []
    for entry in mine:
        cells: dict[str, Value] = {"model": label(entry.model)}
        if named:
            cells["features"] = entry.features
        for metric in metrics:
            measure = entry.measure(metric)
            test = entry.comparisons.get(metric)
            if measure and test and (shown := test.significant()):
                measure = replace(measure, marks=WORSE if shown > 0 else BETTER)
            cells[metric] = measure or entry.problem
        rival = _rival(mine, entry, ours)
        if gains:
            cells["gain"] = _finite(average_gain(rival.means(metrics), entry.means(metrics))) if rival else ""
        cells |= _cost(entry, gpu)
        rows.append(Row(cells, accent=entry.model == ours))
    blank: dict[str, Value] = {column.key: "" for column in columns if column.key in BLANK}
    if (over := _over_best(mine, metrics, ours)) is not None:
        rows.append(Row({"model": "Over best other", **over, **blank}, muted=True))
    return Table(f"test-{_slug(dataset)}", columns, rows, f"{label(dataset)}: test set", _notes(mine, ours, metrics))


def _overview(entries: Sequence[Entry], datasets: Sequence[str], metrics: Sequence[str], ours: str) -> Table:
    """The figures at the greatest k of all datasets side by side, without spreads."""
    last = _main(metrics).partition("@")[2]
    shown = [metric for metric in metrics if metric.endswith(f"@{last}")]
    named = any(entry.features for entry in entries)
    columns = [Column("model", "Model", format="text")]
    columns += [Column("features", "Features", format="text")] if named else []
    columns += [Column(f"{d} {m}", label(m), label(d), "higher") for d in datasets for m in shown]
    columns.append(Column("gain", f"{label(ours)} gains", format="percent", digits=1))
    rows = []
    keys = dict.fromkeys((entry.model, entry.features) for entry in entries)
    for model, features in sorted(keys, key=lambda key: (key[0] == ours, model_order(key[0]))):
        cells: dict[str, Value] = {"model": label(model)}
        if named:
            cells["features"] = features
        gains = []
        for entry in entries:
            if (entry.model, entry.features) != (model, features):
                continue
            means = entry.means(metrics)
            cells |= {f"{entry.dataset} {m}": means.get(m, _short(entry.problem)) for m in shown}
            if rival := _rival(entries, entry, ours):
                gains.append(average_gain(rival.means(metrics), means))
        cells["gain"] = _mean(gains) if gains else ""
        rows.append(Row(cells, accent=model == ours))
    note = f"{label(ours)} gains: mean over all data sets and metrics of its gain over the model, in percent."
    caption = "All data sets: test figures, means over the seeds"
    return Table("test-all", columns, rows, caption, [_legend(), note, *_oom(entries)])


def _over_best(mine: Sequence[Entry], metrics: Sequence[str], ours: str) -> dict[str, Value] | None:
    """Our best row's gain over the best other, by metric."""
    cells: dict[str, Value] = {}
    for metric in metrics:
        of_ours = [m[metric] for e in mine if e.model == ours and metric in (m := e.means(metrics))]
        others = [m[metric] for e in mine if e.model != ours and metric in (m := e.means(metrics))]
        if of_ours and others:
            cells[metric] = _percent(gain(max(of_ours), max(others)))
    return cells or None


def _difference_blocks(
    entries: Sequence[Entry], comparisons: Sequence[tuple[Entry, Comparison]], ours: str, main: str
) -> list[Any]:
    """Tests over users: a figure of the differences, a table of the p-values."""
    import polars as pl

    shown = [(entry, one) for entry, one in comparisons if one.metric == main]
    if not shown:
        return []
    rivals = {id(entry): _rival(entries, entry, ours) for entry, _ in shown}
    frame = pl.DataFrame(
        [
            {
                "panel": _panel(entry.dataset, entry.features or (rival.features if rival else "")),
                "model": entry.model,
                "value": one.test.difference,
                "low": one.test.low,
                "high": one.test.high,
            }
            for entry, one in shown
            for rival in [rivals[id(entry)]]
        ]
    )
    n = len(comparisons)
    figure = dots(
        frame,
        "differences",
        "model",
        panel="panel" if frame["panel"].n_unique() > 1 else None,
        low="low",
        high="high",
        reference=0.0,
        accent=None,
        sort=True,
        x_label=f"{label(main)} of {label(ours)} − {label(main)} of the model",
        caption=f"How much {label(ours)} is above each model in {label(main)}: mean over users and its 95 % confidence "
        "interval. Intervals that cross the line show no difference.",
    )
    rows = []
    for entry, one in shown:
        verdict = {1: f"{label(ours)} better", -1: f"{label(ours)} worse", 0: "no difference"}[one.significant()]
        cells: dict[str, Value] = {"model": entry.title, "n": one.test.n, "d": one.test.difference}
        cells |= {"t": one.t_p_holm, "w": one.w_p_holm, "verdict": verdict}
        rows.append(Row(cells, block=label(entry.dataset)))
    columns = [
        Column("model", "Model", format="text"),
        Column("n", "Users", format="count"),
        Column("d", "Difference"),
        Column("t", "p, t-test", format="p"),
        Column("w", "p, Wilcoxon", format="p"),
        Column("verdict", "Shown", format="text"),
    ]
    notes = [
        "Each user's value is averaged over the seeds; the tests are paired over users and two-sided. p is corrected "
        f"by Holm's procedure over the {n} tests of this report (all metrics); shown means p < {ALPHA:g} by both.",
    ]
    table = Table("tests", columns, rows, f"{label(ours)} against each model: {label(main)}", notes)
    return [figure, table]


def _cost_blocks(entries: Sequence[Entry], datasets: Sequence[str], main: str, ours: str) -> list[Any]:
    import polars as pl

    with_figures = [entry for entry in entries if entry.finals and entry.measure(main)]
    if len(with_figures) < 2:
        return []
    frame = pl.DataFrame(
        [
            {"panel": panel, "model": entry.model, "value": value, "minutes": max(one.seconds, 0.06) / 60}
            for entry in with_figures
            for panel in _panels(entries, entry)
            for one in entry.finals
            if (value := one.figure(main, "test")) is not None
        ]
    )
    several = "panel" if frame["panel"].n_unique() > 1 else None
    recall = dots(
        frame,
        "recall",
        "model",
        panel=several,
        accent=ours,
        x_label=f"test {label(main)}",
        caption=f"Test {label(main)}, mean ± one standard deviation of the seeds.",
    )
    cost = points(
        frame,
        "cost",
        "minutes",
        "value",
        "model",
        panel=several,
        accent=ours,
        log_x=True,
        x_label="minutes of one final training (logarithmic)",
        y_label=f"test {label(main)}",
        caption="What accuracy costs: up and to the left is better. Minutes of one training with the chosen settings, "
        "validation included, tuning not.",
    )
    return [recall, cost]


def _tuning_blocks(context: Context, entries: Sequence[Entry], datasets: Sequence[str], ours: str) -> list[Any]:
    import polars as pl

    rows, trials, numbers = [], [], []
    for entry in entries:
        chosen = entry.finals[0] if entry.finals else None
        cells: dict[str, Value] = {"model": entry.title, "trials": len(entry.trials)}
        cells["tuned"] = sum(one.seconds for one in entry.trials) if entry.trials else None
        if chosen is not None:
            options = {**chosen.cell.model_options, **chosen.cell.training}
            cells["loss"] = loss_of(chosen) or MISSING
            cells["rate"] = _plain(options.pop("learning_rate", MISSING))
            cells["batch"] = _plain(options.pop("batch_size", MISSING))
            left = [f"{k} {_plain(v)}" for k, v in sorted(options.items()) if k not in (*HIDDEN, "loss")]
            cells["options"] = ", ".join(left) or "defaults"
            cells["epoch"] = Measure.of([one.best_epoch for one in entry.finals if one.best_epoch])
            cells["valid"] = entry.measure(context.metric, "valid")
        else:
            cells["options"] = entry.problem
        best = -math.inf
        for number, one in enumerate(entry.trials, 1):
            value = one.figure(context.metric) if one.done else None
            best = max(best, -math.inf if value is None else value)
            if best > -math.inf:
                numbers.append(number)
                trials += [
                    {"panel": panel, "model": entry.model, "trial": number, "value": best}
                    for panel in _panels(entries, entry)
                ]
        rows.append(Row(cells, block=label(entry.dataset), accent=entry.model == ours))
    columns = [
        Column("model", "Model", format="text"),
        Column("valid", f"Valid {label(context.metric)}"),
        Column("loss", "Loss", format="text"),
        Column("rate", "Learning rate", format="text"),
        Column("batch", "Batch", format="text"),
        Column("epoch", "Best epoch", digits=0),
        Column("trials", "Trials", format="count"),
        Column("tuned", "Tuned in", format="duration"),
        Column("options", "Other options", format="text"),
    ]
    note = f"Chosen by validation {label(context.metric)}; the test set played no part. Options left out: defaults."
    blocks: list[Any] = [Table("settings", columns, rows, "Chosen settings", [note])]
    if any(number > 1 for number in numbers):
        frame = pl.DataFrame(trials)
        blocks.append(
            lines(
                frame,
                "tuning",
                "trial",
                series="model",
                panel="panel" if frame["panel"].n_unique() > 1 else None,
                accent=ours,
                x_label="trial",
                y_label=f"best validation {label(context.metric)}",
                caption="What tuning brought: the best validation figure after each trial.",
            )
        )
    return blocks


def _landmark_blocks(context: Context, entries: Sequence[Entry], datasets: Sequence[str], ours: str) -> list[Any]:
    """For each dataset that others published figures of: theirs beside ours."""
    blocks: list[Any] = []
    for path in context.datasets:
        name = Path(path).name
        split = published(name, _size(path)) if name in datasets else None
        if split is not None:
            blocks.append(_landmarks(split, [entry for entry in entries if entry.dataset == name], ours))
    return blocks


def _landmarks(split: Split, mine: Sequence[Entry], ours: str) -> Table:
    metrics = ("recall@20", "ndcg@20")
    columns = [Column("model", "Model", format="text")]
    columns += [Column(f"here {m}", label(m), "Here") for m in metrics]
    columns += [Column(f"there {m}", label(m), "Published") for m in metrics]
    columns += [Column("gap", "Here above", format="percent", digits=1), Column("source", "Source", format="text")]
    rows = []
    listed = {row.model for row in split.rows}
    for entry in mine:
        if entry.model not in listed:
            rows.append(Row({**_here(entry, metrics), "gap": "", "source": ""}))
    used = set()
    for row in split.rows:
        title = f"{label(row.model)} ({row.features})" if row.features else label(row.model)
        cells: dict[str, Value] = {"model": title, "source": row.source}
        cells |= {f"there {m}": row.figures.get(m, "OOM") for m in metrics}
        found = [e for e in mine if e.model == row.model and e.features == row.features and row.model not in used]
        if not found and row.model not in used and not row.features:
            found = [entry for entry in mine if entry.model == row.model][:1]
        if found:
            used.add(row.model)
            cells |= {**_here(found[0], metrics), "model": title}
            cells["gap"] = _finite(average_gain(found[0].means(metrics), row.figures))
        rows.append(Row(cells, accent=bool(found) and row.model == ours))
    notes = [split.note, "Here above: mean over both metrics of how much the figures here are above the published."]
    notes += [SOURCES[source] for source in dict.fromkeys(row.source for row in split.rows)]
    caption = f"{split.name}: published figures, measured by others on their own splits and protocols"
    return Table(f"published-{_slug(split.name)}", columns, rows, caption, notes)


def _here(entry: Entry, metrics: Sequence[str]) -> dict[str, Value]:
    means = entry.means(metrics)
    return {"model": entry.title, **{f"here {m}": means.get(m, _short(entry.problem)) for m in metrics}}


# -------------------------------------------------------------------------------------------------------------- words


def _answer(entries: Sequence[Entry], datasets: Sequence[str], main: str, ours: str) -> str:
    """What came out, a sentence or two a dataset; no more than the figures say."""
    said = []
    for dataset in datasets:
        mine = [entry for entry in entries if entry.dataset == dataset and main and entry.measure(main)]
        ranked = sorted(mine, key=lambda entry: -entry.means([main])[main])
        if not ranked:
            said.append(f"On {label(dataset)} no model has test figures yet.")
            continue
        best = ranked[0]
        text = f"On {label(dataset)}, **{best.title}** is best: {label(main)} {_said(best.measure(main))}"
        others = [entry for entry in ranked if entry.model != ours]
        own = next((entry for entry in ranked if entry.model == ours), None)
        if own is None or not others:
            said.append(
                text + (f"; next is {ranked[1].title} ({_said(ranked[1].measure(main))})." if others[1:] else ".")
            )
            continue
        top = others[0]
        above = gain(own.means([main])[main], top.means([main])[main])
        if best is own:
            text += f", {above:.1f}{NARROW}% above {top.title} ({_said(top.measure(main))}), the best other."
        else:
            text += f"; {own.title} reaches {_said(own.measure(main))}, {abs(above):.1f}{NARROW}% "
            text += "below." if above <= 0 else "above."
        tests = [entry.comparisons[main] for entry in others if main in entry.comparisons]
        if tests:
            won, lost = (sum(test.significant() == sign for test in tests) for sign in (1, -1))
            many = f"all {won}" if won == len(tests) > 1 else f"{won} of {len(tests)}" if won else "none of the"
            rows = "models, each on the same features" if any(entry.features for entry in others) else "models"
            text += f" {label(ours)} is significantly better than {many} {rows}"
            text += f" and significantly worse than {lost}." if lost else "."
        said.append(text)
    problems = [f"{entry.title} on {label(entry.dataset)} ({entry.problem})" for entry in entries if entry.problem]
    if problems:
        said.append(f"Without figures: {', '.join(problems)}.")
    return "\n\n".join(said) or "There are no results yet."


def _notes(mine: Sequence[Entry], ours: str, metrics: Sequence[str]) -> list[str]:
    notes = [_legend(spread=any(len(entry.finals) > 1 for entry in mine))]
    marks = {test.significant() for entry in mine for test in entry.comparisons.values()}
    if 1 in marks:
        notes.append(f"{WORSE} {label(ours)} is better, p < {ALPHA:g} by paired t-test and Wilcoxon, Holm-corrected.")
    if -1 in marks:
        notes.append(f"{BETTER} {label(ours)} is worse, p < {ALPHA:g} by paired t-test and Wilcoxon, Holm-corrected.")
    if any(_rival(mine, entry, ours) for entry in mine):
        shown = ", ".join(label(metric) for metric in metrics)
        notes.append(f"{label(ours)} gains: its gain over the model, mean of {shown}.")
    notes.append("Training: one final training, validation included. Memory: at most, of the whole process.")
    return notes


def _legend(spread: bool = False) -> str:
    tail = " Mean ± standard deviation of the seeds." if spread else ""
    return "**Best**, second best underlined." + tail


def _oom(entries: Sequence[Entry]) -> Iterator[str]:
    if any(entry.problem == "out of memory" for entry in entries):
        yield "OOM: out of memory."


def _settings(context: Context) -> dict[str, Any]:
    budget = f"{context.minutes:g} minutes each" if context.minutes else f"{context.trials} trials each"
    found = {
        "datasets": [Path(path).name for path in context.datasets],
        "models": list(context.models) or "all",
        "feature sets": {name or "all": list(values) for name, values in context.feature_sets.items()},
        "seeds": context.seeds,
        "tuning": f"{budget}, {context.sampler}, by validation {context.metric}",
        "losses": list(context.losses) or "all",
        "set by hand": {**context.model_options, **context.training, **context.settings},
        "device": context.device,
    }
    return {name: value for name, value in found.items() if value not in ({}, [])}


# -------------------------------------------------------------------------------------------------------------- pieces


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _cost(entry: Entry, gpu: bool) -> dict[str, Value]:
    cells: dict[str, Value] = {
        "seconds": Measure.of([one.seconds for one in entry.finals]),
        "memory": max((one.peak_memory for one in entry.finals), default=None),
    }
    if gpu:
        cells["gpu"] = max((one.peak_gpu_memory for one in entry.finals if one.peak_gpu_memory), default=None)
    return cells


def _panel(dataset: str, features: str) -> str:
    return f"{label(dataset)}, {features}" if features else label(dataset)


def _panels(entries: Sequence[Entry], entry: Entry) -> list[str]:
    """The panels that a row belongs to: one a set of features; models that use none stand in all of the dataset."""
    sets = dict.fromkeys(one.features for one in entries if one.dataset == entry.dataset and one.features)
    return [_panel(entry.dataset, name) for name in ([entry.features] if entry.features else sets or [""])]


def _size(path: str) -> tuple[int, int, int] | None:
    """Users, items and interactions of a dataset; None where it cannot be read (any more)."""
    from lirdrec.data.readers import read_any
    from lirdrec.data.storage import MANIFEST, read_manifest

    try:
        if (Path(path) / MANIFEST).is_file():
            counts: Mapping[str, int] = read_manifest(path)["counts"]
            return counts["users"], counts["items"], sum(counts[name] for name in ("train", "valid", "test"))
        data = read_any(path)
    except (LirdrecError, OSError):
        return None
    return data.n_users, data.n_items, len(data.train) + len(data.valid) + len(data.test)


def _said(measure: Measure | None) -> str:
    if measure is None:
        return MISSING
    return f"{measure.mean:.4f}" + (f"{NARROW}±{NARROW}{measure.sd:.4f}" if measure.sd is not None else "")


def _percent(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:+.1f}{NARROW}%".replace("-", "−")


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) + "}"
    return "+".join(map(_plain, value)) if isinstance(value, (list, tuple)) else str(value)


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Sequence[float]) -> float | None:
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else None


def _short(problem: str) -> str:
    return "OOM" if problem == "out of memory" else problem


def _slug(name: str) -> str:
    return (
        "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower()).strip("-")
        or "data"
    )
