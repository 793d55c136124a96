"""What identifies a machine or opens a door is taken out of what is shared; the card of a dataset or a run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lirdrec.data import Dataset
from lirdrec.data.storage import check_files
from lirdrec.errors import ConfigError, DataError
from lirdrec.hub import push
from lirdrec.hub.contents import check_name, gather
from lirdrec.hub.folder_license import KNOWN, License, find_license
from lirdrec.hub.metadata_redaction import check_table, scrub, scrub_environment
from lirdrec.recommender.recommender import Recommender

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
        ("/data/my images/1.jpg: broken", "1.jpg: broken"),
        ("read from /home/ann/x.csv and /srv/y.csv.", "read from x.csv and y.csv."),
        ("cannot open '/home/ann/1.jpg'", "cannot open '1.jpg'"),
        ("below /data/my images/old/1.jpg", "below old/1.jpg"),  # a folder that is known, with a blank in it
        ("https://example.org/data/my images/1.jpg", "https://example.org/data/my images/1.jpg"),
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
    assert scrub({"a": [before, {before: 1}]}, ["/data/my images"]) == {"a": [after, {after: 1}]}


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
        ("image", [r"D:\images\1.jpg", None, None], 1),
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


MOVIELENS = "MovieLens research licence, non-commercial, same terms on redistribution: see MOVIELENS-README.txt"


def read_card(hub, name: str):
    from huggingface_hub import DatasetCard, ModelCard

    content = hub.repos[name].files()["README.md"].decode()
    return (DatasetCard if name.startswith("datasets/") else ModelCard)(content), content


def test_a_datasets_card(hub, login, sample):
    push(sample, "me/films")
    card, content = read_card(hub, "datasets/me/films")
    header = card.data.to_dict()
    assert header["license"] == "other" and header["license_name"] == "movielens-research-licence"
    assert header["size_categories"] == ["10K<n<100K"] and header["pretty_name"] == "movielens"
    assert {"lirdrec", "recommendation", "multimodal"} <= set(header["tags"]) and header["library_name"] == "lirdrec"
    assert [one["data_files"] for one in header["configs"]] == [
        "interactions.parquet",
        "items.parquet",
        "users.parquet",
    ]
    assert MOVIELENS in content  # all of what the data say
    assert "| 643 | 1,495 | 28,133 | 3,250 | 3,518 |" in content
    assert "| text | 384 | float16 | 1,495 |" in content
    assert "- split:\n  - method: random\n" in content
    assert code(content) == [
        "import lirdrec",
        'dataset = lirdrec.from_hub("datasets/me/films")',
        "recommender = lirdrec.fit(dataset)",
    ]


def test_a_runs_card_has_the_figures_that_were_recorded(hub, login, trained):
    push(trained, "me/films")
    card, content = read_card(hub, "me/films")
    recorded = Recommender.load(trained).info["metrics"]
    reported = {(one.dataset_split, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert reported == {(s, name): value for s in ("valid", "test") for name, value in recorded[s].items()}
    assert {one.dataset_name for one in card.data.eval_results} == {"films"}
    assert card.data.license == "cc-by-4.0" and card.data.model_name == "films"
    assert f"| recall@5 | {recorded['valid']['recall@5']:.4f} | 0.2500 |" in content
    assert "- training:\n" in content and "  - epochs: 2\n" in content and "films.csv" in content
    lines = code(content)
    assert len(lines) == 3 and lines[1] == 'recommender = lirdrec.from_hub("me/films")'


def test_without_figures(hub, login, trained):
    push(trained, "me/films", metrics=False)
    card, content = read_card(hub, "me/films")
    assert card.data.eval_results is None and "0.2500" not in content and "recall@5 |" not in content


def test_names_do_not_break_the_card(hub, login, films, tmp_path):
    hostile = "# <script>x</script> | [a](b) `c` *d* _e_\n---\nlicense: mit"
    parts = (films.users, films.items, films.train, films.valid, films.test, films.features, films.item_table)
    push(type(films)(hostile, *parts, info={"note": hostile}).save(tmp_path / "x"), "me/films", license="cc0-1.0")
    card, content = read_card(hub, "datasets/me/films")
    assert card.data.license == "cc0-1.0" and card.data["pretty_name"] == hostile
    body = content.split("\n---\n", 1)[1] if "\n---\n\n#" not in content else content.rsplit("\n---\n\n#", 1)[1]
    assert "<script>" not in body.replace("\\<", "") and "\n---\n" not in body


def code(content: str) -> list[str]:
    return re.search(r"```python\n(.*?)\n```", content, re.DOTALL)[1].splitlines()


@pytest.mark.parametrize(
    ("named", "known", "license"),
    [
        ("MIT", None, License("mit", "mit")),
        ("other", None, License("other", "other")),
        ("Only for my friends", None, License("other", "Only for my friends")),
        (None, "cc-by-4.0", License("cc-by-4.0", "cc-by-4.0")),
        ("cc-by-4.0", "cc-by-4.0", License("cc-by-4.0", "cc-by-4.0")),
        (None, MOVIELENS, License("other", MOVIELENS)),
        ("other", MOVIELENS, License("other", MOVIELENS)),
    ],
)
def test_licenses(named, known, license):
    assert find_license(named, {"licence": known}, "x") == license
    assert find_license(named, {"license": known}, "x") == license


@pytest.mark.parametrize(
    ("named", "known", "facts"),
    [
        (None, None, ['"cc-by-4.0"', '"other"']),
        ("", None, ["''", "'other'"]),
        ("apache2.0", None, ["'apache2.0'", "'apache-2.0'"]),
        ("mit", MOVIELENS, ["MovieLens research licence", "'mit'"]),
        ("cc-by-4.0", "cc-by-nc-4.0", ["'cc-by-nc-4.0'", "'cc-by-4.0'"]),
    ],
)
def test_licenses_that_are_refused(named, known, facts):
    with assert_error(ConfigError, mentions=facts):
        find_license(named, {"licence": known}, "x")


def test_headers():
    assert License("mit", "mit").header() == {"license": "mit"}
    assert License("other", "Mine: see https://example.org/terms.").header() == {
        "license": "other",
        "license_name": "mine",
        "license_link": "https://example.org/terms.",
    }
    assert all(re.fullmatch(r"[a-z0-9.-]+", one) for one in KNOWN) and len(KNOWN) > 50
