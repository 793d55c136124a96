"""Create, store and check API keys, and limit the rate of requests."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from lirdrec.errors import ConfigError
from lirdrec.files.atomic import atomic_write
from lirdrec.server.write_lock import write_lock

log = logging.getLogger(__name__)

Role = Literal["read", "write"]
PREFIX = "lirdrec_"
FORMAT = "lirdrec-keys"
KEPT_BUCKETS = 10_000


@dataclass(frozen=True)
class Key:
    """The entry of an API key in a file of keys; it has a hash of the key, not the key itself."""

    name: str  # of the owner; appears in logs
    role: Role  # "read" may read; "write" may also change
    sha256: str  # a key is 256 random bits, so unlike a password it needs no slow or salted hash
    created: str  # ISO date


class Keys:
    """The API keys of a file. A changed file is read again, so a revoked key is rejected at the next request.

    Raises:
        ConfigError: the file is missing or damaged when the object is created.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._seen = self._stamp()
        self._keys = read_keys(self.path)

    def find(self, presented: str) -> Key | None:
        """Return the entry of the API key that a request sent; None if the file has no such key.

        The comparison takes the same time for each key that is sent. If the file was removed or damaged meanwhile, the
        error is logged, and the result is None for every key.
        """
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._keys = read_keys(self.path)
            except ConfigError as error:
                log.error("no key is accepted: %s", error)
                self._keys = []
        digest = _digest(presented)
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return matches[-1] if matches else None

    def _stamp(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino


class RateLimiter:
    """Limits the requests of each caller by a token bucket.

    Args:
        rate: requests per second.
        burst: requests that a caller may send at once, at least 1; by default the requests of one second.
    """

    def __init__(self, rate: float, burst: float | None = None):
        self.rate = rate
        self.burst = max(1.0, rate if burst is None else burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller → tokens, and when counted

    def wait(self, caller: str, now: float | None = None) -> float:
        """Return 0 if the caller may send a request now, else the seconds until the caller may.

        A request that may be sent takes one of the caller's tokens. `now` is a time in seconds, by default the clock's.
        """
        now = time.monotonic() if now is None else now
        tokens, before = self._buckets.pop(caller, (self.burst, now))
        tokens = min(self.burst, tokens + (now - before) * self.rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self.rate
        self._buckets[caller] = (tokens - 1 if wait == 0 else tokens, now)
        while len(self._buckets) > KEPT_BUCKETS:  # the least recently used
            self._buckets.popitem(last=False)
        return wait


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return the address or network that counts as one caller, for the limits of the server.

    For an IPv4 address this is the address. For an IPv6 address it is the /64 network, because one caller may have all
    addresses of such a network. A text that is no IP address is returned unchanged.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))


def read_keys(path: str | Path) -> list[Key]:
    """Read the entries of a file of API keys; raise a ConfigError if the file is missing or damaged."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError("it is not a JSON object with the format lirdrec-keys")
        if not isinstance(value.get("keys"), list):
            raise ValueError("it has no list of keys")
        keys = [_read_key(number, entry) for number, entry in enumerate(value["keys"], start=1)]
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such key file; make one with lirdrec keys add {path} --name NAME") from None
    except OSError as error:
        raise ConfigError(f"{path}: this file of API keys cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(
            f"{path} is not a valid file of API keys ({reason}); restore it, or make another one with"
            " lirdrec keys add FILE --name NAME"
        ) from None
    return keys


def _read_key(number: int, entry: Any) -> Key:
    """Return the entry with this number, from 1, of a file of keys; raise a ValueError if it is damaged."""
    names = [field.name for field in fields(Key)]
    if not isinstance(entry, dict) or sorted(entry) != sorted(names):
        raise ValueError(f"key {number} of the file does not have the fields {', '.join(names)}")
    if not all(isinstance(text, str) for text in entry.values()):
        raise ValueError(f"key {number} of the file has a value that is not a text")
    key = Key(**entry)
    if not key.name.strip() or not key.name.isprintable():
        raise ValueError(f"the name of key {number} of the file is empty or has invisible characters")
    is_hash = re.fullmatch(r"[0-9a-f]{64}", key.sha256)
    if key.role not in get_args(Role) or not is_hash or not key.created.isprintable():
        raise ValueError(f"the role, hash or date of key {number} of the file is not valid")
    return key


def add_key(path: str | Path, name: str, role: Role) -> str:
    """Create an API key, add its hash to the file, and return the key, which is stored nowhere else.

    A missing file is created. Only the owner of the file may read it.

    Raises:
        ConfigError: the name is used already, empty or not printable, the role is unknown, the folder of the file is
            missing, or the file is damaged.
        RunFolderError: the file cannot be written.
    """
    path = Path(path)
    if role not in get_args(Role):
        raise ConfigError(f"role is {role!r}; choose read or write")
    if not name.strip() or not name.isprintable():
        raise ConfigError("a key needs a name of visible characters, which says who has the key; give --name")
    with write_lock(path):
        keys = read_keys(path) if os.path.lexists(path) else []
        if any(key.name == name for key in keys):
            raise ConfigError(f"{path}: a key named '{name}' exists already; revoke it first, or choose another name")
        secret = PREFIX + secrets.token_urlsafe(32)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        _write(path, [*keys, Key(name, role, _digest(secret), today)])
    return secret


def revoke_key(path: str | Path, name: str) -> None:
    """Remove the API key with this name from the file; raise a ConfigError if there is none, or no valid file."""
    read_keys(path)  # raises if the file is missing, before a lock file is created
    with write_lock(path):
        keys = read_keys(path)
        if all(key.name != name for key in keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise ConfigError(f"{path}: no key is named '{name}'; there are: {names}")
        _write(Path(path), [key for key in keys if key.name != name])


def _write(path: Path, keys: list[Key]) -> None:
    with atomic_write(path) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "keys": [asdict(key) for key in keys]}, file, indent=2)
            file.write("\n")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
