"""The one place where errors leave the command line: each as one sentence and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from lirdrec.cli.output import FAULT, INTERRUPTED, REFUSED
from lirdrec.errors import WORDS, LirdrecError
from lirdrec.memory import free_memory, in_words

LONGEST_WORD = 300  # characters; file systems take 255 in a name
LONGEST_MESSAGE = 2_000
USAGE_ERRORS: tuple[type[Exception], ...] = (typer.BadParameter.__mro__[2],)  # ClickException, whoever's it is
TEMPORARY = re.compile(
    r"\.(.+)\.(?:[0-9a-f]{8}-)?[0-9]+-[0-9a-f]{8}\.(?:tmp|old)"
)  # how `lirdrec.files.atomic` calls a file before its time
OS_ERROR = re.compile(r"\(os error ([0-9]+)\)")
ALLOCATED = re.compile(r"(?:tried to allocate ([0-9]+) bytes|[Uu]nable to allocate ([0-9.,]+ [KMGTPE]?i?B))")
NO_MEMORY = re.compile(r"not enough memory|can(?:no|')t allocate memory|DefaultCPUAllocator|[Oo]ut of memory|malloc of")
TOO_LARGE = re.compile(r"[Oo]verflow|too large to convert|too big to convert|out of range for")
WRITING = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    getattr(errno, "EDQUOT", errno.ENOSPC): "the disk quota is used up; free some space or choose another place",
    errno.EROFS: "cannot be written: the disk is read-only; choose another place",
    errno.EFBIG: "is larger than this user may write",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the disk gave an error",
    errno.EISDIR: "is a folder; name a file",
}
# errors of these libraries that reach the boundary come of damaged files
WRAPPERS = (
    "polars",
    "pyarrow",
    "pyo3_runtime",
    "safetensors",
    "safetensors_rust",
    "zipfile",
    "zlib",
    "tokenize",
    "json",
    "tomllib",
)


@contextlib.contextmanager
def boundary(arguments: Sequence[str], debug: bool) -> Iterator[None]:
    """Turn every error inside the block into one sentence on the error stream, and an exit code.

    Args:
        arguments: what was typed after `lirdrec`; named where an error does not say what it is about.
        debug: show the whole traceback as well.

    Raises:
        typer.Exit: with 2 for what the user can put right, 1 for a fault of lirdrec, 130 for Ctrl-C.
    """
    try:
        yield
    except USAGE_ERRORS as error:  # typer shows these itself
        error.message = shortened(str(getattr(error, "message", error)))  # type: ignore[attr-defined]  # click's errors have it
        raise
    except (typer.Exit, typer.Abort, SystemExit, GeneratorExit):
        raise
    except KeyboardInterrupt:
        _say("\nlirdrec: stopped")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of our output went away: `lirdrec … | head`
        _forget_output()
        raise typer.Exit(0) from None
    except BaseException as error:  # a panic of Rust code is no Exception
        if debug:
            traceback.print_exc()
        sentence, code = explained(error, arguments)
        if not debug or not isinstance(error, LirdrecError):
            _say(f"lirdrec: {shortened(sentence)}")
        raise typer.Exit(code) from None


def write_everything() -> None:
    """Let the output streams escape what their encoding has no letter for, as in `caf\\xe9`, instead of giving up."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not UTF-8: names of files end up in manifests and tables, which are.

    Raises:
        LirdrecError: one is not.
    """
    for one in arguments:
        try:
            one.encode("utf-8")
        except UnicodeEncodeError:
            raise LirdrecError(f"the argument {one} is not UTF-8; give the file or folder another name") from None


def explained(error: BaseException, arguments: Sequence[str]) -> tuple[str, int]:
    """An error as one sentence, and the exit code that it gives."""
    if isinstance(error, LirdrecError):
        return str(error), error.exit_code
    command = shlex.join(["lirdrec", *(shortened(one, 80) for one in arguments)])
    about = _refused(error, command) or _too_much(error, command)
    if about is not None:
        return about, REFUSED
    name = type(error).__name__
    if type(error).__module__.partition(".")[0] in WRAPPERS or isinstance(error, EOFError):
        return f"something cannot be read or written ({name}: {_first_line(error)}), in: {command}", REFUSED
    return (
        f"this is a fault of lirdrec: {name}: {_first_line(error)}; please report it with what --debug shows:"
        f" {command.replace('lirdrec', 'lirdrec --debug', 1)}",
        FAULT,
    )


def shortened(text: str, longest_word: int = LONGEST_WORD) -> str:
    """A message of sane length: long words are cut in the middle, and so is the whole; control characters escaped."""
    text = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)
    text = re.sub(rf"\S{{{longest_word + 1},}}", lambda word: _cut(word[0], longest_word // 2), text)
    return text if len(text) <= LONGEST_MESSAGE else _cut(text, LONGEST_MESSAGE // 2)


def _cut(text: str, kept: int) -> str:
    """The first and last `kept` characters, and how many there were."""
    return f"{text[:kept]}… ({len(text):,} characters) …{text[-kept:]}"


def _refused(error: BaseException, command: str) -> str | None:
    """What the operating system refused, wherever its words are wrapped; None if it did not."""
    number, path = None, None
    if isinstance(error, OSError):
        number, path = error.errno, error.filename
    elif wrapped := OS_ERROR.search(str(error)):
        number = int(wrapped[1])
    elif "no space left" in str(error).lower():
        number = errno.ENOSPC
    else:
        return None
    words = (None if number is None else WORDS.get(number) or WRITING.get(number)) or _first_line(error)
    if path is None or isinstance(path, int):
        return f"a file, or the output: {words}, in: {command}"
    where = _target(os.fsdecode(path))
    if number in (errno.EACCES, errno.EPERM) and not _is_unreadable(path):
        words = "may not be written by this user; change the rights of its folder, or the user"
    elif number == errno.ENOENT and not os.path.isdir(os.path.dirname(where) or "."):
        words = f"the folder {os.path.dirname(where)} does not exist"
    return f"{where}: {words}"


def _is_unreadable(path: Any) -> bool:
    """Whether something is there that may not be read; the operating system does not say whether we read or wrote."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except (OSError, ValueError, TypeError):
        return False
    return not os.access(path, os.R_OK)


