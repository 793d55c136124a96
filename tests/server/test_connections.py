"""Connections, heads and bodies that never end, by sockets of a real server; and by a clock that the test turns."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from lirdrec.server.auth import add_key, network_of
from lirdrec.server.config import ServerConfig
from lirdrec.server.engine.batcher import MicroBatcher
from lirdrec.server.http.connections import Connections
from lirdrec.server.http.limited_protocol import GRACE, MAX_HEAD, MAX_PIPELINED, ONE_READ, STATE, LimitedProtocol
from lirdrec.server.http.middleware import AuthMiddleware
from lirdrec.server.metrics import Metrics

from ..helpers import PATIENCE
from .runs import Listening

HALF = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
WHOLE = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def connected(server: Listening) -> socket.socket:
    return socket.create_connection(server.socket.getsockname(), timeout=PATIENCE)


def of_peers(server: Listening, *peers: socket.socket) -> list[LimitedProtocol]:
    """The server's side of these connections, as far as it has accepted them."""
    own = [peer.getsockname() for peer in peers]
    return [one for one in list(server.server.server_state.connections) if one.client in own]


def limited(server: Listening) -> AuthMiddleware:
    """The layer of the application that limits the time of a request."""
    layer = server.server.config.app.middleware_stack
    while not isinstance(layer, AuthMiddleware):
        layer = layer.app
    return layer


def until_closed(peer: socket.socket) -> bytes:
    """What comes before the other side closes."""
    found = b""
    try:
        while piece := peer.recv(65536):
            found += piece
    except ConnectionResetError:  # it closed with bytes of ours unread
        pass
    return found


def problem(answer: bytes) -> tuple[int, dict]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head and b"x-content-type-options: nosniff" in head
    return int(head.split()[1]), json.loads(body)


# ---------------------------------------------------------------- a real server


def test_a_head_that_does_not_end_gets_408_and_silence_is_closed(shop, tmp_path):
    with Listening(shop, tmp_path, head_seconds=PATIENCE) as server:
        half, silent, fed = connected(server), connected(server), connected(server)
        half.sendall(HALF)
        fed.sendall(WHOLE + HALF)  # after an answer, too
        while sorted(one._in_head for one in of_peers(server, half, silent, fed)) != [False, True, True]:
            pass
        all_connections = of_peers(server, half)[0]._registry
        all_connections.head_seconds = 0.2  # from now on: a busy machine may take longer to connect and send
        status, value = problem(until_closed(half))
        assert (status, value["status"], "0.2" in value["detail"]) == (408, 408, True)
        assert until_closed(silent) == b""
        first, _, second = until_closed(fed).partition(b'{"status":"ok"}')
        assert first.startswith(b"HTTP/1.1 200") and problem(second)[0] == 408
        all_connections.head_seconds = PATIENCE
        assert httpx.get(f"{server.url}/health", timeout=PATIENCE).status_code == 200


def test_a_body_that_does_not_end_gets_408(shop, tmp_path):
    with Listening(shop, tmp_path) as server:
        limited(server)._seconds = 0.5  # from now on: a busy machine may take longer to start
        peer = connected(server)
        peer.sendall(b"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
        peer.sendall(b'Content-Length: 13\r\n\r\n{"user"')
        assert problem(until_closed(peer))[0] == 408


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Large: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"a:b\r\n" * (MAX_HEAD // 34 + 1) + b"\r\n", 431),
        (HALF + b"x" * (MAX_HEAD + ONE_READ), 431),
        (b"GET /" + b"x" * MAX_HEAD + b" HTTP/1.1\r\n\r\n", 414),
        (b"this is not HTTP\r\n\r\n", 400),
    ],
)
def test_heads_are_limited(shop, tmp_path, sent, status):
    with Listening(shop, tmp_path) as server:
        peer = connected(server)
        peer.sendall(sent)
        assert problem(until_closed(peer))[0] == status
        headers = {"X-Large": "x" * (MAX_HEAD - 1000)}
        assert httpx.get(f"{server.url}/health", headers=headers, timeout=PATIENCE).status_code == 200
        text = httpx.get(f"{server.url}/metrics", timeout=PATIENCE).text
        assert f'lirdrec_requests_total{{method="other",route="other",status="{status}"}} 1.0' in text


