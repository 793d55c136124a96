"""Requests per second of `lirdrec serve` in the shape of Electronics, beside the bare product of the same batch size.

    python benchmarks/serving/load.py --seconds 10        # needs wrk (apt-get install wrk)

The server is a process of its own, wrk another. Between the rounds, while the server is idle, the yardstick is timed:
`scores = U_batch @ V.T; scores.topk(20)` with the mean batch size that the engine had in that round and its threads.
Ratios are of the time per recommendation to that of the yardstick: by the clock, and in seconds of processor, which
other programs on the machine disturb less (all of the server: HTTP, JSON, metrics and ranking).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import torch
from shape import ELECTRONICS, write

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="of each round")
    parser.add_argument("--rounds", type=int, default=3, help="for each number of connections")
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--run", type=Path, help="where the run of random vectors lies, or is written")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the product, here and there")
    parser.add_argument("--name", default="serving-load", help="of the file of results")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="further options of lirdrec serve")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = write(arguments.run or Path(folder) / "run", *ELECTRONICS)
        base = Path(folder) / "live.sqlite"
        options = ["--threads", str(arguments.threads), *arguments.serve]
        with Server(run, f"sqlite:///{base}", options) as server:
            rounds = [
                one_round(server, run, connections, arguments.seconds, arguments.k)
                for _ in range(arguments.rounds)
                for connections in arguments.connections
            ]
            report = {
                "command": "python benchmarks/serving/load.py " + " ".join(sys.argv[1:]),
                "shape": ELECTRONICS,
                "cores": os.cpu_count(),
                "load_average": os.getloadavg()[0],
                "seconds_to_ready": server.seconds_to_ready,
                "processor_seconds_to_ready": server.processor_seconds_to_ready,
                "resident_mb": server.resident(),
                "rounds": rounds,
                "median": [summary(rounds, one) for one in arguments.connections],
            }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(
        json.dumps(
            {key: report[key] for key in ("seconds_to_ready", "processor_seconds_to_ready", "resident_mb", "median")},
            indent=1,
        )
    )


class Server:
    """`lirdrec serve` in a process of its own."""

    def __init__(self, run: Path, store: str, options: list[str]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [shutil.which("lirdrec") or f"{Path(sys.executable).parent}/lirdrec", "serve", str(run)]
        self._command += ["--port", str(self.port), "--store", store, "--no-access-log", "--rate-limit", "0", *options]

    def __enter__(self) -> Server:
        started = time.monotonic()
        self.process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while True:
            try:
                self.get("/ready")
                break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("the server ended") from None
                time.sleep(0.02)
        self.seconds_to_ready = time.monotonic() - started
        self.processor_seconds_to_ready = self.processor()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def resident(self) -> float:
        """MB of memory that belongs to the process alone, and those of mapped files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def processor(self) -> float:
        """Seconds of processor that the server has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def batches(self) -> tuple[float, float]:
        """Number of batches, and of the queries in them, so far."""
        text = self.get("/metrics")
        values = [re.search(rf"^lirdrec_batch_size_{name} (\S+)", text, re.M) for name in ("count", "sum")]
        return float(values[0][1]), float(values[1][1])


def one_round(server: Server, run: Path, connections: int, seconds: int, k: int) -> dict[str, float]:
    ask(server.url, connections, 2, k)
    before, processor = server.batches(), server.processor()
    found = ask(server.url, connections, seconds, k)
    processor = server.processor() - processor
    count, queries = (after - first for after, first in zip(server.batches(), before, strict=True))
    batch = max(1, round(queries / count))
    bare, bare_processor = yardstick(run, batch, k)
    each = found["seconds"] / found["requests"]
    figures = {
        "connections": connections,
        "requests_per_second": found["requests"] / found["seconds"],
        "p50_ms": found["p50"],
        "p99_ms": found["p99"],
        "errors": found["errors"],
        "mean_batch": queries / count,
        "ms_each": 1000 * each,
        "bare_ms_each": 1000 * bare,
        "ratio": each / bare,
        "processor_ms_each": 1000 * processor / found["requests"],
        "bare_processor_ms_each": 1000 * bare_processor,
        "processor_ratio": processor / found["requests"] / bare_processor,
    }
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()), file=sys.stderr, flush=True)
    return figures


def ask(url: str, connections: int, seconds: int, k: int) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(HERE / "load.lua"), url]
    done = subprocess.run([*command, "--", str(ELECTRONICS[0]), str(k)], capture_output=True, text=True, check=True)
    return json.loads(re.search(r"RESULT (\{.*\})", done.stdout)[1])


def yardstick(run: Path, batch: int, k: int, seconds: float = 4.0) -> tuple[float, float]:
    """Seconds, and seconds of processor, for each user of the product and its top-k alone, batch after batch."""
    from safetensors.torch import load_file

    tensors = load_file(run / "vectors.safetensors")
    users, items = tensors["users"], tensors["items"]
    generator = torch.Generator().manual_seed(0)
    for done in itertools.count(-3):  # three to warm up
        if done == 0:
            clock, processor = time.perf_counter(), time.process_time()
        if done >= 20 and time.perf_counter() - clock > seconds:
            return (time.perf_counter() - clock) / done / batch, (time.process_time() - processor) / done / batch
        scores = users[torch.randint(len(users), (batch,), generator=generator)] @ items.T
        scores.topk(k, dim=1)
    raise AssertionError


def summary(rounds: list[dict[str, float]], connections: int) -> dict[str, float]:
    own = [one for one in rounds if one["connections"] == connections]
    return {name: statistics.median(one[name] for one in own) for name in own[0]}


if __name__ == "__main__":
    main()
