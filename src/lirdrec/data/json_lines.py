"""One record a line, JSON or a Python literal, plain or gzipped: read in blocks of whole lines; a bad line is named."""

from __future__ import annotations

import ast
import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from lirdrec.data.compression import open_bytes
from lirdrec.data.ids import count
from lirdrec.errors import ConfigError, DataError
from lirdrec.option_names import argument

logger = logging.getLogger(__name__)

BLOCK_BYTES = 16 << 20
MAX_LINE_BYTES = 64 << 20
MAX_LITERAL = 1 << 20  # Python's own parser takes 100 times its input in memory
LITERAL = re.compile(r"\{\s*u?'")

Policy = Literal["raise", "skip"]
T = TypeVar("T")


@dataclass
class BadLines:
    """What to do with lines that cannot be used: stop at the first, or leave them out and count them.

    Attributes:
        path: the file that the lines are in.
        policy: "raise" or "skip".
        option: that leaves such lines out.
        count: of lines left out so far.
        example: the first of them, in words.

    Raises:
        ConfigError: another policy.
    """

    path: Path
    policy: Policy = "raise"
    option: str = "bad_lines"
    count: int = 0
    example: str = ""

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ConfigError(f"bad_lines is {self.policy!r}; choose one of 'raise', 'skip'")

    def add(self, line: int, reason: str) -> None:
        """Note a bad line, counted from 1.

        Raises:
            DataError: the policy is "raise".
        """
        if self.policy == "raise":
            remedy = f"leave such lines out ({argument(self.option, 'skip')})"
            raise DataError(f"{self.path}: line {line}: {reason}; correct the line, or {remedy}")
        self.count += 1
        self.example = self.example or f"line {line}: {reason}"

    def report(self) -> None:
        """Log how many lines were left out, if any were."""
        if self.count:
            logger.warning("%s: %s left out (%s)", self.path, count(self.count, "bad line"), self.example)


def read_blocks(path: Path, size: int = BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """The file as `(number of the first line, whole lines)`, in order; only the last block may lack its line end.

    Args:
        path: plain or gzipped.
        size: bytes to read at a time; a block is about as long, longer where a line is.

    Raises:
        DataError: the file is missing, empty, cut short or damaged, or has a line that is no record by its length.
    """
    number, rest = 1, b""
    with open_bytes(path) as file:
        while piece := file.read(size):
            if number == 1 and not rest:
                piece = piece.removeprefix(b"\xef\xbb\xbf")
            end = piece.rfind(b"\n") + 1
            if not end:
                rest += piece
                if len(rest) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MB: not a file of one record per"
                        " line"
                    )
                continue
            block, rest = rest + piece[:end], piece[end:]
            block = block.replace(b"\r\n", b"\n") if b"\r" in block else block
            yield number, block
            number += block.count(b"\n")
    if rest:
        yield number, rest


def parse_lines(number: int, block: bytes, bad: BadLines, parse: Callable[[bytes], T | None]) -> Iterator[T]:
    """What `parse` makes of each line of a block, in order; blank lines, and those it gives None for, are left out.

    Args:
        number: of the block's first line.
        block: whole lines.
        bad: told of the lines for which `parse` raises ValueError, with the error's words.
        parse: takes a line without its end.
    """
    lines = block.split(b"\n")
    for at, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            result = parse(line)
        except DataError:  # about the file, not about the line
            raise
        except ValueError as error:
            cut = at == len(lines) - 1  # a block that ends with a line end has an empty last piece
            bad.add(number + at, f"{error}" + (", and the file ends in the middle of it" if cut else ""))
        else:
            if result is not None:
                yield result


def parse_record(line: bytes) -> dict[str, Any]:
    """A line as a record: JSON, or a Python literal of a dict with quoted keys (never run as code).

    Raises:
        ValueError: it is neither; the message says why.
    """
    text = decode_line(line)
    try:
        record = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        if not LITERAL.match(text.lstrip()):
            raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
        record = _literal(text.strip())
    except ValueError:  # a number of thousands of digits
        raise ValueError("not JSON that can be read (a number is too long)") from None
    if not isinstance(record, dict):
        raise ValueError(f"holds a {type(record).__name__}, not a record in {{…}}")
    return record


def finite_float(value: Any) -> float | None:
    """A number of a record as a finite float; None for anything else, True and False included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def decode_line(line: bytes) -> str:
    """A line as text.

    Raises:
        ValueError: it is not UTF-8; the message says so.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte 0x{line[error.start]:02x} at {error.start + 1})") from None


def _literal(text: str) -> Any:
    if len(text) > MAX_LITERAL:
        raise ValueError(f"a Python literal of {len(text):,} characters; at most {MAX_LITERAL:,} are read")
    try:
        return ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(f"neither JSON nor a Python literal ({error.msg})") from None
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError("neither JSON nor a Python literal of texts and numbers") from None
