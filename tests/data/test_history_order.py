"""The order of each user's interactions: rows of a file, columns of positions, and equal times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.history_order import are_positions, has_clock, row_positions
from lirdrec.data.holdout import hold_out_items, move_to_train
from lirdrec.data.readers import read_interactions
from lirdrec.errors import ConfigError, DataError
from lirdrec.recommender.refit import merge_splits

from ..helpers import assert_error

LOG = {"user": ["b", "a", "a", "b", "a", "b", "a", "b"], "item": ["z", "y", "x", "w", "z", "y", "w", "x"]}


def order_of(data: Dataset, user: str) -> list[str]:
    pairs = data.all_interactions().oldest_first()
    return [data.items.ids[i] for u, i in zip(pairs.users, pairs.items, strict=True) if data.users.ids[u] == user]


@given(st.lists(st.integers(0, 5), max_size=40))
def test_positions_count_earlier_rows_of_the_user(users):
    expected = [users[:at].count(user) for at, user in enumerate(users)]
    assert row_positions(np.array(users, dtype=np.int64)).tolist() == expected


def test_the_order_of_the_file_is_the_order_of_each_user(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in zip(LOG["user"], LOG["item"], strict=True)))
    data = read_interactions(path, order="file", split="leave_last_out")
    assert (order_of(data, "a"), order_of(data, "b")) == (list("yxzw"), list("zwyx"))
    assert {data.items.ids[i] for i in data.test.items} == {"w", "x"}
    assert not has_clock(data.info) and data.info["preparation"]["order"] == "file"
    loaded = Dataset.load(data.save(tmp_path / "saved"))
    for name in ("train", "valid", "test"):
        np.testing.assert_array_equal(loaded.split(name).timestamps, data.split(name).timestamps)
    assert not has_clock(loaded.info)


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
