"""The client of OpenAI-compatible servers against a local one that misbehaves by script, and text vectors by it."""

from __future__ import annotations

import logging
import pickle
import re
import socket
import threading
import time
import types
from email.utils import formatdate

import numpy as np
import pytest

from lirdrec.errors import ConfigError, TrainingError
from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoders.openai_embeddings import OpenAIEmbeddings
from lirdrec.features.remote.client import (
    OpenAIClient,
    RateLimiter,
    RequestRejected,
    RetriesExhausted,
    TransientError,
)

from ..helpers import assert_error
from .misbehaving_server import Clock, Server, embed

SECRET = "sk-test-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LIRDREC_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def endpoint(waits):
    """`endpoint(server)`; its waits are noted, not made."""

    def make(server: Server | str, **options) -> OpenAIClient:
        url = server if isinstance(server, str) else server.url
        return OpenAIClient(url, **{"sleep": waits.append, "timeout": 600.0, **options})

    return make


def texts(answer):
    return [one["embedding"] for one in answer["data"]]


BODY = {"model": "m", "input": ["a"]}
FAULTS = [500, 502, 503, 408, 409, 425, 429, "cut", "hang up", "garbage", "bad gzip", "deep", "error in 200"]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_asked_again(endpoint, waits, fault):
    with Server([fault, fault]) as server:
        assert endpoint(server).ask("/embeddings", BODY, texts) == [embed("a")]
    assert len(server.asked) == 3 and len(waits) == 2


def test_what_the_reader_does_not_like_is_asked_again(endpoint):
    def read(answer):
        if len(server.asked) < 3:
            raise TransientError("not yet")
        return "now"

    with Server() as server:
        assert endpoint(server).ask("/embeddings", BODY, read) == "now"


@pytest.mark.parametrize("fault", FAULTS)
def test_it_gives_up_after_so_many_attempts_and_says_why(endpoint, waits, fault):
    with Server([fault] * 9) as server, assert_error(RetriesExhausted, mentions=["4 attempts"]) as error:
        endpoint(server, attempts=4).ask("/embeddings", BODY, texts)
    assert len(server.asked) == 4 and len(waits) == 3
    said = str(error.value)
    assert "\n" not in said and len(said) < 400
    if isinstance(fault, int):
        assert f"{fault} " in said and f"status {fault} as ordered" in said  # the words of the server


def test_waits_double_with_a_random_part_and_have_a_limit(endpoint, waits):
    with Server([500] * 20) as server, pytest.raises(RetriesExhausted):
        endpoint(server, attempts=10).ask("/embeddings", BODY, texts)
    for index, wait in enumerate(waits):
        assert min(60, 2**index) <= wait <= min(60, 2**index + 1)
    assert waits[-1] == 60 and len(set(waits[:5])) == 5


def test_retry_after_is_honoured_in_seconds_and_as_a_date(endpoint, waits, monkeypatch):
    monkeypatch.setattr(
        "lirdrec.features.remote.client.time",
        types.SimpleNamespace(time=lambda: 1_700_000_000.0, monotonic=time.monotonic),
    )
    in_a_while = formatdate(1_700_000_000 + 90, usegmt=True)
    script = [(429, {"Retry-After": "7"}), (503, {"Retry-After": in_a_while}), (500, {"Retry-After": "soon"})]
    with Server(script) as server:
        endpoint(server, clock=lambda: 0.0).ask("/embeddings", BODY, texts)
    # each time it waits before it tries again, and its pace holds all others back as long
    assert 7 <= waits[0] <= 8 and waits[1] == 7
    assert 90 <= waits[2] <= 91 and waits[3] == 90
    assert 4 <= waits[4] <= 5  # unreadable: as without


def test_a_server_that_wants_to_be_left_alone_for_an_hour_stops_the_run(endpoint):
    with (
        Server([(429, {"Retry-After": "3600"})]) as server,
        assert_error(TrainingError, mentions=[server.url, "3,600"]),
    ):
        endpoint(server).ask("/embeddings", BODY, texts)
    assert len(server.asked) == 1


STOPS = [
    *((status, f"status {status} as ordered") for status in (401, 402, 403, 404)),
    ((307, {"Location": "https://elsewhere.example/v1"}), "https://elsewhere.example/v1"),
]


@pytest.mark.parametrize(("fault", "fact"), STOPS)
def test_errors_that_no_request_can_fix_stop_at_once_with_one_sentence(endpoint, waits, fault, fact):
    with Server([fault]) as server, assert_error(ConfigError, mentions=[server.url, fact]) as error:
        endpoint(server).ask("/embeddings", BODY, texts)
    assert "\n" not in str(error.value)
    assert len(server.asked) == 1 and not waits


