"""A body may hold so much and no more: what it costs to refuse one does not grow with it."""

from __future__ import annotations

import asyncio
import json
import sys
import threading

import pytest
from pydantic import ValidationError

from lirdrec.server.http.errors import MAX_FAULTS, MOST_FAULTS, Problem
from lirdrec.server.request_models import (
    MAX_COLUMNS,
    MAX_EVENTS,
    MAX_ITEMS,
    BatchRequest,
    Body,
    EventsRequest,
    ItemsRequest,
    RecommendRequest,
    SwapRequest,
    release_gil,
)
from lirdrec.server.routes.common import MAX_DIGITS, OPENINGS, BodyCounter

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        ("/recommend", b'{"user":1,' + b",".join(b'"%d":1' % index for index in range(1200)) + b"}", 1200),
        ("/recommend", b'{"user":1,' + b",".join(b'"%d" \n:1' % index for index in range(1200)) + b"}", 1200),
        ("/recommend", b'{"user":1,' + b",".join([b'"user":1'] * 1200) + b"}", 1200),
        ("/recommend", b'{"history":[' + b",".join([b"{}"] * 6000) + b"]}", 6000),
        ("/recommend", b'{"user":' + b"[" * 7000, 6000),
        ("/recommend", b'{"user":1,"columns":[' + b",".join([b"1"] * 100_002) + b"]}", 100_000),
        ("/recommend/batch", b'{"requests":[{"filter":{' + b",".join([b'"a":[]'] * 5001) + b"}}]}", 5000),
        ("/recommend", b'{"user":1,"filter":{"a":"' + b"\\n" * 500_001 + b'"}}', 500_000),
        ("/events", b'{"events":[],' + b",".join(b'"%d":1' % index for index in range(4003)) + b"}", 4002),
        ("/recommend", b'{"user":1,"filter":{"a":{"in":[0,' + b"9" * 5000 + b"]}}}", 400),
        ("/items", b'{"items":[{"id":1,"features":{"text":[' + b"0.5," * 40_000 + b" -" + b"9" * 401 + b"]}}]}", 400),
        (
            "/items",
            b'{"items":[{"columns":{' + b",".join(b'"%d":1' % index for index in range(11_000)) + b"}}]}",
            10_301,
        ),
    ],
)
def test_a_body_that_holds_too_much_is_not_read(client, monkeypatch, path, body, limit):
    for model in (RecommendRequest, BatchRequest, EventsRequest, ItemsRequest):
        monkeypatch.setattr(model, "model_validate_json", lambda *_: pytest.fail("it was read"))
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == 422 and f"{limit:,}" in answer.json()["detail"]
    assert "faults" not in answer.json()
    monkeypatch.undo()
    assert client.post("/recommend", json={"user": 1, "k": 1}).status_code == 200


