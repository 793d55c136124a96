"""Option groups: dataclasses whose fields become options of a command; checks of numbers as they were typed."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import ParameterInfo

from lirdrec.config import MAX_INT
from lirdrec.errors import ConfigError

ARGUMENTS = "lirdrec.arguments"  # key in typer's context for the arguments as the user typed them
INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
COMMA = re.compile(r"\s*([+-]?[0-9]*),([0-9]+)\s*")


class GroupedCommand(TyperCommand):
    """A typer command: it checks numbers as the user typed them, and its help has a section for each option group."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        check_numbers(self, args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record is not None:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Convert a command to the form that typer needs: parameters that are option groups are replaced by their fields.

    An option group is a dataclass whose fields are options; its docstring is the title of a section in the help. Each
    option has the name of the field, which must be unique among the parameters of the command.

    Example:
        >>> @grouped
        ... def serve(run: RunArgument, network: NetworkOptions, name: str = option("", "Name of the server.")): ...
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        name: p.annotation for name, p in signature.parameters.items() if is_dataclass(p.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            title = inspect.cleandoc(groups[name].__doc__).rstrip(".")
            hints = get_type_hints(groups[name], include_extras=True)
            parameters += [_parameter(f.name, hints[f.name], f.default, title) for f in fields(groups[name])]
        else:
            parameters.append(_parameter(name, parameter.annotation, parameter.default))

    def call_with_groups(**values: Any) -> None:
        built = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **built)

    call: Any = call_with_groups
    call.__name__, call.__doc__, call.__module__ = command.__name__, command.__doc__, command.__module__
    call.__signature__ = signature.replace(parameters=parameters)  # read by inspect
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _parameter(name: str, annotation: Any, default: Any, title: str | None = None) -> inspect.Parameter:
    """Return a parameter of a command in typer's form.

    A switch gets one flag (no second flag --no-…), and an integer must fit into an int64.
    """
    if annotation is typer.Context:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    if isinstance(default, ParameterInfo):
        kind, info, default = annotation, copy(default), default.default
        info.default = ...
    else:
        kind, info = map(copy, get_args(annotation))
    info.rich_help_panel = title
    if kind is bool and not info.param_decls:
        info.param_decls = ("--" + name.replace("_", "-"),)
    if number_type(kind) is int and info.callback is None:
        info.callback = integer()
    default = inspect.Parameter.empty if default in (..., MISSING) else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def given(*groups: Any) -> dict[str, Any]:
    """Return name of the field → value for each option of the groups that has a value, given or by default.

    Options that are None and switches that are off are left out.
    """
    values = {field.name: getattr(group, field.name) for group in groups for field in fields(group)}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def integer(least: int = -MAX_INT) -> Callable[[Any], Any]:
    """Return a function that checks the value of an option: one or several integers from `least` to the largest int64.

    The function returns the value, or raises typer.BadParameter, whose message names the option.
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
        arguments: the arguments after the name of the command.

    Raises:
        ConfigError: a number has underscores, digits of another script, or a decimal comma.
    """
    for option, kind, text in _numbers(command, arguments):
        if kind is float and (parts := COMMA.fullmatch(text)):
            raise ConfigError(
                f"{option} {text} is not a number; write it with a decimal point: {parts[1] or '0'}.{parts[2]}"
            )
        try:
            number = kind(text)
        except ValueError:
            continue
        if "_" in text or not text.isascii():
            raise ConfigError(f"{option} {text} is not a number; write it as {number}")
        if kind is int and not INTEGER.fullmatch(text):
            raise ConfigError(f"{option} {text} is not an integer; write it as {number}")


def number_type(hint: Any) -> type | None:
    """Return `int` or `float` if the type is one of them, or a list of it, or is optional; else None."""
    types = {hint, *typing.get_args(hint)}
    types |= {inner for outer in types for inner in typing.get_args(outer)}
    return int if int in types else float if float in types else None


def _numbers(command: Any, arguments: Sequence[str]) -> Iterator[tuple[str, type, str]]:
    """Yield each numeric option in the arguments: its name as typed, its type and the text of its value."""
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
