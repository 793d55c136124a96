"""Tables of a comparison: test metrics of all models, intervals, metrics beyond accuracy, and published metrics.

A mark in a row shows that our model is significantly better or worse than the row's model. Gains are in percent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import LirdrecError
from lirdrec.experiments.config import BEYOND_ACCURACY
from lirdrec.experiments.studies.compare_rows import NOT_FINISHED, Entry, Rows
from lirdrec.experiments.studies.literature import SOURCES, Split, published
from lirdrec.experiments.studies.report_parts import format_gain
from lirdrec.reporting import Column, Measure, Row, Table, label
from lirdrec.reporting.formatting import Better, Value, model_order
from lirdrec.reporting.statistics import (
    ALPHA,
    RESAMPLES,
    average_gain,
)

if TYPE_CHECKING:
    pass

WORSE, BETTER = "*", "†"  # marks of models that are worse, or better, than ours
PUBLISHED = ("recall@20", "ndcg@20")
BEYOND_NOTES = (
    "Diversity: mean of 1 − cosine of the features of two items of a list. Novelty: mean of log2(users / training "
    "users of the item). ARP: mean training users of an item of a list. APLT: share of items of the tail, the least "
    "popular items that together have 20 % of the interactions. Calibration: KL divergence of the list's head, middle "
    "and tail from those of the user's training items; 0 is best.",
)
LEGEND = "Bold: the best; underlined (in Markdown: italic): the second best."
UNRANKED = "Not ranked, since not all models are finished."


def plain(value: Any) -> str:
    """Format the value of an option as text."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} {plain(v)}" for k, v in value.items()) + "}"
    return "+".join(map(plain, value)) if isinstance(value, (list, tuple)) else str(value)


def metric_tables(rows: Rows) -> list[Table]:
    """Return a table of test metrics for each dataset; if there are several, first an overview."""
    overview = [_overview(rows)] if len(rows.datasets) > 1 else []
    return overview + [_table(rows, dataset) for dataset in rows.datasets]


def _table(rows: Rows, dataset: str) -> Table:
    """Return the table of all models on one dataset; a last row has our gain over the best other model."""
    mine, metrics, ours = rows.on(dataset), rows.metrics, rows.ours
    gains = any(rows.rival(entry) for entry in mine)
    gpu = any(result.peak_gpu_memory for entry in mine for result in entry.finals)
    columns = _model_columns(mine)
    better: Better | None = None if rows.unfinished(dataset) else "higher"
    columns += [Column(metric, label(metric), better=better) for metric in metrics]
    others = [Column("gain", f"{label(ours)} gains", format="percent", digits=1)] if gains else []
    others += [Column("seconds", "Training", format="duration"), Column("memory", "Memory", format="memory")]
    others += [Column("gpu", "GPU memory", format="memory")] if gpu else []
    table_rows = []
    for entry in mine:
        cells = _model_cells(entry.model, entry.features, mine)
        for metric in metrics:
            measure, test = entry.measure(metric), entry.comparisons.get(metric)
            if measure and test:
                measure = replace(measure, marks={1: WORSE, 0: "", -1: BETTER}[test.significant()])
            cells[metric] = measure or entry.problem
        if gains:
            cells["gain"] = _gain(rows, entry)
        trainings = [] if entry.is_lists else entry.finals
        cells["seconds"] = Measure.of(result.seconds for result in trainings)
        cells["memory"] = max((result.peak_memory for result in trainings), default=None)
        if gpu:
            cells["gpu"] = max((r.peak_gpu_memory for r in entry.finals if r.peak_gpu_memory), default=None)
        table_rows.append(Row(cells, accent=entry.model == ours))
    over: dict[str, Value] = {}
    for metric in metrics:
        means = [(entry.model == ours, value) for entry in mine for value in entry.means([metric]).values()]
        best_ours, best_other = (max((v for is_ours, v in means if is_ours == side), default=None) for side in (1, 0))
        if best_ours is not None and best_other is not None:
            over[metric] = format_gain(best_ours, best_other)
    if over:
        blank = {column.key: "" for column in [*columns[1:], *others] if column.key not in metrics}
        table_rows.append(Row({"model": "Over best other", **over, **blank}, muted=True))
    return Table(
        f"test-{_slug(dataset)}", [*columns, *others], table_rows, f"{label(dataset)}: test set", _notes(rows, mine)
    )


