"""Rate limiter for requests to a server."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lirdrec.errors import ConfigError


class RateLimiter:
    """At most so many requests a minute, a second's worth at once; and none while the server asks for a rest."""

    def __init__(self, per_minute: float | None, sleep: Callable[[float], None], clock: Callable[[], float]):
        if per_minute is not None and not per_minute > 0:
            raise ConfigError(f"--requests-per-minute is {per_minute}; it must be more than 0")
        self._rate = None if per_minute is None else per_minute / 60
        self._burst = 1.0 if self._rate is None else max(1.0, self._rate)
        self._sleep, self._clock = sleep, clock
        self._tokens, self._at = self._burst, clock()
        self._held = float("-inf")
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until a request may go out."""
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
        """Let no request out for so many seconds."""
        with self._lock:
            self._held = max(self._held, self._clock() + seconds)
