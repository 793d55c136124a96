"""What captioning will take, before it starts: tokens, money, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lirdrec.features.captions.captioner import Answer, Captioner
from lirdrec.features.captions.prompt import Attributes

PROBE = 3  # pictures that are measured
LETTERS = 4  # of a token of English text, about
PICTURE = 1600  # tokens of a picture: between 85 and 6,400, as the model has it
WORDS = 0.5  # share of the words allowed that answers use


@dataclass(frozen=True)
class Estimate:
    """What is to be expected.

    Attributes:
        pictures: to be asked about.
        tokens_in, tokens_out: of one picture; None where a probe has not told.
        seconds: that one answer takes; None without a probe.
        measured: whether the figures are from a probe.
        concurrency: answers at once.
        requests_per_minute: at most.
        price_in, price_out: of a million tokens; None where unknown.
    """

    pictures: int
    tokens_in: float | None
    tokens_out: float | None
    seconds: float | None
    measured: bool
    concurrency: int
    requests_per_minute: float | None = None
    price_in: float | None = None
    price_out: float | None = None

    @property
    def time(self) -> float | None:
        """Seconds altogether."""
        slowest = [] if self.requests_per_minute is None else [self.pictures * 60 / self.requests_per_minute]
        if self.seconds is not None:
            slowest.append(self.pictures * self.seconds / max(1, min(self.concurrency, self.pictures)))
        return max(slowest, default=None)

    @property
    def cost(self) -> float | None:
        """Money altogether, in the currency of the prices; a price that is not given counts as nothing."""
        if (self.price_in is None and self.price_out is None) or self.tokens_in is None or self.tokens_out is None:
            return None
        each = self.tokens_in * (self.price_in or 0) + self.tokens_out * (self.price_out or 0)
        return self.pictures * each / 1e6


def estimate(
    captioner: Captioner,
    attributes: Attributes,
    pictures: int,
    probe: Sequence[Answer] = (),
    price_in: float | None = None,
    price_out: float | None = None,
    requests_per_minute: float | None = None,
) -> Estimate:
    """By a probe where there is one, else by rules of thumb."""
    n_in = _mean([one.tokens_in for one in probe])
    n_out = _mean([one.tokens_out for one in probe])
    seconds = _mean([one.seconds for one in probe])
    measured = n_in is not None and n_out is not None
    if not measured:
        n_in = len(captioner.prompt) / LETTERS + PICTURE
        words = WORDS * attributes.max_words + 3  # its name, quotes, comma
        n_out = len(attributes.attributes) * words * 1.4
    return Estimate(
        pictures, n_in, n_out, seconds, measured, captioner.concurrency, requests_per_minute, price_in, price_out
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return fmean(known) if known else None