def _target(path: str) -> str:
    """The file that a temporary file was to become."""
    folder, name = os.path.split(path)
    found = TEMPORARY.fullmatch(name)
    return path if found is None else os.path.join(folder, found[1])


def _too_much(error: BaseException, command: str) -> str | None:
    """What was too large or too deep, or None."""
    text = str(error)
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        free, asked = free_memory(), ALLOCATED.search(text)
        need = f"{in_words(int(asked[1])) if asked[1] else asked[2]} were asked for at once" if asked else ""
        there = "" if free is None else f"{in_words(free)} are free"
        figures = ", ".join(one for one in (need, there) if one)
        return f"there is not enough memory{f' ({figures})' if figures else ''}; ask for less, in: {command}"
    if isinstance(error, RecursionError):
        return f"something is nested too deeply, in: {command}"
    if isinstance(error, OverflowError) or (isinstance(error, (ValueError, RuntimeError)) and TOO_LARGE.search(text)):
        return f"a number is too large ({_first_line(error)}), in: {command}"
    if isinstance(error, ValueError) and "integer string conversion" in text:
        return f"a number has too many digits, in: {command}"
    if isinstance(error, UnicodeError):
        return f"a text or a name is not UTF-8 ({_first_line(error)}), in: {command}"
    return None


def _first_line(error: BaseException) -> str:
    """The first line of an error's message without its end, or the error's type."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return shortened(lines[0]).rstrip(".") if lines else type(error).__name__


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads the error stream
        print(text, file=sys.stderr, flush=True)


def _forget_output() -> None:
    """Let what is still in the buffer of the output stream go nowhere, so that Python's end is a quiet one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
