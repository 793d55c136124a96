"""How long `GET /health` takes during an attack on the server.

    python benchmarks/serving/attacks.py                              # every attack, one worker
    python benchmarks/serving/attacks.py --attacks faults --workers 2

Each attack comes from processes of its own, so that what it costs them is not counted. `/health` is asked on a new
connection from the same address, time after time, for as long as the attack lasts; the worst and the median count.
Server, attackers and the one who asks share the machine's cores: `quiet` shows what that alone makes of it.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import multiprocessing
import os
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from load import RESULTS, Server
from shape import write

from lirdrec.server.auth import add_key

SHAPE = (5_000, 3_000, 60_000, 48)  # users, items, pairs, columns
GOAL_MS = 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=15, help="of each attack")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--name", default="serving-attacks", help="of the file of results")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder) / "run", *SHAPE)
        keys = Path(folder) / "keys.json"
        key = add_key(keys, "reader", "read")
        options = ["--threads", "1", "--workers", str(arguments.workers), "--keys", str(keys)]
        for name in arguments.attacks:
            with Server(run, f"sqlite:///{folder}/{name}.sqlite", options) as server:
                found[name] = under(ATTACKS[name], server, key, arguments.seconds)
            print(name, *(f"{what}={value:.4g}" for what, value in found[name].items()), file=sys.stderr, flush=True)
    report = {
        "command": "python benchmarks/serving/attacks.py " + " ".join(sys.argv[1:]),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "health": found,
    }
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    late = [name for name, one in found.items() if one["worst_ms"] > GOAL_MS]
    print(f"within {GOAL_MS:g} ms under every attack" if not late else f"later than {GOAL_MS:g} ms: {', '.join(late)}")


def under(attack: Callable[..., None], server: Server, key: str, seconds: float) -> dict[str, float]:
    """Milliseconds of `/health` while the attack lasts, and the server's memory before and after."""
    context = multiprocessing.get_context("spawn")
    attacking = context.Event()
    before = server.resident()
    attacker = context.Process(target=attack, args=(server.port, key, attacking), daemon=True)
    attacker.start()
    attacking.wait()
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        times.append(1000 * health(server.port))
        time.sleep(0.01)
    attacker.kill()
    attacker.join()
    return {
        "worst_ms": max(times),
        "p99_ms": statistics.quantiles(times, n=100, method="inclusive")[-1],
        "median_ms": statistics.median(times),
        "asked": len(times),
        "resident_mb_before": before,
        "resident_mb_after": server.resident(),
    }


def health(port: int) -> float:
    """Seconds from the start of a connection to the end of the answer."""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
        peer.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := peer.recv(4096):
            answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"/health was answered with {answer[:60]!r}")
    return time.perf_counter() - started


# ---------------------------------------------------------------- attacks; each runs until it is killed


def quiet(port, key, attacking) -> None:
    """Nobody else."""
    attacking.set()
    time.sleep(3600)


def faults(port, key, attacking) -> None:
    """Bodies of 7 MB with 700,000 unknown keys, four at a time."""
    _together(4, port, key, [b"{" + b",".join(b'"%d":1' % index for index in range(700_000)) + b"}"], attacking)


def hidden_faults(port, key, attacking) -> None:
    """Bodies that stay just below each limit: 590 wrong filters, lists as long as may be, ten lists of 9,900 texts."""
    wrong = b'{"user":1,"filter":{' + b",".join(b'"%d":{"a":[]}' % index for index in range(590)) + b"}}"
    long = b'{"user":1,"columns":[' + b",".join([b"1"] * 99_000) + b"]}"
    texts = b",".join([b'"' + b"x" * 70 + b'"'] * 9900)
    lists = b'{"user":1,"filter":{' + b",".join(b'"%d":{"in":[%s]}' % (index, texts) for index in range(10)) + b"}}"
    _together(8, port, key, [wrong, long, lists], attacking)


def filters(port, key, attacking) -> None:
    """Filters of 8 MB, no two alike."""
    bodies = []
    for number in range(12):
        values = [("é" * 395) + f"{number:03d}{index:05d}" for index in range(9900)]
        asked = {"user": "A0000000000002", "k": 1, "filter": {"title": {"in": values}}}
        bodies.append(json.dumps(asked, ensure_ascii=False).encode())
    _together(2, port, key, bodies, attacking)


def half_sent(port, key, attacking) -> None:
    """1,024 connections with half a request, opened again whenever they are closed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    _kept(port, b"GET /health HTTP/1.1\r\nX: ", b"", 1024, attacking)


def slow_senders(port, key, attacking) -> None:
    """200 heads that come a byte at a time."""
    _kept(port, b"GET /health HTTP/1.1\r\nX: ", b"x", 200, attacking)


def slow_bodies(port, key, attacking) -> None:
    """200 bodies that come a byte at a time, without a key."""
    head = b"POST /recommend HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 8000000\r\n\r\n"
    _kept(port, head, b" ", 200, attacking)


def large_heads(port, key, attacking) -> None:
    """Heads of 60,000 small fields."""
    _together(2, port, key, [], attacking, b"GET /health HTTP/1.1\r\n" + b"a:b\r\n" * 60_000)


def forwarded(port, key, attacking) -> None:
    """Requests with an address of their own in X-Forwarded-For, without a key."""
    peer = http.client.HTTPConnection("127.0.0.1", port)
    for index in itertools.count():
        peer.request("GET", "/model", headers={"X-Forwarded-For": f"10.9.{index // 256 % 256}.{index % 256}"})
        peer.getresponse().read()
        attacking.set()


ATTACKS = {
    "quiet": quiet,
    "faults": faults,
    "hidden_faults": hidden_faults,
    "filters": filters,
    "half_sent": half_sent,
    "slow_senders": slow_senders,
    "slow_bodies": slow_bodies,
    "large_heads": large_heads,
    "forwarded": forwarded,
}


def _together(n: int, port: int, key: str, bodies: list[bytes], attacking, raw: bytes = b"") -> None:
    """Send bodies to `/recommend`, or raw bytes, from `n` threads, one answer after another."""
    head = f"POST /recommend HTTP/1.1\r\nConnection: close\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
    requests = [f"{head}Content-Length: {len(one)}\r\n\r\n".encode() + one for one in bodies] or [raw]

    def send() -> None:
        for request in itertools.cycle(requests):
            try:
                with socket.create_connection(("127.0.0.1", port)) as peer:
                    attacking.set()
                    peer.sendall(request)
                    while peer.recv(65536):
                        pass
            except OSError:  # the server closes what it refuses before all was sent
                pass

    threads = [threading.Thread(target=send, daemon=True) for _ in range(n)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def _kept(port: int, first: bytes, more: bytes, n: int, attacking) -> None:
    """Keep `n` connections that have sent `first`, and send `more` on each from time to time."""
    peers: list[socket.socket] = []
    while True:
        for peer in list(peers):
            try:
                peer.setblocking(False)
                if more:
                    peer.send(more)
                if peer.recv(4096) == b"":
                    raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                peers.remove(peer)
                peer.close()
        for _ in range(n - len(peers)):
            peer = socket.create_connection(("127.0.0.1", port))
            peer.sendall(first)
            peers.append(peer)
        attacking.set()
        time.sleep(0.2)


if __name__ == "__main__":
    main()
