"""Splits, and the order of each user's interactions: nothing lost or repeated, ratios kept, positions, equal times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lirdrec.data.cold_start import hold_out_items, move_to_train
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.interaction_filters import distinct_pairs, k_core
from lirdrec.data.positions_or_times import are_positions, row_positions, timestamps_are_times
from lirdrec.data.readers import read_interactions, read_mmrec
from lirdrec.data.splits import METHODS, held_counts, split_labels
from lirdrec.errors import ConfigError, DataError
from lirdrec.recommender.refit_settings import merge_splits

from ..helpers import assert_error, assert_mentions


@st.composite
def pairs(draw, max_users=12, max_items=25, min_size=1):
    cells = draw(
        st.lists(
            st.tuples(st.integers(0, max_users - 1), st.integers(0, max_items - 1)), min_size=min_size, unique=True
        )
    )
    users, items = (np.array(column, dtype=np.int64) for column in zip(*cells, strict=True))
    users, items, _, _ = distinct_pairs(users, items)
    times = np.array(draw(st.lists(st.integers(0, 50), min_size=len(users), max_size=len(users))))
    return users, items, times


@given(pairs(), st.sampled_from(["random", "temporal", "leave_last_out"]), st.integers(0, 5))
def test_splits_per_user_keep_the_rule_and_a_training_item(data, method, seed):
    users, items, times = data
    labels = split_labels(method, users, items, times, seed)
    assert labels.shape == users.shape and set(labels.tolist()) <= {0, 1, 2}
    for user in np.unique(users):
        n = int((users == user).sum())
        held = 0 if n < 3 else 2 if n < 10 or method == "leave_last_out" else int(0.2 * n)
        sizes = np.bincount(labels[users == user], minlength=3)
        assert sizes.tolist() == [n - held, held // 2, held - held // 2]
        assert sizes[0] > 0
        if method != "random":  # no held pair is earlier than one that is kept
            for earlier in range(2):
                first, second = (times[(users == user) & (labels == code)] for code in (earlier, earlier + 1))
                assert not len(first) or not len(second) or first.max() <= second.min()


@given(pairs(min_size=8), st.integers(0, 5))
def test_cold_items_are_never_in_train(data, seed):
    users, items, times = data
    n = len(np.unique(items))
    held = max(2, n // 5)
    if held >= n:
        with assert_error(DataError, mentions=["cold_items"]):
            split_labels("cold_items", users, items, times, seed)
        return
    labels = split_labels("cold_items", users, items, times, seed)
    parts = [set(items[labels == code].tolist()) for code in range(3)]
    assert [len(part) for part in parts] == [n - held, held // 2, held - held // 2]
    assert sum(len(part) for part in parts) == n  # an item is in one split only


@given(pairs(min_size=10))
def test_global_time_is_one_cut_for_everyone(data):
    users, items, times = data
    try:
        labels = split_labels("global_time", users, items, times)
    except DataError as error:
        assert_mentions(str(error), ["'global_time'", "train", "valid", "test", "'temporal'", "'random'"])
        return
    assert times[labels == 0].max() < times[labels == 1].min()
    assert times[labels == 1].max() < times[labels == 2].min()


@given(pairs(min_size=6), st.sampled_from(METHODS), st.integers(0, 3), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter_and_the_seed_decides(data, method, seed, random):
    users, items, times = data
    order = list(range(len(users)))
    random.shuffle(order)
    shuffled = distinct_pairs(users[order], items[order], times[order])[:3]
    try:
        first = split_labels(method, users, items, times, seed)
    except DataError:
        with pytest.raises(DataError):
            split_labels(method, *shuffled, seed)
        return
    np.testing.assert_array_equal(first, split_labels(method, *shuffled, seed))


def test_another_seed_is_another_split():
    users, items = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    for method in ("random", "cold_items"):
        one, two = (split_labels(method, users, items, None, seed) for seed in (0, 1))
        assert (one != two).any()


def test_every_pair_is_equally_likely_to_be_held():
    users, items = np.repeat(np.arange(4000), 10), np.tile(np.arange(10), 4000)
    labels = split_labels("random", users, items, None)
    for code in (1, 2):
        share = np.bincount(items[labels == code], minlength=10) / 4000
        assert share == pytest.approx(np.full(10, 0.1), abs=0.02)  # four standard deviations


def test_whole_table_of_a_small_temporal_split():
    users = np.array([0] * 10 + [1] * 3 + [2] * 2)
    items = np.arange(15)
    times = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 5, 5, 5, 1, 2])
    labels = split_labels("temporal", users, items, times)
    assert labels.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0]


@pytest.mark.parametrize(
    ("method", "facts"),
    [
        ("temporal", ["timestamp='COLUMN'"]),
        ("global_time", ["timestamp='COLUMN'"]),
        ("leave_last_out", ["timestamp='COLUMN'"]),
        ("bymoon", ["random, cold_items, temporal, global_time, global_time_last, leave_last_out, none"]),
    ],
)
def test_what_cannot_be_split(method, facts):
    with assert_error(DataError, mentions=[f"'{method}'", *facts]):
        split_labels(method, np.arange(5), np.arange(5), None)


@pytest.mark.parametrize("name", ["baby", "sports"])
def test_the_rule_fits_every_user_of_the_public_splits(real_data, name):
    dataset = read_mmrec(real_data / name)
    counts = np.array(
        [np.bincount(dataset.split(s).users, minlength=dataset.n_users) for s in ("train", "valid", "test")]
    )
    valid, test = held_counts(counts.sum(axis=0), 0.2)
    np.testing.assert_array_equal(counts[1], valid)
    np.testing.assert_array_equal(counts[2], test)


@given(pairs(), st.integers(0, 5))
def test_k_core_is_the_largest_subset_where_everyone_has_k(data, k):
    users, items, _ = data
    keep = k_core(users, items, k)
    left = set(zip(users.tolist(), items.tolist(), strict=True))
    while True:  # the definition, one removal at a time
        bad = [p for p in left if sum(q[0] == p[0] for q in left) < k or sum(q[1] == p[1] for q in left) < k]
        if not bad:
            break
        left.discard(bad[0])
    assert set(zip(users[keep].tolist(), items[keep].tolist(), strict=True)) == left


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 9)), min_size=1))
def test_repeated_pairs_count_once_and_keep_their_first_time(rows):
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    u, i, t, kept = distinct_pairs(users, items, times)
    expected: dict = {}
    for user, item, time in rows:
        expected[user, item] = min(time, expected.get((user, item), time))
    assert list(zip(u.tolist(), i.tolist(), t.tolist(), strict=True)) == [(*p, expected[p]) for p in sorted(expected)]
    assert (users[kept] == u).all() and (items[kept] == i).all()


LOG = {"user": ["b", "a", "a", "b", "a", "b", "a", "b"], "item": ["z", "y", "x", "w", "z", "y", "w", "x"]}


def order_of(data: Dataset, user: str) -> list[str]:
    pairs = data.all_interactions().oldest_first()
    return [data.items.ids[i] for u, i in zip(pairs.users, pairs.items, strict=True) if data.users.ids[u] == user]


@given(st.lists(st.integers(0, 5), max_size=40))
def test_positions_count_earlier_rows_of_the_user(users):
    expected = [users[:index].count(user) for index, user in enumerate(users)]
    assert row_positions(np.array(users, dtype=np.int64)).tolist() == expected


def test_the_order_of_the_file_is_the_order_of_each_user(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in zip(LOG["user"], LOG["item"], strict=True)))
    data = read_interactions(path, order="file", split="leave_last_out")
    assert (order_of(data, "a"), order_of(data, "b")) == (list("yxzw"), list("zwyx"))
    assert {data.items.ids[i] for i in data.test.items} == {"w", "x"}
    assert not timestamps_are_times(data.info) and data.info["preparation"]["order"] == "file"
    loaded = Dataset.load(data.save(tmp_path / "saved"))
    for name in ("train", "valid", "test"):
        np.testing.assert_array_equal(loaded.split(name).timestamps, data.split(name).timestamps)
    assert not timestamps_are_times(loaded.info)


def test_a_repeated_pair_has_its_first_place_and_filters_keep_the_order():
    rows = {"user": ["a"] * 6 + ["b"] * 3, "item": list("xyxzwv") + list("zyx"), "kind": ["v"] * 4 + ["n"] + ["v"] * 4}
    data = Dataset.from_frames(rows, order="file", split="none", only={"kind": "v"}, k_core=2)
    assert order_of(data, "a") == list("xyz") and order_of(data, "b") == list("zyx")


@pytest.mark.parametrize("first", [0, 1])
def test_a_column_of_positions_is_no_clock(first):
    rows = LOG | {"place": [0, 0, 1, 1, 2, 2, 3, 3]}
    rows["place"] = [place + first for place in rows["place"]]
    data = Dataset.from_frames(rows, timestamp="place", split="leave_last_out")
    assert data.info["timestamps"] == "positions"
    for split in ("global_time", "global_time_last"):
        with assert_error(DataError, [split, "positions", "leave_last_out"]):
            data.resplit(split)
        with assert_error(DataError, [split, "positions", "leave_last_out"]):
            Dataset.from_frames(rows, timestamp="place", split=split)
    assert len(data.resplit("temporal").test) == 2


def test_times_are_a_clock():
    users, times = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 3])
    assert not are_positions(users, times)
    assert are_positions(users, np.array([1, 0, 0, 2, 1]))
    assert not are_positions(np.array([0, 0, 0]), np.array([0, 1, 2]))  # one user alone
    assert not are_positions(np.array([0, 1, 2]), np.array([0, 0, 0]))  # a row each
    assert not are_positions(np.array([], dtype=np.int64), np.array([], dtype=np.int64))


def test_equal_times_are_in_the_order_of_the_file():
    rows = {"user": ["a"] * 5, "item": list("edcba"), "time": [7, 7, 7, 7, 7]}
    rows = {name: [*values, *more] for (name, values), more in zip(rows.items(), ("b", "e", [9]), strict=True)}
    data = Dataset.from_frames(rows, timestamp="time", split="leave_last_out")
    assert order_of(data, "a") == list("edcba")
    assert data.items.ids[data.test.items[0]] == "a"
    again = data.resplit("temporal").resplit("leave_last_out")
    assert order_of(again, "a") == list("edcba")
    random = data.resplit("random", seed=3)
    assert order_of(random.resplit("leave_last_out"), "a") == list("abcde")  # unknown by then: by item


def test_helpers_keep_timestamps_and_weights():
    rng = np.random.default_rng(0)
    cells = rng.permutation(60)[:40]
    rows = {"user": cells // 10, "item": cells % 10, "time": rng.permutation(40), "w": rng.random(40) + 0.5}
    data = Dataset.from_frames(rows, timestamp="time", weight="w", split="temporal")
    moment = {(user, item): of_pair for user, item, *of_pair in zip(*rows.values(), strict=True)}

    def check(of: Dataset, pairs: Interactions) -> None:
        for user, item, time, weight in zip(pairs.users, pairs.items, pairs.timestamps, pairs.weights, strict=True):
            expected = moment[of.users.ids[user], of.items.ids[item]]
            assert [time, weight] == [expected[0], pytest.approx(expected[1])]

    merged = merge_splits(data)
    assert len(merged.train) == 40
    check(merged, merged.train)
    check(merged, merged.all_interactions())
    trained = Interactions.concatenate([data.train, data.valid])
    moved, numbers = move_to_train(data, data.users, data.items, trained)
    assert numbers["valid"] == len(data.valid) and len(moved.train) == len(trained)
    check(moved, moved.train)
    rest, *_ = hold_out_items(data, [data.items.ids[0]])
    check(rest, rest.train)
    check(rest, rest.test)


def test_merged_splits_are_saved_with_their_times(tmp_path):
    data = Dataset.from_frames(LOG, order="file", split="leave_last_out")
    loaded = Dataset.load(merge_splits(data).save(tmp_path / "merged"))
    assert sorted(loaded.train.timestamps.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_cut_of_global_time_last_is_that_of_global_time():
    rng = np.random.default_rng(2)
    cells = rng.permutation(400)[:200]
    rows = {"user": cells // 20, "item": cells % 20, "time": rng.permutation(200)}
    data = Dataset.from_frames(rows, timestamp="time", split="global_time_last")
    whole = Dataset.from_frames(rows, timestamp="time", split="global_time")
    assert sorted(data.test.timestamps) == sorted(whole.test.timestamps)
    cut = data.test.timestamps.min()
    assert max(data.train.timestamps.max(), data.valid.timestamps.max()) < cut
    for user in range(data.n_users):
        mine = data.valid.timestamps[data.valid.users == user]
        assert len(mine) == 1 and mine[0] > data.train.timestamps[data.train.users == user].max()


def test_times_and_the_order_of_the_file_exclude_each_other():
    with assert_error(ConfigError, ["order", "'time'"]):
        Dataset.from_frames(LOG | {"time": range(8)}, timestamp="time", order="file")
    with assert_error(ConfigError, ["order", "'rows'", "file"]):
        Dataset.from_frames(LOG, order="rows")
    with assert_error(ConfigError, ["order"]):
        Dataset.from_sparse(np.eye(3), order="file")
    with assert_error(DataError, ["leave_last_out", "timestamp", "order='file'"]):
        Dataset.from_frames(LOG, split="leave_last_out")
