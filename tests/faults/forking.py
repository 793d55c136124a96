"""Processes that start in a moment: forked from one that has imported everything and computed nothing.

Threads do not survive a fork, so the process that forks must not have started any in polars or torch; the process of
the tests has. In the process that forks, this file runs as `python -m faults.forking`; it reads a line of JSON for each
request and answers with one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds until a child that does not end is ended


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        killed: by SIGKILL.
        answer: what its function returned; None where it was killed.
        printed: all that it wrote, with the traceback of an error.
        code: as of `os.waitstatus_to_exitcode`.
    """

    killed: bool
    answer: Any
    printed: str
    code: int


class Child:
    """A process that runs one function."""

    def __init__(self, forks: Forks, pid: int, files: Path):
        self._forks, self.pid, self._files = forks, pid, files

    def wait(self) -> Ended:
        """Wait until it ends."""
        code = self._forks.ask({"wait": self.pid})
        printed = self._files.with_suffix(".log").read_text(errors="replace")
        answer = self._files.with_suffix(".json")
        return Ended(
            code == -signal.SIGKILL, json.loads(answer.read_text()) if answer.is_file() else None, printed, code
        )


class Forks:
    """The process that forks, and requests to it."""

    def __init__(self, folder: Path):
        self._folder, self._started = folder, 0
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "1",
            "RAYON_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.forking"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> Any:
        """Send a request and wait for its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return json.loads(line)

    def start(self, function: str, **arguments: Any) -> Child:
        """Run `module:function` of this folder with JSON-able arguments in a new process."""
        self._started += 1
        files = self._folder / str(self._started)
        pid = self.ask({"function": function, "arguments": arguments, "files": str(files)})
        return Child(self, pid, files)

    def call(self, function: str, **arguments: Any) -> Any:
        """Run it and give what it returned; an AssertionError with all that it printed where it failed."""
        ended = self.start(function, **arguments).wait()
        assert ended.code == 0, f"{function} ended with {ended.code}\n{ended.printed}"
        return ended.answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print must not come between the answers
    importlib.import_module("faults.preparing").import_all()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if not answer:
                _run(request)
        print(json.dumps(answer), file=answers, flush=True)


def _run(request: dict[str, Any]) -> None:
    """Run the function of a request; the process ends here, without the cleaning of the one that it came from."""
    code, files = 1, Path(request["files"])
    try:
        log = os.open(files.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for place, handle in enumerate((nothing, log, log)):
            os.dup2(handle, place)
        signal.alarm(PATIENCE)
        module, _, name = request["function"].partition(":")
        answer = getattr(importlib.import_module(f"faults.{module}"), name)(**request["arguments"])
        files.with_suffix(".json").write_text(json.dumps(answer))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
