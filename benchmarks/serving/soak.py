"""Memory of a server over 200,000 mixed requests: it must not grow.

python benchmarks/serving/soak.py        # needs wrk (apt-get install wrk)
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from load import HERE, RESULTS, Server
from shape import write

USERS, ITEMS, PAIRS, WIDTH = 5_000, 3_000, 60_000, 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seconds", type=int, default=10, help="between two looks at the memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder) / "run", USERS, ITEMS, PAIRS, WIDTH)
        with Server(run, f"sqlite:///{folder}/live.sqlite", ["--threads", "1"]) as server:
            looks, failed = [(0, server.resident())], 0
            while looks[-1][0] < arguments.requests:
                command = ["wrk", "-t1", "-c32", f"-d{arguments.seconds}s", "--timeout", "30s"]
                command += ["-s", str(HERE / "soak.lua"), server.url, "--", str(USERS), str(ITEMS)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(re.search(r"RESULT (\{.*\})", done.stdout)[1])
                failed += found["failed"]
                looks.append((looks[-1][0] + found["requests"], server.resident()))
                print(*looks[-1], found, file=sys.stderr, flush=True)
    report = summary(looks) | {"failed": failed, "looks": looks}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serving-soak.json").write_text(json.dumps(report) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "looks"}, indent=1))


def summary(looks: list[tuple[int, float]]) -> dict[str, float]:
    """Growth over the second half, when caches are full, by a straight line through it."""
    half = [one for one in looks if one[0] >= looks[-1][0] / 2]
    slope = statistics.linear_regression(*zip(*half, strict=True)).slope
    return {
        "requests": looks[-1][0],
        "mb_at_start": looks[0][1],
        "mb_at_half": half[0][1],
        "mb_at_end": looks[-1][1],
        "kb_per_1000_requests_in_second_half": 1000 * 1024 * slope,
    }


if __name__ == "__main__":
    main()
