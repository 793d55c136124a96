"""A process that gives mutated input to the command line, one after the other, and says how each ended.

`python worker.py KIND SEED FIRST LAST FOLDER`: KIND is "inputs" or "damages"; FOLDER holds what `making.py` made.
One JSON object a line on the output stream; the parent notices where none comes (a hang, or a crash).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import commands
import mutations

LONGEST = 3_000  # characters of a sentence, its command included


class Caller:
    """Calls the command line in this process, with the streams of the process in files."""

    def __init__(self, place: Path):
        self.place = place
        self.streams = [place / "stdout", place / "stderr"]
        for number, path in enumerate(self.streams, 1):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)

    def __call__(self, arguments: list[str]) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        from lirdrec.cli.main import app

        for path in self.streams:
            os.truncate(path, 0)
        code: Any = 0
        try:
            app(arguments, prog_name="lirdrec")
        except SystemExit as ended:
            code = ended.code
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        out, errors = (path.read_text(encoding="utf-8", errors="replace") for path in self.streams)
        return int(code or 0), out, errors


def judged(code: int, errors: str) -> str:
    """What became of a call: "accepted", "refused", or what is wrong with how it ended."""
    if "Traceback (most recent call last)" in errors:
        return "TRACEBACK"
    if code == 1 and "lirdrec --debug" in errors:  # how to report a fault of ours
        return "FAULT"
    if "panicked at" in errors:
        return "PANIC"
    if code == 0:
        return "accepted"
    lines = [line for line in errors.splitlines() if line.strip()]
    reported = [line for line in lines if line.startswith(("lirdrec: ", "Error: ", "Aborted"))]
    if code not in (1, 2) or not reported:
        return "NO SENTENCE"
    return "refused" if max(map(len, lines)) <= LONGEST else "LONG SENTENCE"


def names(folder: Path) -> set[str]:
    """All files and folders below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def one_input(call: Caller, base: Path, rng: random.Random) -> dict[str, Any]:
    """Mutate a file or an option of a command, and give it to the command line."""
    place = call.place / "work"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    os.chdir(place)
    arguments, about = commands.mutated(base, place, rng)
    before = names(place)
    code, _, errors = call(arguments)
    outcome = judged(code, errors)
    new = names(place) - before
    left = sorted(one for one in new if ".tmp" in one) if outcome == "accepted" else sorted(new)
    if outcome in ("accepted", "refused") and [one for one in left if not one.startswith("kept")]:
        outcome, errors = "LEFTOVERS", f"{left[:5]} {errors}"
    return {"outcome": outcome, "about": about, "command": arguments, "errors": errors[-600:]}


def one_damage(call: Caller, base: Path, rng: random.Random, expected: dict[str, str]) -> dict[str, Any]:
    """Damage a run or a dataset, and compare what is recommended with what the whole one recommends."""
    place = call.place / "work"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    os.chdir(place)
    kind = rng.choice(("run", "dataset"))
    for name in ("ds", "run"):
        shutil.copytree(base / name, place / name)
    about = mutations.damage(place / ("run" if kind == "run" else "ds"), rng)
    outcome, out, errors = answer(call, kind)
    if outcome == "accepted":
        outcome = "same" if out == expected[kind] else "DIFFERENT"
    if left := [one for one in names(place) if ".tmp" in one]:
        outcome, errors = "LEFTOVERS", f"{left[:5]} {errors}"
    return {"outcome": outcome, "about": f"{kind}: {about}", "command": [], "errors": errors[-600:]}


def answer(call: Caller, kind: str) -> tuple[str, str, str]:
    """How the commands ended that use a folder, what they answered, and the errors."""
    steps = commands.OF_RUN if kind == "run" else commands.OF_DATASET
    out = ""
    for step in steps:
        code, said, errors = call(step)
        if (outcome := judged(code, errors)) != "accepted":
            return outcome, out, errors
        out += said if "--json" in step else ""
    return "accepted", out, errors


def main() -> None:
    """See the module."""
    kind, seed, first, last, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    base = Path(folder)
    os.environ |= {"LIRDREC_CACHE": str(base / "cache"), "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    place = base / f"{kind}-{seed}-{first}"
    place.mkdir()
    call = Caller(place)
    expected: dict[str, str] = {}
    if kind == "damages":
        for name in ("run", "dataset"):
            work = place / "work"
            shutil.rmtree(work, ignore_errors=True)
            for part in ("ds", "run"):
                shutil.copytree(base / part, work / part)
            os.chdir(work)
            outcome, expected[name], errors = answer(call, name)
            assert outcome == "accepted", errors
    for index in range(first, last):
        rng = random.Random(f"{seed}-{kind}-{index}")
        done = one_input(call, base, rng) if kind == "inputs" else one_damage(call, base, rng, expected)
        report.write(json.dumps({"index": index} | done) + "\n")
        report.flush()
    os.chdir(base)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
