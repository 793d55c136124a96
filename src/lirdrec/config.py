"""Configurations: frozen dataclasses built from mappings, TOML and `key=value`, with all keys and types checked."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lirdrec.errors import ConfigError
from lirdrec.files.input_file_checks import read_text, stat_path
from lirdrec.option_names import option_name, option_text

C = TypeVar("C")
MAX_INT = 2**63 - 1  # largest value of an int64 tensor
NONE = ("none", "null")  # texts that mean "no value" on the command line and in TOML, which has no null
MAX_SHOWN = 100  # characters of a wrong value that a message shows


def field_docs(config_type: type) -> dict[str, str]:
    """Return the name of each field → its one-line description, the `doc` entry of the field's metadata, or ""."""
    return {f.name: f.metadata.get("doc", "") for f in dataclasses.fields(config_type)}


def option(default: Any, doc: str) -> Any:
    """Return a dataclass field with a default and a description, which `--help` and the reference show."""
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"doc": doc})
    return dataclasses.field(default=default, metadata={"doc": doc})


def option_named(name: str, *values: str) -> str:
    """Return an option of preprocessing for a message, as the user would write it (see `option_names`).

    Without `values` this is the name alone, such as `--bad-rows`. With `values`, the option is written with each of
    them: `--bad-rows error or --bad-rows skip`.
    """
    return " or ".join(option_text(name, value) for value in values) if values else option_name(name)


EARLIER_NAMES = {"n_neighbours": "n_neighbors"}  # earlier → present name of a field; old runs have the earlier name


def saved_config(config_type: type[C], values: Mapping[str, Any], where: str) -> C:
    """Build a configuration from the values that a run has saved, as `make_config` does.

    An option that was added to lirdrec after the run was saved gets its value from the class attribute `before`. With
    this value the model does what it did before the option existed.
    """
    return make_config(config_type, {**getattr(config_type, "before", {}), **values}, where)


def make_config(
    config_type: type[C],
    values: Mapping[str, Any],
    where: str = "the configuration",
    label: Callable[[str], str] | None = None,
) -> C:
    """Build `config_type` from a mapping, with types checked and converted.

    Args:
        config_type: a frozen dataclass.
        values: name of a field → its value; fields that are not given get their defaults.
        where: the beginning of error messages.
        label: function from the name of a field to the beginning of messages about this field; None: `where` and the
            name.

    Raises:
        ConfigError: a key is unknown (the nearest known key is suggested) or a value has the wrong type or range.
    """
    values = {EARLIER_NAMES.get(key, key): value for key, value in values.items()}
    hints = typing.get_type_hints(config_type)
    known_keys = list(field_docs(config_type))
    for key in values:
        if key not in known_keys:
            hint = suggest_name(key, known_keys, f"known keys: {', '.join(known_keys)}")
            raise ConfigError(f"{where}: unknown key '{key}'; {hint}")
    label = label or (lambda key: f"{where}: '{key}'")
    converted = {key: _convert(value, hints[key], label(key)) for key, value in values.items()}
    return config_type(**converted)


def validated(config_type: type[C]) -> type[C]:
    """Make a dataclass check and convert the types of its fields, as `make_config` does, whenever it is created.

    This is a class decorator, written on the line below `@dataclass`. The check runs before the class's own
    `__post_init__`. It raises a ConfigError that names the class and the field.
    """
    post_init = getattr(config_type, "__post_init__", None)

    def check(self: Any) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            given = getattr(self, field.name)
            value = _convert(given, hints[field.name], f"{type(self).__name__}: '{field.name}'")
            if value is not given:
                object.__setattr__(self, field.name, value)
        if post_init is not None:
            post_init(self)

    decorated: Any = config_type  # a dataclass may lack the method; its `__init__` calls it
    decorated.__post_init__ = check
    return config_type


def check_minimum(config: Any, minimum: int, *names: str) -> None:
    """Check that some fields of a configuration are at least `minimum`; called in its `__post_init__`.

    Raises:
        ConfigError: one of the fields `names` is below `minimum`, or is NaN.
    """
    for name in names:
        if not getattr(config, name) >= minimum:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be {minimum} or more")


def check_share(config: Any, *names: str) -> None:
    """Check that some fields of a configuration are at least 0 and less than 1; called in its `__post_init__`.

    Raises:
        ConfigError: one of the fields `names` is outside of this range.
    """
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be at least 0 and less than 1")


