"""Real bytes go up and come down: the same recommendations, the same dataset, one commit, nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

import lirdrec
from lirdrec.data import Dataset
from lirdrec.errors import RunFolderError
from lirdrec.hub import dataset_from_hub, from_hub, pull, push, push_to_hub, recommender_from_hub
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_error, files
from .conftest import use_endpoint
from .hub import OWNER


def same_answers(one: Recommender, two: Recommender) -> None:
    users = one.users.series.to_list()
    assert_frame_equal(one.recommend(users, k=3), two.recommend(users, k=3))  # exact: the bits went and came
    assert_frame_equal(one.similar_items([10, 20], k=3), two.similar_items([10, 20], k=3))


def test_a_run_comes_back_with_the_same_recommendations(hub, login, trained, tmp_path):
    assert push(trained, "me/films") == f"{hub.url}/me/films"
    before, after = Recommender.load(trained), Recommender.load(pull("me/films", tmp_path / "got"), verify=True)
    same_answers(before, after)
    assert after.info["metrics"]["test"] == {"recall@5": 0.25, "ndcg@5": 0.125}
    # with its features: it can take a new item without the dataset that it was trained on
    new = {"text": np.full((1, 6), 2.0, np.float32), "image": np.full((1, 4), 3.0, np.float32)}
    for one in (before, after):
        one.add_items(pl.DataFrame({"item": [999], "title": ["New"]}), new)
    same_answers(before, after)
    assert 999 in after.recommend(["u0"], k=11, exclude_seen=False)["item"].to_list()


def test_a_run_without_its_features_still_recommends(hub, login, trained, shelf, tmp_path):
    push(trained, "me/films", features=False)
    got = pull("me/films", tmp_path / "got")
    assert not (got / "features").exists() and str(shelf) not in (got / "features.json").read_text()
    same_answers(Recommender.load(trained), Recommender.load(got))
    with assert_error(RunFolderError, mentions=["films", "features="]):
        Recommender.load(got).add_items([999], {"text": np.ones((1, 6), np.float32)})
    Recommender.load(got, features=shelf).add_items([999], {"text": np.ones((1, 6), np.float32)})


def test_a_dataset_comes_back_byte_for_byte(hub, login, shelf, tmp_path):
    assert push(shelf, "me/films") == f"{hub.url}/datasets/me/films"
    got = pull("me/films", tmp_path / "got")
    sent, came = files(shelf), files(got)
    assert {name: data for name, data in came.items() if name != "manifest.json"} == {
        name: data for name, data in sent.items() if name != "manifest.json"
    }
    assert json.loads(came["manifest.json"]) == json.loads(sent["manifest.json"])
    one, two = Dataset.load(shelf), Dataset.load(got, verify=True)
    for split in ("train", "valid", "test"):
        assert_frame_equal(one.frame(split), two.frame(split))


def test_objects_go_and_come_without_a_folder_of_ones_own(hub, login, trained, films, shelf):
    recommender = Recommender.load(trained)
    push_to_hub(recommender, "me/films")
    assert recommender.folder == trained
    push_to_hub(films, "me/films")
    loaded = recommender_from_hub("me/films")
    same_answers(recommender, loaded)
    assert loaded.folder is None  # so that nothing is ever written into the hub's cache
    dataset = dataset_from_hub("me/films")
    np.testing.assert_array_equal(dataset.features["text"].values, films.features["text"].values)
    assert dataset.folder is None and isinstance(from_hub("datasets/me/films"), Dataset)
    assert isinstance(from_hub("me/films"), Recommender)  # the run goes first where both have the name


def test_a_slim_run(hub, login, trained, tmp_path):
    slim = Recommender.load(trained).slim(tmp_path / "slim")
    push(slim, "me/small", license="cc-by-4.0")
    loaded = recommender_from_hub("me/small")
    assert loaded.is_slim
    push_to_hub(loaded, "me/smaller")
    assert_frame_equal(
        recommender_from_hub("me/smaller").recommend(["u1"], k=3, exclude_seen=False),
        Recommender.load(trained).recommend(["u1"], k=3, exclude_seen=False),
    )


def test_only_the_manifests_files_and_the_card_go_up_in_one_commit(hub, login, trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "checkpoint").mkdir(exist_ok=True)
    (run / "checkpoint" / "last.safetensors").write_bytes(b"x")
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "events").write_bytes(b"x")
    (run / ".lock").write_text("17")
    (run / "notes.txt").write_text("mine")
    before = files(run)
    push(run, "me/films", message="First films", license="cc-by-4.0")
    repo = hub.repos["me/films"]
    listed = json.loads((run / "manifest.json").read_bytes())["files"]
    features = {f"features/{name}{end}" for name in ("text", "image") for end in (".npy", ".mask.npy")}
    assert set(repo.files()) == {*listed, *features, "manifest.json", "README.md", ".gitattributes"}
    assert repo.messages == ["initial commit", "First films"]
    assert files(run) == before


def test_a_second_push_replaces_the_first_and_uploads_only_what_is_new(hub, login, shelf, films, tmp_path):
    push(shelf, "me/films")
    puts = hub.asked("PUT", "")
    hub.repos["datasets/me/films"].files()["LICENSE"] = b"read me"
    fewer = Dataset.load(shelf)
    kept = {"text": fewer.features["text"]}
    lean = Dataset("films", fewer.users, fewer.items, fewer.train, fewer.valid, fewer.test, kept, info=films.info)
    push(lean.save(tmp_path / "lean"), "me/films")
    files = hub.repos["datasets/me/films"].files()
    assert "features/image.npy" not in files and files["LICENSE"] == b"read me"
    assert hub.asked("PUT", "") == puts + 1  # the item table has lost its titles; all else was there
    assert list(Dataset.load(pull("me/films", tmp_path / "got")).features) == ["text"]


def test_pushing_the_same_again_makes_no_commit(hub, login, shelf):
    push(shelf, "me/films")
    push(shelf, "me/films")
    assert len(hub.repos["datasets/me/films"].messages) == 2


def test_a_revision_is_a_branch_of_its_own(hub, login, shelf, trained, tmp_path):
    push(trained, "me/films")
    assert push(trained, "me/films", revision="v2", metrics=False).endswith("/me/films/tree/v2")
    repo = hub.repos["me/films"]
    assert b"model-index" in repo.files()["README.md"] and b"0.25" not in repo.files("v2")["README.md"]
    assert 'revision="v2"' in repo.files("v2")["README.md"].decode()
    first = next(iter(repo.commits.values()))
    assert set(first) == {".gitattributes"}
    same_answers(recommender_from_hub("me/films", revision="v2"), Recommender.load(trained))
    commit = repo.branches["main"]
    assert files(pull("me/films", tmp_path / "a", revision=commit)) == files(pull("me/films", tmp_path / "b"))


def test_what_was_pulled_can_be_pushed_again_without_naming_the_license(hub, login, trained, tmp_path):
    push(trained, "me/films")
    got = pull("me/films", tmp_path / "got")
    push(got, "me/again")
    first, second = hub.repos["me/films"].files(), hub.repos["me/again"].files()
    assert {name: data for name, data in first.items() if name != "README.md"} == {
        name: data for name, data in second.items() if name != "README.md"
    }


def test_a_second_pull_downloads_nothing_and_none_works_offline(hub, login, shelf, tmp_path, monkeypatch):
    from huggingface_hub import constants

    push(shelf, "me/films")
    pull("me/films", tmp_path / "one")
    gets = hub.asked("GET", "^/get/")
    assert gets == 6  # three tables, two matrices and the mask that they share
    pull("me/films", tmp_path / "two")
    assert hub.asked("GET", "^/get/") == gets
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert files(pull("me/films", tmp_path / "three")) == files(tmp_path / "one")
    assert len(hub.requests) == before


def test_the_token_goes_to_the_hub_and_not_to_the_storage(hub, login, shelf, tmp_path):
    push(shelf, "me/films")
    pull("me/films", tmp_path / "got")
    assert any(path.startswith("/put/") for _, path, _ in hub.requests)
    assert any(path.startswith("/get/") for _, path, _ in hub.requests)
    for _, path, token in hub.requests:
        assert token == (not path.startswith(("/put/", "/get/"))), path


def test_an_endpoint_and_a_token_of_ones_own(hub, shelf, tmp_path, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:9")  # nobody is there
    push(shelf, "me/films", endpoint=hub.url, token=OWNER)
    got = pull("me/films", tmp_path / "got", endpoint=hub.url, token=OWNER)
    assert Dataset.load(got, verify=True).name == "films"


def test_git_sees_no_trace_of_the_machine(hub, login, trained, shelf):
    """All that lies on the hub, searched for the folders and the name of this machine."""
    push(trained, "me/films")
    push(shelf, "me/films")
    node = subprocess.run(["uname", "-n"], capture_output=True, text=True).stdout.strip()
    private = [str(shelf.parent), str(trained.parent), str(Path.home()), str(Path.cwd()), *([node] if node else [])]
    for name, repo in hub.repos.items():
        for file, data in repo.files().items():
            assert not [one for one in private if len(one) > 3 and one.encode() in data], (name, file)
    assert json.loads(hub.repos["me/films"].files()["environment.json"])["platform"] in ("Linux", "macOS", "Windows")
    assert lirdrec.__version__ in hub.repos["me/films"].files()["environment.json"].decode()
