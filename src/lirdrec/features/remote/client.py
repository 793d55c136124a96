"""Client of servers with OpenAI's HTTP interface: parallel requests, a rate limit, retries, one-sentence errors."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from email.utils import parsedate_to_datetime
from functools import partial
from queue import Queue
from typing import TYPE_CHECKING, Any, TypeVar

from lirdrec.config import check_minimum
from lirdrec.errors import ConfigError, TrainingError
from lirdrec.option_names import option_name
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    import httpx
    import tenacity

logger = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")

KEYS = ("LIRDREC_API_KEY", "OPENAI_API_KEY")  # environment variables; the first one that is set has the key
TRANSIENT_STATUSES = (408, 409, 425, 429)  # and all statuses from 500
LONGEST_WAIT = 600.0  # seconds that a server may ask us to wait; with more, the run stops
HEADERS = ("content-type", "retry-after", "location")
ROUTES = ("/chat/completions", "/embeddings", "/models")


class RequestRejected(Exception):
    """The server rejects one request because of its image or text; other requests may succeed."""


class RetriesExhausted(Exception):
    """All attempts of a request failed with a `TransientError`; the message is that of the last attempt."""


class TransientError(Exception):
    """One attempt of a request failed, but the next may succeed.

    Args:
        message: why it failed.
        wait: seconds that the server asked to wait; None if it did not ask.
        gone: whether the server answered before, but nothing answers at its address any more.
    """

    def __init__(self, message: str, wait: float | None = None, gone: bool = False):
        super().__init__(message)
        self.wait, self.gone = wait, gone


@dataclass(eq=False, repr=False)
class OpenAIClient:
    """Client of a server that offers `/chat/completions` or `/embeddings`, such as vLLM, Ollama or a cloud service.

    The API key is read from the environment variable `LIRDREC_API_KEY`, else from `OPENAI_API_KEY`. The second is sent
    only to https addresses and to this machine. A key appears in no message, log, file or pickle.

    Args:
        url: address such as `http://localhost:8000`; `/v1` is added if it has no path.
        concurrency: number of simultaneous requests.
        timeout: seconds for a complete response.
        requests_per_minute: by default there is no limit.
        attempts: how often one request is tried.
        first_wait: seconds before the second attempt; they double for each further attempt.
        sleep, clock: replaced in tests.

    Raises:
        ConfigError: the address is invalid, a number is out of range, or the package httpx is not installed.
    """

    url: str
    _: KW_ONLY
    concurrency: int = 8
    timeout: float = 120.0
    requests_per_minute: float | None = None
    attempts: int = 6
    first_wait: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        check_minimum(self, 1, "concurrency", "attempts")
        if not self.timeout > 0:
            raise ConfigError(f"timeout is {self.timeout}; it must be more than 0 seconds")
        self.address = _address(self.url)
        self.pace = RateLimiter(self.requests_per_minute, self.sleep, self.clock)
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

    def __reduce__(self) -> tuple[Any, ...]:  # another process reads the key from its own environment
        return partial(OpenAIClient, **{field.name: getattr(self, field.name) for field in fields(self)}), ()

    def ask(self, route: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Send one request, and return its result alone; see `ask_timed`."""
        return self.ask_timed(route, body, read)[0]

    def ask_timed(self, route: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> tuple[T, float]:
        """Send one request to a route such as "/embeddings"; return the result and the seconds until it arrived.

        After a `TransientError` the request is tried again. The seconds are those of the last attempt, without the
        pauses of the rate limit and without failed attempts.

        `body` is the content of the request. `read` converts the decoded JSON answer to the result; it raises a
        `TransientError` if the answer is incomplete.

        Raises:
            RequestRejected: the server rejects this request.
            RetriesExhausted: all attempts failed.
            ConfigError: no request can succeed, since the key, the model or the address is wrong.
            TrainingError: no server answers, or it asks to wait longer than `LONGEST_WAIT`.
        """
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=self._wait,
            sleep=self.sleep,
            before_sleep=self._log_retry,
            reraise=True,
        )
        try:
            return retrying(self._try, route, body, read)
        except TransientError as error:
            if error.gone:
                raise TrainingError(
                    f"{self.name}: {error}; finished work is kept: run the same command when the server answers again"
                ) from None
            raise RetriesExhausted(f"{error} ({pluralize(self.attempts, 'attempt')})") from None

    def each(self, inputs: Iterable[A], work: Callable[[A], T]) -> Iterator[tuple[int, T]]:
        """Apply `work` to the inputs, `concurrency` at once, and yield (index, result); see `parallel_map`."""
        return parallel_map(inputs, work, self.concurrency)

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def scrub(self, text: str) -> str:
        """Return the text on one line, with "[key]" in place of the key, cut to 300 characters."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = " ".join(text.split())
        return text if len(text) <= 300 else text[:299] + "…"

    def _try(self, route: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> tuple[T, float]:
        self.pace.wait()
        started = self.clock()
        response = self._post(self.address.copy_with(path=self.address.path.rstrip("/") + route), body)
        self._answered = True
        self._check(response)
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            raise TransientError(f"the answer is not JSON: {self.scrub(response.text)[:80]!r}") from None
        if isinstance(answer, Mapping) and answer.get("error"):
            reason = self.scrub(message_of(answer) or response.text)
            raise TransientError(f"the server answers with an error (its log may say more): {reason}")
        result = read(answer)
        self._succeeded = True
        return result, self.clock() - started

    def _post(self, url: httpx.URL, body: Mapping[str, Any]) -> httpx.Response:
        """Send a request, and return the complete response, which must arrive within `timeout` seconds.

        httpx restarts its timeout at each byte, so the total time is checked here. Raises a TrainingError if no server
        answers at the address, and a `TransientError` if the next attempt may succeed.
        """
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
        except httpx.RequestError as error:
            reason = self.scrub(str(error)) or type(error).__name__
            if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
                if self._answered:
                    raise TransientError(f"the server does not answer any more ({reason})", gone=True) from None
                raise TrainingError(
                    f"{self.name}: no server answers at this address ({reason}); start the server, or correct its"
                    " address"
                ) from None
            if isinstance(error, httpx.TimeoutException):
                raise TransientError(f"no answer within {self.timeout:g} seconds") from None
            raise TransientError(f"the connection was interrupted ({reason})") from None

    def _check(self, response: httpx.Response) -> None:
        """Raise an error unless the response is a success.

        A `TransientError` means that the next attempt may succeed, a `RequestRejected` concerns this request only, and
        the others concern all requests.
        """
        status = response.status_code
        if 200 <= status < 300:
            return
        message = self.scrub(_error_text(response))
        about = f"{status} {response.reason_phrase}" + (f": {message}" if message else "")
        if status in TRANSIENT_STATUSES or status >= 500:
            wait = retry_after(response.headers.get("retry-after"))
            if wait is not None and wait > LONGEST_WAIT:
                raise TrainingError(
                    f"{self.name}: the server asks to wait {wait:,.0f} seconds ({about}); finished work is kept: run"
                    " the same command after that time"
                )
            if wait is not None and status in (429, 503):
                self.pace.hold(wait)
            raise TransientError(about, wait)
        if status == 401:
            hint = "the key is wrong" if self._key else f"the server needs a key: set {KEYS[0]}"
            raise ConfigError(f"{self.name}: {hint} ({about})")
        if status == 402 or (status == 403 and not self._succeeded):  # later, a 403 is about one image: moderation
            raise ConfigError(
                f"{self.name}: the server does not allow this request ({about}); check the account and its key"
            )
        if status in (404, 405):
            raise ConfigError(f"{self.name}: there is no such model or no such address ({about}); check both")
        if 300 <= status < 400:
            to = self.scrub(response.headers.get("location", "somewhere else"))
            raise ConfigError(f"{self.name}: the address has moved to {to}; give the new one")
        raise RequestRejected(f"the server rejects this input ({about})")

    def _wait(self, state: tenacity.RetryCallState) -> float:
        import tenacity

        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, TransientError) and error.wait:
            return error.wait + tenacity.wait_random(0, self.first_wait)(state)
        return tenacity.wait_exponential_jitter(self.first_wait, 60 * self.first_wait, jitter=self.first_wait)(state)

    def _log_retry(self, state: tenacity.RetryCallState) -> None:
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


def parallel_map(inputs: Iterable[A], work: Callable[[A], T], threads: int) -> Iterator[tuple[int, T]]:
    """Apply `work` to the inputs in daemon threads; yields (index, result) as they are ready.

    At most `threads` inputs are in work, or finished but not yet taken by the caller. So the caller can store each
    result before further inputs are read. After the first error of `work`, no further input is started, and the error
    is raised.
    """
    todo: Iterator[tuple[int, A]] = iter(enumerate(inputs))
    reading, ended, free = threading.Lock(), threading.Event(), threading.Semaphore(threads)
    ready: Queue[tuple[int, T] | BaseException | None] = Queue()

    def run() -> None:
        try:
            while free.acquire() and not ended.is_set():
                with reading:
                    task = next(todo, None)
                if task is None:
                    break
                ready.put((task[0], work(task[1])))
        except BaseException as error:
            ready.put(error)
        ready.put(None)

    # daemon threads, so that Ctrl-C does not wait for the server
    for _ in range(threads):
        threading.Thread(target=run, daemon=True).start()
    running = threads
    try:
        while running:
            result = ready.get()
            if result is None:  # a thread has ended
                running -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result
                free.release()
    finally:
        ended.set()
        free.release(threads)


class RateLimiter:
    """Limits how many requests are sent: `per_minute` in a minute (None: no limit), evenly over the minute.

    At most the requests of one second are sent at once. While the server asks to wait, no request is sent.
    """

    def __init__(self, per_minute: float | None, sleep: Callable[[float], None], clock: Callable[[], float]):
        if per_minute is not None and not per_minute > 0:
            raise ConfigError(f"{option_name('requests_per_minute')} is {per_minute}; it must be more than 0")
        self._rate = None if per_minute is None else per_minute / 60
        self._burst = 1.0 if self._rate is None else max(1.0, self._rate)
        self._sleep, self._clock = sleep, clock
        self._tokens, self._at = self._burst, clock()
        self._held = float("-inf")
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until a request may be sent."""
        with self._lock:
            now = self._clock()
            start = max(now, self._held)
            if self._rate is not None:
                self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
                self._at = now
                start = max(start, now - self._tokens / self._rate)  # tokens below 0 are requests that wait before us
        if start > now:
            self._sleep(start - now)

    def hold(self, seconds: float) -> None:
        """Let `wait` delay all requests by `seconds` from now, because the server asked for it."""
        with self._lock:
            self._held = max(self._held, self._clock() + seconds)


