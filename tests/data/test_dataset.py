"""`Dataset`: what goes in comes out, and it cannot be built wrong."""

import dataclasses
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lirdrec.data import Dataset, FeatureMatrix, IdMap, Interactions
from lirdrec.data.frames import from_polars, to_polars
from lirdrec.errors import ConfigError, DataError


def all_pairs(dataset):
    return pl.concat([pl.DataFrame(dataset.frame(name)) for name in ("train", "valid", "test")])


def test_no_interaction_is_lost_or_repeated(dataset, interactions):
    assert_frame_equal(all_pairs(dataset), interactions.select("user", "item", "timestamp"), check_row_order=False)


def test_items_keep_the_order_of_their_table(dataset, items, image):
    assert_frame_equal(dataset.item_table, items)
    np.testing.assert_array_equal(dataset.features["image"].values, image)
    assert dataset.features["image"].present.tolist() == [True] * 7 + [False]
    assert dataset.features["image"].values.dtype == np.float32


def test_features_with_ids_find_their_items(dataset):
    text = dataset.features["text"]
    assert text.values.dtype == np.float16
    assert text.present.tolist() == [False, False, False, True, False, True, False, True]  # i0, i2, i7
    expected = np.zeros((8, 4))
    expected[[7, 3, 5], [0, 1, 2]] = 1
    np.testing.assert_array_equal(text.values, expected)


@pytest.mark.parametrize("kind", ["polars", "pandas", "arrow"])
def test_frames_come_back_as_the_kind_that_went_in(interactions, kind):
    frame = from_polars(interactions, kind)
    dataset = Dataset.from_frames(frame, timestamp="timestamp")
    back = dataset.frame("train")
    assert type(back) is type(frame)
    assert_frame_equal(to_polars(back)[0], Dataset.from_frames(interactions, timestamp="timestamp").frame("train"))


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.text("abc", max_size=2), st.none() | st.floats(allow_nan=False)), max_size=9
    ),
    st.sampled_from(["polars", "pandas", "arrow"]),
)
def test_frames_make_the_round_trip(rows, kind):
    frame = pl.DataFrame(rows, schema={"a": pl.Int64, "b": pl.String, "c": pl.Float64}, orient="row")
    back, found = to_polars(from_polars(frame, kind))
    assert found == kind
    assert_frame_equal(back, frame)


def test_what_is_not_a_frame():
    with pytest.raises(DataError, match="a frame of type list is not known: give a pandas, polars or Arrow frame"):
        Dataset.from_frames([1, 2])


def test_ratings_below_the_threshold_are_left_out(interactions):
    dataset = Dataset.from_frames(interactions, rating="rating", min_rating=3)
    kept = interactions.filter(pl.col("rating") >= 3).select("user", "item")
    assert_frame_equal(all_pairs(dataset), kept, check_row_order=False)
    assert dataset.info["preparation"]["below_min_rating"] == 30 - kept.height
    assert dataset.n_items == kept["item"].n_unique()


def test_k_core_leaves_items_and_features_that_fit(interactions, items, image):
    extra = pl.concat([interactions.select("user", "item"), pl.DataFrame({"user": ["lonely"], "item": ["i7"]})])
    dataset = Dataset.from_frames(extra, items=items, features={"image": image}, k_core=2, without_features="drop")
    assert "lonely" not in dataset.users and "i7" not in dataset.items  # i7 has no features
    counts = all_pairs(dataset)
    for column in ("user", "item"):
        assert counts[column].value_counts()["count"].min() >= 2
    for row, one in enumerate(dataset.items.ids):
        np.testing.assert_array_equal(dataset.features["image"].values[row], image[items["item"].to_list().index(one)])
    assert dataset.info["preparation"]["items_without_features_dropped"] == 1


def test_a_column_of_labels_is_the_split(interactions):
    words = ["train", "Train", " train", "valid", "val", "test"] * 5
    users = [f"u{n % 3}" for n in range(30)]  # every user has a training item
    frame = pl.DataFrame({"user": users, "item": list(range(30)), "set": words})
    dataset = Dataset.from_frames(frame, split="set")
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [15, 10, 5]
    assert dataset.info["split"] == {"method": "label", "column": "set", "users_without_training": 0}


@pytest.mark.parametrize("method", ["random", "cold_items", "temporal", "none"])
def test_another_split_of_the_same_pairs(dataset, interactions, image, method):
    again = dataset.resplit(method, seed=5)
    assert_frame_equal(all_pairs(again), all_pairs(dataset), check_row_order=False)
    assert again.info["split"]["method"] == method and again.info["split"]["seed"] == 5
    np.testing.assert_array_equal(again.features["image"].values, image)
    if method == "cold_items":
        assert again.cold_items.sum() == 2 and not again.cold_items[again.train.items].any()
    if method == "none":
        assert len(again.train) == 30
    direct = Dataset.from_frames(interactions, items=dataset.item_table, timestamp="timestamp", split=method, seed=5)
    for name in ("train", "valid", "test"):
        assert_frame_equal(again.frame(name), direct.frame(name))


