"""How far a long job is, in lines, where the error stream is no terminal and a bar would be noise in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

PARTS = 10  # lines of a job


class ProgressLines:
    """A line on the error stream whenever another tenth of a job is done, but for the last.

    Args:
        name: of the job.
        total: how much there is to do; None while it is not known: then there are no lines.
        done: how much of it was done before.
        unit: what is counted, in the plural.
        clock: seconds since any moment.
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
        """`n` more are through.

        Args:
            n: how many.
            idle: whether they cost nothing, so that they say nothing about the speed.
            note: what to add to the line.
        """
        part = self._part()
        self.done += n
        self._idle += n if idle else 0
        if self.total and part < self._part() < PARTS:  # the end is said by whoever began the job
            left = self._left()
            ends = f", about {duration(left)} left" if left else ""
            note = f", {note}" if note else ""
            share = f"{self.done:,} of {self.total:,} {self.unit} ({100 * self.done // self.total} %)"
            print(f"{self.name}: {share}{ends}{note}", file=sys.stderr, flush=True)

    def _part(self) -> int:
        return PARTS * self.done // self.total if self.total else 0

    def _left(self) -> float | None:
        worked = self.done - self._before - self._idle
        if worked <= 0 or self.total is None or self.done >= self.total:
            return None
        return (self.clock() - self._started) / worked * (self.total - self.done)


def draws_bars() -> bool:
    """Whether the error stream is a terminal or a notebook, where a bar can be drawn in place."""
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_terminal or console.is_jupyter


def duration(seconds: float) -> str:
    """`41 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"