def message_of(answer: Any) -> str | None:
    """Return the message in a server's decoded error response; None if there is none.

    It is at {"error": {"message": …}}, or under "message" or "detail".
    """
    if not isinstance(answer, Mapping):
        return None
    error = answer.get("error") or answer.get("message") or answer.get("detail")
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("code")
    return error if error is None or isinstance(error, str) else json.dumps(error)


def tokens_of(answer: Any, name: str) -> int | None:
    """Return a number of tokens from a server's decoded answer; None if it is missing.

    `name` is the key of this number, such as `prompt_tokens`.
    """
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) else None


def retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date; None if there is no valid header."""
    for read in (float, lambda date: parsedate_to_datetime(date).timestamp() - time.time()):
        try:
            return max(0.0, read(text or ""))
        except (ValueError, TypeError, OverflowError):
            continue
    return None


def _error_text(response: httpx.Response) -> str:
    """Return the error message of a response, or its text if it is not JSON; empty if it is a web page."""
    try:
        return message_of(response.json()) or ""
    except ValueError:
        return "" if "html" in response.headers.get("content-type", "") else response.text


def _address(url: str) -> httpx.URL:
    try:
        import httpx
    except ImportError:
        raise ConfigError('requests to a server need httpx and tenacity: pip install "lirdrec[captions]"') from None
    reason = ""
    try:
        address = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError) as error:
        address, reason = httpx.URL(""), f" ({error})"
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigError(f"{url!r} is not the address of a server{reason}; write it as http://localhost:8000/v1")
    path = address.path.rstrip("/")
    for route in ROUTES:
        path = path.removesuffix(route)
    return address.copy_with(path=path or "/v1", fragment=None)


def _key(address: httpx.URL) -> str | None:
    lirdrec_key, openai_key = (os.environ.get(name, "").strip() for name in KEYS)
    local = address.host in ("localhost", "127.0.0.1", "::1")
    return lirdrec_key or (openai_key if local or address.scheme == "https" else "") or None
