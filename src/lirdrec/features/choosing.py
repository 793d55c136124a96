"""What a person asked for, `--text MODEL --image NAME=MODEL`, as jobs of the run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lirdrec.data.columns import ITEM
from lirdrec.data.pictures import IMAGE, image_column
from lirdrec.errors import ConfigError
from lirdrec.features.encoder import Kind
from lirdrec.features.making import Job
from lirdrec.features.registry import DEFAULTS, Choice
from lirdrec.features.sources import ItemRows, PictureSource, Source, TextSource
from lirdrec.features.store import set_item_columns

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
        images: the folder of the pictures. Where the item table has no column of pictures yet, it gets one: files
            that are named after items.
        options: of the encoders; each gets those that it takes. None stands for the default.

    Raises:
        ConfigError: an option that no encoder takes, a name used twice, or nothing to encode.
        DataError: the dataset lacks the column, or the folder of pictures is not there.
    """
    wanted = list(wanted) or _defaults(folder, template, images)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    jobs: list[Job] = []
    used: set[str] = set()
    for what, text in wanted:
        name, model = named(text, what)
        kind: Kind = "image" if what == "image" else "text"
        takes = Choice(kind, model).takes
        choice = Choice(kind, model, {key: value for key, value in given.items() if key in takes})
        used |= set(choice.options)
        jobs.append(Job(name, choice.encoder(), _source(folder, what, template, images), choice.origin))
    for name in given:
        if name not in used:
            models = ", ".join(named(text, what)[1] for what, text in wanted)
            raise ConfigError(f"--{name.replace('_', '-')}: none of the chosen encoders ({models}) takes it")
    return jobs


def named(text: str, what: str) -> tuple[str, str]:
    """`NAME=MODEL` as a pair; the name is `what` if there is none."""
    found = re.fullmatch(r"([^=:/\\]*)=(.*)", text)  # an address or a path may have "=" further on
    return (found[1], found[2]) if found else (what, text)


def _source(folder: str | Path, what: What, template: str | None, images: str | Path | None) -> Source:
    if what == "image":
        if images is not None and IMAGE not in ItemRows(folder).schema:
            _find_pictures(folder, Path(images))
        return PictureSource(folder, root=images)
    return TextSource(folder, column=CAPTION) if what == "caption" else TextSource(folder, template)


def _find_pictures(folder: str | Path, images: Path) -> None:
    """Give the item table its column of pictures, as `lirdrec prepare --images` does: files named after items."""
    rows = ItemRows(folder)
    ids = rows.read(0, len(rows))
    set_item_columns(folder, ids.with_columns(image_column(ids[ITEM], images)))


def _defaults(folder: str | Path, template: str | None, images: str | Path | None) -> list[tuple[What, str]]:
    found: list[tuple[What, str]] = []
    pictures = images is not None or IMAGE in ItemRows(folder).schema
    try:
        TextSource(folder, template)
        found.append(("text", DEFAULTS["text"]))
    except ConfigError as error:
        if template is not None:
            raise
        if not pictures:
            raise ConfigError(f"{folder}: there is nothing to encode: no column '{IMAGE}' and {error}") from None
    if pictures:
        found.append(("image", DEFAULTS["image"]))
    return found
