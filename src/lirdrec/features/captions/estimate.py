"""What captioning will take, before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from lirdrec.features.captions.captioner import Answer, Captioner
from lirdrec.features.captions.prompt import Attributes
from lirdrec.features.estimating import LETTERS, Estimate, mean_of_known

PROBE = 3  # pictures that are measured
PICTURE = 1600  # tokens of a picture: between 85 and 6,400, as the model has it
WORDS = 0.5  # share of the words allowed that answers use


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
    n_in = mean_of_known(one.tokens_in for one in probe)
    n_out = mean_of_known(one.tokens_out for one in probe)
    measured = len(probe)
    if n_in is None or n_out is None:
        measured = 0
        n_in = len(captioner.prompt) / LETTERS + PICTURE
        words = WORDS * attributes.max_words + 3  # its name, quotes, comma
        n_out = len(attributes.attributes) * words * 1.4
    return Estimate(
        "picture",
        pictures,
        n_in,
        n_out,
        mean_of_known(one.seconds for one in probe),
        measured,
        captioner.concurrency,
        requests_per_minute=requests_per_minute,
        price_in=price_in,
        price_out=price_out,
    )
