"""The published file of image features: planted records come back, in the order of the items, and damage is named."""

import gzip
import json
import logging

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec.data import Dataset
from lirdrec.data.readers import amazon
from lirdrec.data.readers.amazon import read_amazon, read_image_features
from lirdrec.errors import DataError

from ..helpers import assert_error, assert_mentions

RECORD = 10 + 4 * 4096
NAMES = [f"B{n:09}" for n in range(12)]
VECTORS = np.random.default_rng(0).standard_normal((12, 4096)).astype(np.float32)


def records(order, vectors=VECTORS):
    return b"".join(NAMES[n].encode() + vectors[n].astype("<f4").tobytes() for n in order)


@pytest.mark.parametrize("packed", [False, True])
@settings(max_examples=20, deadline=None)
@given(
    order=st.lists(st.integers(0, 11), min_size=1, max_size=15),
    wanted=st.lists(st.integers(0, 11), min_size=1, max_size=6, unique=True),
    step=st.integers(1, 5),
)
def test_planted_vectors_come_back(tmp_path_factory, packed, order, wanted, step):
    path = tmp_path_factory.mktemp("features") / "image_features_Baby.b"
    path.write_bytes(gzip.compress(records(order), 1) if packed else records(order))
    items = pl.Series([NAMES[n] for n in wanted])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amazon, "BLOCK_RECORDS", step)
        if not set(order) & set(wanted):
            with assert_error(DataError, mentions=[path, f"{len(wanted)} item"]):
                read_image_features(path, items)
            return
        file = read_image_features(path, items)
    expected = np.stack([VECTORS[n] if n in order else np.zeros(4096) for n in wanted])
    np.testing.assert_array_equal(file.values, expected)
    assert file.values.dtype == np.float32 and file.ids.equals(items)


def test_of_a_repeated_item_the_first_record_counts(tmp_path, caplog):
    path = tmp_path / "f.b"
    path.write_bytes(records([3, 1, 3]) + records([3, 1, 5], 2 * VECTORS))
    with caplog.at_level(logging.WARNING, "lirdrec"):
        file = read_image_features(path, pl.Series([NAMES[1], NAMES[3]]))
    np.testing.assert_array_equal(file.values, VECTORS[[1, 3]])
    assert_mentions(caplog.text, [path, "3 records"])


WHOLE = records(range(4))
DAMAGED = {
    "cut": (WHOLE[:-1], [f"{4 * RECORD - 1:,} bytes", f"byte {3 * RECORD:,}"]),
    "cut after an ASIN": (WHOLE + b"B000000009", [f"{4 * RECORD + 10:,} bytes", f"byte {4 * RECORD:,}"]),
    "slipped": (WHOLE[: RECORD + 7] + WHOLE[RECORD + 8 :] + b"x", ["ASIN", f"byte {RECORD:,}", "b'B00000001}'"]),
    "other": (b"\x89PNG" + WHOLE[4:], ["ASIN", "byte 0", r"b'\x89PNG000000'"]),
    "zeros": (bytes(RECORD), ["ASIN", "byte 0", "b''"]),
    "empty": (b"", []),
}


@pytest.mark.parametrize(
    ("name", "packed"), [(name, packed) for name in DAMAGED for packed in {False, name != "empty"}]
)
def test_damage_is_named_with_its_byte(tmp_path, monkeypatch, name, packed):
    monkeypatch.setattr(amazon, "BLOCK_RECORDS", 2)
    content, facts = DAMAGED[name]
    path = tmp_path / "f.b"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    with assert_error(DataError, mentions=[path, *facts]) as caught:
        read_image_features(path, pl.Series(NAMES))
    assert "\n" not in str(caught.value)


def test_a_gzip_of_nothing_and_one_cut_short(tmp_path):
    path = tmp_path / "f.b"
    path.write_bytes(gzip.compress(b""))
    with assert_error(DataError, mentions=[path, "12 items"]):
        read_image_features(path, pl.Series(NAMES))
    path.write_bytes(gzip.compress(WHOLE, 1)[:-30])
    with assert_error(DataError, mentions=[path, "gzip"]):
        read_image_features(path, pl.Series(NAMES))


