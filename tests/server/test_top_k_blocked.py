"""The fast selection against the one ranker, bit for bit."""

from __future__ import annotations

import pytest
import torch

from lirdrec.ranking.top_k import top_k_dense
from lirdrec.server.engine.ranker import BLOCK, top_k_blocked

CASES = {
    "all different": lambda draw, n: torch.randn(8, n, generator=draw),
    "a few values": lambda draw, n: torch.randint(0, 5, (8, n), generator=draw).float(),
    "many values": lambda draw, n: torch.randint(0, n // 3, (8, n), generator=draw).float(),
    "all equal": lambda draw, n: torch.zeros(8, n),
    "one large stretch": lambda draw, n: torch.arange(n, 0, -1.0).expand(8, n).clone(),
    "equals at the end": lambda draw, n: torch.arange(n).div(97).floor().expand(8, n).clone(),
    "hardly any left": lambda draw, n: torch.where(torch.rand(8, n, generator=draw) < 0.001, 1.0, -torch.inf),
    "nothing left": lambda draw, n: torch.full((8, n), -torch.inf),
}


@pytest.mark.parametrize("n", [4000, 64 * BLOCK, 64 * BLOCK + 1, 10_007])
@pytest.mark.parametrize("case", CASES)
def test_the_fast_way_gives_the_same_bits(case, n):
    draw = torch.Generator().manual_seed(n)
    for k in (1, 2, 10, 25, 5000):
        scores = CASES[case](draw, n)
        scores[torch.rand(8, n, generator=draw) < 0.05] = -torch.inf
        values, items = top_k_blocked(scores.clone(), k)
        true_values, true_items = top_k_dense(scores, k)
        assert torch.equal(values, true_values) and torch.equal(items, true_items)
