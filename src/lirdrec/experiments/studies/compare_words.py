"""The words of a comparison's report: its answer, and how figures, settings and problems are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lirdrec.experiments.studies.compare_rows import Rows
from lirdrec.reporting import Measure, label
from lirdrec.reporting.printing import MISSING, NARROW
from lirdrec.reporting.statistics import gain


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
        text = f"On {label(dataset)}, **{best.title}** is best: {label(main)} {said(best.measure(main))}"
        others = [entry for entry in ranked if entry.model != ours]
        own = next((entry for entry in ranked if entry.model == ours), None)
        if own is None or not others:
            parts.append(
                text + (f"; next is {ranked[1].title} ({said(ranked[1].measure(main))})." if others[1:] else ".")
            )
            continue
        top = others[0]
        above = gain(own.means([main])[main], top.means([main])[main])
        if best is own:
            text += f", {above:.1f}{NARROW}% above {top.title} ({said(top.measure(main))}), the best other."
        else:
            text += f"; {own.title} reaches {said(own.measure(main))}, {abs(above):.1f}{NARROW}% "
            text += "below." if above <= 0 else "above."
        tests = [entry.comparisons[main] for entry in others if main in entry.comparisons]
        if tests:
            won, lost = (sum(test.significant() == sign for test in tests) for sign in (1, -1))
            many = f"all {won}" if won == len(tests) > 1 else f"{won} of {len(tests)}" if won else "none of the"
            each = ", each on the same features" if any(entry.features for entry in others) else ""
            text += f" {label(ours)} is significantly better than {many} models{each}"
            text += f" and significantly worse than {lost}." if lost else "."
        parts.append(text)
    problems = [f"{entry.title} on {label(entry.dataset)} ({entry.problem})" for entry in rows.entries if entry.problem]
    if problems:
        parts.append(f"Without figures: {', '.join(problems)}.")
    return "\n\n".join(parts) or "There are no results yet."


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def said(measure: Measure | None) -> str:
    """A figure with its spread."""
    if measure is None:
        return MISSING
    return f"{measure.mean:.4f}" + (f"{NARROW}±{NARROW}{measure.sd:.4f}" if measure.sd is not None else "")


def percent(value: float) -> str:
    """A difference in percent, with its sign."""
    return MISSING if math.isnan(value) else f"{value:+.1f}{NARROW}%".replace("-", "−")


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
