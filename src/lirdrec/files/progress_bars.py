"""Show the progress of long tasks on the error stream: as a bar in a terminal or notebook, as lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

N_LINES = 10  # progress lines of a task


class ProgressCallback(Protocol):
    """Callback that gets the number of newly finished items; `idle`: they were finished by an earlier call, so they do
    not count for the speed."""

    def __call__(self, n: int, /, idle: bool = False) -> None: ...


def no_progress(n: int, /, idle: bool = False) -> None:
    """A `ProgressCallback` that shows nothing."""


@contextlib.contextmanager
def progress_bar(name: str, total: int, done: int, show: bool, unit: str = "items") -> Iterator[ProgressCallback]:
    """Show the progress of a task, and yield the callback by which the block reports finished items.

    A bar has the items per second and the time left; without a terminal, lines have the time left.

    Args:
        name: name of the matrix or file, which is shown.
        total: number of items.
        done: items finished by an earlier call.
        show: False shows nothing.
        unit: name of the items, in the plural.
    """
    if not show:
        yield no_progress
        return
    if not draws_bars():
        yield ProgressLines(name, total, done, unit).advance
        return
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
        speed_estimate_period=60,
    )
    with bar:
        timed = bar.add_task(name, total=None, visible=False)  # measures the speed
        task = bar.add_task(name, total=total, completed=done, speed="")

        def advance(n: int, /, idle: bool = False) -> None:
            if not idle:
                bar.advance(timed, n)
            speed = bar.tasks[timed].speed or 0.0
            shown = f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.1f} {unit}/s" if speed >= 0.1 else ""
            bar.update(task, advance=n, speed=shown)

        yield advance


class ProgressLines:
    """Prints a line to the error stream after each tenth of a task, except the last, which the caller reports.

    Args:
        name: name of the task.
        total: number of items; None if unknown: then no lines are printed.
        done: items finished before.
        unit: name of the items, in the plural.
        clock: returns seconds since a fixed moment.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        done: int = 0,
        unit: str = "items",
        clock: Callable[[], float] = time.monotonic,
    ):
        self.name, self.total, self.done, self.unit, self.clock = name, total, done, unit, clock
        self._before, self._started, self._idle = done, clock(), 0

    def advance(self, n: int, /, idle: bool = False, note: str = "") -> None:
        """Count `n` more items as finished, and print a line if a further tenth of the task is finished.

        Args:
            n: number of items.
            idle: these items were finished by an earlier call and took no time, so they do not count for the time left.
            note: text at the end of the line.
        """
        before = self.done
        self.done += n
        self._idle += n if idle else 0
        if self.total and N_LINES * before // self.total < N_LINES * self.done // self.total < N_LINES:
            parts = [f"{self.done:,} of {self.total:,} {self.unit} ({100 * self.done // self.total} %)"]
            n_timed = self.done - self._before - self._idle
            if n_timed > 0 and (left := (self.clock() - self._started) / n_timed * (self.total - self.done)):
                parts.append(f"about {duration(left)} left")
            parts += [note] if note else []
            print(f"{self.name}: {', '.join(parts)}", file=sys.stderr, flush=True)


def draws_bars() -> bool:
    """Return whether the error stream is a terminal or a notebook, where a bar can be redrawn in place."""
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_terminal or console.is_jupyter


def duration(seconds: float) -> str:
    """Return a time in seconds as text, such as `41 s`, `12 min`, `3 h 05 min` or `2 d 4 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"
