"""What leaves the command line when something cannot be read, written, held or understood: one sentence, code 2."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer

from lirdrec import available_memory
from lirdrec.available_memory import check_memory, format_bytes, free_memory
from lirdrec.cli import config, errors, option_groups
from lirdrec.config import MAX_INT
from lirdrec.data import compression
from lirdrec.data.table_files import read_table
from lirdrec.errors import ConfigError, DataError
from lirdrec.files import input_file_checks

from ..helpers import assert_error, assert_refused, needs_dev_full, needs_fifos, needs_modes

NOBODY = 65534  # the user id of "nobody" on Linux

PAIRS = "user,item\n" + "".join(f"u{n % 7},i{n % 11}\n" for n in range(60))


@pytest.fixture
def failing(monkeypatch):
    """Let `lirdrec config` end with an error."""

    def set_error(error: BaseException) -> None:
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(config, "configuration", fail)

    return set_error


@pytest.mark.parametrize(
    "error, facts",
    [
        (PermissionError(errno.EACCES, "Permission denied", "/none/x"), ["/none/x"]),
        (OSError(errno.ENOSPC, "No space left on device", "out.csv"), ["out.csv"]),
        (OSError(errno.EROFS, "Read-only file system", "out.csv"), ["out.csv"]),
        (FileNotFoundError(errno.ENOENT, "No such file", "no/.k.json.118-a75153b3.tmp"), ["no/k.json"]),
        (OSError(errno.ENOSPC, "No space left on device"), ["lirdrec config"]),
        (pl.exceptions.ComputeError("write failed: No space left on device (os error 28)"), ["lirdrec config"]),
        (MemoryError(), [format_bytes(8 << 30), "lirdrec config"]),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9000000000 bytes."),
            ["9.0 GB", format_bytes(8 << 30)],
        ),
        (MemoryError("Unable to allocate 7.28 TiB for an array"), ["7.28 TiB"]),
        (ValueError("Overflow when unpacking long long"), ["Overflow when unpacking long long"]),
        (OverflowError("Python int too large to convert to C long"), ["Python int too large to convert to C long"]),
        (RecursionError("maximum recursion depth exceeded"), ["lirdrec config"]),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), ["UTF-8"]),
        (pl.exceptions.PanicException("index out of bounds"), ["index out of bounds"]),
    ],
)
def test_what_is_refused_gives_one_sentence(lirdrec, failing, monkeypatch, error, facts):
    monkeypatch.setattr(errors, "free_memory", lambda: 8 << 30)
    failing(error)
    result = lirdrec("config")
    assert_refused(result, facts)
    assert result.stderr.count("\n") == 1
    # what is refused is no fault of the program: the message does not ask for a report
    assert "--debug" not in result.stderr


def test_a_fault_of_ours_asks_for_a_report(lirdrec, failing):
    failing(KeyError("weights"))
    result = lirdrec("config", "--preset", "paper")
    assert result.exit_code == 1
    assert "KeyError: 'weights'" in result.stderr
    assert "lirdrec --debug config --preset paper" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in lirdrec("--debug", "config").stderr


def test_messages_are_cut_and_hold_no_control_characters():
    text = errors.shortened(f"{'x' * 4000} no such \x1b[31mfile")
    assert len(text) < 400
    assert "4,000" in text
    assert text.endswith(r"no such \x1b[31mfile")
    assert len(errors.shortened("a word, " * 10_000)) < errors.LONGEST_MESSAGE + 100


def test_an_argument_that_is_not_utf8_is_refused(lirdrec, tmp_path):
    (tmp_path / "pairs.csv").write_text(PAIRS)
    result = lirdrec("prepare", "pairs.csv", "--user", "user", "--item", "item", "-o", os.fsdecode(b"o\xff"))
    assert_refused(result, ["UTF-8"])
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


@needs_fifos
@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "fifo", "--user", "user", "--item", "item", "-o", "o"],
        ["prepare", "pairs.csv", "--user", "user", "--item", "item", "--items", "fifo", "-o", "o"],
        ["prepare", "pairs.csv", "--user", "user", "--item", "item", "--features", "t=fifo.npy", "-o", "o"],
        ["prepare", "reviews.json", "--metadata", "fifo", "-o", "o"],
        ["inspect", "fifo"],
        ["train", "{sample}", "--run", "r", "--config", "fifo"],
        ["add-items", "run", "--items", "fifo"],
    ],
)
def test_a_fifo_is_refused_and_never_waited_for(lirdrec, tmp_path, run, sample, arguments):
    for name in ("fifo", "fifo.npy"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "pairs.csv").write_text(PAIRS)
    (tmp_path / "reviews.json").write_text('{"reviewerID": "u", "asin": "B0", "overall": 5, "unixReviewTime": 1}\n')
    result = lirdrec(*(one.format(sample=sample) for one in arguments))
    assert result.exit_code == 2
    assert "FIFO" in result.stderr


@pytest.mark.parametrize("name", ["/dev/null", "x" * 300, "/".join(["x" * 200] * 30)])
def test_devices_and_names_that_are_too_long(lirdrec, tmp_path, name):
    result = lirdrec("prepare", name, "-o", "o")
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 1000


@pytest.mark.parametrize(
    "arguments, option",
    [
        (["--seed", str(2**70)], "--seed"),
        (["--set", f"batch_size={2**70}"], "batch_size"),
        (["--set", "epochs=" + "9" * 5000], "--set epochs"),
        (["--set", "epochs=0x" + "f" * 5000], "epochs"),
        (["--set", "metric=recall@" + "9" * 5000], "metric"),
        (["--set", "modalities=" + "[" * 5000], "--set modalities"),
        (["--set", f"learning_rate={'9' * 400}"], "learning_rate"),
        (["--set", "embedding_size=1000000000000000"], "embedding_size"),
    ],
)
def test_numbers_and_values_beyond_all_bounds(lirdrec, tmp_path, sample, arguments, option):
    result = lirdrec("train", sample, "--run", "r", *arguments)
    assert result.exit_code == 2
    assert option in result.stderr
    assert len(result.stderr) < 2500
    assert not (tmp_path / "r").exists()


def test_a_nested_or_binary_configuration_is_refused(lirdrec, tmp_path, sample):
    for content in (b"[model]\nmodalities=" + b"[" * 20_000, b"\xff\xfe", b"[model]\nn_layers = " + b"9" * 5000):
        (tmp_path / "c.toml").write_bytes(content)
        result = lirdrec("train", sample, "--run", "r", "--config", "c.toml")
        assert result.exit_code == 2
        assert "c.toml" in result.stderr


def test_a_memory_limit_beyond_the_memory_is_refused(lirdrec, run, monkeypatch):
    monkeypatch.setattr(available_memory, "free_memory", lambda: 8 << 30)
    result = lirdrec("evaluate", run, "--memory-limit", str(9 << 10))
    assert result.exit_code == 2
    assert "--memory-limit 9216" in result.stderr
    assert format_bytes(9 << 30) in result.stderr
    assert format_bytes(8 << 30) in result.stderr


def test_a_negative_seed_is_refused(lirdrec, sample):
    result = lirdrec("inspect", sample, "--modality", "text", "--seed", "-1")
    assert result.exit_code == 2
    assert "--seed" in result.stderr


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "pairs.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n" + bytes(64 << 20)))
    monkeypatch.setattr(compression, "free_memory", lambda: 60 << 20)
    with assert_error(DataError, mentions=["pairs.csv.gz", "62.9 MB"]):
        read_table(path)


def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, lirdrec, monkeypatch):
    (tmp_path / "pairs.csv").write_text(PAIRS)
    np.savez_compressed(tmp_path / "text.npz", ids=np.arange(11), v=np.zeros((11, 1 << 16), dtype=np.float32))
    monkeypatch.setattr(available_memory, "free_memory", lambda: 1 << 20)
    options = ["--user", "user", "--item", "item", "--features", "text=text.npz"]
    result = lirdrec("prepare", "pairs.csv", *options, "-o", "o")
    assert result.exit_code == 2
    assert "text.npz" in result.stderr
    assert format_bytes(1 << 20) in result.stderr


def test_ids_of_bytes_that_are_no_text(tmp_path, lirdrec):
    (tmp_path / "pairs.csv").write_text(PAIRS)
    ids = np.array([b"\xffi%d" % n for n in range(11)])
    np.savez(tmp_path / "text.npz", ids=ids, v=np.ones((11, 4), dtype=np.float32))
    options = ["--user", "user", "--item", "item", "--features", "text=text.npz"]
    result = lirdrec("prepare", "pairs.csv", *options, "-o", "o")
    assert result.exit_code == 2
    assert "ids" in result.stderr
    assert "UTF-8" in result.stderr


@needs_dev_full
def test_a_full_disk_behind_the_output_stream():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lirdrec", "config"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.startswith("lirdrec: ") and done.stderr.count("\n") == 1


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Run the block without root's right to read every file; an ordinary user stays who they are."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)  # the saved id 0 allows to return
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@needs_modes
def test_a_file_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, whose parent only root may enter
        os.chmod(folder, 0o755)
        path = Path(folder) / "x.csv"
        path.write_text(PAIRS)
        with an_ordinary_user():
            assert read_table(path).frame.height == PAIRS.count("\n") - 1
        path.chmod(0)
        with assert_error(DataError, mentions=["x.csv"]), an_ordinary_user():
            read_table(path)


def test_the_rights_are_looked_at_before_a_file_is_opened(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text(PAIRS)
    monkeypatch.setattr(input_file_checks.os, "access", lambda *_: False)
    with assert_error(DataError, mentions=["x.csv"]):
        read_table(path)


def test_memory_that_is_free_is_below_that_of_the_machine():
    free = free_memory()
    if free is None:
        pytest.skip("free memory is read from /proc, which only Linux has")
    assert 0 < free < 1 << 50
    with assert_error(ConfigError, mentions=["1,125,899.9 GB", "embedding_size 5"]):
        check_memory(1 << 50, "embedding_size 5")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS ignores ulimit -v, and Windows has none")
def test_memory_that_is_free_obeys_the_limit_of_the_shell():
    code = "import lirdrec.available_memory as m; print(m.free_memory())"
    done = subprocess.run(
        ["sh", "-c", f"ulimit -v 500000; exec {sys.executable} -c '{code}'"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 512_000_000


def test_whole_numbers_in_options_are_in_range():
    check = option_groups.integer(0)
    assert check(None) is None
    assert check([0, MAX_INT]) == [0, MAX_INT]
    with assert_error(typer.BadParameter, mentions=[-1, 0]):
        check(-1)
    with assert_error(typer.BadParameter, mentions=[2**63]):
        check([3, 2**63])


def test_kinds_of_files_have_names(tmp_path):
    assert stat.S_IFIFO in input_file_checks.KIND_NAMES
    assert input_file_checks.is_folder(tmp_path)
    assert not input_file_checks.is_folder(tmp_path / "none")
    with assert_error(DataError):
        input_file_checks.stat_path("a\0b")
