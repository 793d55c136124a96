"""Captioning plan: the images of a dataset that have no caption yet.

What captioning will take, before it starts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.captions.captioner import KEY, MACHINE, Answer, Captioner, caption_key, edited
from lirdrec.captions.prompt import Attributes
from lirdrec.features.remote.cost import LETTERS, Estimate, mean_of_known
from lirdrec.features.sources import ImageSource

RANGE = 1024  # number of items whose images are checked together


@dataclass
class Wanted:
    """A picture that needs a caption, and the rows of the items that show it."""

    path: Path
    rows: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class CaptionPlan:
    """What there is to do.

    Attributes:
        items: of the dataset.
        missing: items without a picture.
        edited: items whose caption a person wrote or changed; they are left alone.
        unchanged: items whose caption is of this picture, by this captioner.
        unreadable: (row, source, sentence) of the pictures that cannot be read.
        reset: rows of edited captions that go back to what the machine had written.
        wanted: key → picture, in the order of the items; equal files count once.
    """

    items: int
    missing: int
    edited: int
    unchanged: int
    unreadable: list[tuple[int, str, str]]
    reset: list[int]
    wanted: dict[str, Wanted]

    def waiting(self, done: Collection[str]) -> list[str]:
        """The keys of the pictures that are not done."""
        return [key for key in self.wanted if key not in done]


def make_plan(
    source: ImageSource, table: pl.DataFrame, identity: Mapping[str, Any], overwrite_edited: bool
) -> CaptionPlan:
    """Read all pictures once and compare them with the captions that are there.

    Args:
        source: the pictures.
        table: `columns.read_columns` of the same dataset.
        identity: the captioner's.
        overwrite_edited: whether captions of people may be replaced.
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
