"""Prepared folders: the same dataset after saving and loading, whole or not at all, damage is found."""

import errno
import json
import os
import shutil

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lirdrec.data import Dataset, FeatureMatrix
from lirdrec.data.storage import read_manifest
from lirdrec.errors import DataError, LirdrecError, RunFolderError
from lirdrec.files import atomic
from lirdrec.files.atomic import atomic_write, sha256
from lirdrec.files.transaction import atomic_folder

from ..helpers import assert_error, assert_mentions, needs_dev_full


def assert_same(one: Dataset, two: Dataset):
    assert (one.name, one.info) == (two.name, two.info)
    assert one.users == two.users and one.items == two.items
    assert_frame_equal(one.item_table, two.item_table)
    for name in ("train", "valid", "test"):
        assert_frame_equal(one.frame(name), two.frame(name))
    assert list(one.features) == list(two.features)
    for name, matrix in one.features.items():
        assert matrix.values.dtype == two.features[name].values.dtype
        np.testing.assert_array_equal(matrix.values, two.features[name].values)
        np.testing.assert_array_equal(matrix.present, two.features[name].present)


def test_what_is_saved_is_loaded(dataset, tmp_path):
    folder = dataset.save(tmp_path / "deep" / "small")
    again = Dataset.load(folder, verify=True)
    assert_same(dataset, again)
    assert again.folder == folder
    assert all(isinstance(matrix.values, np.memmap) for matrix in again.features.values())
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "features/image.mask.npy",
        "features/image.npy",
        "features/text.mask.npy",
        "features/text.npy",
        "interactions.parquet",
        "items.parquet",
        "manifest.json",
        "users.parquet",
    ]


@settings(max_examples=30, deadline=None)
@given(
    cells=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**40)), min_size=1),
    strings=st.booleans(),
    split=st.sampled_from(["random", "leave_last_out", "none"]),
    data=st.data(),
)
def test_any_dataset_survives_the_disk(tmp_path_factory, cells, strings, split, data):
    frame = pl.DataFrame(cells, schema=["user", "item"], orient="row").with_columns(t=pl.col("item") % 7)
    if strings:
        frame = frame.with_columns(pl.col("user", "item").cast(pl.String) + "é \"'/")
    n = frame["item"].n_unique()
    columns = data.draw(st.integers(1, 3))
    floats = st.floats(-10, 10, width=16).map(lambda x: x or 1.0)
    values = np.array(data.draw(st.lists(floats, min_size=n * columns, max_size=n * columns)))
    values = values.reshape(n, columns).astype(data.draw(st.sampled_from([np.float16, np.float32])))
    one = Dataset.from_frames(
        frame,
        items=frame.select("item").unique().sort("item"),
        features={"f": values},
        timestamp="t",
        split=split,
        name="ß",
        info={"a": [1, None]},
    )
    folder = tmp_path_factory.mktemp("saved") / "it"
    assert_same(one, Dataset.load(one.save(folder)))


