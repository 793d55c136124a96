"""The run folder: everything comes back, damage is noticed, nothing is half-written, one training at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
from polars.testing import assert_frame_equal

from lirdrec.errors import CapabilityError, RunFolderError
from lirdrec.option_names import command_line
from lirdrec.recommender import run_folder
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.run_folder import check_new, open_run, run_lock, write_files

from ..helpers import assert_error, assert_mentions, files
from .conftest import hand_made


@pytest.fixture
def saved(recommender, tmp_path) -> Path:
    return recommender.save(tmp_path / "run")


def test_everything_comes_back(recommender, saved):
    loaded = Recommender.load(saved, verify=True)
    assert_frame_equal(loaded.recommend(k=4), recommender.recommend(k=4))
    assert loaded.explain("ann", 20) == recommender.explain("ann", 20)
    assert_frame_equal(loaded.item_table, recommender.item_table)
    assert loaded.users == recommender.users and loaded.items == recommender.items
    assert loaded.info == recommender.info and loaded.folder == saved
    assert np.array_equal(loaded.train.items, recommender.train.items)


def test_the_kind_of_frame_comes_back(tmp_path):
    hand_made(frames="pandas").save(tmp_path / "run")
    assert Recommender.load(tmp_path / "run").frames == "pandas"


def test_nothing_is_pickled_and_the_files_are_listed(saved):
    found = files(saved)
    manifest = json.loads(found.pop("manifest.json"))
    assert manifest["format"] == "lirdrec-run" and manifest["format_version"] == 1
    assert sorted(manifest["files"]) == sorted(found)
    assert sorted(found) == [
        "config.json",
        "environment.json",
        "interactions.parquet",
        "items.parquet",
        "users.parquet",
        "vectors.safetensors",
    ]
    environment = json.loads(found["environment.json"])
    assert set(environment) == {"python", "platform", "versions", "git_revision", "seed", "written"}
    assert environment["versions"]["torch"]


def test_a_slim_run_says_what_it_cannot_do(recommender, tmp_path):
    slim = Recommender.load(recommender.slim(tmp_path / "slim"))
    assert_frame_equal(slim.recommend(k=4, exclude_seen=False), recommender.recommend(k=4, exclude_seen=False))
    assert_frame_equal(slim.similar_items(10, k=3), recommender.similar_items(10, k=3))
    assert_frame_equal(slim.score(("ann", 10)), recommender.score(("ann", 10)))
    assert sorted(p.name for p in (tmp_path / "slim").iterdir()) == [
        "config.json",
        "environment.json",
        "items.parquet",
        "manifest.json",
        "users.parquet",
        "vectors.safetensors",
    ]
    for ask, fact in (
        (lambda: slim.recommend("ann", k=1), "exclude_seen"),
        (lambda: slim.recommend("zoe", k=1, exclude_seen=False, unknown="popular"), "popular"),
        (lambda: slim.recommend_for_history([10], k=1), "users"),
        (lambda: slim.add_items([50]), "items"),
        (lambda: slim.explain("ann", 10), "explain"),
    ):
        with assert_error(CapabilityError, mentions=["slim", "full", fact]):
            ask()


def test_slim_leaves_out_what_only_the_model_needs(tmp_path):
    import torch

    scorer = hand_made().scorer
    scorer.memory = {"item_states": torch.zeros(4, 2)}
    full, slim = hand_made(scorer=scorer), tmp_path / "slim"
    full.save(tmp_path / "full")
    full.slim(slim)
    assert "memory.item_states" in safetensors.torch.load_file(tmp_path / "full" / "vectors.safetensors")
    assert set(safetensors.torch.load_file(slim / "vectors.safetensors")) == {"users", "items", "weights"}


def test_a_finished_run_is_not_overwritten_by_accident(recommender, saved):
    before = files(saved)
    with assert_error(RunFolderError, mentions=[saved]):
        recommender.save(saved)
    assert files(saved) == before
    assert Recommender.load(recommender.save(saved, overwrite=True)).recommend("bob", k=1)["item"].to_list() == [20]


def test_a_folder_of_something_else_is_refused(recommender, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with assert_error(RunFolderError, mentions=[tmp_path, "thesis.tex"]):
        recommender.save(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "lirdrec-dataset"}')
    with assert_error(RunFolderError, mentions=[tmp_path, "dataset"]):
        recommender.save(tmp_path, overwrite=True)
    with assert_error(RunFolderError, mentions=[tmp_path / "thesis.tex"]):
        recommender.save(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def edit_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def damage(name: str, how: str):
    def act(folder: Path) -> None:
        path = folder / name
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:middle], "flip": flipped, "empty": b""}[how])

    return act


FILES = ["config.json", "interactions.parquet", "items.parquet", "users.parquet", "vectors.safetensors"]

BAD = [  # what is done, and what the message says after the name of the folder; None: the sizes of the file
    *((damage(name, "cut"), name, None) for name in FILES),
    *((damage(name, "flip"), name, ["checksum"]) for name in FILES),
    *((lambda folder, name=name: (folder / name).unlink(), name, []) for name in FILES),
    (damage("manifest.json", "cut"), "manifest.json", ["JSON"]),
    (damage("manifest.json", "empty"), "manifest.json", ["JSON"]),
    (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json", ["JSON"]),
    (lambda folder: edit_manifest(folder, format_version=2), "", ["2", "1"]),
    (lambda folder: edit_manifest(folder, format_version="x"), "manifest.json", ["format"]),
    (lambda folder: edit_manifest(folder, files={}), "manifest.json", ["config.json"]),
    (lambda folder: edit_manifest(folder, format="lirdrec-dataset"), "", ["dataset", "lirdrec train"]),
    (lambda folder: edit_manifest(folder, format="lirdrec-export"), "", ["an export"]),
    (lambda folder: edit_manifest(folder, format="other"), "", ["'other'"]),
    (lambda folder: (folder / "manifest.json").unlink(), "", ["manifest.json"]),
    (lambda folder: shutil.rmtree(folder), "", []),
]


@pytest.mark.parametrize(("harm", "name", "facts"), BAD)
def test_damage_is_noticed(saved, harm, name, facts):
    whole = (saved / name).stat().st_size
    harm(saved)
    if facts is None:
        facts = [f"{whole // 2:,} bytes", f"{whole:,}"]
    with assert_error(RunFolderError, mentions=[saved / name]) as caught:
        Recommender.load(saved)
    assert "\n" not in str(caught.value)
    assert_mentions(str(caught.value).replace(str(saved), ""), facts)  # the path has numbers too


def test_whoever_may_read_one_file_may_read_all(saved):
    """A server runs as another user than the training did."""
    plain = saved / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in saved.iterdir()} == {plain.stat().st_mode}


def test_a_file_that_may_not_be_read_is_not_called_damaged(saved, monkeypatch):
    opened = Path.open

    def refusing(self, *arguments, **options):
        if self.name == "vectors.safetensors" and opened(saved / "manifest.json"):
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    monkeypatch.setattr("lirdrec.recommender.run_folder.check_file", lambda *_, **__: None)
    monkeypatch.setattr(Path, "open", refusing)
    with assert_error(RunFolderError, mentions=[saved / "vectors.safetensors"]) as caught:
        Recommender.load(saved)
    assert "damaged" not in str(caught.value)


def test_an_unfinished_training_says_how_to_resume(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    with assert_error(RunFolderError, mentions=[tmp_path, "lirdrec train", "--resume"]):
        Recommender.load(tmp_path)


def test_big_files_are_verified_on_request(saved, monkeypatch):
    monkeypatch.setattr(run_folder.check_file, "__defaults__", (False, 0))
    damage("vectors.safetensors", "flip")(saved)
    open_run(saved)  # its size is right
    with assert_error(RunFolderError, mentions=[saved / "vectors.safetensors", "checksum"]):
        open_run(saved, verify=True)


def test_a_full_disk_leaves_the_old_run_as_it_was(recommender, saved, monkeypatch):
    before = files(saved)

    def full(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with assert_error(RunFolderError, mentions=[saved, "disk"]):
        recommender.save(saved, overwrite=True)
    assert files(saved) == before


def test_a_full_disk_leaves_no_new_folder(recommender, tmp_path, monkeypatch):
    def full(tensors, path):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("lirdrec.recommender.serialization.save_file", full)
    with assert_error(RunFolderError, mentions=[tmp_path / "new", "disk"]):
        recommender.save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_program_are_not_hidden(tmp_path):
    def broken(path: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_files(tmp_path / "run", {"a": broken})
    assert not (tmp_path / "run").exists()


def test_two_trainings_cannot_share_a_folder(tmp_path):
    folder = tmp_path / "run"

    def lock_once_more() -> None:
        with run_lock(folder):
            pass

    with run_lock(folder), ThreadPoolExecutor() as other:
        with assert_error(RunFolderError, mentions=[folder, f"process {os.getpid()}"]):
            other.submit(lock_once_more).result()
        lock_once_more()  # the thread that holds it may
        (folder / "history.jsonl").write_text("")
    with run_lock(folder):  # free again
        pass


def test_a_lock_without_work_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), run_lock(tmp_path / "run"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, pathlib
from lirdrec.recommender.run_folder import run_lock
with run_lock(sys.argv[1]) as folder:
    (folder / "history.jsonl").write_text("")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_training_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            facts = [tmp_path / "run", f"process {process.pid}"]
            with assert_error(RunFolderError, mentions=facts), run_lock(tmp_path / "run"):
                pass
        finally:
            process.kill()
    with run_lock(tmp_path / "run"):
        pass


def test_what_a_training_writes_is_no_obstacle(tmp_path):
    for name in ("history.jsonl", "curves.png", ".lock"):
        (tmp_path / name).write_text("")
    (tmp_path / "checkpoint").mkdir()
    check_new(tmp_path)


def test_overwriting_leaves_nothing_of_the_old_run(recommender, saved):
    recommender.slim(saved, overwrite=True)
    assert not (saved / "interactions.parquet").exists()
    assert Recommender.load(saved).is_slim


def test_figures_are_kept_with_the_run(recommender, saved):
    before = files(saved)
    recommender.record_metrics("test", {"recall@20": 0.5})
    recommender.record_metrics("valid", {"recall@20": 0.25})
    assert json.loads((saved / "metrics.json").read_text()) == {
        "test": {"recall@20": 0.5},
        "valid": {"recall@20": 0.25},
    }
    loaded = Recommender.load(saved, verify=True)
    assert loaded.info["metrics"]["test"] == {"recall@20": 0.5}
    after = files(saved)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"config.json", "metrics.json", "manifest.json"}
    moved = Recommender.load(loaded.save(saved.parent / "elsewhere"))
    assert moved.info["metrics"] == loaded.info["metrics"]


def test_a_stopped_training_is_not_thrown_away_by_accident(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "5.safetensors").write_text("")
    with assert_error(RunFolderError, mentions=[tmp_path, "resume=True", "overwrite=True"]):
        check_new(tmp_path)
    with command_line(), assert_error(RunFolderError, mentions=[tmp_path, "--resume", "--overwrite"]):
        check_new(tmp_path)
    check_new(tmp_path, overwrite=True)
