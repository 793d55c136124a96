"""Parallel map in threads (each result is returned as soon as it is ready), and a rate limiter for requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Queue
from typing import Any, TypeVar

from lirdrec.errors import ConfigError

A = TypeVar("A")
T = TypeVar("T")


def parallel_map(inputs: Iterable[A], work: Callable[[A], T], threads: int) -> Iterator[tuple[int, T]]:
    """Apply `work` to the inputs; yields (index, result) as they are ready and reads inputs as needed.

    No more than `threads` inputs are under way, or done and not yet taken by the caller: he can keep each result before
    he asks for the next. After the first error of `work`, no further input is started.
    """
    todo: Iterator[tuple[int, A]] = iter(enumerate(inputs))
    drawing, ended, free = threading.Lock(), threading.Event(), threading.Semaphore(threads)
    ready: Queue[tuple[int, Any, BaseException | None] | None] = Queue()

    def labour() -> None:
        while True:
            free.acquire()
            if ended.is_set():
                break
            place = -1
            try:
                with drawing:
                    drawn = next(todo, None)
                if drawn is None:
                    break
                place = drawn[0]
                ready.put((place, work(drawn[1]), None))
            except BaseException as error:
                ready.put((place, None, error))
                break
        ready.put(None)

    # daemons: Ctrl-C does not wait for servers
    for _ in range(threads):
        threading.Thread(target=labour, daemon=True).start()
    running = threads
    try:
        while running:
            one = ready.get()
            if one is None:  # a thread has come to its end
                running -= 1
            elif one[2] is not None:
                raise one[2]
            else:
                yield one[0], one[1]
                free.release()
    finally:
        ended.set()
        free.release(threads)


class RateLimiter:
    """At most so many requests a minute, a second's worth at once; and none while the server asks for a rest."""

    def __init__(self, per_minute: float | None, sleep: Callable[[float], None], clock: Callable[[], float]):
        if per_minute is not None and not per_minute > 0:
            raise ConfigError(f"--requests-per-minute is {per_minute}; it must be more than 0")
        self._rate = None if per_minute is None else per_minute / 60
        self._burst = 1.0 if self._rate is None else max(1.0, self._rate)
        self._sleep, self._clock = sleep, clock
        self._tokens, self._at = self._burst, clock()
        self._held = float("-inf")
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until a request may go out."""
        with self._lock:
            now = self._clock()
            start = max(now, self._held)
            if self._rate is not None:
                self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
                self._at = now
                start = max(start, now - self._tokens / self._rate)  # tokens below 0 are requests that wait before us
        if start > now:
            self._sleep(start - now)

    def hold(self, seconds: float) -> None:
        """Let no request out for so many seconds."""
        with self._lock:
            self._held = max(self._held, self._clock() + seconds)
