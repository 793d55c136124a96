"""Numbers as people type them: refused where Python would read something else, with how to write them."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from lirdrec.errors import ConfigError

WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
COMMA = re.compile(r"\s*([+-]?[0-9]*),([0-9]+)\s*")


def check_numbers(command: Any, arguments: Sequence[str]) -> None:
    """Look at the values of a command's numeric options as they were typed.

    What is no number at all is left to the parser of the command line, which names the option.

    Args:
        command: of the command line; its function has the types.
        arguments: behind the command's name.

    Raises:
        ConfigError: digits with underscores or of another script, which Python takes; a decimal comma.
    """
    for option, kind, text in _values(command, arguments):
        if kind is float and (parts := COMMA.fullmatch(text)):
            raise ConfigError(
                f"{option} {text}: is no number; write it with a decimal point: {parts[1] or '0'}.{parts[2]}"
            )
        if "_" in text or not text.isascii():
            plain = _plain(kind, text)
            if plain is not None:
                raise ConfigError(f"{option} {text}: is no number; write it as {plain}")
        elif kind is int and not WHOLE.fullmatch(text) and (plain := _plain(int, text)) is not None:
            raise ConfigError(f"{option} {text}: is no whole number; write it as {plain}")


def _plain(kind: type, text: str) -> str | None:
    """The number that Python reads in a text; None where it reads none."""
    try:
        return str(kind(text))
    except ValueError:
        return None


def _values(command: Any, arguments: Sequence[str]) -> Iterator[tuple[str, type, str]]:
    """Option, type and text of each number that is given."""
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    kinds = {
        option: kind
        for one in command.params
        for option in one.opts
        if (kind := _kind(hints.get(one.name))) is not None
    }
    for at, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if word == "--":
            return
        if word in kinds and at + 1 < len(arguments):
            yield word, kinds[word], arguments[at + 1]
        elif equals and name.startswith("--") and name in kinds:
            yield name, kinds[name], value
        elif word[:2] in kinds and not word.startswith("--") and len(word) > 2:
            yield word[:2], kinds[word[:2]], word[2:]


def _kind(hint: Any) -> type | None:
    """`int` or `float` where a type is one, or one of it, or a list of it; else None."""
    found = {hint, *typing.get_args(hint)}
    found |= {inner for one in found for inner in typing.get_args(one)}
    return int if int in found else float if float in found else None
