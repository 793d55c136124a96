"""Every user's list in a file, whatever happens on the way."""

# ruff: noqa: F811

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
from polars.testing import assert_frame_equal

from lirdrec.data.dataset import Interactions
from lirdrec.errors import CapabilityError, ConfigError, RunFolderError
from lirdrec.files.locks import folder_lock
from lirdrec.recommender.recommend_all import recommend_all

from ..export.conftest import data, made, recommender, shop  # noqa: F401  # fixtures
from ..helpers import assert_error, needs_sigkill

READERS = {
    ".parquet": pl.read_parquet,
    ".csv": pl.read_csv,
    ".tsv": lambda path: pl.read_csv(path, separator="\t"),
    ".json": pl.read_json,
}


def write(recommender, output, k=7, shard_users=10, **options):
    return recommend_all(recommender, output, k, shard_users=shard_users, **options)


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("options", [{}, {"exclude_seen": False}, {"candidates": [3, 1, 59]}])
def test_the_file_is_what_recommend_gives(recommender, tmp_path, ending, options):
    done = write(recommender, tmp_path / f"all{ending}", **options)
    expected = recommender.recommend(k=7, **options)
    assert_frame_equal(READERS[ending](tmp_path / f"all{ending}"), expected, abs_tol=1e-6)
    assert (done.rows, done.users, done.resumed) == (expected.height, 45, 0)
    assert os.listdir(tmp_path) == [f"all{ending}"]


def test_ids_that_need_quotes(shop, tmp_path):
    for ending, read in READERS.items():
        write(shop, tmp_path / f"all{ending}")
        if ending != ".tsv":  # read_csv takes quotes there as they come
            assert_frame_equal(read(tmp_path / f"all{ending}"), shop.recommend(k=7), abs_tol=1e-6)


def test_a_shard_of_users_is_a_row_group(recommender, tmp_path):
    write(recommender, tmp_path / "all.parquet")
    file = pyarrow.parquet.ParquetFile(tmp_path / "all.parquet").metadata
    assert [file.row_group(i).num_rows for i in range(file.num_row_groups)] == [70, 70, 70, 70, 35]


class Stop(BaseException):
    pass


@pytest.mark.parametrize("ending", READERS)
def test_stopped_at_every_rename_the_bytes_are_the_same(recommender, tmp_path, ending, monkeypatch):
    write(recommender, tmp_path / f"whole{ending}")
    expected = (tmp_path / f"whole{ending}").read_bytes()
    rename, stops, output = os.replace, 0, tmp_path / f"all{ending}"
    while not output.exists() and stops < 20:
        renames = iter(range(1000))

        def stop_at_third(*names, renames=renames):
            if next(renames) == 2:
                raise Stop
            rename(*names)

        monkeypatch.setattr(os, "replace", stop_at_third)
        try:
            write(recommender, output)
        except Stop:
            stops += 1
            assert not output.exists()
    assert output.read_bytes() == expected and stops >= 5
    assert sorted(os.listdir(tmp_path)) == sorted([f"all{ending}", f"whole{ending}"])


CHILD = """
import os, signal, sys
import torch
from lirdrec.recommender.recommend_all import recommend_all
from lirdrec.recommender.recommender import Recommender
rename, renames = os.replace, iter(range(1000))
def kill_at_fifth(*names):
    if next(renames) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*names)
os.replace = kill_at_fifth
recommend_all(Recommender.load(sys.argv[1]), sys.argv[2], 7, shard_users=10)
"""


@needs_sigkill
def test_a_killed_process_loses_one_shard(recommender, tmp_path):
    recommender.save(tmp_path / "run")
    output = tmp_path / "all.parquet"
    child = subprocess.run([sys.executable, "-c", CHILD, tmp_path / "run", output])
    assert child.returncode == -signal.SIGKILL and not output.exists()
    # renamed were the plan, a shard and its seal, and a shard; not the latter's seal
    assert write(recommender, output).resumed == 10
    write(recommender, tmp_path / "whole.parquet")
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["all.parquet", "run", "whole.parquet"]


def unfinished(recommender, output: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("lirdrec.recommender.recommend_all._join", lambda *_: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            write(recommender, output)


def test_unfinished_work_of_another_run_or_setting_is_refused(recommender, made, tmp_path, monkeypatch):
    output = tmp_path / "all.parquet"
    unfinished(recommender, output, monkeypatch)
    other = made()
    users, items = other.train.users, other.train.items
    other.train = Interactions(users, np.roll(items, 1))  # the same vectors, another history
    for who, options in ((other, {}), (recommender, {"k": 6}), (recommender, {"exclude_seen": False})):
        with assert_error(ConfigError, mentions=[tmp_path / "all.parquet.parts", "plan.json", "restart"]):
            write(who, output, **options)
    assert write(recommender, output, k=6, restart=True).resumed == 0
    assert pl.read_parquet(output)["rank"].max() == 6


def test_a_damaged_shard_is_done_again(recommender, tmp_path, monkeypatch, caplog):
    output = tmp_path / "all.csv"
    unfinished(recommender, output, monkeypatch)
    shard = tmp_path / "all.csv.parts" / "00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    assert write(recommender, output).resumed == 35
    (warned,) = caplog.messages
    assert "shard 2" in warned
    write(recommender, tmp_path / "whole.csv")
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_full_disk_keeps_what_was_there(recommender, tmp_path, monkeypatch):
    output = tmp_path / "all.parquet"
    output.write_text("yesterday's")
    with monkeypatch.context() as patch:

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        patch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
        with assert_error(RunFolderError, mentions=[output]):
            write(recommender, output)
    assert output.read_text() == "yesterday's"
    assert write(recommender, output).resumed == 45


def test_what_is_refused_leaves_nothing(recommender, tmp_path):
    recommender.save(tmp_path / "run")
    slim = recommender.load(recommender.slim(tmp_path / "slim"))
    for who, error, facts, options in (
        (recommender, ConfigError, [tmp_path / "all.xlsx", *READERS], {"output": tmp_path / "all.xlsx"}),
        (recommender, ConfigError, ["k", 61, 60], {"k": 61}),
        (slim, CapabilityError, ["slim", "exclude_seen"], {}),
    ):
        with assert_error(error, mentions=facts):
            write(who, **({"output": tmp_path / "all.csv"} | options))
    assert sorted(os.listdir(tmp_path)) == ["run", "slim"]
    assert write(slim, tmp_path / "all.csv", exclude_seen=False).users == 45


def test_a_folder_of_someone_else_is_kept(recommender, tmp_path):
    (tmp_path / "all.csv.parts").mkdir()
    (tmp_path / "all.csv.parts" / "thesis.txt").write_text("years of work")
    for restart in (False, True):
        with assert_error(ConfigError, mentions=[tmp_path / "all.csv.parts"]):
            write(recommender, tmp_path / "all.csv", restart=restart)
    assert (tmp_path / "all.csv.parts" / "thesis.txt").read_text() == "years of work"


def test_two_at_once_are_refused(recommender, tmp_path):
    with (
        folder_lock(tmp_path / "all.csv.parts", str),
        assert_error(RunFolderError, mentions=[tmp_path / "all.csv", os.getpid()]),
    ):
        write(recommender, tmp_path / "all.csv")
