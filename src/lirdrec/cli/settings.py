"""What the options before the command say, for the commands to read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Settings:
    """Options of `lirdrec` itself."""

    quiet: bool = False


settings = Settings()