@pytest.mark.parametrize(
    ("condition", "subject", "limit"),
    [
        ({"x" * 201: 1}, "a key", "200"),
        ({"title": {"x" * 201: 1}}, "a key", "200"),
        ({"title": "x" * 10_001}, "a text in a filter", "10,000"),
        ({"title": {"in": ["x", "x" * 10_001]}}, "a text in a filter", "10,000"),
    ],
)
def test_a_body_is_refused_at_its_first_long_text(client, condition, subject, limit):
    for path, body in (
        ("/recommend", {"user": 1, "filter": condition}),
        (
            "/recommend/batch",
            {"requests": [{"user": 1, "filter": condition | {str(index): [] for index in range(99)}}]},
        ),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 422 and "faults" not in answer.json()
        assert subject in answer.json()["detail"] and limit in answer.json()["detail"]
    longest = {"user": 1, "filter": {"title": {"in": ["x" * 10_000]}}}
    assert client.post("/recommend", json=longest).json() == {"items": []}


def test_features_of_a_form_are_counted_too(client):
    features = "{" + ",".join(f'"{index}":1' for index in range(1201)) + "}"
    answer = client.post("/items", files={"id": (None, "900"), "features": (None, features)})
    assert answer.status_code == 422 and "1,200" in answer.json()["detail"]


def test_what_the_schemas_allow_is_not_too_much():
    columns = {f"c{index}": index for index in range(MAX_COLUMNS)}
    item = {"id": 1, "columns": columns, "features": {f"f{index}": [0.5] * 90 for index in range(MAX_COLUMNS)}}
    filters = {f"c{index}": {name: 1 for name in ("ge", "lt", "ne")} for index in range(MAX_COLUMNS)}
    ask = {"user": 1, "k": 1, "exclude_seen": True, "filter": filters, "branch_weights": columns}
    bodies: list[tuple[type[Body], object]] = [
        (ItemsRequest, {"items": [item] * MAX_ITEMS}),
        (EventsRequest, {"events": [{"user": 1, "item": 2}] * MAX_EVENTS}),
        (RecommendRequest, ask | {"history": None, "columns": ["a"] * MAX_COLUMNS}),
        (RecommendRequest, {"user": 1, "filter": {"a": {"in": ['quoted "text": {a, b}: [c]'] * 1000}}}),
        (BatchRequest, {"requests": [{"history": list(range(700)), "k": 5}] * 256}),
        (RecommendRequest, {"user": 1, "filter": {"a": {"in": ["x" + "9" * 500, "9" * 500, 0.1 + 0.2, 10**37]}}}),
        (SwapRequest, {"run": "second"}),
    ]
    for model, value in bodies:
        body = json.dumps(value).encode()
        amount = BodyCounter(model)
        amount.add(body)
        assert amount.read(body) == model.model_validate(value)
    assert OPENINGS * RecommendRequest.max_keys >= 6000


@pytest.mark.parametrize(
    ("model", "value", "faults"),
    [
        (RecommendRequest, {"history": [True] * 1000}, 2),
        (BatchRequest, {"requests": [{"history": [True] * 1000}] * 256}, 2),
        (EventsRequest, {"events": [{}] * 1000}, 2),
        (ItemsRequest, {"items": [{"id": 1, "features": {"text": ["x"] * 1000}}] * 100}, 1),
        (RecommendRequest, {"user": 1, "filter": {"a": {"in": [[]] * 1000}}}, 4),
    ],
)
def test_a_list_is_given_up_at_its_first_fault(model, value, faults):
    with pytest.raises(ValidationError) as raised:
        model.model_validate_json(json.dumps(value))
    own = [one for one in raised.value.errors() if "0" in map(str, one["loc"])]
    assert len(own) == faults


@pytest.mark.parametrize("digits", range(395, 406))
def test_a_long_number_is_found_wherever_it_lies(digits):
    number = b"-" + b"7" * digits
    for before in (0, *range(128 * 1024 - 410, 128 * 1024 + 5, 83)):
        body = b" " * before + b":" + number + b"}"
        if digits <= MAX_DIGITS:
            BodyCounter(RecommendRequest).check_numbers(body)
        else:
            with pytest.raises(Problem):
                BodyCounter(RecommendRequest).check_numbers(body)


@pytest.mark.parametrize(
    ("model", "value", "places"),
    [
        (RecommendRequest, {"user": 1, "filter": {f"c{index}": {"in": [1, "a"]} for index in range(50)}}, 200),
        (RecommendRequest, {"user": 1, "filter": {str(index): [] for index in range(1000)}}, 1000),
        (RecommendRequest, {"user": 1, "branch_weights": {str(index): [] for index in range(1000)}}, 1000),
        (BatchRequest, {"requests": [{"user": 1, "filter": {"a": {"in": ["x"]}}}] * 1000}, 4000),
        (ItemsRequest, {"items": [{"id": 1, "features": {"text": [0.5]}, "columns": {"a": 1}}] * 100}, 300),
    ],
)
def test_a_long_validation_gives_way_at_each_name_text_and_list(model, value, places):
    """Python's functions are where another thread may run; pydantic's own code holds the interpreter."""
    calls = []

    def count(frame, event, _):
        if event == "call" and frame.f_code is release_gil.__code__:
            calls.append(event)

    body = json.dumps(value).encode()
    sys.setprofile(count)
    try:
        model.model_validate_json(body)
    except ValidationError:
        pass
    finally:
        sys.setprofile(None)
    assert len(calls) == places


def test_a_large_body_is_read_beside_the_event_loop(client, monkeypatch):
    threads = []
    read = BodyCounter.read

    def noted(*arguments):
        threads.append(threading.current_thread())
        with pytest.raises(RuntimeError):  # a thread without a loop
            asyncio.get_running_loop()
        return read(*arguments)

    monkeypatch.setattr(BodyCounter, "read", noted)
    large = {"user": 1, "filter": {"title": {"in": ["x" * 100] * 100}}}
    assert client.post("/recommend", json=large).status_code == 200
    assert client.post("/recommend", json={"user": 1}).status_code == 200
    assert len(threads) == 1


def test_wrong_filters_of_a_batch_are_reported_at_their_places(client):
    many = {"title": {"in": [str(index) for index in range(300)]}}
    wrong = {"title": {"like": "x"}}
    asked = [{"user": 1, "filter": one} for one in (many, wrong, {})]
    for some in (asked, asked[1:]):  # in a thread, on the event loop
        answers = client.post("/recommend/batch", json={"requests": some}).json()["answers"]
        assert [one.get("problem", {}).get("status") for one in answers] == [
            422 if one["filter"] == wrong else None for one in some
        ]


def test_faults_beyond_telling_are_counted():
    few, many = ({str(index): 1 for index in range(n)} | {"user": 1} for n in (MOST_FAULTS, MOST_FAULTS + 1))
    problems = []
    for value in (few, many):
        with pytest.raises(ValidationError) as raised:
            RecommendRequest.model_validate(value)
        problems.append(Problem.from_faults(raised.value))
    assert len(problems[0].faults or ()) == MAX_FAULTS and problems[1].faults is None
    assert f"{MOST_FAULTS + 1:,}" in problems[1].detail


def test_large_bodies_are_read_one_after_another(client):
    """One that fails, too, lets the next one in."""
    large = {"user": 1, "filter": {"title": {"in": ["x" * 100] * 100}}}
    for _ in range(3):
        assert client.post("/recommend", json=large).status_code == 200
        assert client.post("/recommend", json=large | {"k": "x"}).status_code == 422
