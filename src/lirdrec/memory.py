"""How much memory this process may still take, and one sentence where something asks for more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lirdrec.errors import ConfigError, LirdrecError

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that this process can still take: what the machine, the container and `ulimit -v` leave; None: unknown.

    Swap counts. Only Linux tells.
    """
    limits = [limit for limit in (_machine(), _address_space(), *_control_groups()) if limit is not None]
    return max(0, min(limits)) if limits else None


def check_memory(need: int, what: str, error: type[LirdrecError] = ConfigError) -> None:
    """Refuse what cannot fit, before anything is allocated.

    Args:
        need: bytes that it takes at least.
        what: the beginning of the sentence: what asks for them ("embedding_size 1000000000").
        error: the type to raise.

    Raises:
        LirdrecError: of the given type: more than there is; both figures are in the sentence.
    """
    free = free_memory()
    if free is not None and need > free:
        raise error(f"{what}: takes at least {in_words(need)} of memory, and {in_words(free)} are free")


def in_words(size: int) -> str:
    """`12.3 GB`; large sizes with commas."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            whole, rest = divmod(size * 10 // scale, 10)  # integers: a float cannot hold every size that is asked for
            return f"{whole:,}.{rest} {unit}"
    return f"{size} bytes"


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
        return sizes["MemAvailable"] + sizes.get("SwapFree", 0)
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _address_space() -> int | None:
    """What `ulimit -v` leaves."""
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
    """What the container's limits leave; files that were read and can be read again count as free."""
    named = [("memory.max", "memory.current", "inactive_file")]
    old = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")
    for limit, used, cached in [*named, old]:
        try:
            most = int((CONTROL_GROUPS / limit).read_text(encoding="ascii"))
            taken = int((CONTROL_GROUPS / used).read_text(encoding="ascii"))
            facts = (CONTROL_GROUPS / limit).with_name("memory.stat").read_text(encoding="ascii").split()
            yield most - taken + int(dict(zip(facts[::2], facts[1::2], strict=False)).get(cached, 0))
        except (OSError, ValueError):
            continue