def suggest_name(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the end of a message about an unknown name: "did you mean '…'?" with a similar name, else `otherwise`."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{matches[0]}'?" if matches else otherwise


def to_dict(config: Any) -> dict[str, Any]:
    """Return the configuration as a dict of JSON-able values (tuples become lists)."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse assignments: `["n_layers=3", "init=xavier"]` becomes `{"n_layers": 3, "init": "xavier"}`.

    Values are written in TOML; words without quotes are strings, and "none" and "null" are None. "text,image" is a
    string, too; `make_config` splits it if the field is a list.

    Raises:
        ConfigError: an entry has no `=` or no key, or its value is nested too deeply or has too many digits.
    """
    values: dict[str, Any] = {}
    for entry in assignments:
        key, equals, text = entry.partition("=")
        key, text = key.strip(), text.strip()
        if not equals or not key:
            raise ConfigError(f"--set {entry!r}: write it as key=value, for instance --set n_layers=3")
        values[key] = None if text.lower() in NONE else _parse_value(text, f"--set {key}")
    return values


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file as a mapping.

    Raises:
        ConfigError: the file is missing or cannot be read, is not UTF-8, or not TOML (the message names the line).
    """
    if stat_path(path, ConfigError) is None:
        raise ConfigError(f"{path}: no such configuration file")
    return _parse_toml(read_text(path, ConfigError), str(path))


def _parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML as a mapping; the message of a ConfigError begins with `where`."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply; use fewer levels of brackets") from None
    except ValueError as error:  # a TOMLDecodeError, or Python's error for a number or date that is not possible
        fault = "a number has too many digits" if "integer string" in str(error) else str(error)
        hint = '; write texts in quotes, also "none"' if "Invalid value" in fault else ""
        raise ConfigError(f"{where} cannot be read as TOML: {fault}{hint}") from None


def _parse_value(text: str, where: str) -> Any:
    """Parse a value in TOML syntax; return the text itself if it is not TOML."""
    try:
        return _parse_toml(f"value = {text}", where)["value"]
    except ConfigError as error:
        if isinstance(error.__context__, tomllib.TOMLDecodeError):
            return text
        raise


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        is_none = isinstance(value, str) and value.lower() in NONE and str not in arguments
        if type(None) in arguments and (value is None or is_none):
            return None
        errors = []
        for argument in (a for a in arguments if a is not type(None)):
            try:
                return _convert(value, argument, where)
            except ConfigError as error:
                errors.append(error)
        choices = [a for a in arguments if a is not type(None)]
        named = any(typing.get_origin(choice) is typing.Literal for choice in choices)
        if named and len(choices) > 1 and not isinstance(value, int):
            raise ConfigError(f"{where} is {_short_repr(value)}; it must be {' or '.join(map(_type_name, choices))}")
        raise errors[0]
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{where} is {_short_repr(value)}; choose one of {', '.join(map(repr, arguments))}")
    if hint is Any or (hint in (bool, str) and isinstance(value, hint)):
        return value
    if hint is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = int(value)  # NumPy's integers too
        if abs(value) > MAX_INT:
            raise ConfigError(f"{where} is {_short_repr(value)}; integers must be from {-MAX_INT} to {MAX_INT}")
        return value
    if hint is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return value if type(value) is float else float(value)
        except OverflowError:
            raise ConfigError(f"{where} is {_short_repr(value)}, which is too large; give a smaller number") from None
    if origin is tuple and isinstance(value, str):
        words = [word.strip() for word in value.split(",")]
        if all(words):
            value = [word if arguments[0] is str else _parse_value(word, where) for word in words]
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(element, arguments[0], where) for element in value)
    if (origin in (dict, Mapping) or hint is dict) and isinstance(value, Mapping):
        return {str(k): _convert(v, arguments[1], where) if arguments else v for k, v in value.items()}
    raise ConfigError(f"{where} is {_short_repr(value)}; it must be {_type_name(hint)}")


def _short_repr(value: Any) -> str:
    """Return the text of a wrong value for a message, truncated if it is long."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to format integers with thousands of digits
        return f"a number of {value.bit_length():,} bits" if isinstance(value, int) else "something too large to show"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"


def _type_name(hint: Any) -> str:
    """Return the description of a type in words, such as "an integer"."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        return f"a list of {names.get(element, 'values').removeprefix('an ').removeprefix('a ')}s separated by commas"
    return names.get(hint, "a table of names and values")