def test_half_requests_of_one_address_do_not_keep_it_from_being_answered(shop, tmp_path):
    with Listening(shop, tmp_path, address_connections=8, head_seconds=600) as server:
        peers = [connected(server) for _ in range(40)]
        for peer in peers:
            peer.sendall(HALF)
        assert all(until_closed(peer) == b"" for peer in peers[:32])
        for _ in range(3):
            assert httpx.get(f"{server.url}/health", timeout=PATIENCE).status_code == 200
        for peer in peers:
            peer.close()


def test_a_request_that_is_being_answered_is_not_cut_for_a_new_connection(shop, tmp_path, monkeypatch):
    started, proceed = threading.Event(), threading.Event()
    recommend = MicroBatcher.recommend

    async def held(self, query):
        started.set()
        await asyncio.to_thread(proceed.wait)
        return await recommend(self, query)

    monkeypatch.setattr(MicroBatcher, "recommend", held)
    with Listening(shop, tmp_path, max_connections=1) as server:
        body = b'{"user": 1, "k": 1}'
        busy = connected(server)
        busy.sendall(b"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
        busy.sendall(b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        started.wait()
        answer = until_closed(connected(server))
        assert problem(answer)[0] == 503 and b"Retry-After".lower() in answer
        proceed.set()
        assert until_closed(busy).startswith(b"HTTP/1.1 200")


def test_requests_in_one_go_are_answered_in_order_and_are_not_endless(shop, tmp_path):
    with Listening(shop, tmp_path) as server:
        peer = connected(server)
        peer.sendall(WHOLE * 20 + LAST)
        assert until_closed(peer).count(b"HTTP/1.1 200") == 21
        greedy = connected(server)
        greedy.sendall(WHOLE * (2 * MAX_PIPELINED) + LAST)
        assert until_closed(greedy).count(b"HTTP/1.1 200") <= MAX_PIPELINED + 1


@pytest.mark.parametrize(
    ("proxies", "statuses", "client"),
    [((), [200, 429, 429], "127.0.0.1"), (("127.0.0.0/8",), [200, 200, 429], "10.9.8.1")],
)
def test_the_address_of_x_forwarded_for_counts_only_from_a_trusted_proxy(
    shop, tmp_path, caplog, proxies, statuses, client
):
    caplog.set_level("INFO", logger="lirdrec.server.access")
    with Listening(shop, tmp_path, rate_limit=0.001, trusted_proxies=proxies) as server:
        found = [
            httpx.get(
                f"{server.url}/model", headers={"X-Forwarded-For": f"10.9.9.9, {address}"}, timeout=PATIENCE
            ).status_code
            for address in ("10.9.8.1", "10.9.8.2", "10.9.8.1")
        ]
    assert found == statuses
    # a request is logged after its answer was sent, and all were by the time the server has ended
    fields = [one.fields for one in caplog.records if getattr(one, "fields", {}).get("path") == "/model"]
    assert fields[-1]["client"] == client


def test_without_a_key_a_half_sent_body_is_refused_at_once(shop, tmp_path):
    add_key(tmp_path / "keys.json", "shop", "read")
    with Listening(shop, tmp_path, keys=str(tmp_path / "keys.json")) as server:
        peer = connected(server)
        peer.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert peer.recv(12) == b"HTTP/1.1 401"
        peer.close()


# ---------------------------------------------------------------- a clock that the test turns


class Transport(asyncio.Transport):
    """Keeps what is written; an end is noted, and happens when the test says so."""

    def __init__(self, address: str):
        self.address, self.written, self.closing, self.aborted, self.unread = address, b"", False, False, 0

    def get_extra_info(self, name, default=None):
        return {"peername": (self.address, 1), "sockname": ("127.0.0.1", 80)}.get(name, default)

    def write(self, data):
        self.written += data

    def close(self):
        self.closing = True

    def abort(self):
        self.closing = self.aborted = True

    def is_closing(self):
        return self.closing

    def get_write_buffer_size(self):
        return self.unread

    def pause_reading(self): ...

    def resume_reading(self): ...


class Clock:
    """Connections of one worker whose time is `now`, and whose application answers at once or never."""

    def __init__(self, **options):
        self.now = 1000.0
        self.loop = asyncio.new_event_loop()
        self.loop.time = lambda: self.now
        services = SimpleNamespace(config=ServerConfig("run", **options), metrics=Metrics())
        self.all = Connections(services)
        self.answers = True
        self.config = uvicorn.Config(self.application, interface="asgi3", proxy_headers=False, log_config=None)
        self.config.load()
        self.state = ServerState()

    async def application(self, scope, receive, send):
        if not self.answers:
            await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    def open(self, address: str = "10.0.0.1") -> LimitedProtocol:
        made = LimitedProtocol(self.config, self.state, {STATE: self.all}, _loop=self.loop)
        made.connection_made(Transport(address))
        return made

    def feed(self, connection: LimitedProtocol, data: bytes) -> None:
        connection.data_received(data)
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.all.check(self.now)


@pytest.fixture
def clock():
    clocks = []

    def made(**options):
        clocks.append(Clock(**options))
        return clocks[-1]

    yield made
    for one in clocks:
        for task in one.state.tasks:
            task.cancel()
        one.loop.run_until_complete(asyncio.sleep(0))
        one.loop.close()


def test_a_body_that_is_not_read_does_not_hold_the_connection(clock):
    """Refused for its key, a request may continue to send its body, a byte at a time."""
    time = clock(timeout_seconds=30)
    peer = time.open()
    time.feed(peer, b"POST /recommend HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
    assert peer.transport.written.startswith(b"HTTP/1.1 401")
    answered = peer.transport.written
    for _ in range(30):
        time.feed(peer, b"x")
        time.after(1)
        assert not peer.transport.closing
    time.after(GRACE + 1)
    assert peer.transport.closing and peer.transport.written == answered


def test_empty_lines_do_not_keep_a_connection_open(clock):
    time = clock()
    peer = time.open()
    time.feed(peer, b"GET / HTTP/1.1\r\n\r\n")
    for _ in range(12):
        time.feed(peer, b"\r\n")
        time.after(1)
    assert peer.transport.closing


def test_half_of_a_next_request_does_not_cut_an_answer_that_takes_long(clock):
    time = clock()
    time.answers = False
    peer = time.open()
    time.feed(peer, b"GET / HTTP/1.1\r\n\r\n" + HALF)
    for _ in range(25):
        time.after(1)
    assert not peer.transport.closing


def test_a_peer_that_does_not_read_its_answer_is_cut(clock):
    time = clock()
    peer = time.open()
    peer.transport.close()
    time.after(0)
    assert not peer.transport.aborted
    time.after(GRACE + 1)
    assert peer.transport.aborted


def test_room_is_made_by_address_and_in_all(clock):
    time = clock(address_connections=3, max_connections=5, trusted_proxies=("10.0.0.9", "192.168.0.0/16"))
    own = [time.open("10.0.0.1") for _ in range(4)]
    assert [one.transport.closing for one in own] == [True, False, False, False], "the oldest gave way"
    other = [time.open("10.0.0.2"), time.open("10.0.0.2"), time.open("10.0.0.3")]
    assert own[1].transport.closing and len(time.all) == 5 and not any(one.transport.closing for one in other)
    proxied = [time.open(address) for address in ("10.0.0.9",) * 4 + ("192.168.3.4",)]
    assert not any(one.transport.closing for one in proxied), "an address of many clients"
    for one in (*own, *other, *proxied):
        one.connection_lost(None)
    assert len(time.all) == 0 and not time.all._of_network and not time.state.connections


def test_a_peer_with_unread_bytes_is_cut_at_once(clock):
    time = clock(address_connections=1)
    peer = time.open()
    peer.transport.unread = 10
    time.open()
    assert peer.transport.aborted


def test_one_field_of_a_chunked_end_cannot_grow_without_an_end(clock):
    time = clock(max_body_bytes=1000)
    peer = time.open()
    time.feed(peer, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-End: ")
    time.feed(peer, b"x" * (MAX_HEAD + 7000))
    assert not peer.transport.closing
    time.feed(peer, b"x" * 2000)
    assert peer.transport.closing


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_an_address_counts_with_its_network(address, network):
    assert network_of(address) == network
