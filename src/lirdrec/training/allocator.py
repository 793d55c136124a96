"""Keep freed memory in the process, so that large blocks are reused instead of being faulted in page by page."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse large freed blocks instead of returning them to the system at once.

    A training step frees and allocates the same few hundred megabytes again and again. Affects the whole process from
    here on. Does nothing, and returns False, where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_threshold = -1, -3  # names of the options in malloc.h
        return bool(libc.mallopt(mmap_threshold, 1 << 30)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError):
        return False
