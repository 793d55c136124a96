"""Who may ask, how often, and how the file of API keys is kept."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from lirdrec.errors import ConfigError
from lirdrec.files.atomic import atomic_write
from lirdrec.server.private_files import one_writer

log = logging.getLogger(__name__)

Role = Literal["read", "write"]
PREFIX = "lirdrec_"
FORMAT = "lirdrec-keys"
KEPT_BUCKETS = 10_000


@dataclass(frozen=True)
class Key:
    """An API key, without the key itself.

    Attributes:
        name: of whoever has it; appears in logs.
        role: "read" may ask; "write" may also change.
        sha256: of the key. A key is 256 random bits, so there is nothing to guess that a slow or salted hash would
            protect, as it would a password.
        created: ISO date.
    """

    name: str
    role: Role
    sha256: str
    created: str


class Keys:
    """The keys of a file, read again when it changes: a key that was revoked is refused at the next request.

    Raises:
        ConfigError: the file is missing or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._seen = self._stamp()
        self._keys = read_keys(self.path)

    def find(self, presented: str) -> Key | None:
        """The key that was presented, compared with all in constant time; None if it is not among them.

        A file that was removed or damaged meanwhile lets nobody in.
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
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _stamp(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino


class RateLimiter:
    """A bucket of tokens for each caller: `rate` come in a second, up to `burst`. Used by one thread.

    Args:
        rate: requests a second.
        burst: requests at once after a pause; by default what comes in a second, at least 1.
    """

    def __init__(self, rate: float, burst: float | None = None):
        self.rate = rate
        self.burst = max(1.0, rate if burst is None else burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when

    def wait(self, caller: str, now: float | None = None) -> float:
        """Take a token; 0 if there was one, else the seconds until there is."""
        now = time.monotonic() if now is None else now
        tokens, before = self._buckets.pop(caller, (self.burst, now))
        tokens = min(self.burst, tokens + (now - before) * self.rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self.rate
        self._buckets[caller] = (tokens - 1 if wait == 0 else tokens, now)
        while len(self._buckets) > KEPT_BUCKETS:  # the one that was quiet for longest
            self._buckets.popitem(last=False)
        return wait


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What one caller can send from: an IPv4 address itself; of IPv6 the first 64 bits, of which a caller has all."""
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
    """The keys of a file.

    Raises:
        ConfigError: it is missing or damaged.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError("it is another kind of file")
        keys = [Key(**one) for one in value["keys"]]
        for number, key in enumerate(keys):
            _check(number, key)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file of keys; make one: lirdrec keys add {path} --name shop") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise ConfigError(f"{path}: is not a file of keys (it is nested too deeply)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is not a file of keys ({error}); make one with lirdrec keys add") from None
    return keys


def _check(number: int, key: Key) -> None:
    """Refuse an entry of a file that `add_key` would not have written."""
    if not all(isinstance(one, str) for one in (key.name, key.role, key.sha256, key.created)):
        raise ValueError(f"entry {number} of its keys holds something else than texts")
    if not key.name.strip() or not key.name.isprintable():
        raise ValueError(f"the name of entry {number} of its keys cannot be shown")
    if key.role not in get_args(Role) or len(bytes.fromhex(key.sha256)) != 32 or not key.created.isprintable():
        raise ValueError(f"the role, the hash or the date of entry {number} of its keys is wrong")


def add_key(path: str | Path, name: str, role: Role) -> str:
    """Make a key, note its hash in the file (made if need be, readable by its owner only), and return the key.

    Raises:
        ConfigError: the name is taken or empty, the role unknown, or the file damaged.
    """
    path = Path(path)
    if role not in get_args(Role):
        raise ConfigError(f"role is {role!r}; choose read or write")
    if not name.strip() or not name.isprintable():
        raise ConfigError("a key needs a name that tells who has it")
    with one_writer(path):
        keys = read_keys(path) if os.path.lexists(path) else []
        if any(key.name == name for key in keys):
            raise ConfigError(f"{path}: there is a key named '{name}' already; revoke it first, or choose another name")
        secret = PREFIX + secrets.token_urlsafe(32)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        _write(path, [*keys, Key(name, role, _digest(secret), today)])
    return secret


def revoke_key(path: str | Path, name: str) -> None:
    """Take a key out of the file; servers refuse it from their next request on.

    Raises:
        ConfigError: there is no such key, or the file is damaged.
    """
    read_keys(path)  # a file that is missing needs no lock
    with one_writer(path):
        keys = read_keys(path)
        if all(key.name != name for key in keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise ConfigError(f"{path}: no key is named '{name}'; there are: {known}")
        _write(Path(path), [key for key in keys if key.name != name])


def _write(path: Path, keys: list[Key]) -> None:
    with atomic_write(path) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "keys": [asdict(key) for key in keys]}, file, indent=2)
            file.write("\n")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
