"""Manifests of folders, and the progress of long tasks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec.data import Dataset
from lirdrec.data.storage import read_manifest
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import LirdrecError, RunFolderError
from lirdrec.files.manifest import check_not_inside_folder, is_relative_name
from lirdrec.files.progress_bars import ProgressLines, duration
from lirdrec.models.popularity import PopularityConfig
from lirdrec.recommender.fit import fit
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.run_folder import open_run
from lirdrec.training.callbacks import EpochLines, ProgressBar
from lirdrec.training.config import still_improving

from ..helpers import assert_error, assert_mentions

OUTSIDE = [
    "../a",
    "a/../../b",
    "/etc/passwd",
    "a//b",
    "./a",
    "a/.",
    "",
    "C:a",
    "a\\b",
    "a\0b",
    5,
    None,
    ["a"],
    "x" * 2000,
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a dataset and a run."""
    place = tmp_path_factory.mktemp("made")
    make_synthetic_dataset(12, 24, 60, {"text": 4}, groups=4).save(place / "data")
    fit(Dataset.load(place / "data"), PopularityConfig(), run=place / "run", progress=False)
    return place


def change(folder: Path, edit) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def copies(made, tmp_path) -> Path:
    import shutil

    for name in ("data", "run"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_the_folder_is_not_inside(name):
    assert not is_relative_name(name)


@pytest.mark.parametrize("name", ["a", "features/added-0/text.npy", ".hidden", "a..b", "é.npy"])
def test_a_plain_relative_name_is_inside(name):
    assert is_relative_name(name)


@pytest.mark.parametrize("name", [one for one in OUTSIDE if isinstance(one, str)])
@pytest.mark.parametrize("key", ["files", "moved", "removed"])
def test_no_reader_follows_a_name_out_of_the_folder(copies, name, key):
    entry = {"bytes": 1, "sha256": "0" * 64}
    for folder, read in ((copies / "data", read_manifest), (copies / "run", open_run)):
        if key == "files":
            change(folder, lambda manifest: manifest["files"].update({name: entry}))
        else:
            change(folder, lambda manifest: manifest.update({key: [name]}))
        with assert_error(RunFolderError, mentions=["manifest.json"]):
            read(folder)


def test_a_manifest_that_is_too_large_is_refused_by_its_size(copies, monkeypatch):
    monkeypatch.setattr("lirdrec.files.manifest.MAX_BYTES", 100)
    with assert_error(RunFolderError, mentions=["manifest.json", "100 bytes"]) as caught:
        read_manifest(copies / "data")
    assert "JSON" not in str(caught.value)


@pytest.mark.parametrize("key", ["files", "removed", "moved"])
def test_overwriting_a_run_removes_nothing_elsewhere(copies, key):
    (copies / "victim").write_text("precious")
    entry = {"bytes": 8, "sha256": "0" * 64}
    if key == "files":
        change(copies / "run", lambda manifest: manifest["files"].update({"../victim": entry}))
    else:
        change(copies / "run", lambda manifest: manifest.update({"stage": ".stage-0", key: ["../victim"]}))
    with pytest.raises(RunFolderError):
        fit(Dataset.load(copies / "data"), PopularityConfig(), run=copies / "run", overwrite=True, progress=False)
    assert (copies / "victim").read_text() == "precious"


WRONG = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_entry_of_a_wrong_type_is_one_sentence_or_changes_nothing(made, tmp_path_factory, data):
    """Every value of both manifests, of config.json, and of features.json, replaced by something else."""
    import shutil

    place = tmp_path_factory.mktemp("wrong")
    folder = shutil.copytree(made / data.draw(st.sampled_from(["data", "run"])), place / "copy")
    content = json.loads((folder / "manifest.json").read_text())
    where = content
    while isinstance(where, dict) and where:
        key = data.draw(st.sampled_from(sorted(where)))
        if not isinstance(where[key], dict) or not where[key] or data.draw(st.booleans()):
            where[key] = data.draw(WRONG)
            break
        where = where[key]
    (folder / "manifest.json").write_text(json.dumps(content))
    try:
        (Dataset if "name" in content else Recommender).load(folder)
    except LirdrecError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["x.csv", "features/x.csv", "features/more/x.csv"])
def test_a_file_inside_a_dataset_is_recognized(copies, name):
    with assert_error(RunFolderError, mentions=[copies / "data", "x.csv"]):
        check_not_inside_folder(copies / "data" / name)
    check_not_inside_folder(copies / "x.csv")


def test_a_line_for_every_tenth_and_the_time_left_from_what_was_worked(capsys):
    now = 0.0
    lines = ProgressLines("captions", 200, 40, "images", clock=lambda: now)
    for _ in range(40):
        lines.advance(1, idle=True)  # known already: says nothing about the speed
    for _ in range(120):
        now += 2
        lines.advance(1)
    reported = capsys.readouterr().err.splitlines()
    assert [line.split("(")[1].split(")")[0] for line in reported] == [f"{share} %" for share in range(30, 100, 10)]
    assert_mentions(reported[0], ["captions", "60 of 200 images", "30 %"])
    assert_mentions(reported[2], ["captions", "100 of 200 images", "50 %", duration(200)])
    assert_mentions(reported[-1], ["captions", "180 of 200 images", "90 %", duration(40)])


def test_every_epoch_is_a_line_in_a_log(capsys):
    lines = EpochLines("recall@20", 10)
    lines.on_train_begin([{"epoch": 1, "loss": 2.0, "seconds": 9.0, "valid": {"recall@20": 0.5}}], 4)
    for epoch, value in ((2, 0.4), (3, 0.6)):
        seconds = {"seconds": 20.0, "seconds_with_validation": 30.0}
        lines.on_epoch_end({"epoch": epoch, "loss": 1.0, "valid": {"recall@20": value}, **seconds})
    second, third = capsys.readouterr().err.splitlines()
    assert_mentions(second, ["epoch 2/10", "loss 1.0000", "recall@20 0.4000", "0.5000", "epoch 1", "30 s", "4 min"])
    assert_mentions(third, ["epoch 3/10", "loss 1.0000", "recall@20 0.6000", "epoch 3", "60 s", "4 min"])
    assert third.count("0.6000") == 2  # the latest is the best


def test_the_bar_of_a_training_fits_into_80_columns(monkeypatch):
    from rich.console import Console

    monkeypatch.setenv("COLUMNS", "80")
    bar = ProgressBar("recall@20", 1000)
    bar.on_train_begin([], 100)
    bar.on_epoch_end({"epoch": 1, "loss": 1.0, "seconds": 1.0, "valid": {"recall@20": 0.1}})
    bar.on_step_end(999, 50)
    bar.stop()
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(bar.bar.get_renderable())
    line = console.export_text().splitlines()[0]
    assert_mentions(line, ["epoch 999/1000", "recall@20 0.1000"])
    assert line.count("0.1000") == 2 and "…" not in line and len(line) <= 80


@pytest.mark.parametrize(
    ("best", "epochs", "expected"), [(6, 6, True), (5, 6, False), (991, 1000, True), (900, 1000, False), (1, 1, True)]
)
def test_a_best_epoch_among_the_last_tenth_is_still_improving(best, epochs, expected):
    assert still_improving(best, epochs) is expected
