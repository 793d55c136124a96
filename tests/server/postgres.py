"""A PostgreSQL server of the tests' own, on a socket in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:  # Debian keeps them off the path
        found = next((str(one) for one in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    if found is None:
        pytest.skip("PostgreSQL not found: apt-get install postgresql")
    return found


class Cluster:
    """One data folder and its server, which does not listen on the network."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.user = None if os.getuid() else _other_user()  # PostgreSQL refuses to run as root
        if self.user is not None:
            shutil.chown(folder, self.user)
        self._run("initdb", "--auth=trust", "--username=tester", "--no-sync", "--locale=C.UTF-8", "-D", self._data)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://tester@/postgres?host={self.folder}"

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "start", "-w", "-t", "600", "-s", "-D", self._data, "-l", log, "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-t", "600", "-s", "-m", "immediate", "-D", self._data)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [_program(program), *arguments],
            user=self.user,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would be held open by the server
            stderr=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{program} ended with {done.returncode}; see {self.folder / 'log'}"


@contextmanager
def running() -> Iterator[Cluster]:
    """A started cluster, gone afterwards; skips the test where PostgreSQL is missing."""
    for name in ("initdb", "pg_ctl"):
        _program(name)
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # the path of a socket must be short
    try:
        cluster = Cluster(folder)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _other_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
