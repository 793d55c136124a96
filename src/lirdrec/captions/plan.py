"""Plan captioning: find the images of a dataset that need a caption, and estimate tokens, cost and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.captions.captioner import KEY, MACHINE, Answer, Captioner, caption_key, edited
from lirdrec.captions.prompt import Attributes
from lirdrec.features.remote.cost import LETTERS, Estimate, mean_of_known
from lirdrec.features.sources import ImageSource

RANGE = 1024  # number of items whose images are checked together
PROBE = 3  # images that are captioned to measure time and tokens
IMAGE_TOKENS = 1600  # tokens of an image: between 85 and 6,400, depending on the model
WORDS = 0.5  # share of the allowed words that answers use


@dataclass
class Wanted:
    """An image that needs a caption, and the rows of the items that have it."""

    path: Path
    rows: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class CaptionPlan:
    """The images to caption, and the numbers of the other items.

    Attributes:
        items: number of items of the dataset.
        missing: number of items without an image.
        edited: number of items whose caption is kept because a person wrote or changed it.
        unchanged: number of items that have a caption of their present image by this captioner.
        unreadable: row, source and problem of each image that cannot be read.
        reset: rows of the items whose edited caption is replaced by the caption that the model gave before.
        wanted: key → image to caption, in item order; equal files count once.
    """

    items: int
    missing: int
    edited: int
    unchanged: int
    unreadable: list[tuple[int, str, str]]
    reset: list[int]
    wanted: dict[str, Wanted]


def make_plan(
    source: ImageSource, table: pl.DataFrame, identity: Mapping[str, Any], overwrite_edited: bool
) -> CaptionPlan:
    """Read all images once, and compare them with the existing captions in `table` (the result of `read_columns`)."""
    by_person = edited(table).to_list()
    machine, keys = (table[name].to_list() for name in (MACHINE, KEY))
    missing = unchanged = kept = 0
    unreadable: list[tuple[int, str, str]] = []
    reset: list[int] = []
    wanted: dict[str, Wanted] = {}
    for start in range(0, len(source), RANGE):
        for row, item in enumerate(source.read(start, min(start + RANGE, len(source))), start):
            if by_person[row] and not overwrite_edited:
                kept += 1
            elif item.problem is not None:
                unreadable.append((row, item.source, item.problem))
            elif item.key is None or not isinstance(item.value, Path):
                missing += 1
            elif (key := caption_key(item.key, identity)) != keys[row] or not machine[row]:
                wanted.setdefault(key, Wanted(item.value)).rows.append(row)
            elif by_person[row]:
                reset.append(row)
            else:
                unchanged += 1
    return CaptionPlan(table.height, missing, kept, unchanged, unreadable, reset, wanted)


def estimate(
    captioner: Captioner,
    attributes: Attributes,
    images: int,
    probe: Sequence[Answer] = (),
    price_in: float | None = None,
    price_out: float | None = None,
    requests_per_minute: float | None = None,
) -> Estimate:
    """Estimate tokens, cost and time of `images` images from the answers of a probe, or without one by usual values."""
    n_in = mean_of_known(answer.tokens_in for answer in probe)
    n_out = mean_of_known(answer.tokens_out for answer in probe)
    measured = len(probe)
    if n_in is None or n_out is None:
        measured = 0
        n_in = len(captioner.prompt) / LETTERS + IMAGE_TOKENS
        words = WORDS * attributes.max_words + 3  # 3 for the name of the attribute, the quotes and the comma
        n_out = len(attributes.attributes) * words * 1.4
    return Estimate(
        "image",
        images,
        n_in,
        n_out,
        mean_of_known(answer.seconds for answer in probe),
        measured,
        captioner.concurrency,
        requests_per_minute=requests_per_minute,
        price_in=price_in,
        price_out=price_out,
    )
