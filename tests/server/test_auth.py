"""Who is let in, how much, how long; and what never leaves: keys, tracebacks."""

from __future__ import annotations

import io
import json
import logging
import stat

import pytest

from lirdrec.errors import ConfigError
from lirdrec.server.auth import KEPT_BUCKETS, Keys, RateLimiter, add_key, read_keys, revoke_key
from lirdrec.server.config import ServerConfig
from lirdrec.server.engine.batcher import MicroBatcher
from lirdrec.server.http import middleware
from lirdrec.server.http.middleware import AuthMiddleware

from ..helpers import assert_error

ASK = {"user": 1, "k": 1}


@pytest.fixture
def written():
    """Everything that was logged, as the server writes it."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(middleware.JsonFormatter())
    logger = logging.getLogger("lirdrec")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield text
    logger.removeHandler(handler)
    logger.setLevel(level)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_roles_and_both_headers(start, tmp_path):
    file = tmp_path / "keys.json"
    reader, writer = add_key(file, "page", "read"), add_key(file, "shop", "write")
    client = start(keys=str(file))
    event = {"events": [{"user": 1, "item": 101}]}
    for headers in (bearer(reader), {"X-API-Key": reader}, {"authorization": f"bearer  {reader}"}, bearer(writer)):
        assert client.post("/recommend", json=ASK, headers=headers).status_code == 200
        assert client.post("/recommend/batch", json={"requests": [ASK]}, headers=headers).status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 200
    for call in (
        lambda key: client.post("/events", json=event, headers=bearer(key)),
        lambda key: client.delete("/items/101", headers=bearer(key)),
        lambda key: client.post("/items", json={"items": []}, headers=bearer(key)),
        lambda key: client.post("/model", json={"run": "x"}, headers=bearer(key)),
    ):
        assert call(reader).status_code == 403
        assert call(writer).status_code not in (401, 403)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer lirdrec_wrong"},
        {"Authorization": "Basic dTpw"},
        {"X-API-Key": "\u00fc" * 50},
        {"X-API-Key": ""},
    ],
)
def test_without_a_known_key_nothing_is_revealed(start, tmp_path, headers):
    file = tmp_path / "keys.json"
    add_key(file, "shop", "write")
    client = start(keys=str(file))
    encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    for method, path in (("POST", "/recommend"), ("GET", "/model"), ("GET", "/metrics"), ("GET", "/no/such/address")):
        answer = client.request(method, path, headers=encoded)
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.get("/openapi.json").json()["security"] == [{"bearer": []}, {"header": []}]


def test_a_revoked_key_is_refused_at_the_next_request_and_a_lost_file_lets_no_one_in(start, tmp_path):
    file = tmp_path / "keys.json"
    one, other = add_key(file, "one", "read"), add_key(file, "other", "read")
    client = start(keys=str(file))
    assert client.get("/model", headers=bearer(one)).status_code == 200
    revoke_key(file, "one")
    assert client.get("/model", headers=bearer(one)).status_code == 401
    assert client.get("/model", headers=bearer(other)).status_code == 200
    new = add_key(file, "new", "read")
    assert client.get("/model", headers=bearer(new)).status_code == 200
    file.unlink()
    assert client.get("/model", headers=bearer(new)).status_code == 401


def test_the_file_holds_no_key_and_belongs_to_its_owner(tmp_path):
    file = tmp_path / "keys.json"
    keys = [add_key(file, name, "read") for name in ("a", "b")]
    assert len(set(keys)) == 2 and all(len(key) > 43 for key in keys)
    assert not any(key in file.read_text() or key.removeprefix("lirdrec_") in file.read_text() for key in keys)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Keys(file).find(keys[1]).name == "b"
    assert Keys(file).find(keys[1][:-1]) is None
    assert Keys(file).find(read_keys(file)[0].sha256) is None, "the hash itself opens nothing"


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (None, ["lirdrec keys add"]),
        ("", ["lirdrec keys add"]),
        ("{}", ["lirdrec keys add"]),
        ('{"format": "lirdrec-keys", "keys": null}', ["keys"]),
        ('{"format": "lirdrec-keys", "keys": [1]}', ["key 1", "sha256"]),
        ('{"format": "lirdrec-keys", "keys": [{"name": "a"}]}', ["key 1", "sha256"]),
        ('{"format": "lirdrec-keys", "keys": [{"name": "a", "role": "root", "sha256": "00", "created": ""}]}', [" 1 "]),
    ],
)
def test_a_damaged_file_of_keys_stops_the_start(tmp_path, content, facts):
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    with assert_error(ConfigError, mentions=[file, *facts]):
        Keys(file)


def test_names_of_keys_are_taken_once(tmp_path):
    file = tmp_path / "keys.json"
    add_key(file, "a", "read")
    for name, role, facts in (
        ("a", "read", [file, "'a'"]),
        ("b", "admin", ["admin", "read", "write"]),
        (" ", "read", []),
    ):
        with assert_error(ConfigError, mentions=facts):
            add_key(file, name, role)
    with assert_error(ConfigError, mentions=[file, "'b'", ": a"]):
        revoke_key(file, "b")
    assert [key.name for key in read_keys(file)] == ["a"]


def test_no_key_gets_into_logs_or_answers(start, tmp_path, written):
    file = tmp_path / "keys.json"
    key = add_key(file, "shop", "write")
    client = start(keys=str(file))
    answers = [
        client.post("/recommend", json=ASK, headers=bearer(key)),
        client.post("/recommend", json=ASK, headers=bearer(key + "x")),
        client.post("/recommend", json=ASK, headers={"X-API-Key": "x" + key}),
        client.get("/model", params={"api_key": key}, headers=bearer(key)),
        client.post("/recommend", content=f'{{"user": "{key}"', headers=bearer(key)),
        client.post("/recommend", json={key: 1}, headers={"X-API-Key": key}),
    ]
    secret = key.removeprefix("lirdrec_")
    lines = written.getvalue()
    assert lines.count('"answered"') >= 6 and '"caller":"shop"' in lines
    assert secret not in lines
    assert all(secret not in answer.text for answer in answers[:-1])


def test_tokens_come_back_with_time():
    limiter = RateLimiter(rate=2.0, burst=3.0)
    assert [limiter.wait("a", now=0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.wait("a", now=0.0) == pytest.approx(0.5)
    assert limiter.wait("b", now=0.0) == 0.0, "each caller has a bucket"
    assert limiter.wait("a", now=0.5) == 0.0
    assert limiter.wait("a", now=0.6) > 0
    assert [limiter.wait("a", now=100.0) == 0 for _ in range(4)] == [True, True, True, False], "at most the burst"
    for number in range(KEPT_BUCKETS + 50):
        limiter.wait(str(number), now=101.0)
    assert len(limiter._buckets) == KEPT_BUCKETS


def test_each_key_has_its_own_rate(start, tmp_path):
    file = tmp_path / "keys.json"
    one, other = add_key(file, "one", "read"), add_key(file, "other", "read")
    client = start(keys=str(file), rate_limit=0.001)
    assert client.post("/recommend", json=ASK, headers=bearer(one)).status_code == 200
    late = client.post("/recommend", json=ASK, headers=bearer(one))
    assert late.status_code == 429 and int(late.headers["retry-after"]) > 900
    assert client.post("/recommend", json=ASK, headers=bearer(other)).status_code == 200
    assert client.get("/health").status_code == 200


def test_limits_hold_by_default_where_there_are_keys(tmp_path):
    assert ServerConfig("run").requests_per_second == 0
    assert ServerConfig("run", keys="keys.json").requests_per_second == 200
    assert ServerConfig("run", keys="keys.json", rate_limit=0).requests_per_second == 0


def test_bodies_are_limited_while_they_come(start):
    client = start(max_body_bytes=2000)
    large = json.dumps(ASK | {"columns": ["x" * 150] * 40}).encode()
    assert len(large) > 2000
    announced = client.post("/recommend", content=large, headers={"Content-Type": "application/json"})
    assert announced.status_code == 413
    sent = 0

    def pieces():
        nonlocal sent
        for start in range(0, len(large), 500):
            sent += 500
            yield large[start : start + 500]

    streamed = client.post("/recommend", content=pieces(), headers={"Content-Type": "application/json"})
    assert streamed.status_code == 413 and "2,000" in streamed.json()["detail"]
    form = client.post("/items", data={"id": "900"}, files={"image": b"x" * 3000})
    assert form.status_code == 413
    assert client.post("/recommend", json=ASK).status_code == 200


def test_what_takes_too_long_is_given_up(start, monkeypatch):
    import asyncio

    async def forever(self, query):
        await asyncio.Event().wait()

    client = start()
    layer = client.app.middleware_stack
    while not isinstance(layer, AuthMiddleware):
        layer = layer.app
    with monkeypatch.context() as patch:
        patch.setattr(MicroBatcher, "recommend", forever)
        patch.setattr(layer, "_seconds", 0.25)  # of this request only: others may take longer on a busy machine
        answer = client.post("/recommend", json=ASK)
    assert answer.status_code == 503 and "0.25" in answer.json()["detail"]
    assert client.get("/health").status_code == 200


def test_an_unexpected_error_shows_only_the_id_of_the_request(start, monkeypatch, written):
    async def broken(self, query):
        raise ZeroDivisionError("a secret of the inside")

    client = start()
    monkeypatch.setattr(MicroBatcher, "recommend", broken)
    answer = client.post("/recommend", json=ASK, headers={"X-Request-ID": "abc-1"})
    assert answer.status_code == 500 and answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text and "Traceback" not in answer.text and "abc-1" in answer.text
    entries = [json.loads(line) for line in written.getvalue().splitlines()]
    failed = next(one for one in entries if "traceback" in one)
    assert (failed["logger"], failed["level"]) == ("lirdrec.server.http.middleware", "error")
    assert failed["request"] == "abc-1" and "ZeroDivisionError" in failed["traceback"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "shop.internal"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[bad"}, 403),
        ({"Origin": "http://127.0.0.1"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
    ],
)
def test_without_keys_pages_of_others_cannot_ask_in_a_persons_place(start, headers, status):
    """A page may let its own name point to 127.0.0.1, or post a form there; the browser tells on both."""
    client = start(hosts=("shop.internal",))
    assert client.post("/recommend", json=ASK, headers=headers).status_code == status


def test_an_insecure_server_is_reached_under_any_name_but_not_by_pages_of_others(start):
    client = start(host="0.0.0.0", insecure=True)
    assert client.post("/recommend", json=ASK, headers={"Host": "shop.example"}).status_code == 200
    for headers in ({"Origin": "https://evil.example"}, {"Host": "a.example", "Origin": "https://b.example"}):
        assert client.post("/recommend", json=ASK, headers=headers).status_code == 403


def test_cors_is_off_unless_it_is_configured(start, tmp_path):
    file = tmp_path / "keys.json"
    key = add_key(file, "page", "read")
    origin = {"Origin": "https://shop.example"}
    asks = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    closed = start(keys=str(file))
    assert (
        "access-control-allow-origin" not in closed.post("/recommend", json=ASK, headers=bearer(key) | origin).headers
    )
    assert closed.options("/recommend", headers=asks).status_code == 401
    open_ = start(keys=str(file), cors=("https://shop.example",))
    allowed = open_.options("/recommend", headers=asks)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    answer = open_.post("/recommend", json=ASK, headers=bearer(key) | origin)
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    foreign = open_.post("/recommend", json=ASK, headers=bearer(key) | {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers


def test_every_answer_carries_the_safe_headers_and_its_id(client):
    for path in ("/model", "/nowhere", "/items/5", "/metrics"):
        headers = client.get(path, headers={"X-Request-ID": "from-the-proxy"}).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-request-id"] == "from-the-proxy"
        assert "server" not in headers
    bad = client.get("/model", headers={"X-Request-ID": 'x"}\\n'}).headers["x-request-id"]
    assert len(bad) < 30 and bad.replace("-", "").isalnum()


def test_other_machines_are_let_in_only_with_keys_or_on_purpose():
    for host in ("0.0.0.0", "::", "192.168.1.5", "shop.example"):
        with assert_error(ConfigError, mentions=[host, "--keys", "--allow-unauthenticated"]):
            ServerConfig("run", host=host)
        assert ServerConfig("run", host=host, keys="keys.json")
        assert ServerConfig("run", host=host, insecure=True)
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert ServerConfig("run", host=host)
