"""Keep freed memory in the process, so that large blocks are reused instead of requested from the system again."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> bool:
    """Make glibc's allocator reuse large freed blocks instead of returning them to the system.

    A training step frees and allocates the same few hundred megabytes repeatedly. Affects the whole process from
    now on. Without glibc it does nothing and returns False.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_threshold = -1, -3  # names of the options in malloc.h
        return bool(libc.mallopt(mmap_threshold, 1 << 30)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError):
        return False
