"""Memory of a server over 200 distinct filters of 8 MB each: it must stay flat.

    python benchmarks/serving/filters.py

Each filter names 9,900 texts of some 400 letters that are not ASCII; no two are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import urllib.request
from pathlib import Path

from load import RESULTS, Server
from shape import write

USERS, ITEMS, PAIRS, WIDTH = 2_000, 1_000, 20_000, 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="filters between two looks at the memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder) / "run", USERS, ITEMS, PAIRS, WIDTH)
        with Server(run, f"sqlite:///{folder}/live.sqlite", ["--threads", "1"]) as server:
            looks = [(0, server.resident())]
            for number in range(1, arguments.filters + 1):
                ask(server.url, number)
                if number % arguments.every == 0 or number == arguments.filters:
                    looks.append((number, server.resident()))
                    print(f"after {number} filters: {looks[-1][1]:.0f} MB", flush=True)
    report = {
        "load_average": os.getloadavg()[0],
        "mb_at_start": looks[0][1],
        "mb_at_half": next(mb for number, mb in looks if number >= arguments.filters / 2),
        "mb_at_end": looks[-1][1],
        "looks": looks,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serving-filters.json").write_text(json.dumps(report) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "looks"}, indent=1))


def ask(url: str, number: int) -> None:
    """One recommendation with a filter that was not used before."""
    texts = [f"{'é' * 395}{number:04d}{place:05d}" for place in range(9_900)]
    body = {"user": f"A{number:013d}", "k": 1, "filter": {"title": {"in": [*texts, f"Thing number {number}"]}}}
    content = json.dumps(body, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/recommend", content, headers), timeout=60) as answer:
        found = json.load(answer)["items"]
    assert len(found) <= 1, found


if __name__ == "__main__":
    main()
