"""Run `make test` many times, the second half of the runs under load, and show what failed.

    python benchmarks/repeat_tests.py results --runs 20
    python benchmarks/repeat_tests.py results --runs 4 -- make test ARGS="tests/server"

A test that depends on the clock, on the load of the machine, on a free port or on the order of the tests passes most of
the time; twenty runs in a row find most of those. The load is that of `stress-ng --cpu 2 --io 1` where stress-ng is
installed, else two Python processes that compute and one that writes and syncs a file.

The folder of results gets, for each run that ended, `run-NN.json` (load, exit status, passed, failed, seconds, the last
lines of the log) and `run-NN.log`, its whole log. A run that is recorded there is not repeated: after a kill the same
command continues with the run that had not ended. The exit status is 1 if any run failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LAST_LINES = 30
COMPUTE = "while True: sum(range(100_000))"
WRITE = """
import os, tempfile
with tempfile.TemporaryFile() as file:
    while True:
        file.seek(0)
        file.write(b"x" * (1 << 20))
        os.fsync(file.fileno())
"""


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("folder", type=Path, help="of the results")
    given.add_argument("--runs", type=int, default=20, help="how many, the second half of them under load (default 20)")
    given.usage = "%(prog)s FOLDER [--runs N] [-- COMMAND ...]   (default: -- make test)"
    index = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, command = given.parse_args(sys.argv[1:index]), sys.argv[index + 1 :] or ["make", "test"]
    options.folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, options.runs + 1):
        record = options.folder / f"run-{number:02d}.json"
        if record.is_file():
            continue
        loaded = number > (options.runs + 1) // 2
        print(f"run {number} of {options.runs}, {'under load' if loaded else 'no load'}", flush=True)
        found = measured(command, record.with_suffix(".log"), loaded)
        unfinished = record.with_suffix(".json.new")
        unfinished.write_text(json.dumps(found, indent=1), encoding="utf-8")
        os.replace(unfinished, record)
    rows = [json.loads((options.folder / f"run-{one:02d}.json").read_text()) for one in range(1, options.runs + 1)]
    show(rows)
    return int(any(row["status"] for row in rows))


def measured(command: list[str], log: Path, loaded: bool) -> dict[str, Any]:
    """Run the command once, its output into the log; gives what is recorded of it."""
    with load() if loaded else contextlib.nullcontext("none") as kind:
        began = time.monotonic()
        with (
            log.open("wb") as file,
            ended_with_us(
                subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
            ) as process,
        ):
            status = process.wait()
        seconds = time.monotonic() - began
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    passed, failed, errors = (count(lines, word) for word in ("passed", "failed", "errors?"))
    if status and not failed + errors:
        errors = 1  # it did not come to the tests, or ended in the middle
    return {
        "load": kind,
        "status": status,
        "passed": passed,
        "failed": failed + errors,
        "seconds": round(seconds, 1),
        "last_lines": lines[-LAST_LINES:],
    }


def count(lines: list[str], word: str) -> int:
    """The number before a word in the last line of pytest that has one, as in "3 failed, 3036 passed in 480.12s"."""
    for line in reversed(lines):
        if re.search(r"\d+ (passed|failed|errors?)\b.* in [\d.]+s", line):
            return int(found[1]) if (found := re.search(rf"(\d+) {word}\b", line)) else 0
    return 0


@contextlib.contextmanager
def load() -> Iterator[str]:
    """Keep two processors and the disk busy; gives what does it."""
    if shutil.which("stress-ng"):
        kind, commands = "stress-ng --cpu 2 --io 1", [["stress-ng", "--quiet", "--cpu", "2", "--io", "1"]]
    else:
        kind = "2 computing, 1 writing"
        commands = [[sys.executable, "-c", code] for code in (COMPUTE, COMPUTE, WRITE)]
    with contextlib.ExitStack() as stack:
        for command in commands:
            stack.enter_context(
                ended_with_us(subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True))
            )
        yield kind


@contextlib.contextmanager
def ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End the process, with all that it started, when the block ends for whatever reason."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of all runs, and the last lines of the logs of those that failed."""
    print(f"{'run':>4}  {'load':<26}{'passed':>8}{'failed':>8}{'seconds':>9}")
    for number, row in enumerate(rows, start=1):
        print(f"{number:>4}  {row['load']:<26}{row['passed']:>8}{row['failed']:>8}{row['seconds']:>9}")
    for number, row in enumerate(rows, start=1):
        if row["status"]:
            print(f"\nrun {number} ended with {row['status']}:", *row["last_lines"], sep="\n  ")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the load ends with us
    sys.exit(main())
