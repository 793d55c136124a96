"""A run killed at any moment resumes, encodes nothing twice, and ends with the bytes of one that was never stopped."""

from __future__ import annotations

import errno
import os
import random
import re
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
from lirdrec.errors import ConfigError, DataError, RunFolderError, TrainingError
from lirdrec.features.dataset_writer import set_item_columns
from lirdrec.features.encoder import Encoded, Prepared
from lirdrec.features.job_runner import FeatureJobRunner
from lirdrec.features.pipeline import FeatureJob, features_lock, make_features
from lirdrec.features.sources import ImageSource, TextSource

from ..helpers import assert_error, files, needs_sigkill
from .killed_features import SHARD_ROWS, Counting, Fitted, jobs

SCRIPT = Path(__file__).with_name("killed_features.py")
N, KILLS = 150, 6
WORDS = ["red", "green", "blue", "old", "chair", "lamp"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """150 items: some without a title, some whose title is bad, long ones, two of one title; all have a brand."""
    rng = random.Random(4)
    titles = [f"{' '.join(rng.choices(WORDS, k=rng.randint(1, 8)))} {index}" for index in range(N)]
    titles[7] = titles[3]
    for index in range(1, N, 29):
        titles[index] = f"bad {titles[index]}"
    table = pl.DataFrame(
        {
            "item": [f"i{index}" for index in range(N)],
            "title": [None if index % 11 == 5 else text for index, text in enumerate(titles)],
            "brand": [f"maker {index}" for index in range(N)],
        }
    )
    pairs = pl.DataFrame({"user": [index % 10 for index in range(N)], "item": table["item"]})
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


def titles(folder: Path, encoder: Counting, name: str = "text") -> list[FeatureJob]:
    return [
        FeatureJob(name, encoder, TextSource(folder, column="title")),
        FeatureJob("brand", Counting(), TextSource(folder, column="brand")),
    ]


@needs_sigkill
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
    assert files(folder) == files(whole)
    once = Counter((whole.parent / "whole.log").read_text().splitlines())
    calls = Counter(log.read_text().splitlines())
    assert set(once.values()) == {1}
    assert calls.keys() == once.keys()
    again = [int(line.rpartition(" ")[2]) for line in (calls - once).elements()]
    assert 0 < len(again) <= KILLS * SHARD_ROWS  # at each kill the shard in flight is lost, and nothing else
    assert len({index // SHARD_ROWS for index in again}) <= KILLS


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
    with assert_error(ConfigError, mentions=[folder / "work/features/text", "plan.json", "restart=True"]):
        make_features(folder, titles(folder, other), progress=False)
    assert not other.calls
    make_features(folder, titles(folder, other), restart=True, progress=False)
    assert Dataset.load(folder).info["encoders"]["text"]["identity"]["model"] == "other"
    # a table that was changed in between is other work too
    with pytest.raises(KeyboardInterrupt):
        make_features(folder, titles(folder, Counting(kill=40), "second"), progress=False)
    set_item_columns(folder, pl.DataFrame({"item": ["i0"], "title": ["something else"]}))
    with assert_error(ConfigError, mentions=[folder / "work/features/second", "plan.json", "restart=True"]):
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
    assert caplog.messages and all("'text'" in one for one in caplog.messages)


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
    assert files(folder) == files(other)


def test_two_runs_at_once_are_refused(folder):
    encoder = Counting()
    with (
        features_lock(folder),
        assert_error(RunFolderError, mentions=[folder, os.getpid()]),
    ):
        make_features(folder, titles(folder, encoder), progress=False)
    assert not encoder.calls
    make_features(folder, titles(folder, encoder), progress=False)
    assert not (folder / "work").exists()


@pytest.mark.parametrize(
    "where", ["pathlib.Path.write_bytes", "lirdrec.features.dataset_writer.matrix_header", "numpy.save"]
)
def test_a_full_disk_is_one_sentence_and_loses_nothing(folder, whole, monkeypatch, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files(folder)
    first = Counting()
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with assert_error(RunFolderError, mentions=[folder / "work/features/text"]):
            make_features(folder, titles(folder, first), progress=False)
    assert {name: file for name, file in files(folder).items() if not name.startswith("work")} == before
    second = Counting()
    make_features(folder, titles(folder, second), progress=False)
    if where != "pathlib.Path.write_bytes":  # all shards were there already
        assert not second.calls
    assert (folder / "features/text.npy").read_bytes() == (whole / "features/text.npy").read_bytes()


def images(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


class Seen(Counting):
    """The same for images: the vector is drawn from the file's content; what begins with "bad" is a problem."""

    kind = "image"

    def prepare(self, inputs) -> list[Prepared]:
        return super().prepare([path.read_bytes().decode() for path in inputs])


@pytest.fixture
def shown(tmp_path) -> Path:
    """Forty items with an image each; that of every tenth is bad."""
    names = [f"{'bad' if index % 10 == 9 else 'good'} {index}.png" for index in range(40)]
    table = pl.DataFrame({"item": range(40), "image": names, "brand": [f"maker {index}" for index in range(40)]})
    images(tmp_path / "right", *names)
    pairs = pl.DataFrame({"user": [0] * 40, "item": range(40)})
    return Dataset.from_frames(pairs, items=table, split="none").save(tmp_path / "shown")


def looks(folder: Path, root: Path, encoder: Counting | None = None) -> list[FeatureJob]:
    brand = FeatureJob("brand", Counting(), TextSource(folder, column="brand"))
    return [brand, FeatureJob("image", encoder or Seen(), ImageSource(folder, root=root))]


def values(folder: Path, root: Path) -> np.ndarray:
    """What the matrix must hold, read from the files."""
    rows = np.zeros((40, 3), dtype=np.float32)
    names = Dataset.load(folder).item_table["image"]
    for row, name in enumerate(names):
        if (root / name).is_file() and "bad" not in (text := (root / name).read_text()):
            rows[row] = Counting().vector(text)
    return rows


def assert_holds(folder: Path, root: Path) -> None:
    found, expected = np.load(folder / "features/image.npy"), values(folder, root)
    assert (found.any(axis=1) == expected.any(axis=1)).all()
    np.testing.assert_allclose(found[found.any(axis=1)], expected[found.any(axis=1)], atol=0.05)  # the batch's trace


def test_a_wrong_folder_of_images_is_not_kept(shown, tmp_path):
    wrong = images(tmp_path / "wrong", "something else.png")
    with assert_error(DataError, mentions=["'image'", "good 0.png", wrong, "images"]) as caught:
        make_features(shown, looks(shown, wrong), progress=False)
    numbers = re.findall(r"\d+", str(caught.value).replace(str(tmp_path), "").replace("good 0.png", ""))
    assert sorted(numbers) == ["0", "40", "40"]  # without an image, with a problem, in all
    made = make_features(shown, looks(shown, tmp_path / "right"), progress=False)
    assert (made[0].encoded, made[0].resumed, made[1].present) == (0, 40, 36)  # what went well is not done again
    assert_holds(shown, tmp_path / "right")


def test_images_that_are_repaired_or_added_after_a_refused_call_are_taken(shown, tmp_path):
    right, names = tmp_path / "right", Dataset.load(shown).item_table["image"].to_list()
    (right / names[3]).unlink()
    (right / names[20]).write_text("bad now")
    alone = looks(shown, right)[1:]
    with assert_error(DataError, mentions=[shown, "6 of 40", "3, 9, 19, 20, 29, 39"]):
        make_features(shown, alone, progress=False)
    images(right, names[3], names[20])
    (right / names[9]).write_text("repaired")
    encoder = Seen()
    made = make_features(shown, looks(shown, right, encoder), progress=False)
    # of the shards of 16 rows only the first two hold one that changed; the third stays sealed, its bad ones too
    assert set(encoder.calls) == {names[3], names[20], "repaired", names[19], names[29]}
    assert made[1].present == 37 and made[1].resumed == 8 and made[1].copied == 27
    assert_holds(shown, right)


def test_stopped_work_resumes_with_the_images_of_another_folder(shown, tmp_path):
    """A folder that was moved costs nothing; one of other images under the same names leaves no vector behind."""
    right = tmp_path / "right"
    with pytest.raises(KeyboardInterrupt):
        make_features(shown, looks(shown, right, Seen(kill=30)), progress=False)
    right.rename(tmp_path / "moved")
    with pytest.raises(KeyboardInterrupt):
        make_features(shown, looks(shown, tmp_path / "moved", encoder := Seen(kill=12)), progress=False)
    assert not {f"good {index}.png" for index in range(16)} & set(encoder.calls)
    shutil.copytree(tmp_path / "moved", tmp_path / "other")
    (tmp_path / "other" / "good 5.png").write_text("another image")
    encoder = Seen()
    make_features(shown, looks(shown, tmp_path / "other", encoder), progress=False)
    assert "another image" in encoder.calls and "good 4.png" not in encoder.calls
    assert_holds(shown, tmp_path / "other")


class Broken(Counting):
    """Fails before it has made anything, as an encoder does whose server is not there."""

    def encode(self, batch) -> Encoded:
        raise TrainingError("no server answers there")


class BrokenFitted(Fitted):
    """Fails likewise, after it was fitted."""

    def encode(self, batch) -> Encoded:
        raise TrainingError("no server answers there")


@pytest.mark.parametrize("kind", [Broken, BrokenFitted])
def test_a_call_of_which_nothing_came_leaves_nothing_that_refuses_the_next(folder, kind):
    before = files(folder)
    with assert_error(TrainingError, mentions=["no server answers"]):
        make_features(folder, [FeatureJob("text", kind(model="x"), TextSource(folder, column="brand"))], progress=False)
    assert files(folder) == before
    other = FeatureJob("text", Fitted(), TextSource(folder, "{brand} {item}"))
    assert make_features(folder, [other], progress=False)[0].present == N


@pytest.mark.parametrize("kind", [Counting, Fitted])
def test_a_plan_that_was_killed_before_its_first_shard_is_forgotten(folder, kind):
    """As after SIGKILL: the plan, and what was fitted for it, are there, and no shard is."""
    make_features(folder, titles(folder, kind(), "other"), progress=False)
    place = folder / "work/features/text"
    source = TextSource(folder, column="brand")
    FeatureJobRunner(folder, place.parent, FeatureJob("text", kind(model="killed"), source))
    assert (place / "plan.json").is_file() and (place / "fit/00000.json").is_file() == (kind is Fitted)
    encoder = kind()
    made = make_features(folder, [FeatureJob("text", encoder, TextSource(folder, "{brand}, {item}"))], progress=False)
    assert made[0].encoded == N and (kind is not Fitted or encoder.fits == 1)
    # one of which a shard was sealed is refused as before, and so is what it was fitted to
    with pytest.raises(KeyboardInterrupt):
        make_features(folder, [FeatureJob("new", kind(kill=40), TextSource(folder, "{item}: {brand}"))], progress=False)
    with assert_error(ConfigError, mentions=[folder / "work/features/new", "plan.json", "restart"]):
        make_features(folder, [FeatureJob("new", kind(), TextSource(folder, "{brand}, {item}"))], progress=False)


def test_a_folder_that_is_no_dataset_is_refused_before_anything_is_written(folder, tmp_path):
    before = files(folder)
    with assert_error(RunFolderError, mentions=[tmp_path / "nope"]):
        make_features(folder, titles(folder, Counting()), reuse=tmp_path / "nope", progress=False)
    assert files(folder) == before
