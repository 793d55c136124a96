"""Training triples: every pair once, never a positive as a negative; sequences: every next item once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from lirdrec.ranking.histories import Histories
from lirdrec.training.sampling import SequenceSampler, TripleSampler


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
        blocks = [user for index, user in enumerate(users) if index == 0 or users[index - 1] != user]
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


def histories_of(lists: list[list[int]], times: list[list[int]] | None = None) -> Histories:
    """Lists of items with the times 0, 1, 2 … or those given, in a shuffled table of pairs."""
    rows = [
        (user, item, index if times is None else times[user][index])
        for user, items in enumerate(lists)
        for index, item in enumerate(items)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    users, items, stamps = (torch.tensor([rows[index][k] for index in order], dtype=torch.int64) for k in range(3))
    return Histories(users, items, len(lists), stamps)


def windows_of(sampler: SequenceSampler, epoch: int, size: int) -> list[tuple[int, list[int], list[int]]]:
    """User, items and times of each sequence of an epoch, without padding; checks what a batch must have."""
    found = []
    for count, (items, times, users) in sampler.batches(epoch, size, torch.device("cpu")):
        assert items.dtype == times.dtype == users.dtype == torch.int64
        assert items.shape == times.shape == (len(users), items.shape[1])
        real = items >= 0
        assert torch.equal(real, times >= 0)
        assert (real.long().diff(dim=1) <= 0).all() and real[:, :2].all()  # padding only at the end, a target each
        assert count == int(real[:, 1:].sum())
        for user, row, stamps, keep in zip(users.tolist(), items, times, real, strict=True):
            found.append((user, row[keep].tolist(), stamps[keep].tolist()))
    return found


LISTS = st.lists(st.lists(st.integers(0, 9), max_size=23), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(LISTS, st.integers(1, 8), st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 50))
def test_every_item_but_the_first_of_a_user_is_a_target_once(lists, max_length, size, seed, epoch):
    sampler = SequenceSampler(histories_of(lists), max_length, seed)
    targets = []
    for user, items, times in windows_of(sampler, epoch, size):
        assert 2 <= len(items) <= max_length + 1
        assert times == list(range(times[0], times[0] + len(times)))  # one after the other in time
        assert items == lists[user][times[0] : times[0] + len(items)]
        targets += [(user, time) for time in times[1:]]
    expected = [(user, index) for user, items in enumerate(lists) for index in range(1, len(items))]
    assert sorted(targets) == expected
    assert len(sampler) == len(expected)


def test_a_long_history_becomes_windows_from_its_end():
    """Eleven items, windows of four targets: only the earliest window is shorter, and the windows share one item."""
    sampler = SequenceSampler(histories_of([list(range(20, 31)), [3], [], list(range(5)), [1, 2]]), 4, seed=0)
    found = sorted((user, items) for user, items, _ in windows_of(sampler, 1, 100))
    assert found == [
        (0, [20, 21, 22]),
        (0, [22, 23, 24, 25, 26]),
        (0, [26, 27, 28, 29, 30]),
        (3, [0, 1, 2, 3, 4]),
        (4, [1, 2]),
    ]


def test_sequences_are_in_the_order_of_time_and_ties_in_that_of_the_data():
    times = [[30, 10, 20, 10], [2**40, -5, 2**40, 0]]
    users, items = torch.tensor([0] * 4 + [1] * 4), torch.arange(8)
    histories = Histories(users, items, 2, torch.tensor(times).flatten())
    sampler = SequenceSampler(histories, 10, seed=0)
    found = {
        int(user): (row.tolist(), stamps.tolist())
        for _, batch in sampler.batches(1, 100, torch.device("cpu"))
        for row, stamps, user in zip(*batch, strict=True)
    }
    assert found == {0: ([1, 3, 2, 0], [10, 10, 20, 30]), 1: ([5, 7, 4, 6], [-5, 0, 2**40, 2**40])}


def test_an_epoch_of_sequences_does_not_depend_on_those_before_it():
    lists = [list(range(1 + user % 9)) for user in range(60)]
    first, second, other = (SequenceSampler(histories_of(lists), 5, seed) for seed in (4, 4, 5))
    epochs = [windows_of(first, epoch, 20) for epoch in range(1, 5)]
    torch.manual_seed(0)
    assert windows_of(second, 4, 20) == epochs[3]
    assert windows_of(second, 2, 20) == epochs[1]
    assert windows_of(other, 4, 20) != epochs[3]
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_of_sequences_are_full_and_hardly_padded():
    """Ten thousand histories of skewed lengths: padding adds at most an eighth, where a random order quadruples it."""
    rng = np.random.default_rng(1)
    lists = [rng.integers(0, 50, 2 + min(int(rng.exponential(8)), 58)).tolist() for _ in range(10_000)]
    sampler = SequenceSampler(histories_of(lists), 50, seed=0)
    size, used, padded, counts = 2048, 0, 0, []
    batches = list(sampler.batches(1, size, torch.device("cpu")))
    for count, (items, _, _) in batches:
        used += count
        padded += items[:, 1:].numel()
        counts.append(count)
    assert used == len(sampler)
    assert padded < 1.125 * used
    shuffled = rng.permutation(np.minimum([len(items) - 1 for items in lists], 50))  # about as many batches of these
    assert sum(len(part) * part.max() for part in np.array_split(shuffled, len(batches))) > 3 * padded
    assert len(batches) == sampler.n_steps(size)
    assert max(counts) <= size + 50 and sorted(counts)[1] >= size - 50  # a window is never cut
    lengths = [batch[1][0].shape[1] for batch in batches]
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)  # batches are shuffled
