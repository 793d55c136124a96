"""Features that have changed on the disk are noticed before they are used; damaged headers are one sentence."""

from __future__ import annotations

import dataclasses
import os
import random

import numpy as np
import pytest

from lirdrec.data import Dataset, storage
from lirdrec.data.features import open_array
from lirdrec.data.readers import read_features
from lirdrec.data.storage import verify_features
from lirdrec.errors import DataError, RunFolderError

from ..helpers import assert_error


def flip(path, at: int = -3) -> None:
    """Change one bit, and neither size nor time of change."""
    status, content = os.stat(path), bytearray(path.read_bytes())
    content[at] ^= 4
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
    """NumPy reads the header as Python: TokenError, SyntaxError and others come of damage."""
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
