"""What the options before the command say, for the commands to read; exit codes; the range of whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

FAULT = 1  # exit code: a fault of lirdrec
REFUSED = 2  # exit code: something that was given cannot be used
INTERRUPTED = 130  # exit code: what a shell reports for a program that Ctrl-C ended
LARGEST = 2**63 - 1  # what a tensor's whole number can hold


@dataclass
class Settings:
    """Options of `lirdrec` itself."""

    quiet: bool = False


settings = Settings()


def whole_number(least: int = -LARGEST) -> Callable[[Any], Any]:
    """A check for options that take whole numbers, one or several: from `least` to what a tensor can hold.

    The check raises typer.BadParameter, which names the option.
    """

    def check(value: Any) -> Any:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None and not least <= one <= LARGEST:
                low = f"{least} or more" if one < least and least > -LARGEST else f"below 2^63 ({LARGEST + 1})"
                raise typer.BadParameter(f"{one} is out of range; it must be {low}")
        return value

    return check
