"""Splits that are published as files of their own: tables, LightGCN's lists, and scipy's matrices."""

import gzip
import json
import pickle

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sparse

from lirdrec.data.readers import kind_of, read_lightgcn, read_matrices, read_raw, read_split_folder
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error

SPLITS = ("train", "valid", "test")


def pairs(data):
    return {split: [row[:2] for row in data.frame(split).rows()] for split in SPLITS}


def write(path, text):
    path.write_text(text)
    return path


@pytest.fixture
def three(tmp_path):
    head = "user,item\n"
    return {
        "train": write(tmp_path / "a.csv", head + "u1,01\nu1,02\nu2,01\n"),
        "validation": write(tmp_path / "b.csv", head + "u1,03\n"),
        "test": write(tmp_path / "c.csv", head + "u2,03\n"),
    }


def test_three_tables(three):
    data = read_raw(**three)
    assert pairs(data) == {
        "train": [("u1", "01"), ("u1", "02"), ("u2", "01")],
        "valid": [("u1", "03")],
        "test": [("u2", "03")],
    }
    assert data.info["source"]["files"] == ["a.csv", "b.csv", "c.csv"]
    assert len(read_raw(**three, split="none").train) == 5


def test_a_pair_in_two_files_and_a_fault_in_the_second(three):
    write(three["test"], "user,item\nu1,01\n")
    with assert_error(DataError, mentions=[*three.values(), "1 pair", "user u1", "item 01"]):
        read_raw(**three)
    write(three["validation"], "user,item\nu1,03\n,04\n")
    with assert_error(DataError, mentions=["'user'", "line 3 of b.csv", "bad_rows='skip'"]):
        read_raw(**three)
    write(three["validation"], "user,sku\nu1,03\n")
    with assert_error(DataError, mentions=[three["validation"], "'item'", "item='sku'"]) as caught:
        read_raw(**three)
    assert "a.csv" not in str(caught.value)


def test_what_is_missing_or_too_much(three, tmp_path):
    with assert_error(ConfigError, mentions=["train", "test", "validation"]):
        read_raw(train=three["train"])
    with assert_error(ConfigError, mentions=[three["train"]]):
        read_raw(three["train"], train=three["train"], test=three["test"])
    with assert_error(DataError, mentions=[tmp_path / "none.csv"]):
        read_raw(train=three["train"], test=tmp_path / "none.csv")


@pytest.mark.parametrize("history", ["", ",history"])
def test_amazon_2023_benchmark_splits(tmp_path, history):
    folder = tmp_path / "0core"
    folder.mkdir()
    rows = {
        "train": [("A1", "0764443682", 1), ("A2", "B0001", 2)],
        "valid": [("A1", "B0001", 3)],
        "test": [("A2", "B0002", 4)],
    }
    for split, some in rows.items():
        more = ",0764443682 B0001" if history else ""
        text = "".join(f"{u},{i},5.0,{t}{more}\n" for u, i, t in some)
        write(folder / f"Baby_Products.{split}.csv", f"user_id,parent_asin,rating,timestamp{history}\n{text}")
    meta = "".join(json.dumps({"parent_asin": one, "title": f"Item {one}"}) + "\n" for one in ("0764443682", "B0001"))
    (folder / "meta_Baby_Products.jsonl.gz").write_bytes(gzip.compress(meta.encode()))
    assert kind_of(folder) == "splits"
    data = read_raw(folder)
    assert data.name == "Baby_Products"
    assert {split: data.frame(split).rows() for split in SPLITS} == rows
    assert data.item_table["title"].to_list() == ["Item 0764443682", "Item B0001", None]
    items = write(tmp_path / "items.csv", "item\n0764443682\nB0001\nB0002\n")
    with assert_error(ConfigError, mentions=[folder, "metadata", "items"]):
        read_split_folder(folder, metadata=folder / "meta_Baby_Products.jsonl.gz", items=items)


def test_lightgcn(tmp_path):
    folder = tmp_path / "gowalla"
    folder.mkdir()
    write(folder / "train.txt", "0 0 1 2\n1 2\n2\n")
    write(folder / "test.txt", "0 3\n1 5\n2 \n")
    write(folder / "item_list.txt", "org_id remap_id\n420315 0\n316637 1\n16516 2\n1 3\n2 4\n3 5\n")
    assert kind_of(folder) == "lightgcn"
    data = read_raw(folder)
    assert pairs(data) == {"train": [(0, 0), (0, 1), (0, 2), (1, 2)], "valid": [], "test": [(0, 3), (1, 5)]}
    assert data.items.ids.tolist() == [0, 1, 2, 3, 4, 5]  # item 4 occurs nowhere: row i is item i
    assert data.item_table["org_id"].cast(str).to_list()[:3] == ["420315", "316637", "16516"]
    write(folder / "test.txt", "0 3\n1 x\n")
    with assert_error(DataError, mentions=[folder / "test.txt", "'x'", "line 2"]):
        read_lightgcn(folder)
    with assert_error(ConfigError, mentions=[folder, "timestamp"]):
        read_lightgcn(folder, timestamp="when")


def matrix(*cells, shape=(3, 4), kind=sparse.csr_matrix):
    users, items = zip(*cells, strict=True)
    return kind((np.ones(len(cells)), (users, items)), shape=shape)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.coo_matrix, sparse.csc_matrix, sparse.coo_array])
