"""Error handling of the command line: each error becomes one sentence and an exit code."""

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

from lirdrec.available_memory import format_bytes, free_memory
from lirdrec.cli.output import FAULT, INTERRUPTED, REFUSED
from lirdrec.errors import WORDS, LirdrecError

LONGEST_WORD = 300  # characters of a word in a message; file systems allow 255 in a name
LONGEST_MESSAGE = 2_000
USAGE_ERRORS: tuple[type[Exception], ...] = (typer.BadParameter.__mro__[2],)  # ClickException of typer's own click
# names of temporary files of `lirdrec.files.atomic`
TEMPORARY = re.compile(r"\.(.+)\.(?:[0-9a-f]{8}-)?[0-9]+-[0-9a-f]{8}\.(?:tmp|old)")
OS_ERROR = re.compile(r"\(os error ([0-9]+)\)")
ALLOCATED = re.compile(r"(?:tried to allocate ([0-9]+) bytes|[Uu]nable to allocate ([0-9.,]+ [KMGTPE]?i?B))")
NO_MEMORY = re.compile(r"not enough memory|can(?:no|')t allocate memory|DefaultCPUAllocator|[Oo]ut of memory|malloc of")
TOO_LARGE = re.compile(r"[Oo]verflow|too large to convert|too big to convert|out of range for")
WRITING = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    getattr(errno, "EDQUOT", errno.ENOSPC): "the disk quota is used up; free some space or choose another place",
    errno.EROFS: "cannot be written: the disk is read-only; choose another place",
    errno.EFBIG: "is larger than the largest file that this user may write",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the disk reported an error",
    errno.EISDIR: "is a folder; give the path of a file",
}
# errors of these libraries mean damaged files
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
    """Context manager that prints an error as one sentence on the error stream and exits with a code.

    Wrong options are raised again, since typer prints their errors.

    Args:
        arguments: the arguments of `lirdrec`, which are shown if the message of the error names no file.
        debug: also print the full traceback.

    Raises:
        typer.Exit: with 2 for most errors that the user can fix (some have another code), 1 for a bug of lirdrec, 130
            for Ctrl-C, 0 if the program that reads the output has ended (`lirdrec … | head`).
    """
    try:
        yield
    except USAGE_ERRORS as error:  # typer shows these itself
        shown: Any = error  # click's errors have a message, which their base class does not declare
        shown.message = shortened(str(getattr(error, "message", error)))
        raise
    except (typer.Exit, typer.Abort, SystemExit, GeneratorExit):
        raise
    except KeyboardInterrupt:
        _print_error("\nlirdrec: stopped")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of the output closed it: `lirdrec … | head`
        _forget_output()
        raise typer.Exit(0) from None
    except BaseException as error:  # a panic of Rust code is not an Exception
        if debug:
            traceback.print_exc()
        sentence, code = explained(error, arguments)
        if not debug or not isinstance(error, LirdrecError):
            _print_error(f"lirdrec: {shortened(sentence)}")
        raise typer.Exit(code) from None


def escape_unencodable() -> None:
    """Make the output streams escape characters that their encoding lacks, as in `caf\\xe9`, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def check_arguments(arguments: Sequence[str]) -> None:
    """Check that all arguments of the command line are UTF-8, since names of files are stored as UTF-8.

    Raises:
        LirdrecError: an argument is not UTF-8.
    """
    for word in arguments:
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise LirdrecError(f"the argument {word} is not UTF-8; give the file or folder another name") from None


def explained(error: BaseException, arguments: Sequence[str]) -> tuple[str, int]:
    """Return one sentence about an error, and the exit code. Some sentences show the command with its `arguments`."""
    if isinstance(error, LirdrecError):
        return str(error), error.exit_code
    command = shlex.join(["lirdrec", *(shortened(word, 80) for word in arguments)])
    sentence = _system_error(error, command) or _limit_error(error, command)
    if sentence is not None:
        return sentence, REFUSED
    name = type(error).__name__
    if type(error).__module__.partition(".")[0] in WRAPPERS or isinstance(error, EOFError):
        return f"a file cannot be read or written ({name}: {_first_line(error)}), in: {command}", REFUSED
    bug = f"this is a bug of lirdrec: {name}: {_first_line(error)}; please report it with the output of"
    return f"{bug}: {command.replace('lirdrec', 'lirdrec --debug', 1)}", FAULT


def shortened(text: str, longest_word: int = LONGEST_WORD) -> str:
    """Return a message with escaped control characters, and without the middle of long words and of a long message."""
    text = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    text = re.sub(rf"\S{{{longest_word + 1},}}", lambda word: _cut(word[0], longest_word // 2), text)
    return text if len(text) <= LONGEST_MESSAGE else _cut(text, LONGEST_MESSAGE // 2)


def _cut(text: str, kept: int) -> str:
    """Return the first and the last `kept` characters of a text; between them is the number of all its characters."""
    return f"{text[:kept]}… ({len(text):,} characters) …{text[-kept:]}"


def _system_error(error: BaseException, command: str) -> str | None:
    """Return the sentence for an error of the operating system, also if a library wraps it; None for other errors."""
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
    folder, name = os.path.split(os.fsdecode(path))
    if match := TEMPORARY.fullmatch(name):
        name = match[1]
    target = os.path.join(folder, name)
    if number in (errno.EACCES, errno.EPERM) and not _is_unreadable(path):
        words = "may not be written by this user; change the rights of its folder, or the user"
    elif number == errno.ENOENT and not os.path.isdir(folder or "."):
        words = f"the folder {folder} does not exist"
    return f"{target}: {words}"


def _is_unreadable(path: Any) -> bool:
    """Return whether a path exists and this user may not read it.

    The error of the system does not say whether reading or writing failed.
    """
    try:
        os.stat(path)
    except PermissionError:
        return True
    except (OSError, ValueError, TypeError):
        return False
    return not os.access(path, os.R_OK)


def _limit_error(error: BaseException, command: str) -> str | None:
    """Return the sentence for missing memory, a number too large, deep nesting or text that is not UTF-8, else None."""
    text = str(error)
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        free, sizes = free_memory(), []
        if requested := ALLOCATED.search(text):
            sizes.append(f"{format_bytes(int(requested[1])) if requested[1] else requested[2]} requested at once")
        if free is not None:
            sizes.append(f"{format_bytes(free)} free")
        details = f" ({', '.join(sizes)})" if sizes else ""
        return f"there is not enough memory{details}; use smaller numbers or less data, in: {command}"
    if isinstance(error, RecursionError):
        return f"a file or a value is nested too deeply, in: {command}"
    if isinstance(error, OverflowError) or (isinstance(error, (ValueError, RuntimeError)) and TOO_LARGE.search(text)):
        return f"a number is too large ({_first_line(error)}), in: {command}"
    if isinstance(error, ValueError) and "integer string conversion" in text:
        return f"a number has too many digits, in: {command}"
    if isinstance(error, UnicodeError):
        return f"a text or a name is not UTF-8 ({_first_line(error)}), in: {command}"
    return None


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its period; without a message, the name of its type."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return shortened(lines[0]).rstrip(".") if lines else type(error).__name__


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the error stream is closed
        print(text, file=sys.stderr, flush=True)


def _forget_output() -> None:
    """Discard what is not yet written to the closed output stream, so that Python exits without an error."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
