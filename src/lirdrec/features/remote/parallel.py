"""Parallel map in threads; each result is returned as soon as it is ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Queue
from typing import Any, TypeVar

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
