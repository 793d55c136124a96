"""What a person asked for, `--text MODEL --image NAME=MODEL`, as jobs of the run."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from lirdrec.data.columns import ITEM
from lirdrec.data.pictures import IMAGE, IMAGES, image_column
from lirdrec.errors import ConfigError
from lirdrec.features.encoder import Encoder, Kind
from lirdrec.features.making import Job
from lirdrec.features.registry import DEFAULTS, Choice
from lirdrec.features.sources import ItemRows, PictureSource, Source, TextSource, names_pictures

logger = logging.getLogger(__name__)

What = Literal["text", "image", "caption"]
CAPTION = "caption"


def choose_jobs(
    folder: str | Path,
    wanted: Sequence[tuple[What, str]],
    *,
    template: str | None = None,
    images: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Job]:
    """Jobs for `make_features`.

    Args:
        folder: a prepared dataset.
        wanted: what to encode, and "MODEL" or "NAME=MODEL"; the name of a matrix is by default what it encodes. Nothing
            wanted: texts and pictures, as far as the dataset has them, with the encoders that need no download.
        template: of the texts.
        images: the folder of the pictures. Where the item table has no column of paths, the pictures are files named
            after items; the table gets that column together with the matrix.
        options: of the encoders; each gets those that it takes. None stands for the default.

    Raises:
        ConfigError: an option that nothing takes that is wanted, a name used twice, or nothing to encode.
        DataError: the dataset lacks the column, or the folder of pictures is not there.
    """
    wanted = list(wanted) or _defaults(folder, template, images)
    _refuse_unused(wanted, template, images)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    sources = cache(partial(_source, folder, template, images))
    encoders: list[tuple[Choice, Encoder]] = []
    jobs: list[Job] = []
    used: set[str] = set()
    for what, text in wanted:
        name, model = named(text, what)
        kind: Kind = "image" if what == "image" else "text"
        takes = Choice(kind, model).takes
        choice = Choice(kind, model, {key: value for key, value in given.items() if key in takes})
        used |= set(choice.options)
        jobs.append(Job(name, _shared(choice, encoders), sources(what), choice.origin))
    for name in given:
        if name not in used:
            models = ", ".join(named(text, what)[1] for what, text in wanted)
            raise ConfigError(f"--{name.replace('_', '-')}: none of the chosen encoders ({models}) takes it")
    return jobs


def named(text: str, what: str) -> tuple[str, str]:
    """`NAME=MODEL` as a pair; the name is `what` if there is none."""
    found = re.fullmatch(r"([^=:/\\]*)=(.*)", text)  # an address or a path may have "=" further on
    return (found[1], found[2]) if found else (what, text)


def _refuse_unused(wanted: Sequence[tuple[What, str]], template: str | None, images: str | Path | None) -> None:
    asked = {what for what, _ in wanted}
    if template is not None and "text" not in asked:
        raise ConfigError("--text-template: no text of a template is encoded; add --text MODEL, or leave it out")
    if images is not None and "image" not in asked:
        raise ConfigError(f"--images {images}: no pictures are encoded; add --image MODEL, or leave it out")


def _shared(choice: Choice, made: list[tuple[Choice, Encoder]]) -> Encoder:
    """The encoder that an equal choice got before, so that its weights are in memory once; or else a new one."""
    encoder = next((one for other, one in made if other == choice), None)
    if encoder is None or encoder.needs_fit:  # what is learned belongs to one matrix
        encoder = choice.encoder()
        made.append((choice, encoder))
    return encoder


def _source(folder: str | Path, template: str | None, images: str | Path | None, what: What) -> Source:
    if what == "image":
        return _pictures(folder, images)
    return TextSource(folder, column=CAPTION) if what == "caption" else TextSource(folder, template)


def _pictures(folder: str | Path, images: str | Path | None) -> PictureSource:
    """The pictures that the item table names; where it names none, those of the folder that are named after items."""
    rows = ItemRows(folder)
    if images is None or names_pictures(rows):
        return PictureSource(folder, root=images)
    return PictureSource(folder, root=images, found=image_column(rows.read(0, len(rows))[ITEM], Path(images)))


def _defaults(folder: str | Path, template: str | None, images: str | Path | None) -> list[tuple[What, str]]:
    found: list[tuple[What, str]] = []
    rows = ItemRows(folder)
    named = names_pictures(rows)
    pictures = images is not None or (named and IMAGES in rows.manifest["info"])
    if named and not pictures:
        logger.warning("%s: the pictures of column '%s' are left out; --images says where they lie", folder, IMAGE)
    try:
        TextSource(folder, template)
        found.append(("text", DEFAULTS["text"]))
    except ConfigError as error:
        if template is not None:
            raise
        if not pictures:
            raise ConfigError(f"{folder}: there is nothing to encode: no column of pictures and {error}") from None
    if pictures:
        found.append(("image", DEFAULTS["image"]))
    return found
