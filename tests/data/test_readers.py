"""Files of every kind: the same content gives the same dataset, and every fault gets one sentence."""

import gzip

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lirdrec.data import Dataset
from lirdrec.data.readers import read_any, read_features, read_interactions, read_mmrec, read_recbole
from lirdrec.errors import DataError, LirdrecError

from ..helpers import assert_error

SPLITS = ("train", "valid", "test")


def write_table(frame, path):
    if path.suffix == ".gz":
        packed = write_table(frame, path.with_suffix("")).read_bytes()
        path.with_suffix("").unlink()
        path.write_bytes(gzip.compress(packed))
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_csv(path, separator="\t", quote_style="never")
    return path


def assert_same_pairs(one, two):
    for name in SPLITS:
        assert_frame_equal(one.frame(name), two.frame(name))
    assert_frame_equal(one.item_table, two.item_table)


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters='"'), min_size=1)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(names | st.just("ünï,cödé"), st.integers(0, 9), st.integers(0, 10**12)), min_size=1),
    suffix=st.sampled_from([".csv", ".tsv", ".parquet"]),
)
def test_files_give_what_frames_give(tmp_path_factory, rows, suffix):
    rows = [(f"x{user}", item, time) for user, item, time in rows]  # never all integers
    frame = pl.DataFrame(rows, schema=["who", "what", "when"], orient="row")
    names = {"user": "who", "item": "what", "timestamp": "when", "seed": 3}
    path = write_table(frame, tmp_path_factory.mktemp("tables") / f"table{suffix}")
    assert_same_pairs(read_interactions(path, **names), Dataset.from_frames(frame, **names))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz"])
def test_tables_with_items_and_features(dataset, interactions, items, image, tmp_path, suffix):
    write_table(interactions, tmp_path / f"pairs{suffix}")
    write_table(items, tmp_path / f"items{suffix}")
    np.save(tmp_path / "image.npy", image)
    text = tmp_path / "text.npz"
    np.savez(text, ids=np.array(["i7", "i0", "i2"]), x=np.eye(3, 4, dtype=np.float16))
    again = read_interactions(
        tmp_path / f"pairs{suffix}",
        items=tmp_path / f"items{suffix}",
        features={"image": tmp_path / "image.npy", "text": text},
        timestamp="timestamp",
    )
    assert_same_pairs(again, dataset)
    for name, matrix in dataset.features.items():
        np.testing.assert_array_equal(again.features[name].values, matrix.values)
        np.testing.assert_array_equal(again.features[name].present, matrix.present)
    assert isinstance(again.features["image"].values, np.memmap)  # rows are in place: nothing is copied


