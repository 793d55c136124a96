"""Files of every kind: the same content gives the same dataset, and every fault gets one sentence."""

import gzip
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from safetensors.numpy import save_file

from lirdrec.data import Dataset
from lirdrec.data.readers import read_any, read_features, read_interactions, read_mmrec, read_recbole
from lirdrec.errors import ConfigError, DataError, LirdrecError

from ..helpers import assert_error, assert_mentions

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
    dataset = read_interactions(
        tmp_path / "t.csv",
        items=tmp_path / "items.csv",
        features={"f": write_npz(tmp_path / "f.npz", ids=np.array([10, 9]), x=np.eye(2))},
        without_features="drop",
    )
    assert dataset.items.ids.tolist() == ["9", "10"]
    np.testing.assert_array_equal(dataset.features["f"].values, [[0, 1], [1, 0]])


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def write(path, content):
    path.write_bytes(content)
    return path


# ---- feature files

IDS = np.array([5, 3, 9])
X = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "list", "array"])
def test_feature_files_with_ids(tmp_path, kind):
    if kind == "npz":
        path = write_npz(tmp_path / "f.npz", movieId=IDS, x=X)
    elif kind == "safetensors":
        save_file({"ids": IDS, "matrix": X}, path := tmp_path / "f.safetensors")
    else:
        vectors = pl.Series(X.tolist() if kind == "list" else X)
        path = tmp_path / "f.parquet"
        pl.DataFrame({"movie": IDS, "vector": vectors}).write_parquet(path)
    found = read_features(path)
    assert found.ids.to_list() == [5, 3, 9]
    np.testing.assert_array_equal(found.values, X)


def test_feature_files_without_ids(tmp_path):
    np.save(tmp_path / "f.npy", X.astype(np.float64))
    save_file({"anything": X.astype(np.float16)}, tmp_path / "f.safetensors")
    for name, kind in (("f.npy", np.float32), ("f.safetensors", np.float16)):
        found = read_features(tmp_path / name)
        assert found.ids is None and found.values.dtype == kind
        np.testing.assert_array_equal(found.values, X)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def npy(array):
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


PICKLED = ["pickle", "numpy.save"]
BAD_FEATURES = {
    "pickle.npy": (lambda p: p.write_bytes(pickle.dumps(Evil())), PICKLED),
    "object.npy": (lambda p: p.write_bytes(npy(np.array([Evil(), None], dtype=object))), PICKLED),
    "object.npz": (
        lambda p: np.savez(p, v=X, sku=np.array(["a", "b", "c"], dtype=object)),
        ["'sku'", "pickle", "numpy.savez(FILE, sku=numpy.asarray(ids, dtype=str), …)"],
    ),
    "short.npy": (lambda p: p.write_bytes(npy(X)[:-5]), []),
    "header.npy": (lambda p: p.write_bytes(npy(X)[:20]), []),
    "short.npz": (lambda p: (np.savez(p, x=X), p.write_bytes(p.read_bytes()[:-40])), []),
    "text.npy": (lambda p: p.write_text("1 2 3"), ["pickle"]),
    "empty.npy": (lambda p: p.write_bytes(b""), []),
    "empty.parquet": (lambda p: p.write_bytes(b""), []),
    "flat.npy": (lambda p: np.save(p, X[0]), ["(4,)"]),
    "words.npy": (lambda p: np.save(p, np.array([["a"]])), ["<U1"]),
    "two.npz": (lambda p: np.savez(p, a=X, b=X), ["a float32[3, 4], b float32[3, 4]"]),
    "lists.npz": (
        lambda p: np.savez(p, x=X, a=IDS, b=IDS),
        ["ids", "x float32[3, 4], a int64[3], b int64[3]"],
    ),
    "count.npz": (lambda p: np.savez(p, x=X, ids=IDS[:2]), ["2 ids", "3 rows"]),
    "negative.npz": (
        lambda p: np.savez(p, x=X, ids=-IDS),
        ["'ids'", "item id -5", "row 0", "string_ids=True"],
    ),
    "short.safetensors": (
        lambda p: (save_file({"x": X}, p), p.write_bytes(p.read_bytes()[:-4])),
        ["safetensors"],
    ),
    "short.parquet": (
        lambda p: (pl.DataFrame({"id": IDS, "v": X}).write_parquet(p), p.write_bytes(p.read_bytes()[:-9])),
        ["Parquet"],
    ),
    "ragged.parquet": (
        lambda p: pl.DataFrame({"id": [1, 2], "v": [[1.0, 2.0], [3.0]]}).write_parquet(p),
        ["1 number", "2"],
    ),
    "holes.parquet": (
        lambda p: pl.DataFrame({"id": [1, 2], "v": [[1.0, 2.0], [3.0, None]]}).write_parquet(p),
        ["'v'"],
    ),
    "novector.parquet": (lambda p: pl.DataFrame({"id": [1, 2]}).write_parquet(p), ["'id'"]),
    "noids.parquet": (
        lambda p: pl.DataFrame({"a": [1], "b": [2], "v": [[1.0]]}).write_parquet(p),
        ["a, b, v", "ids"],
    ),
    "features.pt": (lambda p: p.write_bytes(b"x"), [".npy, .npz, .safetensors, .parquet, .csv", ".tsv", ".pt"]),
}


