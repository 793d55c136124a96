"""The options of `lirdrec serve`, and their checks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from sqlalchemy import URL

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError
from lirdrec.server.store import DISLIKES, default_store_url

Index = Literal["exact", "hnsw", "ivf"]

LARGEST = 2**31 - 1
KEYED_RATE = 200.0  # default rate limit of an API key, in requests per second


@dataclass(frozen=True)
@validated
class ServerConfig:
    """Options of a server. The defaults are safe: only this machine can connect, and everything has a limit.

    Raises:
        ConfigError: a value is out of range, values contradict each other, or the server would be open to other
            machines without API keys.
    """

    run: str = field(metadata={"doc": "a run folder, a link to one, or a file that names one"})
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "port to listen on; 0 chooses a free one")
    store: str | None = option(None, "URL of the store of live changes; by default the file RUN.live.sqlite")
    workers: int = option(1, "number of server processes")
    threads: int = option(0, "torch threads of each worker; 0 divides the cores among the workers")

    keys: str | None = option(None, "file of API keys (lirdrec keys add); without it every client may read and write")
    insecure: bool = option(False, "allow other machines to connect without keys")
    hosts: tuple[str, ...] = option((), "Host names that are accepted without keys, besides loopback")
    cors: tuple[str, ...] = option((), "origins of web pages that may send requests; none by default")

    rate_limit: float | None = option(
        None, "requests per second of each key or address, per worker; 0 for no limit (default: 200 with keys)"
    )
    max_body_bytes: int = option(8 * 2**20, "largest request body, in bytes")
    max_pixels: int = option(25_000_000, "largest image that is decoded, in pixels")
    max_batch: int = option(256, "recommendations in one batch request")
    timeout_seconds: float = option(30.0, "time limit of a request; after that it gets 503")
    head_seconds: float = option(10.0, "time limit for the head of a request; after that it gets 408")
    max_connections: int = option(
        1024,
        "connections of each worker; above that, a new one replaces one that waits for its client, or gets 503",
    )
    address_connections: int = option(256, "connections of each address; trusted proxies may have more")
    trusted_proxies: tuple[str, ...] = option(
        (), "addresses or networks of proxies whose X-Forwarded-For is trusted; none by default"
    )

    ranking_batch: int = option(64, "largest number of requests that are ranked together")
    index: Index = option("exact", "search for the best items; hnsw, ivf: approximate, faster for very large catalogs")
    dislikes: tuple[str, ...] = option(DISLIKES, "types of events that exclude the item for the user")
    images: str | None = option(None, "folder of the item images; by default that of the dataset")
    encoders: bool = option(False, "load the dataset's encoders, so that new items need only a title and an image")
    device: str = option("cpu", "device of the encoders")
    ui: bool = option(False, "serve the web UI at /ui")
    watch: bool = option(False, "follow RUN: when the run that it points to changes, serve the new one")
    watch_seconds: float = option(1.0, "interval of --watch, in seconds")
    runs: str | None = option(None, "folder of runs that POST /model may switch to; implies --watch")
    access_log: bool = option(True, "log a line for each request")

    def __post_init__(self) -> None:
        counts = ("workers", "max_pixels", "max_batch", "max_connections", "address_connections", "ranking_batch")
        check_minimum(self, 1, "max_body_bytes", *counts)
        check_minimum(self, 0, "port", "threads")
        for name in ("threads", *counts):
            if getattr(self, name) > LARGEST:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at most {LARGEST:,}")
        if self.port > 65535:
            raise ConfigError(f"port is {self.port}; it must be at most 65535")
        if self.index not in get_args(Index):
            raise ConfigError(f"no index '{self.index}'; choose {', '.join(get_args(Index))}")
        for name in ("timeout_seconds", "head_seconds", "watch_seconds"):
            if not 0 < getattr(self, name) <= LARGEST:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0, and at most {LARGEST:,}")
        if self.rate_limit is not None:
            check_minimum(self, 0, "rate_limit")
            if self.rate_limit > LARGEST:
                raise ConfigError(f"rate_limit is {self.rate_limit}; it must be at most {LARGEST:,}; 0 is no limit")
        for origin in self.cors:
            if not _is_origin(origin):
                raise ConfigError(f"cors: {origin!r} is not an origin; write it like https://shop.example, no path")
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ConfigError(
                    f"trusted_proxies: {proxy!r} is not an address or network ({error}); write it as 10.0.0.7 or "
                    "10.0.0.0/8"
                ) from None
        if self.keys is None and not self.is_local and not self.insecure:
            raise ConfigError(
                f"host {self.host} opens the server to other machines, and there are no API keys: create some (lirdrec "
                "keys add keys.json --name shop --role write) and pass the file with --keys; or pass "
                "--allow-unauthenticated"
            )
        if self.runs is not None and Path(self.run).is_dir() and not Path(self.run).is_symlink():
            raise ConfigError(
                f"{self.run} is a run folder, so a restart would undo what POST /model (--runs-dir) changes:"
                f" write the run's name into a file (echo {Path(self.run).name} >"
                f" {Path(self.run).parent / 'current'}) and serve this file"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host == "localhost" or is_loopback(self.host)

    @property
    def store_url(self) -> str | URL:
        """The URL of the store of live changes; by default a SQLite file beside the run."""
        return default_store_url(self.run) if self.store is None else self.store

    @property
    def requests_per_second(self) -> float:
        """The rate limit of each caller, in requests per second: `rate_limit` or its default; 0 for no limit."""
        if self.rate_limit is not None:
            return self.rate_limit
        return KEYED_RATE if self.keys is not None else 0.0

    @property
    def follows(self) -> bool:
        """Whether the server checks `run` regularly, and changes to another run when this link or file names one."""
        return self.watch or self.runs is not None


def is_loopback(address: str) -> bool:
    """Whether an IP address belongs to this machine alone (loopback); False for the name of a host."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return origin == "*" or (parts.scheme in ("http", "https") and origin == f"{parts.scheme}://{parts.netloc}")
