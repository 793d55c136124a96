"""Whatever the hub or the connection does: one sentence, no token in it, nothing half-written, and it can resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from lirdrec.data import Dataset
from lirdrec.hub import HubError, pull, push

from ..helpers import assert_error
from .conftest import use_endpoint
from .hub import OWNER, READER

WRONG = "hf_wrongwrongwrongwrongwrong"


def says(act: Callable[[], object], *facts: object) -> None:
    with assert_error(HubError, mentions=facts) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text and caught.value.exit_code == 1
    assert not any(secret in text for secret in (OWNER, READER, WRONG, "signature"))
    assert caught.value.__suppress_context__  # nor does a traceback show the client's own words


@pytest.mark.parametrize(
    ("token", "facts"),
    [
        (None, ["me/films", "hf auth login"]),
        (WRONG, ["token", "hf auth login"]),
    ],
)
def test_a_private_repository_needs_a_token_that_is_known(hub, shelf, tmp_path, token, facts):
    push(shelf, "me/films", token=OWNER)
    says(lambda: pull("me/films", tmp_path / "got", token=token), *facts)
    assert not list(tmp_path.iterdir())
    pull("me/films", tmp_path / "got", token=READER)


def test_a_public_one_needs_none(hub, shelf, tmp_path):
    push(shelf, "me/films", token=OWNER, private=False)
    assert Dataset.load(pull("me/films", tmp_path / "got")).name == "films"


@pytest.mark.parametrize(
    ("token", "name", "facts"),
    [
        (None, "me/films", ["datasets/me/films", "hf auth login"]),
        (WRONG, "me/films", ["token", "hf auth login"]),
        (READER, "me/films", ["datasets/me/films", "token"]),
        (OWNER, "you/films", ["datasets/you/films", "token"]),
    ],
)
def test_only_the_owner_pushes(hub, shelf, token, name, facts):
    says(lambda: push(shelf, name, token=token), *facts)
    assert not hub.repos


def test_a_reader_does_not_change_what_is_there(hub, shelf):
    push(shelf, "me/films", token=OWNER)
    says(lambda: push(shelf, "me/films", token=READER, license="other"), "datasets/me/films", "token")


def test_what_is_not_there(hub, login, shelf, tmp_path):
    says(lambda: pull("me/nothing", tmp_path / "got"), "me/nothing")
    push(shelf, "me/films")
    says(lambda: pull("datasets/me/films", tmp_path / "got", revision="v9"), "datasets/me/films", "'v9'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, ["datasets/me/films", "hf auth login"]),
        ({"status": 429, "headers": {"Retry-After": "40"}}, [40]),
        ({"status": 503}, [503]),
        ({"status": 413, "headers": {"X-Error-Message": "Too big"}}, ["datasets/me/films", 413, "Too big"]),
        ({"status": 200}, ["datasets/me/films"]),
        ({"cut": 0}, []),
    ],
)
def test_refusals_while_pushing(hub, login, shelf, how, facts):
    hub.fail("POST", "/commit/", times=99, **how)
    says(lambda: push(shelf, "me/films"), *facts, "created", "repository datasets/me/films")
    assert list(hub.repos["datasets/me/films"].files()) == [".gitattributes"]
    with assert_error(HubError) as caught:  # the repository is not of this push
        push(shelf, "me/films")
    assert "created" not in str(caught.value)


def test_a_failed_push_names_the_branch_that_it_has_created(hub, login, shelf):
    push(shelf, "me/films")
    hub.fail("POST", "/commit/", status=503, times=99)
    says(lambda: push(shelf, "me/films", revision="v2"), 503, "created", "branch 'v2' of datasets/me/films")
    with assert_error(HubError, mentions=[503]) as caught:
        push(shelf, "me/films", revision="v2")
    assert "created" not in str(caught.value)
    hub.faults.clear()
    assert push(shelf, "me/films", revision="v2").endswith("/tree/v2")


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, ["datasets/me/films", "hf auth login"]),
        ({"status": 429}, []),
        ({"status": 500}, [500]),
    ],
)
def test_refusals_while_pulling(hub, login, shelf, tmp_path, how, facts):
    push(shelf, "me/films")
    hub.fail("GET", "/revision/", times=99, **how)
    says(lambda: pull("datasets/me/films", tmp_path / "got"), *facts)
    assert not list(tmp_path.iterdir())


def test_no_answer(hub, login, shelf, tmp_path, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    for act in (lambda: push(shelf, "me/films"), lambda: pull("me/films", tmp_path / "got")):
        says(act)


def test_offline_without_a_copy(hub, login, shelf, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    says(lambda: pull("me/films", tmp_path / "got"), "me/films", "HF_HUB_OFFLINE")
    says(lambda: push(shelf, "me/films"), "me/films", "HF_HUB_OFFLINE")


def test_a_hub_that_is_down_is_replaced_by_the_cache(hub, login, shelf, tmp_path):
    push(shelf, "me/films")
    pull("me/films", tmp_path / "one")
    hub.fail("GET", "^/api/", status=503, times=999)
    hub.fail("HEAD", "", status=503, times=999)
    pull("datasets/me/films", tmp_path / "two")


def test_an_interrupted_download_resumes_where_it_was(hub, login, shelf, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16)  # what is kept of a cut download is counted in these
    push(shelf, "me/films")
    whole = (shelf / "features" / "text.npy").read_bytes()
    assert len(whole) == 368
    hub.fail("GET", stored(shelf / "features" / "text.npy"), cut=180, times=2)
    pull("me/films", tmp_path / "got")
    assert (tmp_path / "got" / "features" / "text.npy").read_bytes() == whole
    assert hub.ranges == [176, 352]  # the rest was asked for, not the whole


def test_a_pull_that_was_given_up_does_not_download_again_what_had_arrived(hub, login, shelf, tmp_path):
    push(shelf, "me/films")
    hub.fail("GET", stored(shelf / "features" / "text.npy"), cut=0, times=99)
    says(lambda: pull("me/films", tmp_path / "got"))
    assert not list(tmp_path.iterdir())
    hub.faults.clear()
    before = hub.asked("GET", "^/get/")
    pull("me/films", tmp_path / "got")
    assert Dataset.load(tmp_path / "got", verify=True).name == "films"
    assert hub.asked("GET", "^/get/") - before < 6


def test_an_upload_that_is_cut_is_tried_again(hub, login, shelf, tmp_path):
    hub.fail("PUT", "^/put/", cut=100, times=2)
    push(shelf, "me/films")
    assert Dataset.load(pull("me/films", tmp_path / "got"), verify=True).name == "films"


def test_a_push_that_was_given_up_does_not_upload_again_what_had_arrived(hub, login, shelf):
    hub.fail("POST", "/commit/", status=500)
    says(lambda: push(shelf, "me/films"), 500)
    puts = hub.asked("PUT", "")
    push(shelf, "me/films")
    assert puts == 7 and hub.asked("PUT", "") == puts


def test_a_full_disk_leaves_nothing(hub, login, shelf, tmp_path, monkeypatch):
    from lirdrec.errors import RunFolderError

    push(shelf, "me/films")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with assert_error(RunFolderError, mentions=[tmp_path / "got"]):
        pull("me/films", tmp_path / "got")
    assert not list(tmp_path.iterdir())


def stored(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