def test_users_without_training_are_allowed_where_the_split_is_given(caplog):
    frame = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 3], "set": [0, 2, 2]})
    dataset = Dataset.from_frames(frame, split="set", name="given")
    assert dataset.info["split"]["users_without_training"] == 1
    assert "given: no training item for 1 user of valid or test; evaluation leaves them out" in caplog.text


def test_cold_items_are_those_seen_only_after_training():
    frame = pl.DataFrame({"user": [1, 1, 1, 2], "item": [1, 2, 3, 1], "set": [0, 1, 2, 0]})
    items = pl.DataFrame({"item": [1, 2, 3, 4]})
    dataset = Dataset.from_frames(frame, items=items, split="set")
    assert dataset.cold_items.tolist() == [False, True, True, False]
    assert dataset.n_items == 4


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([1, 2, 3, 4]),
        pl.Series([1.0, 2.0, 3.0, 4.0]),
        pl.Series(["1", "2", "3", "4"]),
        pl.Series(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"]),
        pl.Series(["2024-01-01T00:00:00", "2024-01-01T00:00:01", "2024-01-01T00:00:02", "2024-01-02T00:00:00"]),
        pl.Series(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"]).str.to_date(),
    ],
)
def test_times_in_every_form(times):
    frame = pl.DataFrame({"user": [0] * 4, "item": [3, 2, 1, 0], "when": times})
    dataset = Dataset.from_frames(frame, timestamp="when", split="leave_last_out")
    assert dataset.frame("test")["item"].to_list() == [0]
    assert dataset.frame("valid")["item"].to_list() == [1]


def test_features_as_a_frame_of_vectors(interactions):
    vectors = {"item": ["i1", "i0", "i2"], "vector": [[1.0, 2.0], [3.0, 4.0], None]}
    everyone = {"item": [f"i{n}" for n in range(8)], "vector": np.ones((8, 3))}
    for frame in (pl.DataFrame(vectors), pd.DataFrame(vectors), pl.DataFrame(vectors).to_arrow()):
        dataset = Dataset.from_frames(interactions, features={"a": frame, "b": pl.DataFrame(everyone)})
        assert dataset.features["a"].present.tolist() == [True, True] + [False] * 6
        np.testing.assert_array_equal(dataset.features["a"].values[:2], [[3, 4], [1, 2]])


def test_an_unknown_option_offers_the_nearest(interactions):
    with pytest.raises(TypeError, match="unexpected keyword argument 'k_cor'"):
        Dataset.from_frames(interactions, k_cor=5)
    with pytest.raises(ConfigError, match="a least rating needs the name of the column of ratings"):
        Dataset.from_frames(interactions, min_rating=5)


EIGHT = pl.DataFrame({"item": [f"i{n}" for n in range(8)]})
NAN = np.ones((8, 5), dtype=np.float32)
NAN[2, 1], NAN[6, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"user": "usr"},
            "the interactions: no column 'usr'; it has user, item, rating, timestamp; did you mean 'user'?",
        ),
        (
            {"items": EIGHT, "features": {"f": NAN}},
            "features 'f': NaN or infinite values in 2 rows (counted from 0): 2, 6; mend them",
        ),
        ({"features": {"f": NAN}}, "features 'f': has no ids, and nothing says which item a row belongs to"),
        ({"features": {"f": (["i0", "i5"], NAN[1:3])}}, "NaN or infinite values in 1 row, of the ids: i5"),
        (
            {"items": EIGHT, "features": {"f": np.ones((5, 2))}},
            "features 'f': 5 rows for 8 items of the item table; give one row per item in their order",
        ),
        (
            {"features": {"f": (["i0", "x", "y"], np.ones((3, 2)))}},
            "features 'f': 2 ids not among the items: x, y;",
        ),
        ({"features": {"f": (["i0", "i0"], np.ones((2, 2)))}}, "features 'f': item id 'i0' occurs more than once"),
        ({"features": {"f": (["i0"], np.ones((2, 2)))}}, "features 'f': 1 id for 2 rows of features"),
        (
            {"features": {"f": np.ones(8)}},
            "features 'f': features must be a matrix with a row per item, not an array of",
        ),
        ({"features": {"f": np.array([["a"]] * 8)}}, "features 'f': features must be numbers, not <U1"),
        ({"features": {"a/b": np.ones((8, 2))}}, "'a/b' cannot name a feature matrix: use letters, digits, _ and -"),
        (
            {"features": {"f": (["i0", "i1"], np.ones((2, 2)))}},
            "no features in any modality for 6 of 8 items: i2, i3, i4, i5, i6, i7; give them features, or drop them",
        ),
        ({"items": pl.DataFrame({"item": ["i0", "i0"]})}, "the item table: item id 'i0' occurs more than once"),
        (
            {"items": pl.DataFrame({"item": ["i0", "i1"]})},
            "the interactions: 6 items not in the item table: i2, i3",
        ),
        (
            {"items": pl.DataFrame({"item": [1, 2]})},
            "the item ids are String in the interactions and Int64 in the item table",
        ),
        ({"rating": "item", "min_rating": 2}, "column 'item' has 'i"),
        (
            {"rating": "rating", "min_rating": 9},
            "the interactions: no interaction is left of 30 rows (30 rated lower); lower min_rating, which is 9",
        ),
        (
            {"k_core": 40},
            "no interaction is left of 30 rows (30 of users or items with too few others); lower k_core, which is 40",
        ),
        ({"split": "temporal"}, "split 'temporal' needs to know when things happened"),
        ({"split": "fold"}, "the interactions: 'fold' is neither a way to split nor a column; choose one of random"),
        ({"split": "item"}, "the interactions: split label 'i"),
        ({"timestamp": "user"}, "times must be whole numbers or dates like 2024-05-31T12:00:00"),
    ],
)
def test_bad_frames_get_one_sentence(interactions, options, sentence):
    with pytest.raises(DataError, match=re.escape(sentence)) as caught:
        Dataset.from_frames(interactions, **options)
    assert "\n" not in str(caught.value)


