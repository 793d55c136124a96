"""Tables of ratios from the results, and a list of what is missing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peers import environments
from peers.plan import LIRDREC, OURS, PEERS, Entry

Result = dict[str, Any]
CLOCKS = ("wall", "processor")
TOP = "top-20 to a file"
MEASURES = ("epoch", "to best", "fit", "evaluation", TOP, "peak memory")


def measures(result: Result, clock: int, target: float | None) -> dict[str, float]:
    """The figures of a run: seconds and megabytes.

    Args:
        result: a line of the results.
        clock: 0: the clock on the wall, 1: the processor.
        target: NDCG to reach, for "to best"; None: without.
    """
    found = {"peak memory": result["peak_mb"]}
    found |= {name: result[key][clock] for name, key in (("evaluation", "evaluation"), (TOP, "top")) if key in result}
    if not result["epochs"]:
        return found | {"fit": result["fit"][clock]}
    times = [seconds[clock] for seconds in result["epoch_times"]]
    found["epoch"] = statistics.median(times) if times else result["fit"][clock] / result["epochs"]
    best = float("inf") if target is None else target
    reached = next((n for n, value in enumerate(result["ndcg"], start=1) if value >= best), None)
    if reached is not None:
        # what comes before the first epoch and after the last one is part of the training
        found["to best"] = sum(times[:reached]) + max(0.0, result["fit"][clock] - sum(times))
    return found


def common_target(theirs: Sequence[Result], ours: Sequence[Result]) -> float | None:
    """The lower of the two best NDCG values, so that both have reached it; None if one has no value."""
    best = [min((max(r["ndcg"]) for r in side if r["ndcg"]), default=None) for side in (theirs, ours)]
    return None if None in best else min(value for value in best if value is not None)


def pair_rows(results: Sequence[Result], clock: int) -> Iterator[dict[str, Any]]:
    """A row for each model of a library beside one of lirdrec, on a dataset with a number of threads."""
    good = [result for result in results if "error" not in result]
    settings = dict.fromkeys((r["dataset"], r["threads"]) for r in good)
    for dataset, threads in settings:
        here = [r for r in good if (r["dataset"], r["threads"]) == (dataset, threads)]
        for entry in PEERS:
            theirs = [r for r in here if _is_of(r, entry)]
            for label in entry.ours or (None,):
                ours = [r for r in here if r["library"] == OURS and r["label"] == label]
                if theirs and (ours or label is None):
                    yield _row(entry, label, dataset, threads, theirs, ours, clock)


def _row(
    entry: Entry,
    label: str | None,
    dataset: str,
    threads: int,
    theirs: Sequence[Result],
    ours: Sequence[Result],
    clock: int,
) -> dict[str, Any]:
    target = common_target(theirs, ours) if ours else None
    sides = []
    for side in (theirs, ours):
        figures = [measures(result, clock, target) for result in side]
        names = [name for name in MEASURES if figures and all(name in found for found in figures)]
        sides.append({name: statistics.median(found[name] for found in figures) for name in names})
    ndcg = [statistics.median(r["final_ndcg"] for r in side) if side else None for side in (theirs, ours)]
    return {
        **{"dataset": dataset, "threads": threads, "peer": f"{entry.library} {entry.label}", "ours": label},
        **{"theirs": sides[0], "own": sides[1], "ndcg": ndcg, "target": target},
        **{"runs": [len(theirs), len(ours)], "load": max(r["load"] for r in (*theirs, *ours))},
    }


def _is_of(result: Result, entry: Entry) -> bool:
    return (result["library"], result["model"], result["label"]) == (entry.library, entry.model, entry.label)


def ratio_text(row: dict[str, Any], name: str) -> str:
    """A cell: lirdrec's figure / the other's, and both; or the one that is there."""
    theirs, own = row["theirs"].get(name), row["own"].get(name)
    if theirs is None or own is None:
        return " / ".join("–" if value is None else _figure(value) for value in (own, theirs)) if theirs or own else ""
    ratio = f"**{own / theirs:.2f}** " if theirs else ""
    return f"{ratio}({_figure(own)} / {_figure(theirs)})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def missing(results: Sequence[Result], folder: Path) -> list[str]:
    """Sentences on what has no figure, and why."""
    found = []
    for name in environments.ENVIRONMENTS:
        home = folder / "environments" / name
        problem = environments.reason(home)
        if problem:
            found.append(f"{name}: its environment could not be made. pip: {' '.join(problem.split())}")
        elif not environments.is_made(home):
            found.append(f"{name}: its environment was not made (python benchmarks/peers.py environments {folder})")
    last = {result["key"]: result for result in results}
    found += [
        f"{r['library']} {r['label']} on {r['dataset']}, threads {r['threads']}: {r['error']}"
        for r in last.values()
        if "error" in r and not r["error"].startswith("environment:")
    ]
    ran = {(r["library"], r["label"]) for r in last.values() if "error" not in r}
    failed = {(r["library"], r["label"]) for r in last.values()} - ran
    for entry in (*PEERS, *LIRDREC):
        if (entry.library, entry.label) not in ran | failed:
            reason = " (give --released)" if entry.library == "released" else ""
            found.append(f"{entry.library} {entry.label}: was not run{reason}")
    found += [f"{entry.library} {entry.label}: lirdrec does not have this model" for entry in PEERS if not entry.ours]
    for row in {(r["library"], r["label"]) for r in last.values() if r.get("epochs") and "ndcg" in r and not r["ndcg"]}:
        found.append(f"{' '.join(row)}: says nothing after an epoch, so its time to the best validation is not known")
    return found


def report(results: Sequence[Result], folder: Path, clock: str) -> str:
    """The tables in Markdown."""
    lines = [
        "Each cell: lirdrec / the other library; the ratio, then both figures. Below 1: lirdrec needs less.",
        f"Seconds ({clock}), and MB of peak memory of the process. A pair of figures without a ratio: one is missing.",
        '"to best": seconds of training until the lower of the two best validation NDCG@20 is reached.',
    ]
    rows = list(pair_rows(list({r["key"]: r for r in results}.values()), CLOCKS.index(clock)))
    for dataset, threads in dict.fromkeys((row["dataset"], row["threads"]) for row in rows):
        here = [row for row in rows if (row["dataset"], row["threads"]) == (dataset, threads)]
        load = max(row["load"] for row in here)
        lines += ["", f"## {dataset}, threads: {threads}", "", f"Load of the machine before a run: up to {load}.", ""]
        lines += [f"| library | lirdrec | {' | '.join(MEASURES)} | NDCG@20 |", "|---" * (len(MEASURES) + 3) + "|"]
        for row in here:
            cells = [ratio_text(row, name) for name in MEASURES]
            ndcg = " / ".join("–" if value is None else f"{value:.4f}" for value in reversed(row["ndcg"]))
            lines.append(f"| {row['peer']} | {row['ours'] or '–'} | {' | '.join(cells)} | {ndcg} |")
    lines += ["", "## Missing", "", *(f"- {sentence}" for sentence in missing(results, folder))]
    return "\n".join(lines) + "\n"
