"""Checks of numeric options: the range, and notations that Python would misread."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer

from lirdrec.config import MAX_INT
from lirdrec.errors import ConfigError

INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
COMMA = re.compile(r"\s*([+-]?[0-9]*),([0-9]+)\s*")


def integer(least: int = -MAX_INT) -> Callable[[Any], Any]:
    """A check for options that take integers, one or several: from `least` to the largest integer of a tensor.

    The check raises typer.BadParameter, which names the option.
    """

    def check(value: Any) -> Any:
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if number is not None and not least <= number <= MAX_INT:
                low = f"{least} or more" if number < least and least > -MAX_INT else f"below 2^63 ({MAX_INT + 1})"
                raise typer.BadParameter(f"{number} is out of range; it must be {low}")
        return value

    return check


def check_numbers(command: Any, arguments: Sequence[str]) -> None:
    """Check the values of a command's numeric options as they were typed.

    Texts that are not numbers are left to typer, whose error names the option.

    Args:
        command: a command of typer; its function has the types of the options.
        arguments: those after the command's name.

    Raises:
        ConfigError: a number with underscores, digits of another script, or a decimal comma.
    """
    for option, kind, text in _numbers(command, arguments):
        if kind is float and (parts := COMMA.fullmatch(text)):
            raise ConfigError(
                f"{option} {text}: is not a number; write it with a decimal point: {parts[1] or '0'}.{parts[2]}"
            )
        try:
            number = kind(text)
        except ValueError:
            continue
        if "_" in text or not text.isascii():
            raise ConfigError(f"{option} {text}: is not a number; write it as {number}")
        if kind is int and not INTEGER.fullmatch(text):
            raise ConfigError(f"{option} {text}: is not an integer; write it as {number}")


def number_type(hint: Any) -> type | None:
    """`int` or `float` if the type is one of them, optional or a list; else None."""
    types = {hint, *typing.get_args(hint)}
    types |= {inner for outer in types for inner in typing.get_args(outer)}
    return int if int in types else float if float in types else None


def _numbers(command: Any, arguments: Sequence[str]) -> Iterator[tuple[str, type, str]]:
    """Option, type and text of each number in the arguments."""
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    kinds = {
        option: kind
        for parameter in command.params
        for option in parameter.opts
        if (kind := number_type(hints.get(parameter.name))) is not None
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