def test_matrices_of_a_split(tmp_path, kind):
    given = {
        "train": matrix((0, 0), (0, 2), (2, 1), kind=kind),
        "validation": matrix((0, 1), kind=kind),
        "test": matrix((2, 2), kind=kind),
    }
    expected = {"train": [(0, 0), (0, 2), (2, 1)], "valid": [(0, 1)], "test": [(2, 2)]}
    np.save(tmp_path / "image.npy", np.arange(1, 9, dtype=np.float32).reshape(4, 2))
    files = {}
    for name, one in given.items():
        files[name] = tmp_path / f"{name}.npz"
        sparse.save_npz(files[name], one)
    data = read_raw(**files, features={"image": tmp_path / "image.npy"})
    assert pairs(data) == expected
    assert data.items.ids.tolist() == [0, 1, 2, 3] and data.users.ids.tolist() == [0, 2]
    np.testing.assert_array_equal(data.features["image"].values[2], [5, 6])
    assert pairs(read_matrices(*given.values())) == expected


def test_one_matrix_is_split(tmp_path):
    rng = np.random.default_rng(0)
    sparse.save_npz(tmp_path / "all.npz", sparse.random(20, 12, 0.5, random_state=rng, format="csr"))
    assert kind_of(tmp_path / "all.npz") == "matrix"
    data = read_raw(tmp_path / "all.npz", split="random", min_rating=0.25)
    assert data.name == "all" and len(data.test) > 0
    stored = sparse.csr_matrix(np.array([[1.0, 0.0], [1.0, 1.0]]))
    stored.data[0] = 0  # stored, and yet nothing was taken
    assert len(read_matrices(stored, split="none").train) == 2


def test_faults_of_matrices(tmp_path):
    train, test = tmp_path / "train.npz", tmp_path / "test.npz"
    sparse.save_npz(train, matrix((0, 0)))
    sparse.save_npz(test, matrix((0, 1), shape=(3, 5)))
    with assert_error(DataError, mentions=[f"(3, 4) in {train}", f"(3, 5) in {test}"]):
        read_raw(train=train, test=test)
    with assert_error(DataError, mentions=["(3,)"]):
        read_matrices(sparse.coo_array(np.ones(3)))
    with assert_error(DataError, mentions=["complex128"]):
        read_matrices(sparse.coo_array(np.ones((3, 4), dtype=complex)))
    np.savez(test, x=np.ones(3))
    with assert_error(DataError, mentions=[train, test]):
        read_raw(train=train, test=test)
    with assert_error(DataError, mentions=[test, "scipy.sparse.save_npz"]):
        read_raw(test)
    content = train.read_bytes()
    for index in range(0, len(content), 37):
        train.write_bytes(content[:index] + bytes([content[index] ^ 0x55]) + content[index + 1 :])
        try:
            read_raw(train, split="none")
        except DataError as error:
            assert str(train) in str(error)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, protocol):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = tmp_path / "trnMat.pkl"
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    for source in (path, tmp_path):
        with assert_error(DataError, mentions=[path, "save_npz('trnMat.npz'"]):
            read_raw(source)
    with assert_error(DataError, mentions=[path, "save_npz('trnMat.npz'"]):
        read_raw(train=path, test=path)
    objects = tmp_path / "objects.npz"
    np.savez(objects, format=np.array([Bomb()], dtype=object), shape=np.array([1, 1]))
    with assert_error(DataError, mentions=[objects, "pickle"]):
        read_raw(objects)
    assert not (tmp_path / "exploded").exists()


def test_lightgcn_without_a_test_file_is_split_at_random(tmp_path):
    lines = (f"{user} {' '.join(str((3 * user + step) % 17) for step in range(6))}\n" for user in range(20))
    (tmp_path / "train.txt").write_text("".join(lines))
    assert kind_of(tmp_path) == "lightgcn"
    dataset = read_lightgcn(tmp_path)
    assert dataset.info["split"]["method"] == "random"
    assert len(dataset.train) + len(dataset.valid) + len(dataset.test) == 120


def test_the_folder_of_the_parts_of_a_table(tmp_path):
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"]}).write_parquet(folder / "train-0.parquet")
    with assert_error(DataError, mentions=[folder]):
        kind_of(tmp_path / "hub")
    assert kind_of(folder) == "table"


@pytest.mark.parametrize("files", [{"path": "train.txt"}, {"train": "train.txt", "test": "test.txt"}])
def test_the_folder_of_a_single_file_of_lightgcn(tmp_path, files):
    folder = tmp_path / "gowalla"
    folder.mkdir()
    for name in ("train.txt", "test.txt"):
        (folder / name).write_text("0 1\n1 2\n")
    given = {option: folder / name for option, name in files.items()}
    with assert_error(DataError, mentions=[folder / "train.txt", f"folder: {folder}"]):
        read_raw(**given)


def test_a_table_called_train_txt(tmp_path):
    (tmp_path / "train.txt").write_text("user item\n0 1\n1 2\n")
    assert kind_of(tmp_path / "train.txt") == "table"
    (tmp_path / "train.txt").write_text("0 1\n1 2\n")
    dataset = read_raw(tmp_path / "train.txt", header=False, columns=["user", "item"], separator=" ")
    assert (dataset.users.ids.tolist(), dataset.items.ids.tolist()) == ([0, 1], [1, 2])
