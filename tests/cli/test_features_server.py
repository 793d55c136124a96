"""`lirdrec features --text endpoint:…`: what is shown before texts are sent to a server, and how fast they are sent."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.features.dataset_writer import set_item_columns
from lirdrec.features.remote.client import OpenAIClient

from ..features.misbehaving_server import Server, embed
from ..helpers import assert_refused
from .conftest import files

N = 150  # three requests of at most 64


@pytest.fixture
def data(tmp_path) -> Path:
    """Things with titles of ten letters and captions of nineteen."""
    titles = [f"thing {n:04}" for n in range(N)]
    table = pl.DataFrame({"item": range(N), "title": titles, "caption": [f"a box of {one}" for one in titles]})
    pairs = pl.DataFrame({"user": [n % 2 for n in range(N)], "item": range(N)})
    return Dataset.from_frames(pairs, items=table, split="none").save(tmp_path / "things")


def words(text: str) -> str:
    return " ".join(text.split())


def test_without_a_terminal_no_text_is_sent_unless_told(lirdrec, data):
    before = files(data)
    with Server() as server:
        call = ["features", "things", "--text", f"endpoint:{server.url}#m", "--price-input", 100]
        done = lirdrec(*call)
        assert_refused(done, [150, f"{server.url}/v1", "--yes"])
        assert not server.asked and files(data) == before
        assert done.stderr.strip().splitlines()[-1].startswith("lirdrec: ")
        # 1,500 letters, four of a token
        assert "tokens read 375 2 " in words(done.stderr)
        assert "cost 0.04 " in words(done.stderr) and "tokens written" not in done.stderr
        done = lirdrec(*call, "--yes", "--no-probe")
        assert done.exit_code == 0, done.stderr
        # of one text for the number of columns, then three
        assert [len(body["input"]) for body in server.bodies[:1]] == [1] and len(server.bodies) == 4
    found = Dataset.load(data, verify=True).features["text"].values
    assert np.allclose(found, [embed(f"thing {n:04}") for n in range(N)])


def test_a_person_sees_measured_figures_of_all_matrices_and_decides(lirdrec, data, person):
    with Server() as server:
        model = f"endpoint:{server.url}#m"
        call = ["features", "things", "--text", model, "--caption", model, "--price-input", 1000, "--prefix", "a: "]
        person(False, False)
        done = lirdrec(*call)
        assert done.exit_code == 0 and not server.asked and not (data / "work").exists()
        assert len(person.asked) == 2 and "64" in person.asked[0]
        person(True, False)
        done = lirdrec(*call)
        assert [len(body["input"]) for body in server.bodies] == [64] and not (data / "work").exists()
        # prompts included, 13 letters and 22, two tokens each
        said = words(done.stderr)
        assert re.search(r"texts 300 tokens read 10,500 35 \D* 64 ", said) and "cost 10.50" in said
        assert " 8 " in said  # requests at once
        person(False, True)
        done = lirdrec(*call)
        assert done.exit_code == 0, done.stderr
        sent = [text for body in server.bodies[1:] for text in body["input"]]
        assert len(sent) == len(set(sent)) == 300 + 1  # and one for the number of columns
        person()
        assert lirdrec(*call).exit_code == 0 and not person.asked  # nothing to do
        set_item_columns(data, pl.DataFrame({"item": [3, 5], "title": ["new", "newer"]}))
        person(True)
        done = lirdrec(*call)
        assert len(person.asked) == 1 and "texts 2 " in words(done.stderr)
    found = Dataset.load(data, verify=True).features["text"].values
    assert np.allclose(found[[2, 3]], [embed("a: thing 0002"), embed("a: new")])


def test_the_server_is_asked_as_fast_as_told(lirdrec, data, monkeypatch):
    waits: list[float] = []
    monkeypatch.setitem(OpenAIClient.__init__.__kwdefaults__, "sleep", waits.append)
    monkeypatch.setitem(OpenAIClient.__init__.__kwdefaults__, "clock", lambda: 0.0)
    with Server() as server:
        call = ["features", "things", "--text", f"endpoint:{server.url}#m", "--yes", "--no-probe"]
        done = lirdrec(*call, "--concurrency", 1, "--requests-per-minute", 6)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"30 s 1 ", words(done.stderr))
    assert waits == pytest.approx([10.0, 20.0, 30.0]) and server.busiest == 1
    reported = Dataset.load(data).info["encoders"]["text"]
    assert reported["origin"]["options"] == {}  # how fast is nobody's business later


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--text", "hashed", "--concurrency", "3"], ["--concurrency", "hashed"]),
        (["--text", "hashed", "--price-input", "3"], ["--price-input"]),
        (["--text", "endpoint:http://localhost#m", "--concurrency", "0"], ["concurrency", 0, 1]),
        (["--text", "endpoint:localhost#m"], ["localhost", "http://"]),
        (
            ["--text", "endpoint:http://localhost#m", "--requests-per-minute", "3", "--ray-address", "local"],
            ["--requests-per-minute", "--ray-address"],
        ),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_sent(lirdrec, data, arguments, facts):
    before = files(data)
    done = lirdrec("features", "things", *arguments)
    assert_refused(done, facts)
    assert len(done.stderr.splitlines()) == 1 and files(data) == before
