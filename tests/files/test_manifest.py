"""Manifests: names that leave the folder and entries of wrong types are refused before a file is touched."""

from __future__ import annotations

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
from lirdrec.models.popularity import PopularityConfig
from lirdrec.recommender.fit import fit
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.run_folder import open_run

from ..helpers import assert_error

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
