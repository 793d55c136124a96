"""Cost estimate of requests to a model, before they start: tokens, money, time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

LETTERS = 4  # of a token of English text, about


@dataclass(frozen=True)
class Estimate:
    """What is to be expected.

    Attributes:
        unit: what is sent: "picture" or "text".
        inputs: how many of them.
        tokens_in, tokens_out: of one, read and written.
        seconds: that one request takes; None where nothing was measured.
        measured: inputs whose tokens were counted; 0: by a rule of thumb.
        concurrency: requests at once.
        per_request: inputs of one request.
        requests_per_minute: at most.
        price_in, price_out: of a million tokens; None where unknown.
    """

    unit: str
    inputs: int
    tokens_in: float
    tokens_out: float
    seconds: float | None
    measured: int
    concurrency: int
    per_request: int = 1
    requests_per_minute: float | None = None
    price_in: float | None = None
    price_out: float | None = None

    @property
    def time(self) -> float | None:
        """Seconds altogether."""
        requests = math.ceil(self.inputs / self.per_request)
        slowest = [] if self.requests_per_minute is None else [requests * 60 / self.requests_per_minute]
        if self.seconds is not None:
            slowest.append(requests * self.seconds / max(1, min(self.concurrency, requests)))
        return max(slowest, default=None)

    @property
    def cost(self) -> float | None:
        """Money altogether, in the currency of the prices; a price that is not given counts as nothing."""
        if self.price_in is None and self.price_out is None:
            return None
        each = self.tokens_in * (self.price_in or 0) + self.tokens_out * (self.price_out or 0)
        return self.inputs * each / 1e6


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None where none is."""
    known = [one for one in values if one is not None]
    return fmean(known) if known else None
