"""`Dataset`: what goes in comes out, and it cannot be built wrong."""

import dataclasses

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lirdrec.data import Dataset, FeatureMatrix, IdMap, Interactions
from lirdrec.data.frames import from_polars, to_polars
from lirdrec.data.readers import read_raw
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error, assert_mentions


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
    with assert_error(DataError, mentions=["list", "pandas", "polars", "Arrow"]):
        Dataset.from_frames([1, 2])
    with assert_error(DataError, mentions=["mapping"]) as caught:
        Dataset.from_frames({"user": [1, 2], "item": [7]})
    assert "builtins" not in str(caught.value)


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
    assert_mentions(caplog.text, ["given", "1 user"])


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
    with assert_error(TypeError, mentions=["'k_cor'"]):
        Dataset.from_frames(interactions, k_cor=5)
    with assert_error(ConfigError, mentions=["rating='COLUMN'"]):
        Dataset.from_frames(interactions, min_rating=5)


EIGHT = pl.DataFrame({"item": [f"i{n}" for n in range(8)]})
NAN = np.ones((8, 5), dtype=np.float32)
NAN[2, 1], NAN[6, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"user": "usr"}, ["interactions", "'usr'", "user, item, rating, timestamp", "'user'"]),
        ({"items": EIGHT, "features": {"f": NAN}}, ["features 'f'", "NaN", "2 rows", "2, 6"]),
        ({"features": {"f": NAN}}, ["features 'f'", "items='FILE'"]),
        ({"features": {"f": (["i0", "i5"], NAN[1:3])}}, ["features 'f'", "NaN", "1 row", "i5"]),
        ({"items": EIGHT, "features": {"f": np.ones((5, 2))}}, ["features 'f'", "5 rows", "8 items"]),
        (
            {"features": {"f": (["i0", "x", "y"], np.ones((3, 2)))}},
            ["features 'f'", "2 ids", "x, y", "unknown_features='drop'"],
        ),
        ({"features": {"f": (["i0", "i0"], np.ones((2, 2)))}}, ["features 'f'", "item id 'i0'"]),
        ({"features": {"f": (["i0"], np.ones((2, 2)))}}, ["features 'f'", "1 id", "2 rows"]),
        ({"features": {"f": np.ones(8)}}, ["features 'f'", "(8,)"]),
        ({"features": {"f": np.array([["a"]] * 8)}}, ["features 'f'", "<U1"]),
        ({"features": {"a/b": np.ones((8, 2))}}, ["'a/b'", "_ and -"]),
        (
            {"features": {"f": (["i0", "i1"], np.ones((2, 2)))}},
            ["6 of 8 items", "i2, i3, i4, i5, i6, i7", "without_features='drop'"],
        ),
        ({"items": pl.DataFrame({"item": ["i0", "i0"]})}, ["the item table", "item id 'i0'", "row 0"]),
        (
            {"items": pl.DataFrame({"item": ["i0", "i1"]})},
            ["interactions", "6 items", "i2, i3, i4, i5, i6", "unknown_items='drop'"],
        ),
        ({"items": pl.DataFrame({"item": [1, 2]})}, ["String", "interactions", "Int64", "string_ids=True"]),
        ({"rating": "item", "min_rating": 2}, ["interactions", "'item'", "'i4'", "row 0", "bad_rows='skip'"]),
        ({"rating": "rating", "min_rating": 9}, ["interactions", "30 rows", "9"]),
        ({"k_core": 40}, ["interactions", "30", "40"]),
        ({"split": "temporal"}, ["'temporal'", "timestamp='COLUMN'"]),
        (
            {"split": "fold"},
            ["interactions", "'fold'", "random, cold_items, temporal", "user, item, rating, timestamp"],
        ),
        ({"split": "item"}, ["interactions", "'i4'", "row 0", "0, 1, 2", "train, valid, test"]),
        ({"timestamp": "user"}, ["interactions", "'user'", "'u0'", "row 0", "time_format", "2024-05-31T12:00:00"]),
    ],
)
def test_bad_frames_get_one_sentence(interactions, options, facts):
    with assert_error(DataError, mentions=facts) as caught:
        Dataset.from_frames(interactions, **options)
    assert "\n" not in str(caught.value)


