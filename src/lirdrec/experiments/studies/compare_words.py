"""The words of a comparison's report: its answer, and how figures, settings and problems are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lirdrec.experiments.studies.compare_rows import Rows
from lirdrec.experiments.studies.telling import figure
from lirdrec.reporting import label
from lirdrec.reporting.printing import NARROW
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
        place = "is best:" if ranked[1:] else "reaches"
        text = f"On {label(dataset)}, **{best.title}** {place} {label(main)} {figure(best.measure(main))}"
        others = [entry for entry in ranked if entry.model != ours]
        own = next((entry for entry in ranked if entry.model == ours), None)
        if own is None or not others:
            parts.append(
                text + (f"; next is {ranked[1].title} ({figure(ranked[1].measure(main))})." if others[1:] else ".")
            )
            continue
        top = others[0]
        above = gain(own.means([main])[main], top.means([main])[main])
        if best is own:
            text += f", {above:.1f}{NARROW}% above {top.title} ({figure(top.measure(main))}), the best other."
        else:
            text += f"; {own.title} reaches {figure(own.measure(main))}, {abs(above):.1f}{NARROW}% "
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
