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

from lirdrec.data.column_names import ITEM
from lirdrec.features.sources import KEY_BYTES, ItemRows

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 1024  # pixels; larger images are scaled down for the model


@dataclass(frozen=True)
class Answer:
    """The result of captioning one image.

    Attributes:
        text: the raw answer of the model; None if there is a problem.
        problem: why there is no answer, as one sentence; None if there is an answer.
        is_image_problem: whether the image file is the problem; then the model was not called.
        passing: whether the server caused the problem, so that a later attempt may succeed.
        tokens_in: number of tokens of the prompt with the image; None if unknown.
        tokens_out: number of tokens of the answer; None if unknown.
        seconds: time for this image; None if there is a problem. For a model in this process, the image's share of the
            computing time of its batch, without loading the model. For a server, the time of the request that
            succeeded, without pauses of the rate limit and failed attempts.
    """

    text: str | None
    problem: str | None = None
    is_image_problem: bool = False
    passing: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None


class Captioner(ABC):
    """Base class of captioners, which ask a model to describe images; the prompt is the same for all images.

    A captioner loads its model at the first use, not when it is constructed.

    Attributes:
        model: name of the model to show; `identity` has the settings that determine the answers.
        prompt: the text that the model gets with every image.
        concurrency: number of requests that are sent at once; 1 for a model in this process, which uses batches.
        remote: whether the images are sent to a server, which may cost money.
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
            LirdrecError: no image can be captioned: the model cannot be loaded or does not fit into memory, no server
                answers, or the key is wrong.
        """

    def caption(self, images: Sequence[Path]) -> list[Answer]:
        """Caption images, and return their answers in the order of the images; raises the errors of `answers`."""
        answers = dict(self.answers(images))
        return [answers[index] for index in range(len(images))]


def open_scaled(path: Path, side: int) -> Image:
    """Open an image, and scale it down so that its longer side has at most `side` pixels.

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
    """Return a table of all items with `item` and the four caption columns; what the item table lacks is null."""
    existing = tuple(name for name in COLUMNS if name in rows.schema)
    missing = [pl.lit(None).alias(name) for name in COLUMNS if name not in existing]
    table = rows.read(0, len(rows), (ITEM, *existing)).with_columns(missing)
    return table.select(ITEM, pl.col(COLUMNS).cast(pl.String))


def edited(table: pl.DataFrame) -> pl.Series:
    """Return `(I,)` bool: whether a person wrote, changed or emptied each item's caption.

    `table` is a result of `read_columns`; the caption is compared with the generated one.
    """
    return (table[CAPTION].fill_null("") != table[MACHINE].fill_null("")).alias("edited")


def captioned(table: pl.DataFrame) -> pl.Series:
    """Return `(I,)` bool: whether each item has a caption that is not blank; `table` is a result of `read_columns`."""
    return (table[CAPTION].fill_null("").str.strip_chars() != "").alias("captioned")


def caption_key(image: bytes, identity: Mapping[str, Any]) -> str:
    """Return the key of a caption: 32 hexadecimal digits, a hash of the image content and the captioner's identity."""
    key = hashlib.blake2b(image, digest_size=KEY_BYTES)
    key.update(json.dumps(dict(identity), sort_keys=True, ensure_ascii=False).encode())
    return key.hexdigest()