def test_the_folder_can_be_moved(dataset, tmp_path):
    dataset.save(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert_same(dataset, Dataset.load(tmp_path / "there"))
    assert str(tmp_path) not in (tmp_path / "there" / "manifest.json").read_text()


def test_the_manifest_counts_and_names_everything(dataset, tmp_path):
    manifest = read_manifest(dataset.save(tmp_path / "small"))
    assert manifest["counts"] == {"users": 6, "items": 8} | {
        name: len(dataset.split(name)) for name in ("train", "valid", "test")
    }
    assert manifest["features"]["text"] == {"dims": 4, "dtype": "float16", "present": 3}
    assert manifest["info"]["split"]["seed"] == 0
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == sha256(tmp_path / "small" / name)


def test_a_folder_that_is_not_empty_is_not_replaced(dataset, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter").write_text("kept")
    with assert_error(RunFolderError, mentions=[tmp_path / "taken", "--overwrite"]):
        dataset.save(tmp_path / "taken")
    assert (tmp_path / "taken" / "letter").read_text() == "kept"
    assert os.listdir(tmp_path) == ["taken"]
    with assert_error(RunFolderError, mentions=[tmp_path / "taken", "'letter'"]):
        dataset.save(tmp_path / "taken", overwrite=True)
    assert os.listdir(tmp_path) == ["taken"] and (tmp_path / "taken" / "letter").read_text() == "kept"


def test_only_a_dataset_is_replaced_by_a_dataset(dataset, tmp_path):
    """Whoever names the folder of the raw files as output keeps them, whatever they allow to be overwritten."""
    folder = dataset.save(tmp_path / "data")
    (folder / "work").mkdir()
    dataset.save(folder, overwrite=True)
    assert_same(dataset, Dataset.load(folder))
    assert os.listdir(tmp_path) == ["data"] and not (folder / "work").exists()
    (folder / "sales.csv").write_text("user,item")
    with assert_error(RunFolderError, mentions=[folder, "'sales.csv'"]):
        dataset.save(folder, overwrite=True)
    assert (folder / "sales.csv").is_file()


@pytest.mark.parametrize(("where", "reason"), [("file/inside", "File exists"), ("file/deep/inside", "Not a directory")])
def test_a_place_that_cannot_be(dataset, tmp_path, where, reason):
    (tmp_path / "file").write_text("x")
    with assert_error(RunFolderError, mentions=[(tmp_path / where).parent, reason]):
        dataset.save(tmp_path / where)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot rename a folder with a mapped file in it")
def test_an_empty_folder_and_its_own_source_may_be_written(dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    loaded = Dataset.load(dataset.save(tmp_path / "empty"))
    loaded.save(tmp_path / "empty", overwrite=True)  # the features are mapped from the folder that is replaced
    assert_same(dataset, Dataset.load(tmp_path / "empty"))


def test_a_file_that_exists_already(dataset, tmp_path):
    (tmp_path / "file").write_text("x")
    with assert_error(RunFolderError, mentions=[tmp_path / "file"]):
        dataset.save(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "x"


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "where",
    ["lirdrec.data.storage.write_matrix", "polars.DataFrame.write_parquet", "numpy.save", "os.fsync", "rename"],
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_nothing_behind(dataset, tmp_path, monkeypatch, where, exists):
    if exists:
        (tmp_path / "small" / "work").mkdir(parents=True)
    with monkeypatch.context() as patch:
        for name in ("os.rename", "lirdrec.files.atomic.exchange_folders") if where == "rename" else (where,):
            patch.setattr(name, full)
        with assert_error(RunFolderError, mentions=[tmp_path / "small", "disk"]):
            dataset.save(tmp_path / "small", overwrite=True)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == (
        ["small", "small/work"] if exists else []
    )


def test_polars_own_error_of_a_full_disk_is_understood(tmp_path):
    with assert_error(RunFolderError, mentions=[tmp_path / "x", "disk"]), atomic_folder(tmp_path / "x"):
        raise pl.exceptions.ComputeError("No space left on device (os error 28)")
    assert not list(tmp_path.iterdir())


@needs_dev_full
def test_a_device_that_is_really_full(tmp_path):
    path = tmp_path / "x.parquet"
    with assert_error(RunFolderError, mentions=[path, "disk"]), atomic_write(path) as temporary:
        os.symlink("/dev/full", temporary)
        pl.DataFrame({"a": range(100_000)}).write_parquet(temporary)
    assert not list(tmp_path.iterdir())


def test_other_errors_go_through_and_clean_up(tmp_path):
    for error in (KeyboardInterrupt, KeyError, DataError, FileNotFoundError):
        with pytest.raises(error), atomic_folder(tmp_path / "x") as temporary:
            (temporary / "half").write_text("half")
            raise error("stop")
        with pytest.raises(error), atomic_write(tmp_path / "y") as temporary:
            temporary.write_text("half")
            raise error("stop")
        assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_at_once(tmp_path):
    (tmp_path / "y").write_text("old")
    with atomic_write(tmp_path / "y") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "y").read_text() == "old"
    assert (tmp_path / "y").read_text() == "new"
    assert os.listdir(tmp_path) == ["y"]


def test_the_second_of_two_writers_is_refused(tmp_path):
    with (
        assert_error(RunFolderError, mentions=[tmp_path / "x", "--overwrite"]),
        atomic_folder(tmp_path / "x") as late,
        atomic_folder(tmp_path / "x") as early,
    ):
        (late / "late").write_text("")
        (early / "early").write_text("")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["early"]
    assert os.listdir(tmp_path) == ["x"]


def test_a_failed_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_text("")
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(atomic, "exchange_folders", lambda *_: False)  # as on disks that cannot exchange two names
    monkeypatch.setattr(atomic.os, "rename", second_fails)
    with (
        assert_error(RunFolderError, mentions=[tmp_path / "x", "Permission denied"]),
        atomic_folder(tmp_path / "x", overwrite=True, extra=["old"]),
    ):
        pass
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["x", "x/old"]


FILES = ["users.parquet", "items.parquet", "interactions.parquet", "features/image.npy", "features/image.mask.npy"]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(dataset, tmp_path, name):
    folder = dataset.save(tmp_path / "small")
    (folder / name).unlink()
    with assert_error(RunFolderError, mentions=[folder, name]):
        Dataset.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_named(dataset, tmp_path, name):
    folder = dataset.save(tmp_path / "small")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-7])
    with assert_error(RunFolderError, mentions=[folder / name, f"{len(content) - 7} bytes", len(content)]):
        Dataset.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found(dataset, tmp_path, name):
    folder = dataset.save(tmp_path / "small")
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with assert_error(RunFolderError, mentions=[folder / name, "checksum"]):
        Dataset.load(folder, verify=True)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"format_version": 2}, ["2", "1"]),
        ({"format": "lirdrec-run"}, ["lirdrec-run"]),
        ({"files": None}, ["manifest.json", "files"]),
        ({"features": {"lost": {}}}, ["manifest.json", "features.lost"]),
    ],
)
def test_manifests_that_cannot_be_read(dataset, tmp_path, change, facts):
    folder = dataset.save(tmp_path / "small")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with assert_error(RunFolderError, mentions=[folder]) as caught:
        Dataset.load(folder)
    assert_mentions(str(caught.value).replace(str(folder), ""), facts)  # the path has numbers too


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_the_manifest_is_one_sentence(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged") / "it"
    frame = pl.DataFrame({"user": [0, 0, 0, 0], "item": [0, 1, 2, 3]})
    content = bytearray((Dataset.from_frames(frame).save(folder) / "manifest.json").read_bytes())
    index = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:index]
    else:
        content[index] = data.draw(st.integers(0, 255))
    (folder / "manifest.json").write_bytes(content)
    try:
        Dataset.load(folder)
    except LirdrecError as error:
        assert "\n" not in str(error)


def test_what_json_cannot_hold_is_refused_before_anything_is_written(dataset, tmp_path):
    bad = Dataset.from_frames(dataset.frame(), info={"when": {1, 2}})
    with assert_error(DataError, mentions=["dataset.info", "JSON", "set"]):
        bad.save(tmp_path / "bad")
    assert not list(tmp_path.iterdir())


def test_big_matrices_are_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("lirdrec.data.features.BLOCK_BYTES", 64)
    values = np.asfortranarray(np.arange(1, 101, dtype=np.float32).reshape(20, 5))
    frame = pl.DataFrame({"user": [0] * 20, "item": range(20)})
    one = Dataset.from_frames(frame, items=frame.select("item"), features={"f": FeatureMatrix(values)})
    np.testing.assert_array_equal(np.load(one.save(tmp_path / "x") / "features" / "f.npy"), values)
