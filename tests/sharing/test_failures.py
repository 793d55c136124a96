"""Whatever the hub or the way to it does: one sentence, no token in it, nothing half-written, and it can go on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lirdrec.data import Dataset
from lirdrec.sharing import HubError, pull, push

from .conftest import use_endpoint
from .hub import OWNER, READER

WRONG = "hf_wrongwrongwrongwrongwrong"


def says(act: Callable[[], object], sentence: str) -> None:
    with pytest.raises(HubError, match=re.escape(sentence)) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text and caught.value.exit_code == 1
    assert not any(secret in text for secret in (OWNER, READER, WRONG, "signature"))
    assert caught.value.__suppress_context__  # nor does a traceback show the client's own words


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (None, "me/films: there is no such repository, or it is private; log in with `hf auth login`"),
        (WRONG, "the hub does not accept the token; log in with `hf auth login`"),
    ],
)
def test_a_private_repository_needs_a_token_that_is_known(hub, shelf, tmp_path, token, sentence):
    push(shelf, "me/films", token=OWNER)
    says(lambda: pull("me/films", tmp_path / "got", token=token), sentence)
    assert not list(tmp_path.iterdir())
    pull("me/films", tmp_path / "got", token=READER)


def test_a_public_one_needs_none(hub, shelf, tmp_path):
    push(shelf, "me/films", token=OWNER, private=False)
    assert Dataset.load(pull("me/films", tmp_path / "got")).name == "films"


@pytest.mark.parametrize(
    ("token", "name", "sentence"),
    [
        (None, "me/films", "there is no such repository, or it is private; log in with `hf auth login`"),
        (WRONG, "me/films", "the hub does not accept the token"),
        (READER, "me/films", "the token does not allow this; take one with the right to write to it, or another name"),
        (OWNER, "you/films", "the token does not allow this"),
    ],
)
def test_only_the_owner_pushes(hub, shelf, token, name, sentence):
    says(lambda: push(shelf, name, token=token), sentence)
    assert not hub.repos


def test_a_reader_does_not_change_what_is_there(hub, shelf):
    push(shelf, "me/films", token=OWNER)
    says(lambda: push(shelf, "me/films", token=READER, licence="other"), "the token does not allow this")


def test_what_is_not_there(hub, login, shelf, tmp_path):
    says(lambda: pull("me/nothing", tmp_path / "got"), "me/nothing: there is no such repository, or the token")
    push(shelf, "me/films")
    says(lambda: pull("datasets/me/films", tmp_path / "got", revision="v9"), "datasets/me/films has no revision 'v9'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "is gated: ask for access on its page"),
        (
            {"status": 429, "headers": {"Retry-After": "40"}},
            "the hub asks for fewer requests; do it again in 40 seconds",
        ),
        ({"status": 503}, "the hub is in trouble itself (status 503); do it again later"),
        ({"status": 413, "headers": {"X-Error-Message": "Too big"}}, "refused this (status 413: Too big)"),
        ({"status": 200}, "gave an answer that was not understood"),
        ({"cut": 0}, "the connection to the hub was cut or answered too slowly; do it again"),
    ],
)
def test_refusals_while_pushing(hub, login, shelf, how, sentence):
    hub.fail("POST", "/commit/", times=9, **how)
    says(lambda: push(shelf, "me/films"), sentence)
    assert list(hub.repos["datasets/me/films"].files()) == [".gitattributes"]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "is gated: ask for access on its page"),
        ({"status": 429}, "the hub asks for fewer requests; do it again in a few minutes"),
        ({"status": 500}, "the hub is in trouble itself (status 500)"),
    ],
)
def test_refusals_while_pulling(hub, login, shelf, tmp_path, how, sentence):
    push(shelf, "me/films")
    hub.fail("GET", "/revision/", times=99, **how)
    says(lambda: pull("datasets/me/films", tmp_path / "got"), sentence)
    assert not list(tmp_path.iterdir())


def test_nobody_answers(hub, login, shelf, tmp_path, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    for act in (lambda: push(shelf, "me/films"), lambda: pull("me/films", tmp_path / "got")):
        says(act, "the hub cannot be reached; check the connection and the address")


def test_offline_without_a_copy(hub, login, shelf, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sentence = "the client is set to work offline (HF_HUB_OFFLINE), and this is not in its cache"
    says(lambda: pull("me/films", tmp_path / "got"), sentence)
    says(lambda: push(shelf, "me/films"), sentence)


def test_a_hub_that_is_down_is_replaced_by_the_cache(hub, login, shelf, tmp_path):
    push(shelf, "me/films")
    pull("me/films", tmp_path / "one")
    hub.fail("GET", "^/api/", status=503, times=999)
    hub.fail("HEAD", "", status=503, times=999)
    pull("datasets/me/films", tmp_path / "two")


def test_a_download_that_is_cut_goes_on_where_it_was(hub, login, shelf, tmp_path, monkeypatch):
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
    says(lambda: pull("me/films", tmp_path / "got"), "the connection to the hub was cut")
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
    says(lambda: push(shelf, "me/films"), "the hub is in trouble itself (status 500)")
    puts = hub.asked("PUT", "")
    push(shelf, "me/films")
    assert puts == 7 and hub.asked("PUT", "") == puts


def test_a_full_disk_leaves_nothing(hub, login, shelf, tmp_path, monkeypatch):
    from lirdrec.errors import RunFolderError

    push(shelf, "me/films")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(RunFolderError, match="the disk is full; nothing was written"):
        pull("me/films", tmp_path / "got")
    assert not list(tmp_path.iterdir())


def stored(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