@pytest.mark.parametrize("name", BAD_FEATURES)
def test_bad_feature_files(tmp_path, name):
    make, facts = BAD_FEATURES[name]
    make(tmp_path / name)
    with assert_error(DataError, mentions=[tmp_path / name]) as caught:
        read_features(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert_mentions(str(caught.value).replace(str(tmp_path / name), ""), facts)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_feature_file_is_one_sentence_or_no_harm(tmp_path_factory, suffix, data):
    path = tmp_path_factory.mktemp("features") / f"f{suffix}"
    if suffix == ".npy":
        np.save(path, X)
    elif suffix == ".npz":
        np.savez_compressed(path, ids=IDS, x=X)
    elif suffix == ".safetensors":
        save_file({"ids": IDS, "x": X}, path)
    else:
        pl.DataFrame({"id": IDS, "v": X}).write_parquet(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] = data.draw(st.integers(0, 255))
    path.unlink()  # a new file, not the old one's pages: it may be mapped
    path.write_bytes(content)
    try:
        read_features(path)
    except LirdrecError as error:
        assert "\n" not in str(error) and str(path) in str(error)


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
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_interactions(path, rating="rating", min_rating=4)
    except LirdrecError as error:
        assert "\n" not in str(error) and str(path) in str(error)


# ---- MMRec

INTER = "userID\titemID\tx_label\n4\t0\t0\n4\t2\t1\n4\t1\t2\n7\t2\t0\n7\t2\t0\n"


@pytest.fixture
def mmrec(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.inter").write_text(INTER)
    np.save(folder / "image_feat.npy", np.array([[1, 2], [0, 0], [3, 4], [5, 6]], dtype=np.float32))
    np.save(folder / "smell_feat.npy", np.ones((4, 3), dtype=np.float16))
    (folder / "items.tsv").write_text('itemID\ttitle\n2\ttwo "2"\n0\tnought\n')
    return folder


def test_mmrec_times_are_kept(mmrec):
    lines = INTER.splitlines()
    text = "\n".join(["\t".join([lines[0], "timestamp"]), *(f"{line}\t{50 - n}" for n, line in enumerate(lines[1:]))])
    (mmrec / "shop.inter").write_text(text)
    assert read_any(mmrec).frame("train").rows() == [(4, 0, 50), (7, 2, 46)]


def test_mmrec_folders(mmrec):
    dataset = read_any(mmrec)
    assert dataset.users.ids.tolist() == [4, 7]
    assert dataset.items.ids.tolist() == [0, 1, 2, 3]
    assert [dataset.frame(name).rows() for name in SPLITS] == [[(4, 0), (7, 2)], [(4, 2)], [(4, 1)]]
    assert list(dataset.features) == ["image", "smell"]
    assert dataset.features["image"].present.tolist() == [True, False, True, True]
    assert dataset.item_table.rows() == [(0, "nought"), (1, None), (2, 'two "2"'), (3, None)]
    assert dataset.info["preparation"] == {"repeated_pairs": 1}
    assert isinstance(dataset.features["smell"].values, np.memmap)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda f: (f / "shop.inter").unlink(), ["manifest.json", "MMRec", "RecBole", ".inter"]),
        (lambda f: (f / "b.inter").write_text(INTER), ["b.inter, shop.inter"]),
        (
            lambda f: (f / "shop.inter").write_text(INTER.replace("x_label", "label")),
            ["shop.inter", "'x_label'", "userID, itemID, label", "'label'"],
        ),
        (
            lambda f: (f / "shop.inter").write_text(INTER + "9\t9\t0\n"),
            ["image_feat.npy", "4 rows", "1 item", "9"],
        ),
        (lambda f: (f / "shop.inter").write_text(INTER + "9\tx\t0\n"), ["shop.inter", "'x'", "line 7"]),
        (lambda f: (f / "shop.inter").write_text(INTER + "9\t1\t3\n"), ["shop.inter", "'3'", "line 7", "0, 1, 2"]),
        (lambda f: (f / "shop.inter").write_text(INTER + "9\t1\t"), ["shop.inter", "line 7"]),
        (
            lambda f: np.save(f / "smell_feat.npy", np.ones((3, 3))),
            ["image_feat.npy 4", "smell_feat.npy 3"],
        ),
        (
            lambda f: np.save(f / "smell_feat.npy", np.full((4, 3), np.nan)),
            ["smell_feat.npy", "NaN", "4 rows", "0, 1, 2, 3"],
        ),
        (lambda f: (f / "smell_feat.npy").unlink(), ["1 of 4 items", "without_features='drop'"]),
        (lambda f: (f / "items.tsv").write_text("id\ttitle\n1\tx\n"), ["items.tsv", "'itemID'", "id, title"]),
        (lambda f: (f / "items.tsv").write_text("itemID\ta\n1\tx\n1\ty\n"), ["items.tsv", "item id 1"]),
        (lambda f: (f / "shop.inter").write_text(INTER + "4\t0\t2\n"), ["user 4", "item 0", "train", "test"]),
    ],
)
def test_mmrec_folders_that_do_not_fit_together(mmrec, change, facts):
    change(mmrec)
    with assert_error(DataError, mentions=facts) as caught:
        read_any(mmrec)
    assert "\n" not in str(caught.value)


