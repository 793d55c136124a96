"""Estimate what requests to a model will cost, before they start: tokens, money, time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

LETTERS = 4  # letters of a token of English text, about


@dataclass(frozen=True)
class Estimate:
    """Estimated tokens, time and cost of all requests.

    Attributes:
        unit: what an input is: "image" or "text".
        inputs: number of inputs.
        tokens_in, tokens_out: tokens that the model reads and writes for one input.
        seconds: time of one request; None if it was not measured.
        measured: number of inputs whose tokens were counted; 0 if the tokens are a rule of thumb.
        concurrency: number of simultaneous requests.
        per_request: number of inputs in one request.
        requests_per_minute: limit of the requests; None if there is no limit.
        price_in, price_out: price of a million tokens; None if unknown.
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
        """Seconds that all requests take, by the measured time or the rate limit; None if both are unknown."""
        requests = math.ceil(self.inputs / self.per_request)
        bounds = [] if self.requests_per_minute is None else [requests * 60 / self.requests_per_minute]
        if self.seconds is not None:
            bounds.append(requests * self.seconds / max(1, min(self.concurrency, requests)))
        return max(bounds, default=None)

    @property
    def cost(self) -> float | None:
        """Money for all requests, in the currency of the prices; None if both prices are unknown.

        If one price is unknown, it counts as 0.
        """
        if self.price_in is None and self.price_out is None:
            return None
        return self.inputs * (self.tokens_in * (self.price_in or 0) + self.tokens_out * (self.price_out or 0)) / 1e6


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
