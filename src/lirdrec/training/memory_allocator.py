"""Set up the memory allocator for training: the process keeps freed memory, and it has large pages.

A step gathers rows of tables of some hundred megabytes in a random order (products with sparse matrices). With pages
of 4 kB the processor looks up the address of nearly every row in memory; with pages of 2 MB its own buffer holds most
addresses. docs/performance.md has the time that this saves for data of the size of Electronics.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

from lirdrec.available_memory import free_memory, reserved_memory_counts

TRIM_THRESHOLD, MMAP_THRESHOLD, MADV_HUGEPAGE = -1, -3, 14  # malloc.h and mman.h
MAX_KEPT_BLOCK = 1 << 30  # bytes; larger blocks are returned to the system


@cache
def keep_freed_memory() -> bool:
    """Make glibc's allocator reuse large freed blocks instead of returning them to the system.

    A training step frees and allocates the same few hundred megabytes repeatedly. From now on the process keeps the
    memory that it frees, except blocks of more than 1 GB. Half of the free memory is also reserved for its heap, in
    large pages, unless reserved memory counts as used (`reserved_memory_counts`).

    Returns:
        Whether freed memory is kept now; False without glibc, or if glibc refuses the thresholds.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        # with a trim threshold of -1 memory is never returned to the system
        kept = bool(libc.mallopt(MMAP_THRESHOLD, MAX_KEPT_BLOCK)) and bool(libc.mallopt(TRIM_THRESHOLD, -1))
    except (OSError, AttributeError):
        return False
    if kept and not reserved_memory_counts():
        _use_large_pages(libc, (free_memory() or 0) // 2)
    return kept


def _use_large_pages(libc: Any, size: int) -> None:
    """Extend the heap of the process by at most `size` bytes, and ask the system for large pages there.

    Nothing is written there, so no memory is used before an allocation needs it. The new blocks are freed at once. They
    stay in the heap for later allocations, since the heap is never made smaller.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page, blocks = os.sysconf("SC_PAGE_SIZE"), []
    block = MAX_KEPT_BLOCK - (1 << 20)  # below the threshold, so that it is in the heap
    while size >= block and (start := libc.malloc(block)):
        first = -(-start // page) * page
        libc.madvise(first, (start + block - first) // page * page, MADV_HUGEPAGE)
        blocks.append(start)
        size -= block
    for start in blocks:
        libc.free(start)
