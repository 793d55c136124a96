"""Where the figures come from: popular or rare items, active or quiet users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lirdrec.evaluation.measuring import Truth, measure
from lirdrec.evaluation.metrics import PER_USER
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer

GROUPS = 5
Row = dict[str, float | str | int]
Rows = list[Row]


def by_popularity(
    scorer: Scorer, truth: Truth, names: Sequence[str], cutoffs: Sequence[int], memory_limit: int
) -> Rows:
    """Metrics of each fifth of the items by training users: all items are ranked, only the group's are relevant."""
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
        part = replace(truth, users=users[mine].unique(), relevant=relevant)
        found = measure(scorer, part, [n for n in names if n in PER_USER], cutoffs, memory_limit=memory_limit)
        row: Row = {"group": _label("training users", degree[inside]), "n": int(inside.sum()), "pairs": int(mine.sum())}
        rows.append({**row, **found.values})
    return rows


def by_activity(truth: Truth, per_user: Mapping[str, Tensor]) -> Rows:
    """Means over each fifth of the evaluated users by number of training items."""
    degree = truth.seen.counts()[truth.users]
    group = _fifths(degree)
    rows: Rows = []
    for number in range(GROUPS):
        inside = group == number
        if bool(inside.any()):
            means = {name: float(values[inside].mean()) for name, values in per_user.items()}
            row: Row = {"group": _label("training items", degree[inside]), "n": int(inside.sum())}
            rows.append({**row, **means})
    return rows


def _fifths(degree: Tensor) -> Tensor:
    """Group 0 … 4 of each entry by rank; equal degrees stay together."""
    ordered = degree.sort().values
    place = torch.searchsorted(ordered, degree)  # entries strictly below
    return (place * GROUPS // max(1, len(degree))).clamp(max=GROUPS - 1)


def _label(what: str, degree: Tensor) -> str:
    low, high = int(degree.min()), int(degree.max())
    return f"{low} {what}" if low == high else f"{low}–{high} {what}"
