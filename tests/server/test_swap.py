"""A newer run without a pause: by the file or link that names it, for all servers that follow it."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path

import pytest

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.config import ServerConfig
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.run_pointer import RunPointer, allowed_run

from ..helpers import assert_error
from .runs import asked, vectors


@pytest.fixture(scope="session")
def newer(shop, tmp_path_factory) -> Recommender:
    """The same shop's run with the users' tastes turned by one kind; it lies nowhere yet."""
    made = Recommender.load(shop)
    made.scorer.user_vectors.copy_(made.scorer.user_vectors.roll(-1, 0))
    return made


@pytest.fixture
def runs(recommender, newer, tmp_path) -> Path:
    """A folder of two runs, and the file `current` that names the first."""
    folder = tmp_path / "runs"
    recommender.save(folder / "first")
    newer.save(folder / "second")
    (folder / "current").write_text("first\n")
    return folder


def point(runs: Path, content: str) -> None:
    """Write `current` in one step: who follows it must not see it empty."""
    (runs / "new").write_text(content)
    os.replace(runs / "new", runs / "current")


def test_another_run_is_served_from_the_next_call_on_and_after_a_restart(start, runs, recommender, newer):
    options = {"run": str(runs / "current"), "runs": str(runs)}
    client = start(**options)
    assert asked(client, user=0, k=9) == recommender.recommend(0, 9)["item"].to_list()
    assert client.get("/model").json()["run"] == "first"
    assert client.post("/model", json={"run": "second"}).json()["run"] == "second"
    assert asked(client, user=0, k=9) == newer.recommend(0, 9)["item"].to_list()
    assert (runs / "current").read_text() == "second\n"
    start.stop(client)
    assert start(**options).get("/model").json()["run"] == "second"


def test_a_link_is_turned_in_one_step(start, runs):
    link = runs / "live"
    link.symlink_to("first")
    client = start(run=str(link), runs=str(runs))
    assert client.post("/model", json={"run": "second"}).status_code == 200
    assert link.is_symlink() and link.resolve() == (runs / "second").resolve()
    assert sorted(one.name for one in runs.iterdir()) == ["current", "first", "live", "second"]


def test_what_was_added_stays_when_the_run_changes(start, runs, recommender):
    client = start(run=str(runs / "current"), runs=str(runs))
    client.post("/items", json={"items": [{"id": 900, "features": vectors(recommender, 201)}]})
    client.delete("/items/202")
    client.post("/events", json={"events": [{"user": 1, "item": 203}]})
    client.post("/model", json={"run": "second"})
    everything = asked(client, user=1, k=60, exclude_seen=False)
    assert 900 in everything and 202 not in everything
    assert 203 not in asked(client, user=1, k=60)
    assert client.get("/model").json()["change"] == 3


def test_no_request_is_dropped_while_runs_change(start, runs, recommender, newer):
    client = start(run=str(runs / "current"), runs=str(runs))
    allowed = [tuple(one.recommend(0, 9)["item"].to_list()) for one in (recommender, newer)]
    answers, done, news = [], threading.Event(), queue.SimpleQueue()

    def ask():
        while not done.is_set():
            answers.append(client.post("/recommend", json={"user": 0, "k": 9}))
            news.put(len(answers))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for one in askers:
        one.start()
    for number in range(6):
        assert client.post("/model", json={"run": "second" if number % 2 == 0 else "first"}).status_code == 200
        before = len(answers)
        while news.get() < before + 7:  # of seven more, one at least was asked of this run
            pass
    done.set()
    for one in askers:
        one.join()
    assert {one.status_code for one in answers} == {200}
    assert {tuple(item["item"] for item in one.json()["items"]) for one in answers} == set(allowed)


def test_an_index_is_built_before_the_first_request_needs_it(start, runs, newer, monkeypatch):
    pytest.importorskip("faiss", reason="faiss not found: pip install lirdrec[ann]")
    builders = []
    built = ApproximateIndex._build
    monkeypatch.setattr(
        ApproximateIndex,
        "_build",
        lambda self, vectors: (builders.append(threading.current_thread().name), built(self, vectors))[1],
    )
    client = start(run=str(runs / "current"), runs=str(runs), index="hnsw")
    assert len(builders) == 1
    asked(client, user=0, k=9)
    assert client.post("/model", json={"run": "second"}).status_code == 200
    assert len(builders) == 2
    assert asked(client, user=0, k=9) == newer.recommend(0, 9)["item"].to_list()
    assert len(builders) == 2 and "ranking" not in builders


def test_every_server_that_follows_the_file_changes(start, runs, newer):
    options = {"run": str(runs / "current"), "runs": str(runs), "watch_seconds": 0.02}
    one, other = start(**options), start(**options)
    one.post("/model", json={"run": "second"})
    while other.get("/model").json()["run"] != "second":
        pass
    assert asked(other, user=0, k=9) == newer.recommend(0, 9)["item"].to_list()
    point(runs, "first")
    for server in (one, other):
        while server.get("/model").json()["run"] != "first":
            pass


def test_a_run_that_was_trained_again_in_its_place_is_noticed(start, runs, newer):
    client = start(run=str(runs / "first"), watch=True, watch_seconds=0.02)
    wanted = newer.recommend(0, 9)["item"].to_list()
    assert asked(client, user=0, k=9) != wanted
    Recommender.load(runs / "second").save(runs / "first", overwrite=True)
    while asked(client, user=0, k=9) != wanted:
        pass


def test_a_run_that_cannot_be_loaded_leaves_the_old_one(start, runs, recommender, caplog):
    client = start(run=str(runs / "current"), runs=str(runs), watch_seconds=0.02)
    (runs / "second" / "vectors.safetensors").write_bytes(b"damaged")
    answer = client.post("/model", json={"run": "second"})
    assert answer.status_code == 409 and "vectors.safetensors" in answer.json()["detail"]
    assert (runs / "current").read_text() == "first\n"

    def kept() -> list[str]:
        """What was logged where the run stayed as it is."""
        found = [one for one in caplog.records if one.name == "lirdrec.server.services"]
        return [one.getMessage() for one in found if one.levelname == "ERROR"]

    before = len(kept())
    point(runs, "second")
    while len(kept()) == before:
        client.get("/health")
    assert asked(client, user=0, k=9) == recommender.recommend(0, 9)["item"].to_list()
    for _ in range(20):
        client.get("/ready")
    assert len(kept()) == before + 1 and "vectors.safetensors" in kept()[-1], "logged once, not every second"
    point(runs, "")
    while len(kept()) == before + 1:
        client.get("/health")
    for _ in range(20):
        client.get("/ready")
    assert len(kept()) == before + 2 and str(runs / "current") in kept()[-1]
    (runs / "current").write_text("first")
    assert asked(client, user=0, k=9) == recommender.recommend(0, 9)["item"].to_list()


def test_where_the_file_cannot_be_written_the_old_run_stays(start, runs, recommender, monkeypatch):
    def refuse(self, run):
        raise RunFolderError("current: cannot be written")

    client = start(run=str(runs / "current"), runs=str(runs))
    monkeypatch.setattr(RunPointer, "point", refuse)
    assert client.post("/model", json={"run": "second"}).status_code == 409
    assert client.get("/model").json()["run"] == "first"
    assert asked(client, user=0, k=9) == recommender.recommend(0, 9)["item"].to_list()


OUTSIDE = [
    "..",
    ".",
    "../runs",
    "../shop/run",
    "/",
    "/etc",
    "third",
    "current",
    "first/../..",
    "a\0b",
    "x" * 5000,
    "lead",
]


@pytest.mark.parametrize("name", [*OUTSIDE, "x" * 1000, "x" * 5000])
def test_only_runs_below_the_folder_are_allowed(start, runs, shop, name):
    (runs / "lead").symlink_to(shop)
    client = start(run=str(runs / "current"), runs=str(runs))
    answer = client.post("/model", json={"run": name})
    assert answer.status_code in (409, 422), answer.text
    assert str(runs) not in answer.text and client.get("/model").json()["run"] == "first"
    if answer.status_code == 409:
        with pytest.raises(RunFolderError):
            allowed_run(name, runs)


def test_a_plain_folder_cannot_lead_elsewhere(runs):
    with assert_error(ConfigError, mentions=["echo first >"]):
        ServerConfig(str(runs / "first"), runs=str(runs))
    with assert_error(ConfigError, mentions=["first"]):
        RunPointer(runs / "first").point(runs / "second")


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", b"\xff\xfe", b"a\0"])
def test_a_file_that_names_nothing(tmp_path, content):
    path = tmp_path / "current"
    path.write_bytes(content)
    with assert_error(RunFolderError, mentions=[path]):
        RunPointer(path).target()
