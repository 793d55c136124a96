"""No answer holds a path of the machine; the log has the whole sentence, with the request's id."""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path

import pytest

from lirdrec.errors import CapabilityError, ConfigError, DataError, LirdrecError, RunFolderError, UnknownIdError
from lirdrec.server.http.errors import Problem, hide_paths, redact
from lirdrec.server.http.middleware import JsonFormatter
from lirdrec.server.store import ConflictError, StoreError

from .runs import Servers, trained, vectors


@pytest.fixture(scope="module")
def odd_shop(tmp_path_factory) -> Path:
    """A shop in a folder whose name no pattern of paths would recognize."""
    folder = tmp_path_factory.mktemp("shop") / "My Shop, (new)"
    folder.mkdir()
    return trained(folder)


@pytest.fixture
def lines():
    """The log's lines as JSON, as a server writes them."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("lirdrec.server")
    logger.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)


def test_an_error_of_the_dataset_is_reported_without_its_folder(odd_shop, tmp_path, lines, recommender):
    folder = shutil.copytree(odd_shop.parent, tmp_path / odd_shop.parent.name)
    servers = Servers(folder / "run", f"sqlite:///{tmp_path / 'live.sqlite'}")
    client = servers()
    try:
        features = client.app.state.services.live.snapshot.recommender.features
        features.missing, features.trained = f"{folder / 'data' / 'features' / 'text.npy'}: is damaged", None
        client.app.state.services.live.snapshot.recommender._model = None
        item = {"id": 900, "features": vectors(recommender, 101)}
        answer = client.post("/items", json={"items": [item]}, headers={"X-Request-Id": "request-17"})
        assert (answer.status_code, answer.json()["detail"]) == (409, "text.npy: is damaged")
        assert str(tmp_path) not in answer.text and "My Shop" not in answer.text
        # those without a request are of the thread that loads the encoders
        (line,) = [one for one in lines() if str(folder) in one["message"] and "request" in one]
        assert line["request"] == "request-17" and str(folder / "data" / "features" / "text.npy") in line["message"]
    finally:
        servers.stop_all()


@pytest.mark.parametrize("kind", [RunFolderError, StoreError, CapabilityError, DataError, ConfigError, LirdrecError])
@pytest.mark.parametrize(
    ("sentence", "left"),
    [
        ("/srv/shop/run/vectors.safetensors: is damaged", "vectors.safetensors: is damaged"),
        ("the store sqlite:////srv/shop/a.sqlite cannot be used", "the store sqlite:a.sqlite cannot be used"),
        ("the store postgresql+psycopg://me@10.0.0.7/shop is lost", "the store postgresql+psycopg:shop is lost"),
        ("cannot read '/home/me/x/y.json' (no such file)", "cannot read 'y.json' (no such file)"),
        ("look at ~/secret/folder/ first", "look at a folder first"),
        (r"C:\Users\me\run\config.json: is damaged", "config.json: is damaged"),
        (
            "its figures are at /columns, 3/4 of all, and/or more",
            "its figures are at /columns, 3/4 of all, and/or more",
        ),
    ],
)
def test_only_the_last_part_of_a_path_is_answered(kind, sentence, left):
    assert Problem.from_error(kind(sentence)).value()["detail"] == left


@pytest.mark.parametrize("kind", [UnknownIdError, ConflictError])
def test_ids_that_look_like_paths_stay(kind):
    assert Problem.from_error(kind("no item has the id '/films/old/1'")).detail == "no item has the id '/films/old/1'"


def test_folders_that_are_known_go_whatever_their_letters(tmp_path):
    folder = tmp_path / "a b, (c): d'e"
    hide_paths(folder / "run")
    assert redact(f"{folder / 'run'}: no such run folder") == "run: no such run folder"
    assert redact(f"{folder / 'other'}: no such run folder") == "other: no such run folder"


def test_a_server_that_cannot_start_says_so_without_the_path(tmp_path):
    servers = Servers(tmp_path / "no such run", f"sqlite:///{tmp_path / 'live.sqlite'}")
    client = servers(ready=False)
    try:
        while (answer := client.get("/health")).status_code == 200:
            pass
        for answer in (client.get("/health"), client.get("/ready"), client.get("/model")):
            assert answer.status_code == 503
            # the last part of the path is not hidden
            assert "no such run" in answer.text and str(tmp_path) not in answer.text
    finally:
        servers.stop_all()