@pytest.mark.parametrize("fault", [400, 413, 422])
def test_what_is_this_requests_fault_is_refused_and_not_asked_again(endpoint, fault):
    with Server([fault]) as server, assert_error(RequestRejected, mentions=[f"status {fault} as ordered"]):
        endpoint(server).ask("/embeddings", BODY, texts)
    assert len(server.asked) == 1


def test_a_403_is_about_one_request_once_others_went_well(endpoint):
    with Server(["ok", 403]) as server:
        one = endpoint(server)
        one.ask("/embeddings", BODY, texts)
        with assert_error(RequestRejected, mentions=["status 403 as ordered"]):
            one.ask("/embeddings", BODY, texts)


def test_no_server_stops_at_once_and_one_that_went_away_after_all_attempts(endpoint, waits):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"  # nobody else's as long as it is bound
        with assert_error(TrainingError, mentions=[nobody]):
            endpoint(nobody).ask("/embeddings", BODY, texts)
    assert not waits
    with Server() as server:
        one = endpoint(server, attempts=3)
        one.ask("/embeddings", BODY, texts)
    one.close()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(server.http.server_address)
        with assert_error(TrainingError, mentions=[server.url]):
            one.ask("/embeddings", BODY, texts)
    assert len(waits) == 2


def test_slow_answers_end_with_the_timeout(endpoint):
    with Server(["hold", "ok"]) as server:
        # on a busy machine an answer that is not held may come too late as well, and is asked for again
        assert endpoint(server, timeout=0.2, attempts=1000).ask("/embeddings", BODY, texts) == [embed("a")]
        assert len(server.asked) >= 2


def test_many_at_once_in_any_order_each_with_its_place(endpoint):
    gate = threading.Barrier(4, timeout=600)

    with Server() as server:
        one = endpoint(server, concurrency=4)

        def work(text):
            if text in "0123":  # the first four must be under way together
                gate.wait()
            return one.ask("/embeddings", {"model": "m", "input": [text]}, texts)[0]

        found = dict(one.each([str(n) for n in range(12)], work))
    assert found == {n: embed(str(n)) for n in range(12)}
    assert server.busiest <= 4


def test_the_first_error_ends_the_work_and_inputs_are_drawn_as_needed(endpoint):
    drawn = []

    def inputs():
        for n in range(1000):
            drawn.append(n)
            yield n

    def work(n):
        if n == 5:
            raise ConfigError("enough")
        return n

    with pytest.raises(ConfigError, match="enough"):
        list(endpoint("http://localhost", concurrency=1).each(inputs(), work))
    assert drawn == [0, 1, 2, 3, 4, 5]


def test_requests_a_minute_are_spread_evenly():
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    pace = RateLimiter(30, sleep, lambda: now[0])
    for _ in range(5):
        pace.wait()
    assert waits == pytest.approx([2.0] * 4) and now[0] == pytest.approx(8.0)
    now[0] += 60  # a rest saves up no more than one request
    pace.wait()
    pace.wait()
    assert waits[4:] == pytest.approx([2.0])
    with assert_error(ConfigError, mentions=["minute", 0]):
        RateLimiter(0, sleep, lambda: 0.0)


def test_the_key_goes_to_the_server_and_nowhere_else(endpoint, caplog):
    leaky = {"error": {"message": f"Incorrect API key provided: {SECRET}"}}
    with caplog.at_level(logging.DEBUG), Server([(500, leaky), (401, leaky)]) as server:
        one = endpoint(server)
        with pytest.raises(ConfigError) as error:
            one.ask("/embeddings", BODY, texts)
    assert [headers["Authorization"] for headers in server.headers] == [f"Bearer {SECRET}"] * 2
    assert "[key]" in str(error.value)
    for text in (str(error.value), repr(error.value), repr(one), one.name, caplog.text, repr(one.__reduce__())):
        assert SECRET not in text
    assert SECRET.encode() not in pickle.dumps(OpenAIClient(server.url))


def test_openais_key_is_not_sent_in_clear_to_other_machines(monkeypatch):
    monkeypatch.delenv("LIRDREC_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    sent = {url: OpenAIClient(url)._key for url in ("http://box:8000", "https://box", "http://localhost:8000")}
    assert sent == {"http://box:8000": None, "https://box": SECRET, "http://localhost:8000": SECRET}


def test_an_endpoint_can_be_pickled_and_reads_the_key_where_it_arrives(monkeypatch):
    content = pickle.dumps(OpenAIClient("http://localhost:1/v1", concurrency=3, attempts=2))
    monkeypatch.setenv("LIRDREC_API_KEY", "another")
    there = pickle.loads(content)
    assert (there.name, there.concurrency, there.attempts, there._key) == ("http://localhost:1/v1", 3, 2, "another")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        (" https://host/v1/chat/completions ", "https://host/v1"),
        ("https://user:word@host/openai/v1?version=3#x", "https://host/openai/v1"),
    ],
)
def test_addresses_in_all_forms(url, name):
    assert OpenAIClient(url).name == name


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_address(url):
    with assert_error(ConfigError, mentions=[f"'{url}'"]):
        OpenAIClient(url)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"attempts": 0}, {"timeout": 0}, {"timeout": float("nan")}])
