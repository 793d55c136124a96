"""Freed memory is kept in large pages, and memory that is limited is not reserved."""

import subprocess
import sys
from pathlib import Path

import pytest

from lirdrec.available_memory import free_memory

MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FILL = """
import resource, sys
from lirdrec.training.memory_allocator import keep_freed_memory
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), resource.RLIM_INFINITY))
size = lambda name: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
before = size("VmSize"), size("VmRSS")
kept = keep_freed_memory()
print(int(kept), size("VmSize") - before[0], size("VmRSS") - before[1])
table = bytearray(200 << 20)
large = [int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")]
print(large[0])
del table
print(size("VmRSS") - before[1])
"""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="keeping freed memory is a feature of glibc, the C library of Linux"
)


def kilobytes(*arguments: str) -> list[int]:
    """Growth of address space and of used memory, memory in large pages, and used memory after 200 MB were freed."""
    result = subprocess.run([sys.executable, "-c", FILL, *arguments], capture_output=True, text=True, check=True)
    is_kept, *sizes = [int(word) for word in result.stdout.split()]
    if not is_kept:
        pytest.skip("this C library does not keep freed memory")
    return sizes


@pytest.mark.skipif(not MODES.exists() or "[never]" in MODES.read_text(), reason="the system has no large pages")
@pytest.mark.skipif((free_memory() or 0) < 4 << 30, reason="less than 4 GB of memory are free")
def test_large_blocks_are_in_large_pages_and_are_kept():
    space, used, large, kept = kilobytes()
    assert space > 1 << 20  # reserved ...
    assert used < 20 << 10  # ... and not used
    assert large > 190 << 10
    assert kept > 190 << 10


def test_nothing_is_reserved_where_the_address_space_is_limited():
    space, *_ = kilobytes(str(4 << 30))
    assert space < 200 << 10
