"""Plan captioning: find the images of a dataset that need a caption, and estimate tokens, cost and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.captions.captioner import KEY, MACHINE, Answer, Captioner, caption_key, edited
from lirdrec.captions.prompt_attributes import Attributes
from lirdrec.features.remote.cost import LETTERS, Estimate, mean_of_known
from lirdrec.features.sources import ImageSource

RANGE = 1024  # number of items whose images are checked together
PROBE = 3  # images that are captioned to measure time and tokens
IMAGE_TOKENS = 1600  # tokens of an image: between 85 and 6,400, depending on the model
WORDS = 0.5  # share of the allowed words that answers use


@dataclass
class Wanted:
    """An image that needs a caption: the path of its file, and the rows of the items that have this image."""

    path: Path
    rows: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class CaptionPlan:
    """The images that need a caption, and the numbers of the items that need none.

    Attributes:
        items: number of items of the dataset.
        missing: number of items without an image.
        edited: number of items whose caption is kept because a person wrote or changed it.
        unchanged: number of items that have a caption of their present image by this captioner.
        unreadable: for each item whose image cannot be read: its row, the path in the item table, and the problem.
        reset: rows of the items whose edited caption is replaced by the caption that the model gave before.
        wanted: `caption_key` → image to caption, in item order; files with equal content count once.
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
    """Return which images need a caption: those without one, and those whose image or captioner has changed.

    Args:
        source: the images of the dataset; all files are read once.
        table: the existing captions, a result of `read_columns`.
        identity: the identity of the captioner.
        overwrite_edited: also replace captions that people wrote or changed.
    """
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
    """Estimate the tokens, the cost and the time of captioning images.

    Args:
        captioner, attributes: the model, and the attributes that its prompt requests.
        images: number of images to caption.
        probe: the answers for a few of these images; without them, usual numbers of tokens are assumed.
        price_in, price_out: price of a million tokens that the model reads and writes; None if unknown.
        requests_per_minute: limit of the requests; None if there is no limit.
    """
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