def test_numbers_out_of_range(options):
    ((name, value),) = options.items()
    with assert_error(ConfigError, mentions=[name, value]):
        OpenAIClient("http://localhost", **options)


class TestTexts:
    def test_vectors_are_those_of_the_texts_in_their_order(self, endpoint):
        words = [f"text {n:02} " + "x" * n for n in range(23)]
        with Server([500, "cut", "ok", "too few", "not finite", "ragged", 429]) as server:
            encoder = OpenAIEmbeddings(endpoint(server, concurrency=3), "m", prompt="query: ", texts=4)
            rows = encode_rows(encoder, words, encoder.batch_size)
        assert not rows.problems and encoder.dims == 3
        assert np.array_equal(rows.vectors, np.array([embed("query: " + word) for word in words], dtype=np.float32))
        assert all(len(body["input"]) <= 4 for body in server.bodies)

    def test_one_text_that_is_refused_is_one_problem(self, endpoint):
        def sticky(body):
            return 400 if "bad" in body["input"] else None

        with Server(sticky=sticky) as server:
            encoder = OpenAIEmbeddings(endpoint(server), "m", texts=8)
            rows = encode_rows(encoder, ["a", "bad", "b"], 8)
        assert list(rows.problems) == [1] and "status 400 as ordered" in rows.problems[1]
        assert np.array_equal(rows.vectors[[0, 2]], np.array([embed("a"), embed("b")], dtype=np.float32))
        assert not rows.vectors[1].any()

    def test_a_model_that_refuses_everything_stops_the_run(self, endpoint):
        with Server(sticky=lambda body: 400) as server:
            with assert_error(ConfigError, mentions=[server.url, "some-model", "status 400 as ordered"]):
                OpenAIEmbeddings(endpoint(server), "some-model").dims  # noqa: B018
            before = len(server.asked)
            with assert_error(ConfigError, mentions=[server.url, "some-model", "status 400 as ordered"]):
                encode_rows(OpenAIEmbeddings(endpoint(server, concurrency=1), "some-model", dims=3), ["t"] * 60, 60)
        assert len(server.asked) - before == 5  # all sixty, then four alone

    def test_dims_are_asked_for_and_checked(self, endpoint):
        with Server() as server:
            assert OpenAIEmbeddings(endpoint(server), "m").dims == 3
            assert "dimensions" not in server.bodies[0]
            encoder = OpenAIEmbeddings(endpoint(server, attempts=2), "some-model", dims=2)
            with assert_error(TrainingError, mentions=[server.url, "some-model"]) as error:
                encode_rows(encoder, ["a"], 1)
        assert server.bodies[1]["dimensions"] == 2
        numbers = re.findall(r"\d+", str(error.value).replace(f"{server.url}/v1", ""))
        assert sorted(numbers) == ["2", "2", "3"]  # columns asked for, attempts, columns that came

    @pytest.mark.parametrize(("fault", "is_finite"), [("not finite", False), ("scalar", True)])
    def test_only_numbers_that_are_not_finite_are_called_so(self, endpoint, fault, is_finite):
        with Server(sticky=lambda body: fault) as server, assert_error(TrainingError, mentions=[server.url]) as error:
            encode_rows(OpenAIEmbeddings(endpoint(server, attempts=2), "m", dims=3), ["a"], 1)
        assert ("finite" in str(error.value)) != is_finite

    def test_the_time_of_a_request_is_without_pauses_and_failed_attempts(self, endpoint):
        clock = Clock(2)
        with Server([500], sticky=clock.answer) as server:
            client = endpoint(server, requests_per_minute=1, sleep=clock.wait, clock=clock.time)
            timing = OpenAIEmbeddings(client, "m").measure(["abc"])
        assert clock.now > 60 and (timing.letters, timing.tokens, timing.seconds) == (3, 6, 2.0)

    def test_its_identity_knows_what_decides_and_no_address(self, endpoint):
        one = OpenAIEmbeddings(endpoint("http://here:1"), "m", 8, "q")
        other = OpenAIEmbeddings(endpoint("http://there:2", concurrency=2), "m", 8, "q", texts=3)
        assert one.identity == other.identity
        assert one.identity != OpenAIEmbeddings(endpoint("http://here:1"), "m", 8, "p").identity
        assert pickle.loads(pickle.dumps(OpenAIEmbeddings(OpenAIClient("http://a"), "m"))).identity["model"] == "m"
