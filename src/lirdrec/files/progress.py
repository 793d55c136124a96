"""A bar for each long task on the error stream: items done, items per second, time left; in a log, lines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from lirdrec.files.progress_lines import ProgressLines, draws_bars


class ProgressCallback(Protocol):
    """Told how many more items are through; `idle`: without going through the encoder."""

    def __call__(self, n: int, /, idle: bool = False) -> None: ...


def no_progress(n: int, /, idle: bool = False) -> None:
    """Where nobody wants to know."""


@contextlib.contextmanager
def progress_bar(name: str, total: int, done: int, show: bool, unit: str = "items") -> Iterator[ProgressCallback]:
    """Give a function that is told how many more items are through; those that cost nothing do not count as speed.

    Args:
        name: of the matrix or file.
        total, done: items, and how many of them an earlier call finished.
        show: draw anything at all.
        unit: what is counted.
    """
    if not show:
        yield no_progress
        return
    if not draws_bars():
        yield ProgressLines(name, total, done, unit).advance
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = bar.tasks[worked].speed or 0.0
            return Text(f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.1f} {unit}/s" if speed >= 0.1 else "")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
        speed_estimate_period=60,
    )
    with bar:
        worked = bar.add_task(name, total=None, visible=False)  # measures the speed
        task = bar.add_task(name, total=total, completed=done)

        def advance(n: int, /, idle: bool = False) -> None:
            if not idle:
                bar.advance(worked, n)
            bar.advance(task, n)

        yield advance
