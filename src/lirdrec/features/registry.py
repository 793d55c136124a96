"""Construct encoders by name, and feature jobs from options such as `--text MODEL --image NAME=MODEL`.

The command line, Python and the dataset manifest use the same names of encoders.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from lirdrec.data.images import IMAGE, IMAGES, image_column
from lirdrec.data.schema import ITEM
from lirdrec.data.storage import read_manifest
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.encoder import Encoder, Kind
from lirdrec.features.encoders.audio_encoder import SpectrumEncoder
from lirdrec.features.encoders.color_edge import ColorEdgeEncoder
from lirdrec.features.encoders.efficientnet import EfficientNetLite0, ProjectedEfficientNetLite0
from lirdrec.features.encoders.frames import FrameEncoder
from lirdrec.features.encoders.model_loading import is_sentence_transformer, minilm_folder
from lirdrec.features.encoders.multimodal_sentence_transformers import JointEncoder, MultimodalAudio, MultimodalVideo
from lirdrec.features.encoders.openai_embeddings import OpenAIEmbeddings
from lirdrec.features.encoders.sentence_encoder import SentenceEncoder
from lirdrec.features.encoders.tfidf import TfidfEncoder
from lirdrec.features.encoders.transformers_audio import TransformersAudio
from lirdrec.features.encoders.transformers_vision import VisionEncoder
from lirdrec.features.job_runner import FeatureJob, fitted_state, identity
from lirdrec.features.remote.client import OpenAIClient
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


HASHED, MINILM, ENDPOINT = "hashed", "minilm", "endpoint:"
DESCRIPTOR, EFFICIENTNET = "descriptor", "efficientnet-lite0"
SPECTRUM = "spectrum"
NAMES: Mapping[Kind, tuple[str, ...]] = {
    "text": (HASHED, MINILM),
    "image": (DESCRIPTOR, EFFICIENTNET),
    "audio": (SPECTRUM,),
    "video": (DESCRIPTOR, EFFICIENTNET),  # of its frames
    "joint": (),
}
DEFAULTS: Mapping[Kind, str] = {"text": HASHED, "image": DESCRIPTOR}

# The options that each kind of encoder takes, besides its model.
_LANGUAGE = ("pooling", "prompt", "max_length", "device", "precision", "revision")
_VISION = ("device", "precision", "revision")
_SERVER = ("concurrency", "timeout", "requests_per_minute")
_OF_MACHINE = ("device", *_SERVER)  # does not change the vectors


@dataclass(frozen=True)
class EncoderSpec:
    """The specification of an encoder: its kind, its model and its options.

    Attributes:
        kind: "text", "image", "audio", "video" or "joint" (a text and an image together).
        model: one of the following; models of libraries are given by name or folder.

            - text: `hashed`, `minilm`, `endpoint:URL#MODEL`, or a sentence-transformers or Hugging Face model.
            - image: `descriptor`, `efficientnet-lite0`, or a Hugging Face vision model.
            - audio: `spectrum`, a Hugging Face audio model, or a sentence-transformers model that takes sounds.
            - video: any encoder of images, which encodes frames, or a sentence-transformers model that takes videos.
            - joint: a sentence-transformers or Hugging Face model that takes texts and images.
        options: option → value; None is the default. The options depend on the model:

            - `hashed`: dims.
            - `endpoint:`, a server: dims, prompt, concurrency, timeout, requests_per_minute.
            - other text models: pooling, prompt, max_length, device, precision, revision.
            - `efficientnet-lite0`: device, components (the vectors are reduced to so many principal components).
            - other vision models: device, precision, revision; joint models take prompt, too.
            - audio models: device, precision, revision, max_seconds; `spectrum` only max_seconds.
            - videos: frames, and the options of the image encoder without components.

    Raises:
        ConfigError: `model` is empty or looks like a misspelled name, a server is named for another kind than text, or
            the encoder does not take one of the options.
    """

    kind: Kind
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {name: value for name, value in self.options.items() if value is not None}
        object.__setattr__(self, "options", given)
        if not self.model:
            example = ", ".join(NAMES[self.kind]) or "openai/clip-vit-base-patch32"
            raise ConfigError(f"no {self.kind} encoder is named; give a name, for instance {example}")
        near = difflib.get_close_matches(self.model.lower(), NAMES[self.kind], n=1, cutoff=0.8)
        if near and self.model not in NAMES[self.kind] and not Path(self.model).is_dir():
            raise ConfigError(f"no {self.kind} encoder is called '{self.model}'; did you mean '{near[0]}'?")
        if self.kind != "text" and self.model.startswith(ENDPOINT):
            raise ConfigError(
                "a server encodes only texts; to use it for images, caption them first (lirdrec caption), then encode"
                " the captions"
            )
        for name in given:
            if name not in self.takes:
                can = f"it takes {', '.join(self.takes)}" if self.takes else "it takes no options"
                raise ConfigError(
                    f"the encoder '{self.model}' does not take the option {name.replace('_', ' ')}; {can}"
                )

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the options that this encoder takes."""
        if self.kind == "text":
            if self.model.startswith(ENDPOINT):
                return ("dims", "prompt", *_SERVER)
            return ("dims",) if self.model == HASHED else _LANGUAGE
        if self.kind == "audio":
            return ("max_seconds",) if self.model == SPECTRUM else (*_VISION, "max_seconds")
        if self.kind == "joint":
            return (*_VISION, "prompt")
        image = {DESCRIPTOR: (), EFFICIENTNET: ("device", "components")}.get(self.model, _VISION)
        return image if self.kind == "image" else (*(name for name in image if name != "components"), "frames")

    @property
    def origin(self) -> dict[str, Any]:
        """What `info["encoders"]` records to construct the encoder again: kind, model and options, JSON-able.

        A model's folder has its full path. Options that do not change the vectors, such as the device, are left out.
        """
        folder = Path(self.model)
        options = {name: value for name, value in self.options.items() if name not in _OF_MACHINE}
        named = str(folder.absolute()) if self.model not in NAMES[self.kind] and folder.is_dir() else self.model
        return {"kind": self.kind, "model": named, "options": options}

    def encoder(self) -> Encoder:
        """Construct the encoder; its weights are loaded at the first use.

        Raises a ConfigError if a package is missing or an option is out of range.
        """
        options = dict(self.options)
        if self.kind == "joint":
            return JointEncoder(self.model, **options)
        if self.kind == "audio":
            if self.model == SPECTRUM:
                return SpectrumEncoder(**options)
            of_library = is_sentence_transformer(self.model, options.get("revision"))
            return (MultimodalAudio if of_library else TransformersAudio)(self.model, **options)
        if self.kind == "video":
            frames = {"frames": options.pop("frames")} if "frames" in options else {}
            if self.model not in NAMES["video"] and is_sentence_transformer(self.model, options.get("revision")):
                return MultimodalVideo(self.model, **frames, **options)
            return FrameEncoder(EncoderSpec("image", self.model, options).encoder(), **frames)
        if self.kind == "image":
            if self.model == DESCRIPTOR:
                return ColorEdgeEncoder()
            if self.model != EFFICIENTNET:
                return VisionEncoder(self.model, **options)
            return (ProjectedEfficientNetLite0 if "components" in options else EfficientNetLite0)(**options)
        if self.model == HASHED:
            return TfidfEncoder(**options)
        if self.model.startswith(ENDPOINT):
            url, _, served = self.model.removeprefix(ENDPOINT).partition("#")
            if not url or not served:
                raise ConfigError(
                    f"{self.model}: name the server and its model as endpoint:URL#MODEL,"
                    " for instance endpoint:http://localhost:8000#intfloat/e5-mistral-7b-instruct"
                )
            server_options = {name: options.pop(name) for name in _SERVER if name in options}
            return OpenAIEmbeddings(OpenAIClient(url, **server_options), served, **options)
        return SentenceEncoder(minilm_folder() if self.model == MINILM else self.model, **options)


