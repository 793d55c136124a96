"""Fixtures shared by all tests, and an environment that is the same on every machine."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from lirdrec.available_memory import free_memory

ROOT = Path(__file__).resolve().parents[1]

# The same examples in every run, and none refused because the machine was slow. To look for new ones:
# pytest --hypothesis-profile=default
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


IN_MEMORY = Path("/dev/shm")  # a file system in memory, on Linux
_places: list[str] = []  # the folder there that this process has made; empty in workers, which inherit TMPDIR
ENOUGH_MEMORY = 2 * 2**30  # bytes that must be free there; a run of all tests writes 0.4 GB


def _write_files_in_memory() -> None:
    """Let temporary files lie in memory if there is room: the tests sync files to disk thousands of times.

    To keep the files on a disk, set TMPDIR.
    """
    if "TMPDIR" in os.environ or not os.access(IN_MEMORY, os.W_OK):
        return
    if shutil.disk_usage(IN_MEMORY).free < ENOUGH_MEMORY or (free_memory() or 0) < 2 * ENOUGH_MEMORY:
        return
    for folder in IN_MEMORY.glob("lirdrec-*"):  # of tests that failed or were killed
        if time.time() - folder.stat().st_mtime > 24 * 3600:
            shutil.rmtree(folder, ignore_errors=True)
    place = tempfile.mkdtemp(prefix="lirdrec-", dir=IN_MEMORY)  # a short path, because Ray puts its sockets there
    os.chmod(place, 0o755)  # some tests read as another user
    os.environ["TMPDIR"] = place
    _places.append(place)
    tempfile.tempdir = None  # so that the module reads TMPDIR again


def _settle_environment() -> None:
    """What the person or the machine has set must not reach the tests; inherited by all processes that they start."""
    _write_files_in_memory()
    for name in list(os.environ):
        ours = name.startswith("LIRDREC_") and name != "LIRDREC_DATA"
        if ours or name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TERMINAL_WIDTH", "OPENAI_API_KEY"):
            del os.environ[name]
    os.environ["LIRDREC_CACHE"] = tempfile.mkdtemp(prefix="lirdrec-tests-")  # removed by pytest_unconfigure
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in ("NO_PROXY", "no_proxy"):  # servers of the tests are never asked through a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost,::1"]))


_settle_environment()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files of the tests that run, not compare them"
    )


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["LIRDREC_CACHE"], ignore_errors=True)


def pytest_sessionfinish(exitstatus: int) -> None:
    for place in _places if exitstatus == 0 else ():
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """A command that runs in this process with --quiet must not silence the log of later tests."""
    logger = logging.getLogger("lirdrec")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers = handlers


@pytest.fixture(autouse=True)
def seeds() -> None:
    """A test draws the same numbers whichever tests ran before it in its process."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data outside the repository; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("LIRDREC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data not found: set LIRDREC_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def sample() -> Path:
    """The MovieLens sample that the repository ships, as a prepared dataset."""
    return ROOT / "sample" / "movielens"


@pytest.fixture
def lirdrec(monkeypatch, tmp_path, tmp_path_factory) -> Callable[..., Any]:
    """`lirdrec("recommend", run, "--user", 1)` in an empty working folder; gives typer's `Result`."""
    from typer.testing import CliRunner

    from lirdrec.cli.main import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LIRDREC_CACHE", str(tmp_path_factory.mktemp("cache")))

    def call(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(one) for one in arguments])

    return call


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(text, "table.html")` compares a text with the file golden/table.html beside the test's own file.

    `pytest --update-golden` writes the file instead; read the difference (`git diff`) before you commit it.
    """

    def compare(text: str, name: str) -> None:
        path = request.path.parent / "golden" / name
        if request.config.option.update_golden:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            return
        where = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
        if not path.is_file():
            pytest.fail(f"{where} is missing; run this test with --update-golden to write it", pytrace=False)
        assert text == path.read_bytes().decode("utf-8"), f"not the text of {where}; --update-golden writes the new one"

    return compare
