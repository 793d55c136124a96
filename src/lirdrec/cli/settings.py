"""What the options before the command say, for the commands to read."""

from __future__ import annotations

from dataclasses import dataclass

INTERRUPTED = 130  # exit code: what a shell reports for a program that Ctrl-C ended


@dataclass
class Settings:
    """Options of `lirdrec` itself."""

    quiet: bool = False


settings = Settings()
