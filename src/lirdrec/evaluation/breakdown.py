"""Where the figures come from: popular or rare items, active or quiet users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer

GROUPS = 5
Rows = list[dict[str, float | str | int]]


def by_popularity(
    scorer: Scorer, truth, names: Sequence[str], cutoffs: Sequence[int], memory_limit: int  # type: ignore[no-untyped-def]
) -> Rows:
    """Metrics of each fifth of the items by training users: all items are ranked, only the group's are relevant."""
    from lirdrec.evaluation.evaluator import Truth, measure
    from lirdrec.evaluation.metrics import PER_USER

    degree = torch.bincount(truth.seen.items, minlength=scorer.n_items)
    group = _fifths(degree)
    owner, items = truth.relevant.pairs(truth.users)
    users = truth.users[owner]
    rows: Rows = []
    for number in range(GROUPS):
        inside = group == number
        mine = inside[items]
        if not bool(mine.any()):
            continue
        relevant = Histories(users[mine], items[mine], len(truth.relevant.start) - 1)
        part = Truth(users[mine].unique(), relevant, truth.seen, truth.candidates)
        found = measure(scorer, part, [n for n in names if n in PER_USER], cutoffs, memory_limit=memory_limit)
        rows.append(
            {"group": _label("training users", degree[inside]), "n": int(inside.sum()), "pairs": int(mine.sum())}
            | found.values
        )
    return rows


def by_activity(truth, per_user: Mapping[str, Tensor]) -> Rows:  # type: ignore[no-untyped-def]
    """Means over each fifth of the evaluated users by number of training items."""
    degree = truth.seen.counts()[truth.users]
    group = _fifths(degree)
    rows: Rows = []
    for number in range(GROUPS):
        inside = group == number
        if bool(inside.any()):
            means = {name: float(values[inside].mean()) for name, values in per_user.items()}
            rows.append({"group": _label("training items", degree[inside]), "n": int(inside.sum())} | means)
    return rows


def _fifths(degree: Tensor) -> Tensor:
    """Group 0 … 4 of each entry by rank; equal degrees stay together."""
    ordered = degree.sort().values
    place = torch.searchsorted(ordered, degree)  # entries strictly below
    return (place * GROUPS // max(1, len(degree))).clamp(max=GROUPS - 1)


def _label(what: str, degree: Tensor) -> str:
    low, high = int(degree.min()), int(degree.max())
    return f"{low} {what}" if low == high else f"{low}–{high} {what}"
