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
        is_image_problem: whether the image file is the problem; no model was called then.
        passing: whether a later attempt may succeed (a problem of the server).
        tokens_in, tokens_out: of the prompt with the image, and of the answer; None if unknown.
        seconds: computing time, including its share of a batch, without loading and waiting.
    """

    text: str | None
    problem: str | None = None
    is_image_problem: bool = False
    passing: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None


class Captioner(ABC):
    """Base class of captioners, which describe images by one prompt. Cheap to construct; loads at the first use.

    Attributes:
        model: display name; `identity` is what determines the answers.
        prompt: sent with every image.
        concurrency: images processed at once.
        remote: whether images leave this machine, and may cost money.
    """

    model: str
    prompt: str
    concurrency: int = 1
    remote: bool = False

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Settings that determine the answers, JSON-able: model, prompt, precision, limits. No path, address or key."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the model runs, for people."""

    @abstractmethod
    def answers(self, images: Sequence[Path]) -> Iterator[tuple[int, Answer]]:
        """(index, answer) of each image, in order of completion.

        Raises:
            LirdrecError: the model cannot be loaded, no server answers, or the key is wrong. An image that cannot
                be captioned raises nothing: its answer has a `problem`.
        """

    def caption(self, images: Sequence[Path]) -> list[Answer]:
        """The answers in the order of the images."""
        answers = dict(self.answers(images))
        return [answers[index] for index in range(len(images))]


def open_scaled(path: Path, side: int) -> Image:
    """Open an image with at most `side` pixels a side.

    Raises:
        DataError: the file is not a readable image.
    """
    from PIL.Image import Resampling

    from lirdrec.features.images import open_image

    image = open_image(path)
    image.thumbnail((side, side), Resampling.LANCZOS)
    return image


CAPTION, ATTRIBUTES, MACHINE, KEY = COLUMNS = ("caption", "caption_attributes", "caption_machine", "caption_key")
INFO = "captions"  # entry of the manifest's info


def read_columns(rows: ItemRows) -> pl.DataFrame:
    """`item` and the four columns of all items; null where the table has none of them."""
    existing = tuple(name for name in COLUMNS if name in rows.schema)
    missing = [pl.lit(None).alias(name) for name in COLUMNS if name not in existing]
    table = rows.read(0, len(rows), (ITEM, *existing)).with_columns(missing)
    return table.select(ITEM, pl.col(COLUMNS).cast(pl.String))


def edited(table: pl.DataFrame) -> pl.Series:
    """`(I,)` bool: the captions that a person wrote or changed (emptied ones too)."""
    return (table[CAPTION].fill_null("") != table[MACHINE].fill_null("")).alias("edited")


def captioned(table: pl.DataFrame) -> pl.Series:
    """`(I,)` bool: the items with a caption."""
    return (table[CAPTION].fill_null("").str.strip_chars() != "").alias("captioned")


def caption_key(image: bytes, identity: Mapping[str, Any]) -> str:
    """The key of a caption: 32 hexadecimal digits, from the hash of the image content and the captioner's identity."""
    key = hashlib.blake2b(image, digest_size=KEY_BYTES)
    key.update(json.dumps(dict(identity), sort_keys=True, ensure_ascii=False).encode())
    return key.hexdigest()
