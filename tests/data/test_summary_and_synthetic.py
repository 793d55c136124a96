"""The figures of a dataset, and the planted datasets that tests and benchmarks stand on."""

import json
import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec.data.summary import degree_histogram, summarize
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import DataError

from ..helpers import assert_error


def test_a_whole_summary(dataset):
    figures = summarize(dataset)
    train = dataset.train
    assert figures | {"user_degrees": 0, "item_degrees": 0, "info": 0} == {
        "title": "title",
        "weights": None,
        "dislikes": 0,
        "name": "small",
        "users": 6,
        "items": 8,
        "interactions": 30,
        "sparsity": 1 - 30 / 48,
        "splits": {"train": len(train), "valid": len(dataset.valid), "test": len(dataset.test)},
        "modalities": {
            "image": {"dims": 5, "dtype": "float32", "present": 7, "coverage": 7 / 8, "bytes": 8 * 5 * 4},
            "text": {"dims": 4, "dtype": "float16", "present": 3, "coverage": 3 / 8, "bytes": 8 * 4 * 2},
        },
        "user_degrees": 0,
        "item_degrees": 0,
        "cold_items": int(dataset.cold_items.sum()),
        "items_without_training": 8 - len(set(train.items.tolist())),
        "users_without_training": 0,
        "held_users_without_training": 0,
        "info": 0,
    }
    assert sum(one["count"] for one in figures["user_degrees"]["bins"]) == 6
    json.dumps(figures)


def test_a_degree_histogram_doubles_its_bins():
    assert degree_histogram(np.array([0, 1, 1, 2, 3, 4, 7, 8])) == {
        "bins": [
            {"from": 0, "to": 0, "count": 1},
            {"from": 1, "to": 1, "count": 2},
            {"from": 2, "to": 3, "count": 2},
            {"from": 4, "to": 7, "count": 2},
            {"from": 8, "to": 15, "count": 1},
        ],
        "min": 0,
        "median": 2.5,
        "mean": 3.25,
        "max": 8,
    }
    assert degree_histogram(np.zeros(3, dtype=int))["bins"] == [{"from": 0, "to": 0, "count": 3}]


@given(st.lists(st.integers(0, 5000), min_size=1))
def test_every_degree_is_in_one_bin(degrees):
    bins = degree_histogram(np.array(degrees))["bins"]
    for one in bins:
        assert one["count"] == sum(one["from"] <= degree <= one["to"] for degree in degrees)
    assert sum(one["count"] for one in bins) == len(degrees)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(4, 40), st.floats(0.05, 0.5), st.integers(1, 4), st.integers(0, 9))
def test_planted_sizes_are_exact(users, items, density, groups, seed):
    pairs = max(users, int(users * items * density))
    if pairs > users * items // 2:
        return
    dataset = make_synthetic_dataset(users, items, pairs, {"image": 3}, groups=groups, seed=seed)
    assert (dataset.n_users, dataset.n_items) == (users, items)
    assert len(dataset.train) + len(dataset.valid) + len(dataset.test) == pairs
    assert len(set(dataset.train.users.tolist())) == users


def test_features_tell_the_group_and_users_like_few_groups():
    dataset = make_synthetic_dataset(
        300, 400, 4000, {"image": 30, "text": 20}, groups=10, noise=0.5, missing={"image": 0.3}
    )
    group = dataset.item_table["group"].to_numpy()
    assert np.bincount(group).tolist() == [40] * 10
    for matrix in dataset.features.values():
        rows = np.flatnonzero(matrix.present)
        unit = matrix.values[rows] / np.linalg.norm(matrix.values[rows], axis=1, keepdims=True)
        cosine = unit @ unit.T - 2 * np.eye(len(rows))
        assert (group[rows][cosine.argmax(axis=1)] == group[rows]).mean() > 0.99
    taken = np.zeros((300, 10))
    np.add.at(taken, (dataset.train.users, group[dataset.train.items]), 1)
    share = np.sort(taken, axis=1)[:, -3:].sum() / taken.sum()
    assert share > 0.85  # three of ten groups would hold 0.3 without tastes
    degrees = np.sort(np.bincount(dataset.train.items, minlength=400))
    assert degrees[-40:].sum() > 1.4 * degrees[:200].sum()  # a tenth of the items against half of them


def test_missing_features_are_zero_and_no_item_lacks_all():
    dataset = make_synthetic_dataset(50, 200, 500, {"a": 4, "b": 4}, groups=5, missing={"a": 0.5, "b": 0.6})
    a, b = dataset.features["a"], dataset.features["b"]
    assert (a.present | b.present).all()
    assert 0.3 < 1 - b.present.mean() < 0.8 and not a.present.all()
    for matrix in (a, b):
        assert not matrix.values[~matrix.present].any() and matrix.values[matrix.present].any(axis=1).all()


def test_the_seed_decides_and_a_folder_changes_nothing(tmp_path):
    options = {"groups": 4, "dtype": np.float16, "seed": 3}
    one, two = (
        make_synthetic_dataset(40, 30, 200, {"a": 6}, **options),
        make_synthetic_dataset(40, 30, 200, {"a": 6}, **options, folder=tmp_path / "f"),
    )
    other = make_synthetic_dataset(40, 30, 200, {"a": 6}, **(options | {"seed": 4}))
    assert os.listdir(tmp_path / "f") == ["a.npy"]
    assert isinstance(two.features["a"].values, np.memmap) and two.features["a"].values.dtype == np.float16
    np.testing.assert_array_equal(one.features["a"].values, two.features["a"].values)
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(one.split(split).items, two.split(split).items)
    assert one.train.items.tolist() != other.train.items.tolist()
    assert (one.features["a"].values != other.features["a"].values).any()


def test_sizes_that_cannot_be():
    with assert_error(DataError, mentions=["60 pairs", "10 users", "10 items", "2 groups"]):
        make_synthetic_dataset(10, 10, 60, {}, groups=2)
    with assert_error(DataError, mentions=["missing", "'z'", 0.5]):
        make_synthetic_dataset(10, 10, 20, {"a": 2}, groups=2, missing={"z": 0.5})