def test_a_pair_in_two_splits_is_a_leak():
    frame = pl.DataFrame({"user": ["a", "a", "a"], "item": [1, 2, 1], "set": ["train", "train", "test"]})
    with pytest.raises(DataError, match="1 pair in two splits, for instance user a and item 1; keep each pair in"):
        Dataset.from_frames(frame, split="set")


def pair(users, items):
    return Interactions(np.array(users, dtype=np.int64), np.array(items, dtype=np.int64))


GOOD = {
    "name": "tiny",
    "users": IdMap(["a", "b"], "user"),
    "items": IdMap([10, 20, 30], "item"),
    "train": pair([0, 1], [0, 1]),
    "valid": pair([0], [1]),
    "test": pair([1], [2]),
    "features": {"f": FeatureMatrix(np.ones((3, 2), dtype=np.float32))},
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train": pair([0, 2], [0, 1])}, "train pair 1 has user row 2; there are 2 users"),
        ({"test": pair([1], [-1])}, "test pair 0 has item row -1; there are 3 items"),
        ({"train": pair([], [])}, "dataset 'tiny': there is no training interaction"),
        ({"test": pair([0], [0])}, "the pair of user a and item 10 occurs twice (in train and in test)"),
        ({"valid": pair([0, 0], [1, 1])}, "the pair of user a and item 20 occurs twice (in valid and in valid)"),
        (
            {"features": {"f": FeatureMatrix(np.ones((2, 2)))}},
            "features 'f': 2 rows for 3 items; there must be one row each",
        ),
        (
            {"features": {"f": FeatureMatrix(np.eye(3, 2)), "g": FeatureMatrix(np.eye(3, 1))}},
            "no features in any modality for 1 of 3 items: 30;",
        ),
        ({"item_table": pl.DataFrame({"item": [10, 20]})}, "the item table has 2 rows for 3 items"),
        ({"item_table": pl.DataFrame({"item": [10, 30, 20]})}, "the first column of the item table must be 'item'"),
        ({"train": pair([0, 0], [0, 2])}, "no training item for 1 user of valid or test: b; move one of their items"),
    ],
)
def test_a_dataset_cannot_be_built_wrong(change, sentence):
    Dataset(**GOOD)
    with pytest.raises(DataError, match=re.escape(sentence)):
        Dataset(**(GOOD | change))


def test_interactions_of_different_lengths():
    with pytest.raises(DataError, match="interactions: 2 users but 1 items"):
        pair([0, 1], [0])


def test_a_dataset_does_not_change():
    dataset = Dataset(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"
    with pytest.raises(DataError, match="there is no split 'dev'; choose one of train, valid, test"):
        dataset.split("dev")


def test_zero_rows_are_absent_and_masks_must_agree():
    values = np.array([[0, 0], [1, 2], [0, 0]], dtype=np.float16)
    assert FeatureMatrix(values).present.tolist() == [False, True, False]
    assert FeatureMatrix(values, np.array([True, True, True])).present.tolist() == [False, True, False]
    with pytest.raises(DataError, match="values in rows that its mask calls absent: 1; set them to 0"):
        FeatureMatrix(values, np.array([True, False, True]))
    with pytest.raises(DataError, match="must be 3 booleans, one per item; this one is bool of shape"):
        FeatureMatrix(values, np.array([True]))


def test_numbers_too_large_for_float32_are_found():
    with pytest.raises(DataError, match=r"NaN or infinite values in 1 row \(counted from 0\): 1"):
        FeatureMatrix(np.array([[1.0], [1e300]]))
