"""Send HTTP requests to addresses that others wrote: only to public hosts, also after redirects, and within limits.

The name of a host is resolved once for each request. All of its addresses must be public, and the connection goes to
one of them. So neither a redirect nor a name server that changes its answer can lead to a machine of the private
network. Proxy settings of the environment are not used.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from lirdrec._version import __version__
from lirdrec.errors import LirdrecError, describe_error

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_SAFE = "/%:=&?~#+!$,;'@()*[]"  # characters of an address that are not escaped
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
BLOCK = 1 << 16  # bytes


class DownloadError(LirdrecError):
    """A file cannot be downloaded.

    Args:
        message: the reason.
        passing: whether another try may succeed.
        wait: seconds to wait before the next try, if the server says it.
    """

    def __init__(self, message: str, passing: bool = False, wait: float | None = None):
        super().__init__(message)
        self.passing, self.wait = passing, wait


def resolve(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host; raises an OSError if it is unknown."""
    return list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet.

    An IPv6 address that contains an IPv4 address is public if the IPv4 address is. Other texts are not public.

    >>> [is_public(address) for address in ("93.184.216.34", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254")]
    [True, False, False, False]
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast


@dataclass(frozen=True)
class Network:
    """How hosts are reached.

    Attributes:
        resolve: function from host and port to IP addresses.
        allowed: function that says whether connections to an IP address are allowed; by default, if it is public.
        timeout: seconds to wait for a connection, and for each block of data.
        sleep: function that waits some seconds between two tries.
    """

    resolve: Callable[[str, int], list[str]] = resolve
    allowed: Callable[[str], bool] = is_public
    timeout: float = 30.0
    sleep: Callable[[float], object] = field(default=time.sleep)


class Response:
    """An open response with its `status`, its `headers` (names in lower case), and its content in blocks."""

    def __init__(self, raw: http.client.HTTPResponse, url: str):
        self.status, self.url, self._raw = raw.status, url, raw
        self.headers = {name.lower(): value for name, value in raw.getheaders()}

    @property
    def n_bytes(self) -> int | None:
        """Length of the content in bytes; None if the server does not send it."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def blocks(self) -> Iterator[bytes]:
        """Yield the content in blocks; raise a DownloadError if it ends too early or the connection breaks."""
        n = 0
        try:
            while block := self._raw.read1(BLOCK):
                n += len(block)
                yield block
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(f"{self.url}: the connection broke ({describe_error(error)})", passing=True) from None
        if self.n_bytes is not None and n < self.n_bytes:
            raise DownloadError(f"{self.url}: the connection ended after {n:,} of {self.n_bytes:,} bytes", passing=True)


@contextlib.contextmanager
def get(
    url: str, headers: Mapping[str, str] | None = None, network: Network | None = None, seconds: float | None = None
) -> Iterator[Response]:
    """Request a web address with GET for a `with` block, and follow redirects. The response has status 200, 206 or 416.

    Args:
        url: address with http or https.
        headers: further headers of the request.
        network: how hosts are reached.
        seconds: time limit for the request and the content together; None for no limit.

    Raises:
        DownloadError: the address is not usable or is private, the status is another one, or the time is over. The
            error is `passing` (another try may succeed) if the network or the server caused it.
    """
    network = network or Network()
    deadline = None if seconds is None else time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked(url)
        with _connected(parts, network, url) as connection, _ended_at(deadline, connection, url):
            raw = _ask(connection, parts, headers or {}, url)
            location = raw.getheader("location") if raw.status in _REDIRECTS else None
            if location is None:
                response = Response(raw, url)
                _check_status(response)
                yield response
                return
        following = urljoin(url, quote(location, safe=_SAFE))
        if parts.scheme == "https" and not following.lower().startswith("https:"):
            raise DownloadError(f"{url}: redirects from https to {following}, which is not encrypted")
        url = following
    raise DownloadError(f"{url}: redirects more than {MAX_REDIRECTS} times")


@contextlib.contextmanager
def _ended_at(deadline: float | None, connection: http.client.HTTPConnection, url: str) -> Iterator[None]:
    """Break the connection at the deadline, even if the server still sends data slowly, and raise a DownloadError."""
    if deadline is None:
        yield
        return
    sock = connection.sock
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), partial(_break, sock))
    timer.daemon = True
    timer.start()
    late = DownloadError(f"{url}: takes too long")
    try:
        yield
    except DownloadError:
        if time.monotonic() >= deadline:
            raise late from None
        raise
    finally:
        timer.cancel()
    if time.monotonic() >= deadline:  # if the length is not known, the content just seems to end here
        raise late


def _break(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the connection has ended already
        sock.shutdown(socket.SHUT_RDWR)


def _checked(url: str) -> SplitResult:
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        raise DownloadError(f"{url!r} is not a web address")
    try:
        parts = urlsplit(url)
        _ = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError:  # UnicodeError is one
        raise DownloadError(f"{url} is not a web address") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise DownloadError(f"{url} is not an address that begins with http:// or https://")
    if parts.username is not None:
        raise DownloadError(f"{parts.scheme}://{parts.hostname}: addresses with a user name are not opened")
    return parts


@contextlib.contextmanager
def _connected(parts: SplitResult, network: Network, url: str) -> Iterator[http.client.HTTPConnection]:
    host, port = str(parts.hostname).encode("idna").decode(), parts.port or _PORTS[parts.scheme]
    try:
        addresses = network.resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise DownloadError(f"{url}: the host {host} is not known ({describe_error(error)})", passing=True) from None
    for address in addresses:
        if not network.allowed(address):
            raise DownloadError(f"{url}: the host {host} has a private address ({address}); it is not opened")
    failure: Exception = OSError("it has no address")
    for address in addresses:
        try:
            sock = socket.create_connection((address, port), timeout=network.timeout)
        except OSError as error:
            failure = error
            continue
        with contextlib.closing(_wrapped(sock, parts, host, port, network, url)) as connection:
            yield connection
        return
    raise DownloadError(f"{url}: no connection to {host} ({describe_error(failure)})", passing=True)


def _wrapped(
    sock: socket.socket, parts: SplitResult, host: str, port: int, network: Network, url: str
) -> http.client.HTTPConnection:
    """Return an HTTP connection on an open socket, encrypted for https."""
    connection = http.client.HTTPConnection(host, port, timeout=network.timeout)
    if parts.scheme == "https":
        connection.default_port = _PORTS["https"]  # so that the header Host does not contain the port
        try:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except OSError as error:  # ssl.SSLError is one
            sock.close()
            broken = not isinstance(error, ssl.SSLCertVerificationError)
            raise DownloadError(
                f"{url}: an encrypted connection cannot be made ({describe_error(error)})", passing=broken
            ) from None
    connection.sock = sock
    return connection


def _ask(
    connection: http.client.HTTPConnection, parts: SplitResult, headers: Mapping[str, str], url: str
) -> http.client.HTTPResponse:
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_SAFE)
    default = {"User-Agent": f"lirdrec/{__version__}", "Accept-Encoding": "identity", "Connection": "close"}
    try:
        connection.request("GET", path, headers={**default, **headers})
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        reason = describe_error(error) or type(error).__name__
        raise DownloadError(f"{url}: the server gives no answer ({reason})", passing=True) from None


def _check_status(response: Response) -> None:
    status = response.status
    if status in (200, 206, 416):
        if (coding := response.headers.get("content-encoding", "identity").lower()) != "identity":
            raise DownloadError(
                f"{response.url}: the server sends the file compressed ({coding}), which is not supported; use another"
                " address of the file, or download it with another program"
            )
        return
    passing = status >= 500 or status in (408, 425, 429)
    reason = http.client.responses.get(status, "")
    raise DownloadError(f"{response.url}: the server answers {status} {reason}".rstrip(), passing, _wait(response))


def _wait(response: Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return min(float(text), 120.0) if text.isascii() and text.isdigit() else None


def tries(n: int, network: Network, attempt: Callable[[], Any]) -> Any:
    """Call `attempt` until it succeeds, `n` times at most, with growing pauses; return its result.

    The last DownloadError is raised, and each one that is not `passing`.
    """
    for index in range(n):
        try:
            return attempt()
        except DownloadError as error:
            if not error.passing or index == n - 1:
                raise
            network.sleep(error.wait if error.wait is not None else float(2**index))
    raise AssertionError("n is 1 or more")
