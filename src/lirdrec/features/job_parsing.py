"""Make feature jobs from options such as `--text MODEL --image NAME=MODEL`, or from the records of a dataset."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence, Set
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from lirdrec.data.column_names import ITEM
from lirdrec.data.images import IMAGE, IMAGES, image_column
from lirdrec.data.storage import read_manifest
from lirdrec.errors import ConfigError
from lirdrec.features.encoder import Encoder, Kind
from lirdrec.features.encoder_specs import DEFAULTS, EncoderSpec
from lirdrec.features.job_runner import FeatureJob
from lirdrec.features.sources import (
    AudioSource,
    FileSource,
    ImageSource,
    ItemRows,
    JointSource,
    Source,
    TextSource,
    VideoSource,
    names_images,
)
from lirdrec.option_names import option_name, option_text

logger = logging.getLogger(__name__)

What = Literal["text", "image", "caption", "audio", "video", "joint"]
CAPTION = "caption"
FILE_SOURCES: Mapping[str, type[FileSource]] = {"image": ImageSource, "audio": AudioSource, "video": VideoSource}
_WITH_TEXT, _WITH_IMAGES = {"text", "joint"}, {"image", "joint"}


def parse_jobs(
    folder: str | Path,
    wanted: Sequence[tuple[What, str]],
    *,
    template: str | None = None,
    images: str | Path | None = None,
    audio_files: str | Path | None = None,
    video_files: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[FeatureJob]:
    """Return the jobs for `make_features` that options ask for: one for each matrix.

    Args:
        folder: the prepared dataset.
        wanted: pairs of what to encode, and "MODEL" or "NAME=MODEL"; the default NAME of a matrix is what it encodes.
            If empty: the texts and images of the dataset, with the encoders that need no download.
        template: text template, see `TextSource`.
        images: the image folder. If the item table has no column of paths, the file names must be item ids; the table
            gets the column together with the matrix.
        audio_files, video_files: the folders of sounds and videos, in the same way.
        options: options of the encoders; each encoder gets the options that it takes. None is the default.

    Raises:
        ConfigError: an option, the template or a folder has no effect, a model is invalid, or nothing is to encode.
        DataError: the dataset lacks a column, or the folder of the files is missing.
    """
    wanted = list(wanted) or _defaults(folder, template, images)
    kinds = {what for what, _ in wanted}
    folders = {"image": images, "audio": audio_files, "video": video_files}
    _check_used(kinds, template, folders)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    sources = cache(partial(_source, folder, template, folders))
    encoders: list[tuple[EncoderSpec, Encoder]] = []  # equal encoders are shared: their weights are in memory once
    jobs: list[FeatureJob] = []
    for what, text in wanted:
        name, model = named(text, what)
        kind: Kind = "text" if what == "caption" else what
        takes = EncoderSpec(kind, model).takes
        spec = EncoderSpec(kind, model, {key: value for key, value in given.items() if key in takes})
        # a fitted state belongs to one matrix
        encoder = next((encoder for other, encoder in encoders if other == spec and not encoder.needs_fit), None)
        if encoder is None:
            encoder = spec.encoder()
            encoders.append((spec, encoder))
        jobs.append(FeatureJob(name, encoder, sources(what), spec.origin))
    for name in given:
        if not any(name in spec.options for spec, _ in encoders):
            models = ", ".join(named(text, what)[1] for what, text in wanted)
            raise ConfigError(
                f"{option_name(name)}: none of the chosen encoders ({models}) takes this option; leave it out"
            )
    return jobs


def _check_used(kinds: Set[str], template: str | None, folders: Mapping[str, str | Path | None]) -> None:
    """Raise a ConfigError if no encoder of these kinds uses the template, or a folder that is given."""
    if template is not None and not kinds & _WITH_TEXT:
        raise ConfigError(
            f"{option_name('template')} has no effect, since no texts are encoded; add"
            f" {option_text('text', 'MODEL')}, or leave the template out"
        )
    for kind, path in folders.items():
        if path is not None and not kinds & (_WITH_IMAGES if kind == "image" else {kind}):
            media = FILE_SOURCES[kind].media
            raise ConfigError(
                f"{option_text(media.folder, str(path))} has no effect, since no {media.noun}s are encoded; add"
                f" {option_text(kind, 'MODEL')}, or leave it out"
            )


def named(text: str, what: str) -> tuple[str, str]:
    """Split `NAME=MODEL` into the name and the model, and return both; without `NAME=`, the name is `what`."""
    match = re.fullmatch(r"([^=:/\\]*)=(.*)", text)  # an address or a path may have "=" further on
    return (match[1], match[2]) if match else (what, text)


def _source(folder: str | Path, template: str | None, folders: Mapping[str, str | Path | None], what: What) -> Source:
    if what == "caption":
        return TextSource(folder, column=CAPTION)
    if what == "text":
        return TextSource(folder, template)
    if what == "joint":
        images = _files(folder, folders["image"], ImageSource)
        assert isinstance(images, ImageSource)
        return JointSource(TextSource(folder, template), images)
    return _files(folder, folders[what], FILE_SOURCES[what])


def _files(folder: str | Path, root: str | Path | None, source: type[FileSource]) -> FileSource:
    rows, paths = ItemRows(folder), None
    if root is not None and not names_images(rows, source.media.column):  # files named after items
        paths = image_column(rows.read(0, len(rows))[ITEM], Path(root), media=source.media)
    return source(folder, root=root, found=paths)


def _defaults(folder: str | Path, template: str | None, images: str | Path | None) -> list[tuple[What, str]]:
    rows = ItemRows(folder)
    has_paths = names_images(rows)
    has_images = images is not None or (has_paths and IMAGES in rows.manifest["info"])
    if has_paths and not has_images:
        logger.warning(
            "%s: the images of column '%s' are not encoded, since their folder is unknown; give it (%s)",
            folder,
            IMAGE,
            option_name(IMAGES),
        )
    defaults: list[tuple[What, str]] = [("image", DEFAULTS["image"])] if has_images else []
    try:
        TextSource(folder, template)
    except ConfigError as error:
        if template is not None:
            raise
        if not has_images:
            raise ConfigError(
                f"{folder}: there is nothing to encode: there are no images with a known folder, and {error}"
            ) from None
        return defaults
    return [("text", DEFAULTS["text"]), *defaults]


def recorded_jobs(folder: str | Path, earlier: str | Path, **folders: Any) -> list[FeatureJob]:
    """Return jobs that encode a dataset like an earlier one: with the same encoders, options and text templates.

    Matrices of the earlier dataset whose encoder is not recorded get no job.

    Args:
        folder: the prepared dataset to encode.
        earlier: a prepared dataset whose manifest records its encoders.
        folders: `images`, `audio_files` and `video_files` of `parse_jobs`.

    Raises:
        ConfigError: the earlier dataset records no encoder.
        DataError: the dataset lacks a column or files.
    """
    jobs: list[FeatureJob] = []
    of_kind = {"image": "images", "joint": "images", "audio": "audio_files", "video": "video_files"}
    for name, entry in read_manifest(Path(earlier))["info"].get("encoders", {}).items():
        if origin := entry.get("origin"):
            source, kind = entry.get("source", {}), origin["kind"]
            what: What = "caption" if kind == "text" and "template" not in source else kind
            wanted, own = (what, f"{name}={origin['model']}"), of_kind.get(kind)
            folders_of_kind = {key: folder for key, folder in folders.items() if key == own}
            options: Any = {"template": source.get("template"), "options": origin["options"], **folders_of_kind}
            jobs += parse_jobs(folder, [wanted], **options)
    if not jobs:
        raise ConfigError(f"{earlier} records no encoder of its features; give the encoders by their names")
    return jobs