def _overview(rows: Rows) -> Table:
    """Return a table of all datasets side by side, without sds: the metrics with the cut-off of the main metric."""
    entries, metrics, ours = rows.entries, rows.metrics, rows.ours
    last = rows.main.partition("@")[2]
    shown = [metric for metric in metrics if metric.endswith(f"@{last}")]
    columns = _model_columns(entries)
    better: dict[str, Better | None] = {d: None if rows.unfinished(d) else "higher" for d in rows.datasets}
    columns += [Column(f"{d} {m}", label(m), label(d), better[d]) for d in rows.datasets for m in shown]
    columns.append(Column("gain", f"{label(ours)} gains", format="percent", digits=1))
    table_rows = []
    keys = dict.fromkeys((entry.model, entry.features) for entry in entries)
    for model, features in sorted(keys, key=lambda key: (key[0] == ours, model_order(key[0]))):
        cells = _model_cells(model, features, entries)
        gains = []
        for entry in entries:
            if (entry.model, entry.features) == (model, features):
                cells |= {f"{entry.dataset} {m}": value for m, value in _means(entry, shown).items()}
                gains.append(_gain(rows, entry))
        numbers = [gain for gain in gains if isinstance(gain, float)]
        rivals = any(gain != "" for gain in gains)
        cells["gain"] = sum(numbers) / len(numbers) if numbers else None if rivals else ""
        table_rows.append(Row(cells, accent=model == ours))
    notes = [
        LEGEND if all(better.values()) else UNRANKED,
        f"{label(ours)} gains: mean over all data sets and metrics of its gain over the model, in percent.",
    ]
    if any(entry.problem == "out of memory" for entry in entries):
        notes.append("OOM: out of memory.")
    return Table("test-all", columns, table_rows, "All data sets: test metrics, means over the seeds", notes)


def interval_tables(rows: Rows) -> list[Table]:
    """Return for each dataset a table of 95 % bootstrap intervals of the means; no table without metrics of users."""
    tables = []
    for dataset in rows.datasets:
        mine = [entry for entry in rows.on(dataset) if entry.intervals]
        columns = _model_columns(mine) + [Column(metric, label(metric), format="text") for metric in rows.metrics]
        cells = [
            Row(
                _model_cells(entry.model, entry.features, mine)
                | {name: f"{low:.4f} – {high:.4f}" for name, (low, high) in entry.intervals.items()},
                accent=entry.model == rows.ours,
            )
            for entry in mine
        ]
        note = f"Percentile bootstrap over the users, {RESAMPLES} draws; values of a user are means over the seeds."
        if mine:
            caption = f"{label(dataset)}: 95 % intervals of the test metrics"
            tables.append(Table(f"intervals-{_slug(dataset)}", columns, cells, caption, [note]))
    return tables


def beyond_accuracy_tables(rows: Rows) -> list[Table]:
    """Return for each dataset a table of metrics beyond accuracy at the greatest k.

    A dataset gets no table if its results lack these metrics, as those of earlier versions do.
    """
    last = rows.metrics[-1].partition("@")[2]
    names = [f"{name}@{last}" for name in BEYOND_ACCURACY]
    tables = []
    for dataset in rows.datasets:
        mine = [entry for entry in rows.on(dataset) if entry.means(names)]
        known = [name for name in names if any(entry.measure(name) for entry in mine)]
        digits = {f"arp@{last}": 1}
        columns = [Column(name, label(name), digits=digits.get(name, 3)) for name in known]
        cells = [
            Row(
                _model_cells(entry.model, entry.features, mine) | {name: entry.measure(name) for name in known},
                accent=entry.model == rows.ours,
            )
            for entry in mine
        ]
        if mine:
            caption = f"{label(dataset)}: lists of {last} beyond accuracy"
            table_columns = [*_model_columns(mine), *columns]
            tables.append(Table(f"beyond-accuracy-{_slug(dataset)}", table_columns, cells, caption, BEYOND_NOTES))
    return tables


def published_tables(rows: Rows, paths: Sequence[str]) -> list[Table]:
    """Return a table for each dataset that has published metrics: metrics of this comparison beside published ones.

    `paths` are the paths of the datasets.
    """
    tables = []
    for path in paths:
        name = Path(path).name
        split = published(name, _size(path)) if name in rows.datasets else None
        if split is not None:
            tables.append(_published(split, rows.on(name), rows.ours))
    return tables


