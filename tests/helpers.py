"""Assertions on errors (type and facts, never the wording), files of a folder, ports, what a system must have."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# why a test cannot run on every system of the CI workflow (Linux, macOS, Windows); all of these run on Linux
needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
needs_dev_full = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="macOS and Windows have no /dev/full, a device without space"
)
needs_fifos = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
needs_modes = pytest.mark.skipif(
    os.name == "nt", reason="Windows has no POSIX modes: a mode only forbids writing there"
)
needs_links = pytest.mark.skipif(os.name == "nt", reason="on Windows only administrators may make symbolic links")


def assert_mentions(text: str, mentions: Iterable[object]) -> None:
    """Check that every fact stands in the text, whatever the sentence around it."""
    missing = [str(fact) for fact in mentions if str(fact) not in text]
    assert not missing, f"{missing} not mentioned in: {text}"


@contextmanager
def assert_error(kind: type[Exception], mentions: Iterable[object] = ()) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Check that the block raises an error of exactly this type whose message mentions every fact.

    with assert_error(DataError, mentions=["items.csv", 17]):
        read_items("items.csv")
    """
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.type is kind, f"a {caught.type.__name__} instead of a {kind.__name__}: {caught.value}"
    assert_mentions(str(caught.value), mentions)


def assert_refused(result: object, mentions: Iterable[object] = (), exit_code: int = 2) -> None:
    """Check that a command ended with one sentence on standard error that mentions every fact, and no traceback."""
    code = getattr(result, "exit_code", None)
    stderr = str(getattr(result, "stderr", ""))
    assert code == exit_code, f"exit code {code}: {stderr}"
    sentences = [line for line in stderr.splitlines() if line.startswith("lirdrec: ")]
    assert len(sentences) == 1 and "Traceback" not in stderr, stderr
    assert_mentions(sentences[0], mentions)


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, by its path there with forward slashes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PATIENCE = 600.0  # seconds; only ends a hang: on a busy machine a server takes a minute to start


class FreePort:
    """A port that no other process is given before the server that it is meant for listens on it.

    The socket stays bound until `close` and does not listen. Linux lets a server that sets SO_REUSEADDR, as all do
    here, listen beside it, gives the port to nobody who asks for any free one, and refuses connections meanwhile.
    """

    def __init__(self) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.number: int = self._held.getsockname()[1]
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        self._held.close()
