"""Training triples: every pair once, never a positive as a negative, negatives uniform over the pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from lirdrec.training.sampling import TripleSampler


def pairs_of(rows: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@settings(max_examples=100, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 5)), min_size=1), st.integers(0, 10**6), st.integers(1, 50))
def test_every_pair_once_and_never_a_positive(rows, seed, epoch):
    sampler = TripleSampler(*pairs_of(sorted(rows)), n_items=8, seed=seed)
    pool = {item for _, item in rows}
    full = {user for user, _ in rows if {item for u, item in rows if u == user} == pool}
    users, positives, negatives = (part.tolist() for part in sampler.epoch(epoch))
    expected = sorted(row for row in rows if row[0] not in full)  # a user who took everything has no negative
    assert sorted(zip(users, positives, strict=True)) == expected
    assert len(sampler) == len(expected)
    assert not set(zip(users, negatives, strict=True)) & rows
    assert set(negatives) <= pool  # items 6 and 7 never occur in training


def test_negatives_are_uniform_over_what_the_user_has_not_taken():
    """Chi-square for each user over many epochs; rare and popular items are drawn alike."""
    rows = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2), (2, 3), (2, 5), (2, 6), (2, 7)]
    sampler = TripleSampler(*pairs_of(rows), n_items=9, seed=0)
    counts = np.zeros((3, 9))
    for epoch in range(1, 1501):
        users, _, negatives = sampler.epoch(epoch)
        np.add.at(counts, (users.numpy(), negatives.numpy()), 1)
    for user in range(3):
        allowed = [item for item in (0, 1, 2, 3, 5, 6, 7) if (user, item) not in rows]
        assert counts[user].sum() == counts[user, allowed].sum() == 1500 * sum(u == user for u, _ in rows)
        expected = counts[user].sum() / len(allowed)
        statistic = ((counts[user, allowed] - expected) ** 2 / expected).sum()
        assert statistic < chi2.ppf(0.999, len(allowed) - 1), user


def test_the_order_is_a_uniform_shuffle():
    sampler = TripleSampler(*pairs_of([(user, user % 3) for user in range(6)]), n_items=4, seed=0)
    places = np.zeros((6, 6))
    for epoch in range(1, 1201):
        places[sampler.epoch(epoch)[0].numpy(), np.arange(6)] += 1
    assert ((places - 200) ** 2 / 200).sum() < chi2.ppf(0.999, 25)


@pytest.mark.parametrize("order", ["pairs", "users"])
def test_users_in_order_stay_together_and_are_shuffled(order):
    """Six users of three pairs or four: with "users" each comes once, at every place, in every order of items."""
    sampler = TripleSampler(
        *pairs_of([(user, item) for user in range(6) for item in range(3)] + [(6, 3)]), n_items=5, seed=0, order=order
    )
    places, firsts, together = np.zeros((6, 7)), np.zeros((6, 3)), 0
    for epoch in range(1, 1201):
        users, items, _ = (part.tolist() for part in sampler.epoch(epoch))
        blocks = [user for at, user in enumerate(users) if at == 0 or users[at - 1] != user]
        together += len(blocks) == 7
        for user in range(6):
            places[user, min(blocks.index(user), 6)] += 1
            firsts[user, items[users.index(user)]] += 1
    assert ((firsts - 400) ** 2 / 400).sum() < chi2.ppf(0.999, 12)
    if order == "users":
        assert together == 1200
        assert ((places - 1200 / 7) ** 2 / (1200 / 7)).sum() < chi2.ppf(0.999, 36)
    else:
        assert together < 12


def test_an_epoch_does_not_depend_on_those_before_it():
    rows = [(user, item) for user in range(20) for item in range(12) if (user * item) % 5 == 1]
    first, second = (TripleSampler(*pairs_of(rows), n_items=12, seed=4) for _ in range(2))
    for epoch in range(1, 5):
        before = [part.tolist() for part in first.epoch(epoch)]
    assert [part.tolist() for part in second.epoch(4)] == before
    assert [part.tolist() for part in second.epoch(3)] != before
    other = TripleSampler(*pairs_of(rows), n_items=12, seed=5)
    assert [part.tolist() for part in other.epoch(4)] != before


def test_the_global_generator_plays_no_part_and_is_left_alone():
    sampler = TripleSampler(*pairs_of([(0, 0), (1, 1), (2, 2), (0, 1)]), n_items=3, seed=1)
    torch.manual_seed(0)
    before, state = sampler.epoch(1), torch.get_rng_state()
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(before, sampler.epoch(1), strict=True))
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rows", [[], [(0, 0)], [(0, 0), (0, 1), (1, 0), (1, 1)]], ids=["none", "one", "all taken"])
def test_nothing_to_draw(rows):
    assert len(TripleSampler(*pairs_of(rows), n_items=2, seed=0)) == 0


def test_one_item_left_is_found():
    rows = [(0, item) for item in range(499)] + [(1, 499)]
    users, _, negatives = TripleSampler(*pairs_of(rows), n_items=500, seed=0).epoch(1)
    assert (negatives[users == 0] == 499).all()
    assert (negatives[users == 1] != 499).all()
