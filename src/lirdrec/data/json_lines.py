"""Read files with one record per line (JSON or Python literals, plain or compressed) in blocks of complete lines."""

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
from lirdrec.errors import ConfigError, DataError
from lirdrec.option_names import option_text
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

BLOCK_BYTES = 16 << 20
MAX_LINE_BYTES = 64 << 20
MAX_LITERAL = 1 << 20  # Python's parser needs 100 times its input in memory
LITERAL = re.compile(r"\{\s*u?'")

Policy = Literal["raise", "error", "skip"]
T = TypeVar("T")


@dataclass
class BadLines:
    """Handles unusable lines of a file: raises an error at the first one, or skips and counts them.

    Attributes:
        path: the file of the lines.
        policy: what to do with such a line: "skip", or "raise" (also called "error"); else a ConfigError is raised.
        option: the option that skips such lines, for messages.
        count, example: the number of lines skipped so far, and a message about the first.
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
        """Count the unusable line number `line` (from 1) if the policy is "skip"; else raise a DataError about it."""
        if self.policy != "skip":
            remedy = f"leave such lines out ({option_text(self.option, 'skip')})"
            raise DataError(f"{self.path}: line {line}: {reason}; correct the line, or {remedy}")
        self.count += 1
        self.example = self.example or f"line {line}: {reason}"

    def report(self) -> None:
        """Log how many lines were skipped, if any."""
        if self.count:
            logger.warning("%s: %s left out (%s)", self.path, pluralize(self.count, "bad line"), self.example)


def read_blocks(path: Path, size: int = BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """Read a file in blocks, `(number of the first line, complete lines)`; only the last block may lack its line end.

    `size` is about the length of a block in bytes, unless a line is longer. Raises a DataError if the file is missing,
    empty, cut short or damaged, or a line exceeds the maximum length.
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
                    limit = f"{MAX_LINE_BYTES >> 20} MB"
                    raise DataError(f"{path}: line {number} is longer than {limit}: not a file of one record per line")
                continue
            block, rest = rest + piece[:end], piece[end:]
            block = block.replace(b"\r\n", b"\n") if b"\r" in block else block
            yield number, block
            number += block.count(b"\n")
    if rest:
        yield number, rest


def parse_lines(number: int, block: bytes, bad: BadLines, parse: Callable[[bytes], T | None]) -> Iterator[T]:
    """Call `parse` for each line of a block that is not blank, and yield the results that are not None, in order.

    `number` is the number of the block's first line. `bad` handles lines for which `parse` raises a ValueError.
    """
    lines = block.split(b"\n")
    for position, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            result = parse(line)
        except DataError:  # an error of the file, not of the line
            raise
        except ValueError as error:
            is_cut = position == len(lines) - 1  # a block that ends with a line end has an empty last piece
            bad.add(number + position, f"{error}" + (", and the file ends in the middle of it" if is_cut else ""))
        else:
            if result is not None:
                yield result


def parse_record(line: bytes) -> dict[str, Any]:
    """Parse a line of JSON, or a Python literal of a dict (never run as code), as a record; else raise ValueError."""
    text = decode_line(line)
    try:
        record = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        if not LITERAL.match(text.lstrip()):
            raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
        record = _literal(text.strip())
    except ValueError:  # a number with thousands of digits
        raise ValueError("not JSON that can be read (a number is too long)") from None
    if not isinstance(record, dict):
        raise ValueError(f"holds a {type(record).__name__}, not a record in {{…}}")
    return record


def finite_float(value: Any) -> float | None:
    """Convert a value of a record to a finite float; None for anything else, including True and False."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def decode_line(line: bytes) -> str:
    """Decode a line to text; raises a ValueError if it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte 0x{line[error.start]:02x} at position {error.start + 1})") from None


def _literal(text: str) -> Any:
    if len(text) > MAX_LITERAL:
        raise ValueError(f"a Python literal of {len(text):,} characters; the maximum is {MAX_LITERAL:,}")
    try:
        return ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(f"neither JSON nor a Python literal ({error.msg})") from None
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError("neither JSON nor a Python literal of texts and numbers") from None
