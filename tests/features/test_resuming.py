"""A run killed at any moment goes on, encodes nothing twice, and ends with the bytes of one that was never stopped."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.features.run import Job, features_lock, make_features
from lirdrec.features.sources import TextSource
from lirdrec.features.store import set_item_columns

from .killed_features import SHARD_ROWS, Counting, Fitted, jobs

SCRIPT = Path(__file__).with_name("killed_features.py")
N, KILLS = 150, 6
WORDS = ["red", "green", "blue", "old", "chair", "lamp"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """150 items: some without a title, some whose title is bad, long ones, two of one title; all have a brand."""
    rng = random.Random(4)
    titles = [f"{' '.join(rng.choices(WORDS, k=rng.randint(1, 8)))} {at}" for at in range(N)]
    titles[7] = titles[3]
    for at in range(1, N, 29):
        titles[at] = f"bad {titles[at]}"
    table = pl.DataFrame(
        {
            "item": [f"i{at}" for at in range(N)],
            "title": [None if at % 11 == 5 else text for at, text in enumerate(titles)],
            "brand": [f"maker {at}" for at in range(N)],
        }
    )
    pairs = pl.DataFrame({"user": [at % 10 for at in range(N)], "item": table["item"]})
    return Dataset.from_frames(pairs, items=table, split="none").save(tmp_path_factory.mktemp("kill") / "prepared")


@pytest.fixture(scope="module")
def whole(prepared) -> Path:
    """The dataset after a run that nobody stopped; its log lies beside it."""
    folder = shutil.copytree(prepared, prepared.parent / "whole")
    make_features(folder, jobs(folder, folder.parent / "whole.log", -1), progress=False)
    return folder


@pytest.fixture
def folder(prepared, tmp_path) -> Path:
    return shutil.copytree(prepared, tmp_path / "data")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def titles(folder: Path, encoder: Counting, name: str = "text") -> list[Job]:
    return [
        Job(name, encoder, TextSource(folder, column="title")),
        Job("brand", Counting(), TextSource(folder, column="brand")),
    ]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_killed_at_random_moments(folder, whole, tmp_path):
    log = tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def start(kill: int) -> int:
        command = [sys.executable, str(SCRIPT), str(folder), str(log), str(kill)]
        return subprocess.run(command, env=environment).returncode

    rng = random.Random(1)
    for _ in range(KILLS):
        assert start(rng.randint(1, 55)) == -signal.SIGKILL
        assert Dataset.load(folder, verify=True).features == {}  # what is there is whole
    assert start(-1) == 0
    assert content(folder) == content(whole)
    once = Counter((whole.parent / "whole.log").read_text().splitlines())
    calls = Counter(log.read_text().splitlines())
    assert set(once.values()) == {1}
    assert calls.keys() == once.keys()
    again = [int(line.rpartition(" ")[2]) for line in (calls - once).elements()]
    assert 0 < len(again) <= KILLS * SHARD_ROWS  # at each kill the shard in flight is lost, and nothing else
    assert len({at // SHARD_ROWS for at in again}) <= KILLS


def test_a_damaged_shard_is_made_again(folder, whole):
    first = Counting(kill=60)
    with pytest.raises(KeyboardInterrupt):
        make_features(folder, titles(folder, first), progress=False)
    shard = folder / "work/features/text/00001.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    sealed = len(list(shard.parent.glob("0*.json")))
    second = Counting()
    made = make_features(folder, titles(folder, second), progress=False)
    assert sealed > 1 and made[0].resumed == (sealed - 1) * SHARD_ROWS
    redone = set(first.calls) & set(second.calls)
    in_shard = [text for text in Dataset.load(folder).item_table["title"][SHARD_ROWS : 2 * SHARD_ROWS] if text]
    assert set(in_shard) <= redone
    assert (folder / "features/text.npy").read_bytes() == (whole / "features/text.npy").read_bytes()


def test_work_of_other_settings_is_refused_until_it_is_forgotten(folder):
    with pytest.raises(KeyboardInterrupt):
        make_features(folder, titles(folder, Counting(kill=40)), progress=False)
    other = Counting(model="other")
    with pytest.raises(ConfigError, match=r"unfinished work with other settings .* start again \(--restart\)"):
        make_features(folder, titles(folder, other), progress=False)
    assert not other.calls
    make_features(folder, titles(folder, other), restart=True, progress=False)
    assert Dataset.load(folder).info["encoders"]["text"]["identity"]["model"] == "other"
    # a table that was changed in between is other work too
    with pytest.raises(KeyboardInterrupt):
        make_features(folder, titles(folder, Counting(kill=40), "second"), progress=False)
    set_item_columns(folder, pl.DataFrame({"item": ["i0"], "title": ["something else"]}))
    with pytest.raises(ConfigError, match="other settings"):
        make_features(folder, titles(folder, Counting(), "second"), progress=False)


@pytest.mark.parametrize("kind", [Counting, Fitted])
def test_only_changed_texts_are_encoded_again(folder, kind):
    make_features(folder, titles(folder, kind()), progress=False)
    before = np.load(folder / "features/text.npy")
    set_item_columns(folder, pl.DataFrame({"item": ["i9", "i2", "i100"], "title": ["new one", "new two", "new three"]}))
    encoder = kind()
    made = make_features(folder, titles(folder, encoder), progress=False)
    bad = [text for text in encoder.calls if "bad" in text]  # without a vector, so they are tried again
    assert sorted(set(encoder.calls) - set(bad)) == ["new one", "new three", "new two"]
    assert len(encoder.calls) == 3 + len(bad) == 3 + made[0].n_problems
    after = np.load(folder / "features/text.npy")
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [2, 9, 100]
    if kind is Fitted:  # what it was fitted to stays, or nothing could be kept
        assert encoder.fits == 0
        fresh = kind()
        make_features(folder, titles(folder, fresh), restart=True, progress=False)
        assert fresh.fits == 1 and len(fresh.calls) > 100


def test_vectors_of_another_dataset_are_taken(folder, whole, tmp_path):
    table = Dataset.load(whole).item_table[::-3]
    pairs = pl.DataFrame({"user": [0] * table.height, "item": table["item"]})
    third = Dataset.from_frames(pairs, items=table, split="none").save(tmp_path / "third")
    made = make_features(third, jobs(third, tmp_path / "log", -1), reuse=whole, progress=False)
    titles_of = {text for text in table["title"] if text and "bad" in text}
    log = (tmp_path / "log").read_text().splitlines()
    assert {line.removeprefix("a ") for line in log} == titles_of
    assert made[1].encoded == 0 and made[1].copied == table.height
    rows = np.arange(N)[::-3]
    for name in ("text", "brand"):
        np.testing.assert_array_equal(
            np.load(third / f"features/{name}.npy"), np.load(whole / f"features/{name}.npy")[rows]
        )
    np.testing.assert_array_equal(
        np.load(third / "features/text.cut.npy"), np.load(whole / "features/text.cut.npy")[rows]
    )


def test_damage_to_what_is_there_means_encoding_again(folder, caplog):
    make_features(folder, titles(folder, Counting()), progress=False)
    path = folder / "features/text.keys.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    encoder = Counting()
    make_features(folder, titles(folder, encoder), progress=False)
    assert len(encoder.calls) > 100
    assert "features 'text' is damaged; its items are encoded again" in caplog.text


def test_memory_that_runs_out_halves_the_batch_and_stays_halved(folder, tmp_path):
    """A batch leaves its trace in these vectors, so equal bytes mean equal batches, also after a stop."""
    other = shutil.copytree(folder, tmp_path / "other")
    small = Counting(memory=2)
    make_features(folder, titles(folder, small), progress=False)
    assert small.batches.count(4) == 1 and max(small.batches[1:]) == 2
    with pytest.raises(KeyboardInterrupt):
        make_features(other, titles(other, Counting(memory=2, kill=70)), progress=False)
    resumed = Counting(memory=2)
    make_features(other, titles(other, resumed), progress=False)
    assert max(resumed.batches) == 2
    assert content(folder) == content(other)


def test_two_runs_at_once_are_refused(folder):
    encoder = Counting()
    with (
        features_lock(folder),
        pytest.raises(RunFolderError, match=rf"another process \(process {os.getpid()}\) is making features"),
    ):
        make_features(folder, titles(folder, encoder), progress=False)
    assert not encoder.calls
    make_features(folder, titles(folder, encoder), progress=False)
    assert not (folder / "work").exists()


@pytest.mark.parametrize("where", ["pathlib.Path.write_bytes", "lirdrec.features.joining.matrix_header", "numpy.save"])
def test_a_full_disk_is_one_sentence_and_loses_nothing(folder, whole, monkeypatch, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = content(folder)
    first = Counting()
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(RunFolderError, match="the disk is full"):
            make_features(folder, titles(folder, first), progress=False)
    assert {name: file for name, file in content(folder).items() if not name.startswith("work")} == before
    second = Counting()
    make_features(folder, titles(folder, second), progress=False)
    if where != "pathlib.Path.write_bytes":  # all shards were there already
        assert not second.calls
    assert (folder / "features/text.npy").read_bytes() == (whole / "features/text.npy").read_bytes()
