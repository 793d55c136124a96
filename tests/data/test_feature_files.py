"""Feature files of every kind, and features that have changed on the disk: every fault gets one sentence."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lirdrec.data import Dataset, storage
from lirdrec.data.features import open_array
from lirdrec.data.readers import read_features
from lirdrec.data.storage import verify_features
from lirdrec.errors import DataError, LirdrecError, RunFolderError

from ..helpers import assert_error, assert_mentions


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


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
    index = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:index]
    else:
        content[index] = data.draw(st.integers(0, 255))
    path.unlink()  # a new file, not the old one's pages: it may be mapped
    path.write_bytes(content)
    try:
        read_features(path)
    except LirdrecError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def flip(path, index: int = -3) -> None:
    """Change one bit, and neither size nor time of change."""
    status, content = os.stat(path), bytearray(path.read_bytes())
    content[index] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def folder(dataset, tmp_path):
    return dataset.save(tmp_path / "data")


@pytest.fixture
def digests(monkeypatch):
    """The files whose checksum was computed."""
    seen = []
    real = storage.check_files

    def counting(folder, manifest, verify):
        if verify:
            seen.extend(manifest["files"])
        return real(folder, manifest, verify)

    monkeypatch.setattr(storage, "check_files", counting)
    return seen


def test_a_changed_file_is_named(folder):
    path = folder / "features" / "image.npy"
    flip(path)
    loaded = Dataset.load(folder)  # only reads what it needs
    with assert_error(RunFolderError, mentions=[path, "checksum"]):
        verify_features(loaded)
    verify_features(loaded, names=())  # a model that uses other matrices


@pytest.mark.parametrize("do", [lambda d: d.resplit("random"), lambda d: d.save(d.folder.with_name("copy"))])
def test_no_copy_of_damaged_features_gets_a_right_checksum(folder, do):
    flip(folder / "features" / "image.npy")
    with assert_error(RunFolderError, mentions=[folder / "features" / "image.npy", "checksum"]):
        do(Dataset.load(folder))
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_each_file_is_read_once_until_it_changes(folder, digests):
    name = "features/image.npy"
    for _ in range(3):
        verify_features(Dataset.load(folder), ("image",))
    assert digests == [name]
    path = folder / name
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    verify_features(Dataset.load(folder), ("image",))
    assert digests == [name, name]
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 2))
    for _ in range(2):  # a file that differs is never taken for verified
        with pytest.raises(RunFolderError):
            verify_features(Dataset.load(folder))


def test_what_is_in_memory_has_no_file_to_compare(dataset, folder, digests):
    verify_features(dataset)
    loaded = Dataset.load(folder)
    verify_features(dataclasses.replace(loaded, features=dataset.features))
    verify_features(dataclasses.replace(loaded, folder=None))
    assert digests == []


def test_a_file_that_is_gone_is_named(folder):
    loaded = Dataset.load(folder)
    (folder / "features" / "image.npy").unlink()
    with assert_error(RunFolderError, mentions=[folder, "features/image.npy"]):
        verify_features(loaded)


@pytest.mark.parametrize("seed", range(4))
def test_any_damage_to_a_header_is_a_value_error(tmp_path, seed):
    """NumPy reads the header as Python: TokenError, SyntaxError and others are results of damage."""
    draw, path = random.Random(seed), tmp_path / "a.npy"
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(path, values)
    whole, kinds = path.read_bytes(), set()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 5))):
            content[draw.randrange(128)] = draw.randrange(256)
        path.write_bytes(content)
        for mapped in (True, False):
            try:
                assert isinstance(open_array(path, mapped), np.ndarray)
            except (ValueError, MemoryError) as error:
                kinds.add(type(error.__context__).__name__)
        try:
            read_features(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    assert "TokenError" in kinds


@pytest.mark.parametrize("name", ["image.npy", "image.mask.npy"])
def test_a_damaged_header_of_a_prepared_dataset_is_one_sentence(folder, name):
    path = folder / "features" / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"), }", b"(, }", 1))
    assert path.stat().st_size == len(content)
    with assert_error(RunFolderError, mentions=[folder]) as raised:
        Dataset.load(folder)
    assert "\n" not in str(raised.value)


def test_an_archive_under_the_name_of_an_array(tmp_path):
    np.savez(tmp_path / "a.npz", values=np.zeros(3))
    os.replace(tmp_path / "a.npz", tmp_path / "a.npy")
    with assert_error(ValueError, mentions=["npz"]):
        open_array(tmp_path / "a.npy")