def test_bad_rows_of_mmrec(mmrec):
    (mmrec / "shop.inter").write_text(INTER + "\t1\t0\n9\t1\t3\n9\t1\n9\t3\t0\n")
    with assert_error(DataError, mentions=["shop.inter", "line 9"]):
        read_mmrec(mmrec)
    dataset = read_mmrec(mmrec, bad_rows="skip")
    assert dataset.frame("train").rows() == [(4, 0), (7, 2), (9, 3)]
    assert dataset.info["preparation"] == {"rows": 9, "bad_rows_skipped": 3, "repeated_pairs": 1}
    with assert_error(ConfigError, mentions=["bad_rows", "drop"]):
        read_mmrec(mmrec, bad_rows="drop")


# ---- RecBole


@pytest.fixture
def recbole(tmp_path):
    folder = tmp_path / "ml"
    folder.mkdir()
    rows = "".join(f"{n % 3}\t{n}\t{1 + n % 5}\t{100 - n}.0\n" for n in range(15))
    (folder / "ml.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    items = "".join(f"{n}\tFilm {n}\tDrama War\t0.5 {n}\t{1990 + n}\n" for n in range(16))
    header = "item_id:token\ttitle:token\tgenres:token_seq\tpicture:float_seq\tyear:float\n"
    (folder / "ml.item").write_text(header + items)
    return folder


def test_recbole_atomic_files(recbole):
    dataset = read_recbole(recbole, vectors=["picture"], split="leave_last_out", rating="rating", min_rating=2)
    assert dataset.frame("test").rows() == [(0, 3, 97), (1, 1, 99), (2, 2, 98)]  # the least n has the latest time
    assert dataset.items.ids.tolist() == list(range(16))
    assert dataset.item_table.columns == ["item", "title", "genres", "year"]
    assert dataset.item_table.row(1) == (1, "Film 1", "Drama War", 1991.0)
    np.testing.assert_array_equal(dataset.features["picture"].values[3], [0.5, 3])
    assert_same_pairs(read_any(recbole), read_recbole(recbole))


def test_recbole_says_what_it_does_not_read(recbole, caplog):
    for name in ("ml.user", "ml.kg", "ml.link"):
        (recbole / name).write_text("user_id:token\n1\n")
    read_recbole(recbole)
    assert_mentions(caplog.text, ["ml.kg, ml.link, ml.user", "vectors='picture'"])


@pytest.mark.parametrize("title", ["", " "])
def test_words_of_recbole_are_a_text(recbole, title):
    path = recbole / "ml.item"
    path.write_text(path.read_text().replace("Drama War", " Drama   War ", 1).replace("Drama War", title, 1))
    dataset = read_recbole(recbole)
    assert dataset.item_table["genres"].to_list()[:3] == ["Drama War", None, "Drama War"]
    assert dataset.item_table.schema["picture"] == pl.List(pl.Float32)
    path.write_text(path.read_text().replace("0.5 3", "0.5 x3"))
    with assert_error(DataError, mentions=[path, "'picture'", "'x3'", "line 5"]):
        read_recbole(recbole)


def test_recbole_ready_splits(recbole, tmp_path):
    header, *rows = (recbole / "ml.inter").read_text().splitlines(keepends=True)
    (recbole / "ml.inter").unlink()
    for name, some in (("train", rows[:9]), ("valid", rows[9:12]), ("test", rows[12:])):
        (recbole / f"ml.{name}.inter").write_text(header + "".join(some))
    dataset = read_any(recbole)
    assert [dataset.frame(name)["item"].sort().to_list() for name in SPLITS] == [
        list(range(9)),
        [9, 10, 11],
        [12, 13, 14],
    ]


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        ("item_id:token\trating", "item_id\trating", ["'item_id'", "NAME:TYPE", "token, token_seq, float, float_seq"]),
        ("user_id:token", "uid:token", ["'user_id'", "uid, item_id, rating, timestamp", "'uid'"]),
        ("\t5\t", "\tfive\t", ["'rating'", "'five'", "line 6"]),
    ],
)
def test_recbole_files_with_faults(recbole, old, new, facts):
    path = recbole / "ml.inter"
    path.write_text(path.read_text().replace(old, new, 1))
    with assert_error(DataError, mentions=[path, *facts]):
        read_recbole(recbole)


def test_vectors_of_different_lengths(recbole):
    path = recbole / "ml.item"
    path.write_text(path.read_text().replace("0.5 7", "0.5 7 8"))
    with assert_error(DataError, mentions=[path, "'picture'", "'7'", "3 numbers"]):
        read_recbole(recbole, vectors=["picture"])


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
