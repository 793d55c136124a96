"""Where a file, or the folder above, is given instead of the folder of the data, the message names that folder."""

import polars as pl
import pytest

from lirdrec.data.readers import kind_of, read_raw
from lirdrec.errors import DataError

from ..helpers import assert_error


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
