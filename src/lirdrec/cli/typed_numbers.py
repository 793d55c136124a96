"""Check of typed numbers: raise an error for notations that Python would misread, and show how to write them."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from lirdrec.errors import ConfigError

INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
COMMA = re.compile(r"\s*([+-]?[0-9]*),([0-9]+)\s*")


def check_numbers(command: Any, arguments: Sequence[str]) -> None:
    """Check the values of a command's numeric options as they were typed.

    Texts that are not numbers are left to the parser of the command line, whose error names the option.

    Args:
        command: a command of typer; its function has the types of the options.
        arguments: those after the command's name.

    Raises:
        ConfigError: a number with underscores, digits of another script, or a decimal comma.
    """
    for option, kind, text in _values(command, arguments):
        if kind is float and (parts := COMMA.fullmatch(text)):
            raise ConfigError(
                f"{option} {text}: is not a number; write it with a decimal point: {parts[1] or '0'}.{parts[2]}"
            )
        if "_" in text or not text.isascii():
            plain = _plain(kind, text)
            if plain is not None:
                raise ConfigError(f"{option} {text}: is not a number; write it as {plain}")
        elif kind is int and not INTEGER.fullmatch(text) and (plain := _plain(int, text)) is not None:
            raise ConfigError(f"{option} {text}: is not an integer; write it as {plain}")


def _plain(kind: type, text: str) -> str | None:
    """The number that Python reads from a text; None if it is not a number."""
    try:
        return str(kind(text))
    except ValueError:
        return None


def _values(command: Any, arguments: Sequence[str]) -> Iterator[tuple[str, type, str]]:
    """Option, type and text of each number in the arguments."""
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    kinds = {
        option: kind
        for parameter in command.params
        for option in parameter.opts
        if (kind := _kind(hints.get(parameter.name))) is not None
    }
    for i, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if word == "--":
            return
        if word in kinds and i + 1 < len(arguments):
            yield word, kinds[word], arguments[i + 1]
        elif equals and name.startswith("--") and name in kinds:
            yield name, kinds[name], value
        elif word[:2] in kinds and not word.startswith("--") and len(word) > 2:
            yield word[:2], kinds[word[:2]], word[2:]


def _kind(hint: Any) -> type | None:
    """`int` or `float` if the type is one of them, optional or a list; else None."""
    types = {hint, *typing.get_args(hint)}
    types |= {inner for outer in types for inner in typing.get_args(outer)}
    return int if int in types else float if float in types else None
