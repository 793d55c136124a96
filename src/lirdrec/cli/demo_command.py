"""`lirdrec demo`: real films, from training to reasons, in a few minutes."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(demo)


def demo() -> None:
    """Train on real films, show figures, recommendations and their reasons, and add a film that is new."""