@pytest.fixture
def shop(tmp_path):
    """Reviews of 12 items by 9 users as a frame and a file, and a file of features that lacks items 2 and 7."""
    cells = np.random.default_rng(2).permutation(9 * 12)[:70]
    frame = pl.DataFrame(
        {"user": [f"A{c // 12}" for c in cells], "item": [NAMES[c % 12] for c in cells], "timestamp": range(70)}
    )
    lines = [
        json.dumps({"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time})
        for user, item, time in frame.iter_rows()
    ]
    (tmp_path / "reviews.json").write_text("\n".join(lines))
    present = [n for n in range(11, -1, -1) if n not in (2, 7)]
    (tmp_path / "image.b").write_bytes(records(present))
    return frame, tmp_path / "reviews.json", tmp_path / "image.b", present


def test_items_without_an_image_are_an_error_unless_dropped(shop):
    _, reviews, image, _ = shop
    facts = ["2 of 12 items", f"{NAMES[2]}, {NAMES[7]}", "without_features='drop'"]
    with assert_error(DataError, mentions=facts):
        read_amazon(reviews, image_features=image)


@pytest.mark.parametrize("k_core", [0, 2, 5])
@pytest.mark.parametrize("split", ["random", "temporal", "cold_items"])
def test_dropping_gives_what_frames_give(shop, k_core, split):
    frame, reviews, image, present = shop
    options = {"without_features": "drop", "k_core": k_core, "split": split, "seed": 1, "keep_all_items": False}
    dataset = read_amazon(reviews, image_features=image, **options)
    features = {"image": ([NAMES[n] for n in present], VECTORS[present])}
    same = Dataset.from_frames(frame, features=features, timestamp="timestamp", **options)
    for part in ("train", "valid", "test"):
        assert dataset.frame(part).equals(same.frame(part))
    np.testing.assert_array_equal(dataset.features["image"].values, same.features["image"].values)
    assert dataset.items == same.items and dataset.users == same.users
    # of those that the first k-core left
    assert dataset.info["preparation"]["items_without_features_dropped"] == (1 if k_core == 5 else 2)
    assert dataset.info["source"]["files"] == ["reviews.json", "image.b"] and dataset.info["split"]["method"] == split


def test_items_that_the_first_core_leaves_out_have_no_features_read(shop, monkeypatch):
    _, reviews, image, _ = shop
    with reviews.open("a") as file:
        file.write('\n{"reviewerID": "A0", "asin": "B000RARE01", "overall": 5.0, "unixReviewTime": 1}')
    with image.open("ab") as file:
        file.write(b"B000RARE01" + VECTORS[0].tobytes())
    asked = []
    monkeypatch.setattr(
        "lirdrec.data.readers.amazon.read_image_features",
        lambda path, items: asked.extend(items) or read_image_features(path, items),
    )
    read_amazon(reviews, image_features=image, k_core=2, without_features="drop")
    assert asked == NAMES


@pytest.mark.parametrize("split", ["random", "temporal"])
@pytest.mark.parametrize(
    "options",
    [
        {"half_life": 20.0},
        {"half_life": 20.0, "min_rating": 2.0},
        {"weight": "rating", "min_rating": 1.0},
        {"event": "rating", "event_weights": {"1": -3, "2": 0, "3": 1, "4": 2, "5": 3}, "min_rating": 1.0},
        {"order": "file", "timestamp": None},
    ],
)
def test_dropping_keeps_weights_and_positions(tmp_path, options, split):
    rng = np.random.default_rng(4)
    rows = [
        (f"A{user}", NAMES[item], float(rating), 1_300_000_000 + 86_400 * day)
        for user, item, rating, day in np.stack(
            [rng.integers(9, size=120), rng.integers(12, size=120), rng.integers(1, 6, 120), rng.permutation(120)], 1
        ).tolist()
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row")
    keys = ("reviewerID", "asin", "overall", "unixReviewTime")
    (tmp_path / "reviews.json").write_text("\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows))
    present = [n for n in range(12) if n not in (2, 7)]
    (tmp_path / "image.b").write_bytes(records(present))
    given = {"timestamp": "timestamp", **options, "without_features": "drop", "split": split, "keep_all_items": False}
    features = {"image": ([NAMES[n] for n in present], VECTORS[present])}
    same = Dataset.from_frames(
        frame, features=features, **({"rating": "rating"} if "min_rating" in given else {}), **given
    )
    dataset = read_amazon(tmp_path / "reviews.json", image_features=tmp_path / "image.b", **given)
    assert dataset.users == same.users and dataset.items == same.items
    for part in ("train", "valid", "test", "dislikes"):
        one, other = getattr(dataset, part), getattr(same, part)
        assert (one is None) == (other is None)
        for column in ("users", "items", "timestamps", "weights") if one is not None else ():
            np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    assert dataset.info.get("timestamps") == same.info.get("timestamps")