def test_integers_in_text_are_integers_unless_strings_are_asked_for(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("user,item\n1,10\n1,9\n2,10\n")
    assert read_interactions(path).items.ids.tolist() == [9, 10]
    assert read_interactions(path, string_ids=True).items.ids.tolist() == ["10", "9"]


def test_ids_that_look_different_in_two_files_still_meet(tmp_path):
    (tmp_path / "t.csv").write_text("user,item\n1,10\n1,9\n")
    (tmp_path / "items.csv").write_text("item,title\nB7,bee\n9,nine\n10,ten\n")
    np.savez(tmp_path / "f.npz", ids=np.array([10, 9]), x=np.eye(2))
    dataset = read_interactions(
        tmp_path / "t.csv",
        items=tmp_path / "items.csv",
        features={"f": tmp_path / "f.npz"},
        without_features="drop",
    )
    assert dataset.items.ids.tolist() == ["9", "10"]
    np.testing.assert_array_equal(dataset.features["f"].values, [[0, 1], [1, 0]])


def write(path, content):
    path.write_bytes(content)
    return path


def test_missing_files_and_folders(tmp_path):
    for read in (read_features, read_interactions):
        with assert_error(DataError, mentions=[tmp_path / "gone.npy"]):
            read(tmp_path / "gone.npy")
        with assert_error(DataError, mentions=[tmp_path, "folder"]):
            read(tmp_path)
    for read in (read_mmrec, read_recbole, read_any):
        with assert_error(DataError, mentions=[tmp_path / "gone"]):
            read(tmp_path / "gone")


# ---- tables

BAD_TABLES = {
    "empty.csv": (b"", []),
    "header.csv": (b"user,item\n", []),
    "columns.csv": (b"User,item\n1,2\n", ["'user'", "User, item", "'User'"]),
    "latin.csv": ("user,item\n1,caf\xe9\n".encode("latin-1"), ["UTF-8", "0xe9", "line 2", "--encoding"]),
    "short.csv": (b"user,item\n1,2\n3", ["line 3", "1 value", "2 columns", "bad_rows='skip'"]),
    "ragged.csv": (b"user,item\n1,2\n3,4,5\n", ["line 3", "3 values", "2 columns", "bad_rows='skip'"]),
    "negative.csv": (b"user,item\n1,2\n3,-4\n", ["'item'", "item id -4", "line 3", "string_ids=True"]),
    "huge.csv": (b"user,item\n99999999999999999999,2\n", ["'user'", "user id 99999999999999999999", "line 2"]),
    "quotes.csv": (b'user,item\n1,2\n3,"4\n5,6\n', ["line 3"]),
    "binary.csv": (bytes(range(256)), ["UTF-8", "0x80", "line 2"]),
    "text.parquet": (b"user,item\n1,2\n", ["Parquet"]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(tmp_path, name):
    content, facts = BAD_TABLES[name]
    with assert_error(DataError, mentions=[tmp_path / name, *facts]) as caught:
        read_interactions(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_bad_values_name_their_line(tmp_path):
    path = write(tmp_path / "t.csv", b"user,item,rating,when,set\n1,2,3,4,0\n1,3,good,soon,7\n")
    for options, facts in (
        ({"rating": "rating", "min_rating": 1}, ["'rating'", "'good'", "line 3"]),
        ({"timestamp": "when"}, ["'when'", "'soon'", "line 3", "time_format"]),
        ({"split": "set"}, ["'7'", "line 3", "0, 1, 2", "train, valid, test"]),
    ):
        with assert_error(DataError, mentions=[path, *facts]):
            read_interactions(path, **options)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_damage_to_a_table_is_one_sentence_or_no_harm(tmp_path_factory, suffix, data):
    path = tmp_path_factory.mktemp("tables") / f"t{suffix}"
    frame = pl.DataFrame({"user": [f"u{n % 4}" for n in range(20)], "item": range(20), "rating": [4.5] * 20})
    content = bytearray(write_table(frame, path).read_bytes())
    index = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:index]
    else:
        content[index] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_interactions(path, rating="rating", min_rating=4)
    except LirdrecError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def test_read_any_of_a_prepared_folder_and_of_what_is_none(dataset, tmp_path):
    assert_same_pairs(read_any(dataset.save(tmp_path / "it")), dataset)
    with assert_error(DataError, mentions=[tmp_path / "t.csv", "lirdrec prepare"]):
        read_any(write(tmp_path / "t.csv", b"user,item\n"))


# ---- the real thing


@pytest.mark.parametrize(
    ("name", "users", "items", "sizes", "dims"),
    [
        ("tiktok", 9308, 6710, [59541, 3051, 6130], {"audio": 128, "image": 128}),
        ("sports", 35598, 18357, [218409, 37899, 40029], {"text": 384}),
        ("baby", 19445, 7050, [118551, 20559, 21682], {}),
    ],
)
def test_published_folders(real_data, tmp_path, name, users, items, sizes, dims):
    dataset = read_any(real_data / name)
    assert (dataset.n_users, dataset.n_items) == (users, items)
    assert [len(dataset.split(split)) for split in SPLITS] == sizes
    assert {modality: matrix.dims for modality, matrix in dataset.features.items()} == dims
    source = pl.read_csv(real_data / name / f"{name}.inter", separator="\t")
    for code, split in enumerate(SPLITS):
        expected = source.filter(x_label=code).select(user="userID", item="itemID")
        assert_frame_equal(dataset.frame(split), expected, check_row_order=False, check_dtypes=False)
    assert_same_pairs(dataset, Dataset.load(dataset.save(tmp_path / name), verify=True))


def test_raw_reviews_and_ratings(real_data):
    clothing = read_interactions(
        real_data / "clothing" / "reviews.tsv", user="reviewerID", item="asin", timestamp="order", split="temporal"
    )
    assert (clothing.n_users, clothing.n_items) == (39387, 23033)
    assert sum(len(clothing.split(split)) for split in SPLITS) == 278677
    last = clothing.frame("test").group_by("user").agg(pl.col("timestamp").min())
    first = clothing.frame("train").group_by("user").agg(pl.col("timestamp").max())
    assert (both := last.join(first, on="user")).height == 39387
    assert (both["timestamp"] > both["timestamp_right"]).all()

    folder = real_data / "movielens-small"
    films = read_interactions(
        folder / "ratings.csv",
        features={"poster": folder / "poster_features.npz"},
        user="userId",
        item="movieId",
        rating="rating",
        min_rating=4,
        timestamp="timestamp",
        unknown_features="drop",
        without_features="drop",
        k_core=5,
    )
    posters = np.load(folder / "poster_features.npz")
    rows = {one: row for row, one in enumerate(posters["movieId"].tolist())}
    for row in (0, 100, films.n_items - 1):
        expected = posters["x"][rows[films.items.ids[row]]]
        np.testing.assert_array_equal(films.features["poster"].values[row], expected)
    ratings = pl.read_csv(folder / "ratings.csv").filter(pl.col("rating") >= 4)
    pairs = pl.concat([films.frame(split) for split in SPLITS]).select(userId="user", movieId="item")
    assert pairs.join(ratings, on=["userId", "movieId"]).height == pairs.height
    assert min(pairs["userId"].value_counts()["count"].min(), pairs["movieId"].value_counts()["count"].min()) >= 5


def test_a_column_item_of_the_item_table_gets_a_name_that_is_free():
    plays = pl.DataFrame({"user": [1, 1, 2], "sku": [5, 6, 5]})
    goods = pl.DataFrame({"sku": [5, 6], "item": ["a", "b"], "item_": ["c", "d"]})
    data = Dataset.from_frames(plays, item="sku", items=goods)
    assert data.item_table.to_dict(as_series=False) == {
        "item": [5, 6],
        "item_2": ["a", "b"],
        "item_": ["c", "d"],
    }
