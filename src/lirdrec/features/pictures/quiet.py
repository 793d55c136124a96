"""Pillow's warnings kept from people who can do nothing about them."""

from __future__ import annotations

import threading
import warnings


class _Quiet:
    """Ignores Pillow's warnings while any thread is inside.

    The filters of `warnings` belong to the process: were each thread to put back those that it found, the last one
    could leave those of another thread behind.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._found = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._found = warnings.catch_warnings()
                self._found.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._found.__exit__(None, None, None)


quiet = _Quiet()