def test_a_pair_in_two_splits_is_a_leak():
    frame = pl.DataFrame({"user": ["a", "a", "a"], "item": [1, 2, 1], "set": ["train", "train", "test"]})
    with assert_error(DataError, mentions=["interactions", "1 pair", "user a", "item 1"]):
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
    ("change", "facts"),
    [
        ({"train": pair([0, 2], [0, 1])}, ["train", "pair 1", "user row 2", "2 users"]),
        ({"test": pair([1], [-1])}, ["test", "pair 0", "item row -1", "3 items"]),
        ({"train": pair([], [])}, ["'tiny'"]),
        ({"test": pair([0], [0])}, ["user a", "item 10", "train", "test"]),
        ({"valid": pair([0, 0], [1, 1])}, ["user a", "item 20", "valid"]),
        ({"features": {"f": FeatureMatrix(np.ones((2, 2)))}}, ["features 'f'", "2 rows", "3 items"]),
        (
            {"features": {"f": FeatureMatrix(np.eye(3, 2)), "g": FeatureMatrix(np.eye(3, 1))}},
            ["1 of 3 items", "30", "without_features='drop'"],
        ),
        ({"item_table": pl.DataFrame({"item": [10, 20]})}, ["item table", "2 rows", "3 items"]),
        ({"item_table": pl.DataFrame({"item": [10, 30, 20]})}, ["item table", "'item'"]),
        ({"train": pair([0, 0], [0, 2])}, ["1 user", " b", "train", "info['split']['method'] = 'label'"]),
    ],
)
def test_a_dataset_cannot_be_built_wrong(change, facts):
    Dataset(**GOOD)
    with assert_error(DataError, mentions=facts):
        Dataset(**(GOOD | change))


def test_interactions_of_different_lengths():
    with assert_error(DataError, mentions=["'users'", 2, "'items'", 1]):
        pair([0, 1], [0])


def test_a_dataset_does_not_change():
    dataset = Dataset(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"
    with assert_error(DataError, mentions=["'dev'", "train, valid, test"]):
        dataset.split("dev")


def test_zero_rows_are_absent_and_masks_must_agree():
    values = np.array([[0, 0], [1, 2], [0, 0]], dtype=np.float16)
    assert FeatureMatrix(values).present.tolist() == [False, True, False]
    assert FeatureMatrix(values, np.array([True, True, True])).present.tolist() == [False, True, False]
    with assert_error(DataError, mentions=["mask", "1"]):
        FeatureMatrix(values, np.array([True, False, True]))
    with assert_error(DataError, mentions=["mask", "3", "bool", "(1,)"]):
        FeatureMatrix(values, np.array([True]))


def test_numbers_too_large_for_float32_are_found():
    with assert_error(DataError, mentions=["NaN", "1 row"]):
        FeatureMatrix(np.array([[1.0], [1e300]]))
    with assert_error(DataError, mentions=["1e+15", "1 row"]):
        FeatureMatrix(np.array([[1e14], [-1e16]]))
    assert FeatureMatrix(np.full((1, 2), 60000, np.float16)).present.all()


EVENTS = "visitor,event,item,liked,n\n1,view,7,true,1\n1,buy,8,true,2\n,view,9,false,1\n2,cart,7,false,2\n"


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(EVENTS)
    return path


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ({"event": "buy"}, [(1, 8)]),
        ({"event": ["buy", "cart"]}, [(1, 8), (2, 7)]),
        ({"event": ("buy", "cart"), "n": 2}, [(1, 8), (2, 7)]),
        ({"n": 2, "liked": True}, [(1, 8)]),
    ],
)
@pytest.mark.parametrize("frames", [False, True])
def test_rows_of_other_events_do_not_count(events, only, expected, frames):
    """Not even those that lack an id."""
    options = {"user": "visitor", "only": only, "split": "none"}
    data = Dataset.from_frames(pl.read_csv(events), **options) if frames else read_raw(events, **options)
    assert data.frame("train").rows() == expected
    assert data.info["preparation"]["rows"] == 4
    assert data.info["preparation"]["other_rows"] == 4 - len(expected)


def test_messages_name_the_line_of_the_file(events):
    events.write_text(EVENTS + ",buy,9,true,1\n")
    with assert_error(DataError, mentions=[events, "'visitor'", "line 6", "bad_rows='skip'"]):
        read_raw(events, user="visitor", only={"event": "buy"})


@pytest.mark.parametrize(
    ("only", "facts"),
    [
        ({"event": "bought"}, ["'bought'", "'event'", "view, buy, cart"]),
        ({"evnt": "buy"}, ["'evnt'", "'event'"]),
        ({"event": "cart", "n": 1}, ["event=cart", "n=1"]),
    ],
)
def test_a_value_that_is_nowhere_is_an_error(events, only, facts):
    with assert_error(DataError, mentions=[events, *facts]):
        read_raw(events, user="visitor", only=only)


def test_only_must_name_columns(events):
    with assert_error(ConfigError, mentions=["'only'", "'buy'"]):
        read_raw(events, user="visitor", only="buy")
