"""The `Captioner` interface for multimodal language models, and the caption columns of the item table:

- `caption`: the text that people read and may edit;
- `caption_attributes`: the attributes as the model gave them, as JSON;
- `caption_machine`: the generated caption; where `caption` differs, a person has edited it;
- `caption_key`: a hash of the image content and of the captioner's identity, to detect changes of either.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from lirdrec.data.schema import ITEM
from lirdrec.features.sources import KEY_BYTES, ItemRows

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 1024  # pixels; larger images are scaled down for the model


@dataclass(frozen=True)
class Answer:
    """The result of captioning one image.

    Attributes:
        text: the raw answer of the model; None if there is a problem.
        problem: why there is no answer, as one sentence.
        is_image_problem: whether the image file is the problem; then no model was called.
        passing: whether the problem is one of the server, so that a later attempt may succeed.
        tokens_in: number of tokens of the prompt with the image; None if unknown.
        tokens_out: number of tokens of the answer; None if unknown.
        seconds: computing time of this image (its share of a batch), without loading and waiting.
    """

    text: str | None
    problem: str | None = None
    is_image_problem: bool = False
    passing: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None


class Captioner(ABC):
    """Base class of captioners, which describe images with the help of one prompt.

    A captioner loads its model at the first use, not when it is constructed.

    Attributes:
        model: name to show; `identity` has the settings that determine the answers.
        prompt: the text that is sent with every image.
        concurrency: number of images processed at once.
        remote: whether images leave this machine, and may cost money.
    """

    model: str
    prompt: str
    concurrency: int = 1
    remote: bool = False

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """JSON-able settings that determine the answers: model, prompt, precision, limits; no path, address or key."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the model runs, as a text for messages."""

    @abstractmethod
    def answers(self, images: Sequence[Path]) -> Iterator[tuple[int, Answer]]:
        """Yield the index and the answer of each image, in order of completion.

        An image that cannot be captioned raises no error: its answer has a `problem`.

        Raises:
            LirdrecError: the model cannot be loaded, no server answers, or the key is wrong.
        """

    def caption(self, images: Sequence[Path]) -> list[Answer]:
        """Return the answers in the order of the images."""
        answers = dict(self.answers(images))
        return [answers[index] for index in range(len(images))]


def open_scaled(path: Path, side: int) -> Image:
    """Open an image, and scale it down if a side is longer than `side` pixels.

    Raises:
        DataError: the file is not a readable image.
    """
    from PIL.Image import Resampling

    from lirdrec.features.images import open_image

    image = open_image(path)
    image.thumbnail((side, side), Resampling.LANCZOS)
    return image


CAPTION, ATTRIBUTES, MACHINE, KEY = COLUMNS = ("caption", "caption_attributes", "caption_machine", "caption_key")
INFO = "captions"  # key of the entry about captions in the manifest's `info`


def read_columns(rows: ItemRows) -> pl.DataFrame:
    """Read `item` and the four caption columns of all items; a column that the item table lacks is null."""
    existing = tuple(name for name in COLUMNS if name in rows.schema)
    missing = [pl.lit(None).alias(name) for name in COLUMNS if name not in existing]
    table = rows.read(0, len(rows), (ITEM, *existing)).with_columns(missing)
    return table.select(ITEM, pl.col(COLUMNS).cast(pl.String))


def edited(table: pl.DataFrame) -> pl.Series:
    """Return `(I,)` bool: whether a person wrote, changed or emptied the item's caption."""
    return (table[CAPTION].fill_null("") != table[MACHINE].fill_null("")).alias("edited")


def captioned(table: pl.DataFrame) -> pl.Series:
    """Return `(I,)` bool: whether the item has a caption."""
    return (table[CAPTION].fill_null("").str.strip_chars() != "").alias("captioned")


def caption_key(image: bytes, identity: Mapping[str, Any]) -> str:
    """Return the key of a caption: 32 hexadecimal digits, a hash of the image content and the captioner's identity."""
    key = hashlib.blake2b(image, digest_size=KEY_BYTES)
    key.update(json.dumps(dict(identity), sort_keys=True, ensure_ascii=False).encode())
    return key.hexdigest()
