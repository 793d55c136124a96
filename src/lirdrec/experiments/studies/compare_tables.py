"""The tables of a comparison: test figures of all models with their spread, and figures that others published.

Gains are in percent; a mark at a figure says that ours is shown to be better, or worse, than the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lirdrec.errors import LirdrecError
from lirdrec.experiments.studies.compare_rows import Entry, Rows, short, slug
from lirdrec.experiments.studies.literature import SOURCES, Split, published
from lirdrec.experiments.studies.sentences import format_gain
from lirdrec.reporting import Column, Measure, Row, Table, label
from lirdrec.reporting.formatting import Value, model_order
from lirdrec.reporting.statistics import ALPHA, average_gain

WORSE, BETTER = "*", "†"  # marks of models that ours is shown better, or worse, than
BLANK = ("features", "gain", "seconds", "memory", "gpu")  # columns that the last row of a table leaves empty


def metric_tables(found: Rows) -> list[Table]:
    """The test figures of each dataset, after those of all where there are several."""
    overview = [_overview(found)] if len(found.datasets) > 1 else []
    return overview + [_table(found, dataset) for dataset in found.datasets]


def _table(found: Rows, dataset: str) -> Table:
    """All models on one dataset."""
    mine, metrics, ours = found.on(dataset), found.metrics, found.ours
    named = any(entry.features for entry in mine)
    gains = any(found.rival(entry) for entry in mine)
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
        rival = found.rival(entry)
        if gains:
            cells["gain"] = _finite(average_gain(rival.means(metrics), entry.means(metrics))) if rival else ""
        cells |= _cost(entry, gpu)
        rows.append(Row(cells, accent=entry.model == ours))
    blank: dict[str, Value] = {column.key: "" for column in columns if column.key in BLANK}
    if (over := _over_best(mine, metrics, ours)) is not None:
        rows.append(Row({"model": "Over best other", **over, **blank}, muted=True))
    return Table(f"test-{slug(dataset)}", columns, rows, f"{label(dataset)}: test set", _notes(found, mine))


def _overview(found: Rows) -> Table:
    """The figures at the greatest k of all datasets side by side, without spreads."""
    entries, metrics, ours = found.entries, found.metrics, found.ours
    last = found.main.partition("@")[2]
    shown = [metric for metric in metrics if metric.endswith(f"@{last}")]
    named = any(entry.features for entry in entries)
    columns = [Column("model", "Model", format="text")]
    columns += [Column("features", "Features", format="text")] if named else []
    columns += [Column(f"{d} {m}", label(m), label(d), "higher") for d in found.datasets for m in shown]
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
            cells |= {f"{entry.dataset} {m}": means.get(m, short(entry.problem)) for m in shown}
            if rival := found.rival(entry):
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
            cells[metric] = format_gain(max(of_ours), max(others))
    return cells or None


def published_tables(found: Rows, paths: Sequence[str]) -> list[Table]:
    """For each dataset that others published figures of: theirs beside ours."""
    blocks = []
    for path in paths:
        name = Path(path).name
        split = published(name, _size(path)) if name in found.datasets else None
        if split is not None:
            blocks.append(_landmarks(split, found.on(name), found.ours))
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
    return Table(f"published-{slug(split.name)}", columns, rows, caption, notes)


def _here(entry: Entry, metrics: Sequence[str]) -> dict[str, Value]:
    means = entry.means(metrics)
    return {"model": entry.title, **{f"here {m}": means.get(m, short(entry.problem)) for m in metrics}}


# ------------------------------------------------------------------------------------------------------------- pieces


def _notes(found: Rows, mine: Sequence[Entry]) -> list[str]:
    ours = label(found.ours)
    notes = [_legend(spread=any(len(entry.finals) > 1 for entry in mine))]
    marks = {test.significant() for entry in mine for test in entry.comparisons.values()}
    if 1 in marks:
        notes.append(f"{WORSE} {ours} is better, p < {ALPHA:g} by paired t-test and Wilcoxon, Holm-corrected.")
    if -1 in marks:
        notes.append(f"{BETTER} {ours} is worse, p < {ALPHA:g} by paired t-test and Wilcoxon, Holm-corrected.")
    if any(found.rival(entry) for entry in mine):
        shown = ", ".join(label(metric) for metric in found.metrics)
        notes.append(f"{ours} gains: its gain over the model, mean of {shown}.")
    notes.append("Training: one final training, validation included. Memory: at most, of the whole process.")
    return notes


def _legend(spread: bool = False) -> str:
    tail = " Mean ± standard deviation of the seeds." if spread else ""
    return "**Best**, second best underlined." + tail


def _oom(entries: Sequence[Entry]) -> Iterator[str]:
    if any(entry.problem == "out of memory" for entry in entries):
        yield "OOM: out of memory."


def _cost(entry: Entry, gpu: bool) -> dict[str, Value]:
    cells: dict[str, Value] = {
        "seconds": Measure.of([one.seconds for one in entry.finals]),
        "memory": max((one.peak_memory for one in entry.finals), default=None),
    }
    if gpu:
        cells["gpu"] = max((one.peak_gpu_memory for one in entry.finals if one.peak_gpu_memory), default=None)
    return cells


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


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Sequence[float]) -> float | None:
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else None
