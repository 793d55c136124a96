"""What identifies a machine or opens a door is taken out of what is shared; all else stays as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lirdrec.data import Dataset
from lirdrec.data.storage import check_files
from lirdrec.errors import DataError
from lirdrec.hub.contents import check_name, gather
from lirdrec.hub.metadata_redaction import check_table, scrub, scrub_environment

from ..helpers import assert_error, files


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/home/ann/films/posters", "posters"),
        ("/home/ann/films/posters/", "posters"),
        (r"C:\Users\ann\films", "films"),
        (r"\\server\share\films", "films"),
        ("~/films", "films"),
        ("file:///home/ann/x.csv", "x.csv"),
        ("/data/my pictures/1.jpg: broken", "1.jpg: broken"),
        ("read from /home/ann/x.csv and /srv/y.csv.", "read from x.csv and y.csv."),
        ("cannot open '/home/ann/1.jpg'", "cannot open '1.jpg'"),
        ("below /data/my pictures/old/1.jpg", "below old/1.jpg"),  # a folder that is known, with a blank in it
        ("https://example.org/data/my pictures/1.jpg", "https://example.org/data/my pictures/1.jpg"),
        ("http://ann:secret@host:8000/v1", "http://host:8000/v1"),
        ("key sk-abcdefgh12345678 used", "key  used"),
        ("hf_abcdefghijklmnop", ""),
        ("and/or, 4/5, text / image, ratings ≥ 4", "and/or, 4/5, text / image, ratings ≥ 4"),
        ("posters/1.jpg", "posters/1.jpg"),
        ("{title}. {brand}", "{title}. {brand}"),
        ("query: ", "query: "),
        ("", ""),
    ],
)
def test_texts(before, after):
    assert scrub({"a": [before, {before: 1}]}, ["/data/my pictures"]) == {"a": [after, {after: 1}]}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text("ab ./é", max_size=8), st.lists, max_leaves=8))
def test_scrubbing_twice_is_scrubbing_once(value):
    once = scrub(value)
    assert scrub(once) == once


def test_the_environment_keeps_what_repeats_a_run():
    facts = {
        "python": "3.11.7",
        "platform": "Linux-6.1.2-host17-x86_64-with-glibc2.36",
        "versions": {"torch": "2.6"},
        "git_revision": "abc+changes",
        "seed": 0,
        "written": "2026-01-01T00:00:00+00:00",
        "hostname": "ann-laptop",
        "user": "ann",
    }
    assert scrub_environment(facts) == {
        **{key: facts[key] for key in ("python", "versions", "git_revision", "seed", "written")},
        "platform": "Linux",
    }
    assert scrub_environment([]) == {}


def test_paths_in_a_dataset_leave_and_the_checksums_fit(films, tmp_path):
    info = {
        "licence": "cc0-1.0",
        "images": "/home/ann/films/posters",
        "source": {"files": ["/home/ann/films/ratings.csv"]},
        "encoders": {"text": {"model": "/opt/models/MiniLM", "template": "{title}"}},
    }
    parts = (films.users, films.items, films.train, films.valid, films.test, films.features, films.item_table)
    folder = Dataset("films", *parts, info=info).save(tmp_path / "films")
    problems = 'item,reason\n10,"/home/ann/films/posters/a b/10.jpg: broken"\n20,"no file in /home/ann/films"\n'
    (folder / "features" / "image.problems.csv").write_text(problems)
    (folder / "features" / "text.keys.npy").write_bytes((folder / "features" / "text.mask.npy").read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("features/image.problems.csv", "features/text.keys.npy"):
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = files(folder)

    shared = gather(folder)
    assert files(folder) == before
    assert shared.info == {
        "licence": "cc0-1.0",
        "images": "posters",
        "source": {"files": ["ratings.csv"]},
        "encoders": {"text": {"model": "MiniLM", "template": "{title}"}},
    }
    assert shared.contents["features/image.problems.csv"] == b"item,reason\n10,10.jpg: broken\n20,no file in films\n"
    sent = tmp_path / "sent"
    for name, content in shared.contents.items():
        (sent / name).parent.mkdir(parents=True, exist_ok=True)
        (sent / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    check_files(sent, json.loads((sent / "manifest.json").read_text()), verify=True)
    assert Dataset.load(sent, verify=True).info == shared.info


def test_what_has_nothing_to_hide_is_sent_as_it_lies(shelf, trained):
    shared = gather(shelf)
    assert [name for name, content in shared.contents.items() if isinstance(content, bytes)] == ["manifest.json"]
    run = gather(trained)
    written = {name for name, content in run.contents.items() if isinstance(content, bytes)}
    assert written == {"manifest.json", "config.json", "features.json", "environment.json"}
    assert run.info["licence"] == "cc-by-4.0"  # that of the dataset that it was trained on


@pytest.mark.parametrize(
    ("name", "cells", "row"),  # the row that must be named, counted from 1; 0: none
    [
        ("image", ["1.jpg", "/home/ann/2.jpg", None], 2),
        ("image", [r"D:\pictures\1.jpg", None, None], 1),
        ("image", ["a/1.jpg", "2.jpg", None], 0),
        ("cover", ["/home/ann/1.jpg", "/home/ann/2.jpg", None], 1),
        ("title", ["/Heart Attack", "/r/funny/best", "Alien"], 0),
        ("price", [1.0, 2.0, None], 0),
        ("note", [None, None, None], 0),
    ],
)
def test_item_tables(tmp_path, name, cells, row):
    frame = pl.DataFrame({"item": [1, 2, 3], name: cells})
    frame.write_parquet(tmp_path / "items.parquet")
    if row:
        with assert_error(DataError, mentions=[tmp_path / "items.parquet", f"'{name}'", f"row {row}", cells[row - 1]]):
            check_table(tmp_path / "items.parquet")
    else:
        check_table(tmp_path / "items.parquet")


def test_a_text_that_cannot_be_read_is_named(trained, tmp_path):
    from lirdrec.errors import RunFolderError

    run = Path(shutil.copytree(trained, tmp_path / "run"))
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "metrics.json").write_text("{")
    data = (run / "metrics.json").read_bytes()
    manifest["files"]["metrics.json"] = {"bytes": 1, "sha256": hashlib.sha256(data).hexdigest()}
    (run / "manifest.json").write_text(json.dumps(manifest))
    with assert_error(RunFolderError, mentions=[run / "metrics.json"]):
        gather(run)


@given(st.text(max_size=30) | st.sampled_from(["..", ".", "/x.npy", "a//b.npy", "a\\b.npy", "nul\0.npy", "~/x.npy"]))
def test_names_that_pass_stay_inside(name):
    from lirdrec.errors import RunFolderError

    root = Path("/a/folder")
    try:
        check_name(name)
    except RunFolderError:
        return
    assert (root / name).resolve().is_relative_to(root) and ".." not in name.split("/")


def test_the_names_that_datasets_and_runs_have_pass():
    names = ["users.parquet", "features/text.npy", "features/a b.mask.npy", "features/added-0/text.npy"]
    for name in [*names, "features/text.problems.csv", "features/text.encoder.safetensors", "history.jsonl"]:
        assert check_name(name) == name
