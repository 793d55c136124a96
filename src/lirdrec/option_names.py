"""Names of options in messages: `--min-rating 4` on the command line, `min_rating=4` in Python."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

# FLAG_NAMES: options that have another name on the command line; SWITCHES: options that have no value there
FLAG_NAMES = {
    "without_features": "--drop-featureless-items",
    "drop": "--drop-featureless-items",
    "replace": "--overwrite",
    "template": "--text-template",
    "bad_lines": "--skip-bad-lines",
    "header": "--no-header",
    "prompt": "--prefix",
    "restart": "--no-resume",
    "reuse": "--reuse-from",
    "ray": "--ray-address",
    "cutoffs": "-k",
    "mask_seen": "--no-mask-seen",
    "tuned": "--config-from",
    "keep": "--save-models",
    "prune": "--no-prune",
    "minutes": "--tuning-minutes",
}
SWITCHES = frozenset(
    {"without_features", "drop", "replace", "bad_lines", "header", "restart", "string_ids", "overwrite", "resume"}
)

_on_command_line: ContextVar[bool] = ContextVar("_on_command_line", default=False)


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Return a context manager. Inside its block, messages have the option names of the command line, not of Python."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def flag(option: str) -> str:
    """Return the name that an option has on the command line, such as `--min-rating` for "min_rating"."""
    return FLAG_NAMES.get(option) or "--" + option.replace("_", "-")


def option_text(option: str, value: Any) -> str:
    """Return an option with its value for a message: `--min-rating 4` or, in Python, `min_rating=4`.

    An option of `SWITCHES` has no value on the command line. A value in capital letters is a placeholder.
    """
    if not _on_command_line.get():
        return f"{option}={value!r}"
    return flag(option) if option in SWITCHES else f"{flag(option)} {shlex.quote(str(value))}"


def setting_text(key: str, value: Any) -> str:
    """Return a key of a configuration with its value: `--set epochs=8` on the command line, `epochs=8` in Python."""
    if _on_command_line.get():
        return f"--set {key}={'none' if value is None else value}"
    return f"{key}={value!r}"


def option_name(option: str) -> str:
    """Return the name of an option for a message: `--min-rating` or, in Python, `min_rating`."""
    return flag(option) if _on_command_line.get() else option


def name_of(option: str, where: str) -> str:
    """Return the name of an option for the beginning of a message: `--min-rating` or, in Python, `fit: 'min_rating'`.

    `where` is the name of the Python function.
    """
    return flag(option) if _on_command_line.get() else f"{where}: '{option}'"
