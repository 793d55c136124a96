"""Folders replaced in one step: what is replaced, what is left of killed processes, who may write, what readers see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.data.transaction import commit
from lirdrec.errors import RunFolderError
from lirdrec.features.dataset_writer import set_item_columns
from lirdrec.files import atomic
from lirdrec.files.atomic import atomic_write, recover
from lirdrec.files.locks import folder_lock
from lirdrec.files.transaction import atomic_folder, read_stable
from lirdrec.models.popularity import PopularityConfig
from lirdrec.recommender.fit import fit
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_error, needs_links


def small(n_users: int, n_items: int) -> Dataset:
    return make_synthetic_dataset(n_users, n_items, 5 * n_users, {"text": 4}, groups=4)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small(12, 24)


def ended_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_what_a_killed_process_left_is_removed_by_the_next_write(dataset, tmp_path):
    dead, here = ended_process(), atomic._host()
    for name in (f".x.{here}-{dead}-0123abcd.tmp", f".old.{dead}-0123abcd.tmp"):
        (tmp_path / name).write_text("half")
    folder = tmp_path / f".data.{here}-{dead}-00000000.tmp"
    folder.mkdir()
    (folder / "half.npy").write_text("half")
    kept = [f".x.{here}-{os.getppid()}-0123abcd.tmp", f".x.ffffffff-{dead}-0123abcd.tmp", ".thesis.tmp"]
    for name in kept:  # of a process that runs, of another machine, of something else
        (tmp_path / name).write_text("half")
    with atomic_write(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert hidden(tmp_path) == sorted(kept)


@pytest.mark.parametrize("step", ["moved away", "in place"])
def test_a_kill_between_the_two_renames_is_repaired(dataset, tmp_path, step):
    """Where two folders cannot change names in one step."""
    folder = dataset.save(tmp_path / "data")
    old = tmp_path / f".data.{atomic._host()}-{ended_process()}-0123abcd.old"
    if step == "moved away":
        os.rename(folder, old)
    else:
        shutil.copytree(folder, old)
    assert Dataset.load(folder).n_items == 24
    dataset.save(folder, overwrite=True)
    assert os.listdir(tmp_path) == ["data"]


def test_a_folder_is_not_taken_back_from_a_process_that_runs(tmp_path):
    (tmp_path / f".data.{atomic._host()}-{os.getppid()}-0123abcd.old").mkdir()
    assert not recover(tmp_path / "data")


def test_without_an_exchange_the_folder_is_replaced_all_the_same(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "exchange_folders", lambda *_: False)
    folder = dataset.save(tmp_path / "data")
    small(10, 14).save(folder, overwrite=True)
    assert Dataset.load(folder, verify=True).n_items == 14 and os.listdir(tmp_path) == ["data"]


FOREIGN = [
    ".git",
    ".env",
    "notes.txt",
    "notes.new",
    "features/notes.txt",
    "features/deep/notes.txt",
    "work/mine/notes.txt",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_what_did_not_come_from_here_is_never_replaced(dataset, tmp_path, name):
    folder = dataset.save(tmp_path / "data")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("mine")
    with assert_error(RunFolderError, mentions=[folder, "/".join(name.split("/")[:2])]):
        dataset.save(folder, overwrite=True)
    assert (folder / name).read_text() == "mine" and hidden(tmp_path) == []


def test_a_folder_of_another_format_is_never_replaced(dataset, tmp_path):
    folder = dataset.save(tmp_path / "data")
    with (
        assert_error(RunFolderError, mentions=[folder, "lirdrec-dataset"]),
        atomic_folder(folder, overwrite=True, formats=["lirdrec-run"]),
    ):
        pass
    assert Dataset.load(folder, verify=True).n_items == 24


def test_a_dataset_whose_features_are_being_made_is_not_replaced(dataset, tmp_path):
    folder = dataset.save(tmp_path / "data")
    with (
        folder_lock(folder / "work" / "features", str),
        ThreadPoolExecutor() as other,
        assert_error(RunFolderError, mentions=[folder, f"process {os.getpid()}"]),
    ):
        other.submit(dataset.save, folder, True).result()
    dataset.save(folder, overwrite=True)


def test_two_changes_of_the_item_table_both_stay(dataset, tmp_path, monkeypatch):
    """A second process that changes the table while the first one has read it is refused, not overwritten."""
    folder = dataset.save(tmp_path / "data")
    refused = []

    def write(table: pl.DataFrame, path: Path) -> None:
        with ThreadPoolExecutor() as other:
            try:
                other.submit(set_item_columns, folder, table.select("item", pl.lit(2).alias("b"))).result()
            except RunFolderError as error:
                refused.append(str(error))
        table.write_parquet(path)

    with monkeypatch.context() as patch:
        patch.setattr("lirdrec.features.dataset_writer.write_item_table", write)
        set_item_columns(folder, dataset.item_table.select("item", pl.lit(1).alias("a")))
    assert refused and str(folder) in refused[0]
    set_item_columns(folder, dataset.item_table.select("item", pl.lit(2).alias("b")))
    assert {"a", "b"} <= set(Dataset.load(folder).item_table.columns)


def test_a_run_that_another_process_changed_is_not_written_over(dataset, tmp_path):
    fit(dataset, PopularityConfig(), run=tmp_path / "run", progress=False)
    one, other = Recommender.load(tmp_path / "run"), Recommender.load(tmp_path / "run")
    one.record_metrics("test", {"recall@20": 0.5})
    one.record_metrics("valid", {"recall@20": 0.25})  # its own changes are known to it
    for change in (lambda: other.record_metrics("test", {}), lambda: other.save(tmp_path / "run", overwrite=True)):
        with assert_error(RunFolderError, mentions=[tmp_path / "run"]):
            change()
    other.save(tmp_path / "elsewhere")
    assert Recommender.load(tmp_path / "run").info["metrics"]["test"] == {"recall@20": 0.5}


def test_a_reader_takes_all_files_of_one_version(dataset, tmp_path):
    """The folder is replaced between two files that a reader opens: it reads again."""
    folder, versions = dataset.save(tmp_path / "data"), [11, 12, 13]

    def read() -> tuple[int, int]:
        before = Dataset.load(folder).n_users
        if versions:
            small(versions.pop(), 14).save(folder, overwrite=True)
        return before, Dataset.load(folder).n_users

    assert read_stable(folder, read) == (11, 11)


def test_errors_of_a_folder_that_does_not_change_go_through(dataset, tmp_path):
    folder, calls = dataset.save(tmp_path / "data"), []

    def read() -> None:
        calls.append(1)
        raise RunFolderError("damaged")

    with pytest.raises(RunFolderError):
        read_stable(folder, read)
    assert len(calls) == 1


def test_a_new_training_may_write_its_history_into_a_run_that_lists_one(dataset, tmp_path):
    """A run that was copied lists its history; the old run must stay loadable while the new training appends to it."""
    from lirdrec.models.mf import MFConfig
    from lirdrec.training.callbacks import Callback
    from lirdrec.training.config import TrainConfig

    training = TrainConfig(epochs=2)
    fit(dataset, MFConfig(), training, run=tmp_path / "first", progress=False).save(tmp_path / "copy")
    seen = []

    class Reader(Callback):
        def on_epoch_end(self, line) -> None:
            seen.append(Recommender.load(tmp_path / "copy", verify=True).n_items)

    options = {"run": tmp_path / "copy", "overwrite": True, "progress": False}
    fit(dataset, MFConfig(), training, callbacks=(Reader(),), **options)
    assert seen == [24, 24]


@pytest.mark.parametrize("content", ['{"files": {"main.js": "/main.js"}}', '{"files": ["main.js"]}', "[]", "{"])
def test_a_folder_with_a_manifest_of_something_else_is_never_replaced(dataset, tmp_path, content):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "main.js").write_text("mine")
    (tmp_path / "site" / "manifest.json").write_text(content)
    with assert_error(RunFolderError, mentions=[tmp_path / "site"]):
        dataset.save(tmp_path / "site", overwrite=True)
    assert (tmp_path / "site" / "main.js").read_text() == "mine"


@needs_links
def test_no_link_leads_a_writer_out_of_a_folder(dataset, tmp_path):
    (tmp_path / "victim").write_text("precious")
    run = fit(dataset, PopularityConfig(), run=tmp_path / "run", progress=False).folder
    assert run is not None
    (run / ".lock").symlink_to(tmp_path / "victim")
    with assert_error(RunFolderError, mentions=[run, ".lock"]):
        Recommender.load(run).save(run, overwrite=True)
    (run / ".lock").unlink()
    (run / "features").rename(tmp_path / "outside")
    (tmp_path / "outside" / "text.npy.new").write_text("precious")
    (run / "features").symlink_to(tmp_path / "outside")
    with assert_error(RunFolderError, mentions=[run, "features"]):
        Recommender.load(run).save(run, overwrite=True)
    folder = dataset.save(tmp_path / "data")
    (folder / "features").rename(tmp_path / "moved")
    (folder / "features").symlink_to(tmp_path / "moved")
    before = sorted(path.name for path in (tmp_path / "moved").iterdir())
    with assert_error(RunFolderError, mentions=[folder, "features"]):
        commit(folder, {"features/new.npy": copied(folder / "users.parquet")})
    assert Dataset.load(folder, verify=True).n_items == 24
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == before
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "outside" / "text.npy.new").read_text() == "precious"


def copied(path: Path) -> Path:
    return Path(shutil.copyfile(path, path.with_name(".copy")))


@needs_links
def test_a_link_to_a_dataset_stays_one(dataset, tmp_path):
    dataset.save(tmp_path / "disk" / "real")
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "real")
    small(10, 22).save(tmp_path / "data", overwrite=True)
    assert (tmp_path / "data").is_symlink() and Dataset.load(tmp_path / "disk" / "real").n_items == 22
