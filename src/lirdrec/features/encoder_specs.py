"""Encoders by their names: specifications with options, and the encoder that made a matrix of a dataset.

The command line, Python and the dataset manifest use the same names of encoders.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from lirdrec.features.job_runner import fitted_state, identity
from lirdrec.features.remote.client import OpenAIClient

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

        If the model is a folder, its full path is recorded. Options that do not change the vectors, such as the device,
        are left out.
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
