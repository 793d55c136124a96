"""What `lirdrec serve` can be told."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from sqlalchemy import URL

from lirdrec.config import at_least, checked, option
from lirdrec.errors import ConfigError
from lirdrec.server.store import url_of

Index = Literal["exact", "hnsw", "ivf"]

LARGEST = 2**31 - 1
KEYED_RATE = 200.0  # requests a second that a key may send, unless the configuration says otherwise


@dataclass(frozen=True)
@checked
class ServerConfig:
    """Options of a server. Safe as they are: only this machine is answered, and nothing is unlimited.

    Raises:
        ConfigError: values that contradict each other, or that would open the server to everyone.
    """

    run: str = field(metadata={"doc": "a run folder, or a link to one, or a file that names one"})
    host: str = option("127.0.0.1", "address to listen at")
    port: int = option(8000, "port to listen at; 0 takes a free one")
    store: str | None = option(None, "where live changes are kept: a URL; by default the file RUN.live.sqlite")
    workers: int = option(1, "processes that answer")
    threads: int = option(0, "threads of torch in each worker; 0 shares the cores among the workers")

    keys: str | None = option(None, "file of API keys (lirdrec keys add); without one everybody may do everything")
    insecure: bool = option(False, "allow other machines without keys")
    hosts: tuple[str, ...] = option((), "names in the Host header that are answered without keys, beside loopback")
    cors: tuple[str, ...] = option((), "origins of web pages that may ask; none by default")

    rate_limit: float | None = option(
        None, "requests a second of each key, or address, and worker; 0 for no limit (default: 200 with keys)"
    )
    max_body_bytes: int = option(8 * 2**20, "largest body of a request")
    max_pixels: int = option(25_000_000, "largest picture that is decoded")
    max_batch: int = option(256, "recommendations in one batch call")
    timeout_seconds: float = option(30.0, "what takes longer is answered with 503")
    head_seconds: float = option(10.0, "time to send the head of a request; what takes longer gets 408")
    max_connections: int = option(
        1024,
        "connections of each worker; a new one takes the place of one that waits for its peer, or gets 503",
    )
    address_connections: int = option(256, "the same for one address; trusted proxies may have more")
    trusted_proxies: tuple[str, ...] = option(
        (), "addresses or networks of proxies whose X-Forwarded-For is believed; none by default"
    )

    ranking_batch: int = option(64, "waiting requests that are ranked together at most")
    index: Index = option(
        "exact", "how the best items are found; hnsw, ivf: most of them, sooner, where the catalogue is very large"
    )
    images: str | None = option(None, "folder of the items' pictures; by default the one that the dataset notes")
    encoders: bool = option(False, "load the dataset's encoders, so that new items need only a title and a picture")
    device: str = option("cpu", "of the encoders")
    ui: bool = option(False, "serve the page at /ui")
    watch: bool = option(False, "follow RUN: serve what it points to, or holds, as soon as that changes")
    watch_seconds: float = option(1.0, "how often to look")
    runs: str | None = option(None, "folder of runs that POST /model may change to; implies --watch")
    access_log: bool = option(True, "a line for each request")

    def __post_init__(self) -> None:
        counts = ("workers", "max_pixels", "max_batch", "max_connections", "address_connections", "ranking_batch")
        at_least(self, 1, "max_body_bytes", *counts)
        at_least(self, 0, "port", "threads")
        for name in ("threads", *counts):
            if getattr(self, name) > LARGEST:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at most {LARGEST:,}")
        if self.index not in get_args(Index):
            raise ConfigError(f"no index '{self.index}'; choose {', '.join(get_args(Index))}")
        for name in ("timeout_seconds", "head_seconds", "watch_seconds"):
            if not 0 < getattr(self, name) <= LARGEST:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0, and at most {LARGEST:,}")
        if self.port > 65535:
            raise ConfigError(f"port is {self.port}; it must be at most 65535")
        if self.rate_limit is not None:
            at_least(self, 0, "rate_limit")
            if self.rate_limit > LARGEST:
                raise ConfigError(f"rate_limit is {self.rate_limit}; it must be at most {LARGEST:,}; 0 is no limit")
        for origin in self.cors:
            if not _is_origin(origin):
                raise ConfigError(f"cors: {origin!r} is no origin; write it as https://shop.example, without a path")
        for proxy in self.trusted_proxies:
            _check_network(proxy)
        if self.keys is None and not self.is_local and not self.insecure:
            raise ConfigError(
                f"host {self.host} would let other machines in, and there are no API keys: make some (lirdrec keys add "
                "keys.json --name shop --role write) and name the file with --keys; or say --allow-unauthenticated"
            )
        if self.runs is not None and Path(self.run).is_dir() and not Path(self.run).is_symlink():
            raise ConfigError(
                f"{self.run} is a run folder, so POST /model could not change what it means after a restart: write the"
                f" run's name into a file (echo {Path(self.run).name} > {Path(self.run).parent / 'current'}) and serve"
                " that"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def store_url(self) -> str | URL:
        """The store's URL."""
        return url_of(self.run) if self.store is None else self.store

    @property
    def requests_per_second(self) -> float:
        """The rate limit that holds, 0 for none."""
        if self.rate_limit is not None:
            return self.rate_limit
        return KEYED_RATE if self.keys is not None else 0.0

    @property
    def follows(self) -> bool:
        """Whether `run` is watched."""
        return self.watch or self.runs is not None


def _is_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return origin == "*" or (parts.scheme in ("http", "https") and origin == f"{parts.scheme}://{parts.netloc}")


def _check_network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(
            f"trusted_proxies: {text!r} is no address or network ({error}); write it as 10.0.0.7 or 10.0.0.0/8"
        ) from None