def text_encoder(name: str, **options: Any) -> Encoder:
    """Construct an encoder of texts; for the names, options and errors see `EncoderSpec`."""
    return EncoderSpec("text", name, options).encoder()


def image_encoder(name: str, **options: Any) -> Encoder:
    """Construct an encoder of images; for the names, options and errors see `EncoderSpec`."""
    return EncoderSpec("image", name, options).encoder()


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


def load_encoder(dataset_folder: str | Path, name: str, device: str | None = None) -> Encoder:
    """Return the encoder that made the matrix `name` of a prepared dataset, ready to encode new items.

    `device` is the device that the encoder runs on; None is the encoder's default.

    Raises:
        DataError: there is no such matrix, it was not made by `lirdrec features`, or the encoder's fitted state is
            missing or damaged.
        ConfigError: the model is not the one that made the matrix, or cannot be loaded.
    """
    folder = Path(dataset_folder)
    manifest = read_manifest(folder)
    entry = manifest["info"].get("encoders", {}).get(name)
    if name not in manifest["features"] or not entry or not entry.get("origin"):
        raise DataError(
            f"{folder}: the dataset does not record how the features '{name}' were made; give the vectors of new items"
            " instead"
        )
    origin = entry["origin"]
    spec = EncoderSpec(origin["kind"], origin["model"], origin["options"])
    if device is not None and "device" in spec.takes:
        spec = EncoderSpec(spec.kind, spec.model, {**spec.options, "device": device})
    encoder = spec.encoder()
    if encoder.needs_fit:
        if (state := fitted_state(folder, name)) is None:
            raise DataError(
                f"{folder}: the fitted state of the encoder of '{name}' is missing or damaged; make the"
                " features again (lirdrec features)"
            )
        encoder.load_state(state)
    if identity(encoder) != entry["identity"]:
        raise ConfigError(
            f"{folder}: the features '{name}' were made by another version of the model {spec.model} than there is now;"
            " restore the former version, or make the features again (lirdrec features)"
        )
    return encoder
