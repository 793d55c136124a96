"""Client of servers with OpenAI's HTTP interface: parallel requests, a rate limit, retries.

What servers say when they do not do as they were asked, sorted and put into words.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lirdrec.config import check_minimum
from lirdrec.data.ids import pluralize
from lirdrec.errors import ConfigError, TrainingError
from lirdrec.features.remote.concurrency import RateLimiter, parallel_map

if TYPE_CHECKING:
    import httpx


class RequestRejected(Exception):
    """The server will not do this one request (its picture, its text); others may go well. Says why."""


class RetriesExhausted(Exception):
    """The request failed in a way that may pass, as often as it was tried. Says how it failed the last time."""


class TransientError(Exception):
    """One try failed; the next may not. `wait`: what the server asked for, in seconds; `gone`: it is not there."""

    def __init__(self, message: str, wait: float | None = None, gone: bool = False):
        super().__init__(message)
        self.wait, self.gone = wait, gone


def said_by(response: httpx.Response) -> str:
    """The words of a response that is no success; those of a web page are left out."""
    try:
        return message_of(response.json()) or ""
    except ValueError:
        return "" if "html" in response.headers.get("content-type", "") else response.text


def message_of(answer: Any) -> str | None:
    """The words of an error as servers write it: {"error": {"message": …}}, or under "message" or "detail"."""
    if not isinstance(answer, Mapping):
        return None
    found = answer.get("error") or answer.get("message") or answer.get("detail")
    if isinstance(found, Mapping):
        found = found.get("message") or found.get("code")
    return None if found is None else found if isinstance(found, str) else json.dumps(found)


def tokens_of(answer: Any, name: str) -> int | None:
    """What an answer says of its tokens, such as `prompt_tokens`; None where it says nothing."""
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    found = usage.get(name) if isinstance(usage, Mapping) else None
    return found if isinstance(found, int) else None


def retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


if TYPE_CHECKING:
    import httpx
    import tenacity

logger = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")

KEYS = ("LIRDREC_API_KEY", "OPENAI_API_KEY")  # environment variables, the first one that is set
PASSING = (408, 409, 425, 429)  # and everything from 500: asking again may help
LONGEST_WAIT = 600.0  # seconds that a server may ask us to wait; with more, the run stops
HEADERS = ("content-type", "retry-after", "location")
ROUTES = ("/chat/completions", "/embeddings", "/models")


class OpenAIClient:
    """A server of `/chat/completions` or `/embeddings`: vLLM, Ollama, a cloud.

    The key is read from the environment (`LIRDREC_API_KEY`, else `OPENAI_API_KEY`; the latter goes to https addresses
    and to this machine only) and appears in no message, no log, no file and no pickle.

    Args:
        url: such as `http://localhost:8000`; `/v1` is added where no path is given.
        concurrency: requests at once.
        timeout: seconds until an answer must be there.
        requests_per_minute: at most; None: as many as `concurrency` allows.
        attempts: tries of one request altogether.
        first_wait: seconds before the second try; doubled for each further one, with a random part.
        sleep, clock: for tests.

    Raises:
        ConfigError: the address is none, a number is out of range, or httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int = 8,
        timeout: float = 120.0,
        requests_per_minute: float | None = None,
        attempts: int = 6,
        first_wait: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.concurrency, self.timeout, self.requests_per_minute = concurrency, timeout, requests_per_minute
        self.attempts, self.first_wait, self.sleep = attempts, first_wait, sleep
        check_minimum(self, 1, "concurrency", "attempts")
        if not timeout > 0:
            raise ConfigError(f"timeout is {timeout}; it must be more than 0 seconds")
        self.address = _address(url)
        self._made = partial(
            OpenAIClient,
            str(self.address),
            concurrency=concurrency,
            timeout=timeout,
            requests_per_minute=requests_per_minute,
            attempts=attempts,
            first_wait=first_wait,
            sleep=sleep,
            clock=clock,
        )
        self.pace = RateLimiter(requests_per_minute, sleep, clock)
        self._key = _key(self.address)
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self._answered = self._succeeded = False

    @property
    def name(self) -> str:
        """The address without a user, a password or a query, for messages and manifests."""
        return str(self.address.copy_with(username=None, password=None, query=None, fragment=None)).rstrip("/")

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made, ()  # another process reads the key from its own environment

    def ask(self, route: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Send one request, again while it fails in a way that may pass.

        Args:
            route: such as "/embeddings".
            body: JSON-able.
            read: takes what it needs out of the decoded answer; raises `TransientError` where that is not in it.

        Raises:
            Refused: the server will not have this request.
            GaveUp: all attempts failed.
            ConfigError: no request can go well: the key is wrong, there is no such model or address.
            TrainingError: the server is not there, or wants to be left alone for long.
        """
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=self._wait,
            sleep=self.sleep,
            before_sleep=self._say,
            reraise=True,
        )
        try:
            return retrying(self._try, route, body, read)
        except TransientError as error:
            if error.gone:
                raise TrainingError(
                    f"{self.name}: {error}; what is done is kept, the same command goes on when it is back"
                ) from None
            raise RetriesExhausted(f"{error} ({pluralize(self.attempts, 'attempt')})") from None

    def each(self, inputs: Iterable[A], work: Callable[[A], T]) -> Iterator[tuple[int, T]]:
        """Work on inputs, `concurrency` at once; see `lirdrec.features.remote.concurrency.each`."""
        return parallel_map(inputs, work, self.concurrency)

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def scrub(self, text: str) -> str:
        """The text without the key, on one line, cut to a readable length."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = " ".join(text.split())
        return text if len(text) <= 300 else text[:299] + "…"

    def _try(self, route: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        self.pace.wait()
        response = self._post(self._url(route), body)
        self._answered = True
        self._check(response)
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            raise TransientError(f"the answer is not JSON: {self.scrub(response.text)[:80]!r}") from None
        if isinstance(answer, Mapping) and answer.get("error"):
            raise TransientError(f"the server reports an error: {self.scrub(message_of(answer) or response.text)}")
        got = read(answer)
        self._succeeded = True
        return got

    def _post(self, url: httpx.URL, body: Mapping[str, Any]) -> httpx.Response:
        """The complete response, within `timeout` seconds in total (httpx restarts its timeout at each byte)."""
        import httpx

        until = time.monotonic() + self.timeout
        try:
            with self._connected().stream("POST", url, json=body) as response:
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    if time.monotonic() > until:
                        raise TransientError(f"no complete answer within {self.timeout:g} seconds")
                headers = {name: response.headers[name] for name in HEADERS if name in response.headers}
                return httpx.Response(response.status_code, headers=headers, content=b"".join(parts))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            said = self.scrub(str(error)) or type(error).__name__
            if not self._answered:
                raise TrainingError(
                    f"{self.name}: no server answers there ({said}); start it, or correct its address"
                ) from None
            raise TransientError(f"the server is gone ({said})", gone=True) from None
        except httpx.TimeoutException:
            raise TransientError(f"no answer within {self.timeout:g} seconds") from None
        except httpx.RequestError as error:
            raise TransientError(f"the connection broke ({self.scrub(str(error)) or type(error).__name__})") from None

    def _check(self, response: httpx.Response) -> None:
        """Sort what is no success into what may pass, what is this request's fault, and what is everybody's."""
        status = response.status_code
        if 200 <= status < 300:
            return
        said = self.scrub(said_by(response))
        about = f"{status} {response.reason_phrase}" + (f": {said}" if said else "")
        if status in PASSING or status >= 500:
            wait = retry_after(response.headers.get("retry-after"))
            if wait is not None and wait > LONGEST_WAIT:
                raise TrainingError(
                    f"{self.name}: the server asks to come back in {wait:,.0f} seconds ({about}); what is done is"
                    " kept, the same command goes on then"
                )
            if wait is not None and status in (429, 503):
                self.pace.hold(wait)
            raise TransientError(about, wait)
        if status == 401:
            hint = "the key is wrong" if self._key else f"it wants a key: set {KEYS[0]}"
            raise ConfigError(f"{self.name}: {hint} ({about})")
        if status == 402 or (status == 403 and not self._succeeded):  # later, a 403 is about one picture: moderation
            raise ConfigError(f"{self.name}: the server does not allow it ({about}); look at the account and its key")
        if status in (404, 405):
            raise ConfigError(f"{self.name}: no such model or address ({about}); look at both")
        if 300 <= status < 400:
            to = self.scrub(response.headers.get("location", "somewhere else"))
            raise ConfigError(f"{self.name}: the address has moved to {to}; give the new one")
        raise RequestRejected(f"the server refuses it ({about})")

    def _wait(self, state: tenacity.RetryCallState) -> float:
        import tenacity

        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, TransientError) and error.wait:
            return error.wait + tenacity.wait_random(0, self.first_wait)(state)
        return tenacity.wait_exponential_jitter(self.first_wait, 60 * self.first_wait, jitter=self.first_wait)(state)

    def _say(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        seconds = state.next_action.sleep if state.next_action is not None else 0.0
        logger.info("%s: %s; trying again in %.1f s (attempt %d)", self.name, error, seconds, state.attempt_number + 1)

    def _connected(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                import httpx

                headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
                limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
                self._client = httpx.Client(headers=headers, timeout=self.timeout, limits=limits)
            return self._client

    def _url(self, route: str) -> httpx.URL:
        return self.address.copy_with(path=self.address.path.rstrip("/") + route)


def _address(url: str) -> httpx.URL:
    try:
        import httpx
    except ImportError:
        raise ConfigError('asking a server needs httpx and tenacity: pip install "lirdrec[captions]"') from None
    try:
        address = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigError(
            f"{url!r} is no address of a server ({error}); write it as http://localhost:8000/v1"
        ) from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigError(f"{url!r} is no address of a server; write it as http://localhost:8000/v1")
    path = address.path.rstrip("/")
    for route in ROUTES:
        path = path.removesuffix(route)
    return address.copy_with(path=path or "/v1", fragment=None)


def _key(address: httpx.URL) -> str | None:
    own, openai = (os.environ.get(name, "").strip() for name in KEYS)
    if own:
        return own
    here = address.host in ("localhost", "127.0.0.1", "::1")
    return openai if openai and (here or address.scheme == "https") else None
