"""What the encoding of texts by a server will take, before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lirdrec.features.encoder import Input
from lirdrec.features.estimating import LETTERS, Estimate
from lirdrec.features.text.endpoint import EndpointText, Measured


@dataclass
class Waiting:
    """Texts that are to be sent.

    Attributes:
        encoder: whose server gets them.
        texts, letters: how many, prompts included.
        first: those of the first request.
    """

    encoder: EndpointText
    texts: int = 0
    letters: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, inputs: Iterable[Input]) -> None:
        """Count some more."""
        for one in inputs:
            self.texts += 1
            self.letters += len(self.encoder.prompt) + len(str(one))
            if len(self.first) < self.encoder.texts:
                self.first.append(str(one))


def estimate(waiting: Waiting, probe: Measured | None = None, price: float | None = None) -> Estimate:
    """By a probe where there is one, else by a rule of thumb.

    Args:
        waiting: what is to be sent.
        probe: what its first request took.
        price: of a million tokens.
    """
    letters = waiting.letters / max(1, waiting.texts)
    tokens, measured = letters / LETTERS, 0
    if probe is not None and probe.tokens is not None:
        tokens, measured = letters * probe.tokens / probe.letters, len(waiting.first)
    server = waiting.encoder.endpoint
    return Estimate(
        "text",
        waiting.texts,
        tokens,
        0.0,
        None if probe is None else probe.seconds,
        measured,
        server.concurrency,
        waiting.encoder.texts,
        server.requests_per_minute,
        price,
    )
