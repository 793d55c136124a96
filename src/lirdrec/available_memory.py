"""The memory that is available to this process, and a check before large allocations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lirdrec.errors import ConfigError, LirdrecError

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def free_memory() -> int | None:
    """Return the number of bytes that this process can still allocate: the smallest of several limits.

    The limits are those of the machine (with swap), of the container and of `ulimit -v`. Returns None if no limit is
    known, as on all systems except Linux.
    """
    limits = [limit for limit in (_machine(), _address_space(), *_control_groups()) if limit is not None]
    return max(0, min(limits)) if limits else None


def reserved_memory_counts() -> bool:
    """Return whether memory that this process reserves but does not use counts towards a limit.

    It counts if `ulimit -v` or `ulimit -d` is set, and if Linux never overcommits. Returns True if this is not known.
    """
    try:
        import resource

        limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        strict = OVERCOMMIT.read_text(encoding="ascii").strip() == "2"
        return strict or any(limit != resource.RLIM_INFINITY for limit in limits)
    except (ImportError, OSError):
        return True


def check_memory(need: int, what: str, error: type[LirdrecError] = ConfigError) -> None:
    """Check that `need` bytes of memory are free, and raise an error if not. If no limit is known, nothing is raised.

    Args:
        need: number of bytes; a lower bound of the need.
        what: what needs the memory, such as "embedding_size 1000000000"; the message starts with it.
        error: the type of the error.
    """
    free = free_memory()
    if free is not None and need > free:
        raise error(
            f"{what} needs at least {format_bytes(need)} of memory, but only {format_bytes(free)} are free; reduce it,"
            " or free memory"
        )


def format_bytes(size: int) -> str:
    """Format a number of bytes, such as `12.3 GB`; large numbers get commas."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            units, tenths = divmod(size * 10 // scale, 10)  # integers, since a float overflows for huge sizes
            return f"{units:,}.{tenths} {unit}"
    return f"{size} bytes"


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
        return sizes["MemAvailable"] + sizes.get("SwapFree", 0)
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _address_space() -> int | None:
    """Return the number of bytes that `ulimit -v` still allows; None if there is no limit or it is not known."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return limit - pages * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError, IndexError):
        return None


def _control_groups() -> Iterator[int]:
    """Yield the bytes that each limit of the container still allows (cgroups versions 2 and 1).

    The inactive page cache counts as free.
    """
    version_2 = ("memory.max", "memory.current", "inactive_file")
    version_1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")
    for limit_file, usage_file, cached in (version_2, version_1):
        try:
            limit = int((CONTROL_GROUPS / limit_file).read_text(encoding="ascii"))
            usage = int((CONTROL_GROUPS / usage_file).read_text(encoding="ascii"))
            stat = (CONTROL_GROUPS / limit_file).with_name("memory.stat").read_text(encoding="ascii").split()
            yield limit - usage + int(dict(zip(stat[::2], stat[1::2], strict=False)).get(cached, 0))
        except (OSError, ValueError):
            continue