def _published(split: Split, mine: Sequence[Entry], ours: str) -> Table:
    columns = [Column("model", "Model", format="text")]
    columns += [Column(f"here {m}", label(m), "Here") for m in PUBLISHED]
    columns += [Column(f"there {m}", label(m), "Published") for m in PUBLISHED]
    columns += [Column("gap", "Here above", format="percent", digits=1), Column("source", "Source", format="text")]

    def here(entry: Entry) -> dict[str, Value]:
        return {f"here {m}": value for m, value in _means(entry, PUBLISHED).items()}

    only_here = [entry for entry in mine if entry.model not in {row.model for row in split.rows}]
    rows = [Row({"model": entry.title, **here(entry), "gap": "", "source": ""}) for entry in only_here]
    used = set()
    for row in split.rows:
        title = f"{label(row.model)} ({row.features})" if row.features else label(row.model)
        cells: dict[str, Value] = {"model": title, "source": row.source}
        cells |= {f"there {m}": row.figures.get(m, "OOM") for m in PUBLISHED}
        same = [entry for entry in mine if entry.model == row.model and row.model not in used]
        # the released features have no label: compare them with the first feature set here
        match = [entry for entry in same if entry.features == row.features] or ([] if row.features else same)
        if match:
            used.add(row.model)
            cells |= here(match[0])
            cells["gap"] = _finite(average_gain(match[0].means(PUBLISHED), row.figures))
        rows.append(Row(cells, accent=bool(match) and row.model == ours))
    notes = [split.note, "Here above: mean over both metrics of the gain of the values here over the published ones."]
    notes += [SOURCES[source] for source in dict.fromkeys(row.source for row in split.rows)]
    caption = f"{split.name}: published metrics, measured by others on their own splits and protocols"
    return Table(f"published-{_slug(split.name)}", columns, rows, caption, notes)


def _model_columns(entries: Sequence[Entry]) -> list[Column]:
    """Return the column of models and, if any row has a feature label, a column of these labels."""
    features = [Column("features", "Features", format="text")] if any(entry.features for entry in entries) else []
    return [Column("model", "Model", format="text"), *features]


def _model_cells(model: str, features: str, entries: Sequence[Entry]) -> dict[str, Value]:
    cells: dict[str, Value] = {"model": label(model)}
    return cells | ({"features": features} if any(entry.features for entry in entries) else {})


def _means(entry: Entry, metrics: Sequence[str]) -> dict[str, Value]:
    """Return metric → mean over the seeds for these metrics; one that was not evaluated gets the row's problem."""
    problem = "OOM" if entry.problem == "out of memory" else entry.problem
    return {metric: entry.means(metrics).get(metric, problem) for metric in metrics}


def _gain(rows: Rows, entry: Entry) -> Value:
    """Return the gain of our model over a row in percent, as mean over all test metrics.

    Return "" if there is no row of our model to compare, and None if the rows have no common metric.
    """
    rival = rows.rival(entry)
    return _finite(average_gain(rival.means(rows.metrics), entry.means(rows.metrics))) if rival else ""


def _notes(rows: Rows, mine: Sequence[Entry]) -> list[str]:
    ours = label(rows.ours)
    spread = any(len(entry.finals) > 1 for entry in mine)
    legend = UNRANKED if any(entry.problem == NOT_FINISHED for entry in mine) else LEGEND
    notes = [f"{legend} Mean ± standard deviation of the seeds." if spread else legend]
    significant = {test.significant() for entry in mine for test in entry.comparisons.values()}
    for sign, mark, verdict in ((1, WORSE, "better"), (-1, BETTER, "worse")):
        if sign in significant:
            notes.append(f"{mark} {ours} is {verdict}, p < {ALPHA:g} by paired t-test and Wilcoxon, Holm-corrected.")
    if any(rows.rival(entry) for entry in mine):
        notes.append(f"{ours} gains: its gain over the model, mean of {', '.join(map(label, rows.metrics))}.")
    return [*notes, "Training: one final training, validation included. Memory: at most, of the whole process."]


def _size(path: str) -> tuple[int, int, int] | None:
    """Return the numbers of users, items and interactions of a dataset; None if it cannot be read."""
    from lirdrec.data.readers import read_any
    from lirdrec.data.storage import MANIFEST, read_manifest

    try:
        if (Path(path) / MANIFEST).is_file():
            counts = read_manifest(path)["counts"]
            return counts["users"], counts["items"], sum(counts[name] for name in ("train", "valid", "test"))
        data = read_any(path)
    except (LirdrecError, OSError):
        return None
    return data.n_users, data.n_items, len(data.train) + len(data.valid) + len(data.test)


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _slug(name: str) -> str:
    """Change a name so that it can be part of a file name."""
    return re.sub(r"[^a-z0-9]", "-", name.lower()).strip("-") or "data"
