"""Encoders of sounds, of videos, and of texts with images, by models of sentence-transformers (version 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lirdrec.errors import ConfigError
from lirdrec.features.audio_video_decoding import MediaError, read_frames
from lirdrec.features.encoder import Encoded, Encoder, Kind, Prepared, TextAndImage
from lirdrec.features.encoders.audio_encoder import SECONDS, SoundEncoder
from lirdrec.features.encoders.frames import FRAMES, checked_frames
from lirdrec.features.encoders.model_loading import SentenceModel
from lirdrec.features.encoders.sentence_encoder import normalizes
from lirdrec.features.images import ImageError, open_image


class MultimodalModel(SentenceModel):
    """A sentence-transformers model that also takes images, sounds or videos.

    The vectors are those of `SentenceTransformer.encode`.

    Args:
        model, device, precision, revision: see `SentenceModel`.
        prompt: text to put before each text input; None is the model's default prompt, "" is no prompt.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        precision: str = "float32",
        revision: str | None = None,
        prompt: str | None = None,
    ):
        super().__init__(model, device, precision, revision)
        self.prompt = prompt

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The model's name and commit, or the hash of its folder; prompt, normalization and precision."""
        settings = {"prompt": self.prompt, "normalise": normalizes(self.outline), "precision": self.precision}
        return {"encoder": "sentence-transformers", **self.origin, **settings}

    def supports(self, *kinds: str) -> bool:
        """Return whether the model takes inputs of one kind: "text", "image", "audio" or "video".

        With several kinds: whether the model takes one input that consists of all of them.
        """
        modality: Any = kinds[0] if len(kinds) == 1 else tuple(sorted(kinds))
        return bool(self.outline.supports(modality))

    def encode(self, inputs: Sequence[Any]) -> np.ndarray:
        """Return the vectors `(n, d)` float32 of inputs of one kind."""
        vectors = self._model.encode(
            list(inputs),
            prompt=self.prompt,
            batch_size=len(inputs),
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, dtype=np.float32)[:, : self.dims]


class JointEncoder(Encoder):
    """Encoder that makes one vector of the text and the image of an item.

    A multimodal language model gets the text and the image as one input. A model with one part for texts and one for
    images (CLIP, SigLIP) gives two vectors; each is scaled to length 1, and their mean is taken. If an item has only a
    text or only an image, this alone is encoded, if the model can do so.

    Args:
        model, device, precision, revision, prompt: see `MultimodalModel`.

    Raises:
        ConfigError: an argument is out of range. At the first use: no such model, or it does not take texts and
            images.
    """

    kind: ClassVar[Kind] = "joint"
    shard_rows: ClassVar[int] = 256
    batch_size = 16

    def __init__(self, model: str | Path, **options: Any):
        self.model = MultimodalModel(model, **options)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's identity, and how text and image are joined."""
        return {**self.model.identity, "inputs": "text+image", "joined": self.joined}

    @property
    def dims(self) -> int:
        """Number of columns of the vectors."""
        return self.model.dims

    @cached_property
    def joined(self) -> str:
        """How text and image are joined: "model", as one input of the model, or "mean", the mean of two vectors.

        Raises a ConfigError if the model does not take texts and images.
        """
        if self.model.supports("text", "image"):
            return "model"
        if self.model.supports("text") and self.model.supports("image"):
            return "mean"
        raise ConfigError(f"'{self.model.model}' does not take texts and images; choose a multimodal model")

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors `(B, d)` of B items.

        An item is listed in `problems` if its image cannot be opened, or if it has only a text or only an image, and
        the model does not take this alone.
        """
        texts: dict[int, str] = {}
        images: dict[int, Any] = {}
        problems: dict[int, str] = {}
        for index, prepared in enumerate(batch):
            value: TextAndImage = prepared.value
            try:
                if value.image is not None:
                    images[index] = open_image(value.image)
                if value.text is not None:
                    texts[index] = value.text
            except ImageError as error:
                problems[index] = str(error)
        vectors = np.zeros((len(batch), self.dims), dtype=np.float32)
        both = texts.keys() & images.keys() if self.joined == "model" else set()
        self._add(
            vectors, {index: {"text": texts[index], "image": images[index]} for index in sorted(both)}, scale=False
        )
        for kind, values in (("text", texts), ("image", images)):
            alone = {index: value for index, value in values.items() if index not in both}
            if alone and not self.model.supports(kind):
                problems |= dict.fromkeys(alone, f"this item has only the {kind}, which the model does not take alone")
            else:
                self._add(vectors, alone, scale=self.joined == "mean")
        if self.joined == "mean":
            vectors[sorted(texts.keys() & images.keys())] /= 2
        return Encoded(vectors, problems)

    def release(self) -> None:
        """Free the weights."""
        self.model.release()

    def _add(self, vectors: np.ndarray, inputs: Mapping[int, Any], scale: bool) -> None:
        if inputs:
            found = self.model.encode(list(inputs.values()))
            if scale:
                found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
            vectors[list(inputs)] += found


class MultimodalAudio(SoundEncoder):
    """Encoder of sounds by a sentence-transformers model; see `SoundEncoder` for windows.

    Args:
        model, device, precision, revision: see `MultimodalModel`.
        max_seconds: seconds of each sound that are used.
    """

    def __init__(self, model: str | Path, max_seconds: float = SECONDS, **options: Any):
        super().__init__(max_seconds)
        self.model = MultimodalModel(model, **options)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's identity, the seconds that are used and the length of a window.

        Raises a ConfigError if the model does not take sounds.
        """
        if not self.model.supports("audio"):
            raise ConfigError(f"'{self.model.model}' does not take sounds; choose an audio model")
        return {**self.model.identity, "inputs": "audio", "seconds": self.seconds, "window": self.window}

    @property
    def dims(self) -> int:
        """Number of columns of the vectors."""
        return self.model.dims

    @cached_property
    def rate(self) -> int:
        """Number of samples per second that the model takes, as its feature extractor says."""
        processor: Any = getattr(self.model.outline[0], "processor", None)
        extractor = getattr(processor, "feature_extractor", processor)
        return int(getattr(extractor, "sampling_rate", 16_000))

    def vectors(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vectors `(n, d)` of n windows of the same length."""
        return self.model.encode([{"array": window, "sampling_rate": self.rate} for window in windows])

    def release(self) -> None:
        """Free the weights."""
        self.model.release()


class MultimodalVideo(Encoder):
    """Encoder of videos by a sentence-transformers model, which gets the sampled frames of a video as one input.

    Args:
        model, device, precision, revision: see `MultimodalModel`.
        frames: number of frames sampled from each video.
    """

    kind: ClassVar[Kind] = "video"
    shard_rows: ClassVar[int] = 64
    batch_size = 1

    def __init__(self, model: str | Path, frames: int = FRAMES, **options: Any):
        self.frames = checked_frames(frames)
        self.model = MultimodalModel(model, **options)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's identity, and the number of frames; raises a ConfigError if the model does not take videos."""
        if not self.model.supports("video"):
            raise ConfigError(
                f"'{self.model.model}' does not take videos; choose a model that does, or an image model,"
                " which encodes single frames"
            )
        return {**self.model.identity, "inputs": "video", "frames": self.frames}

    @property
    def dims(self) -> int:
        """Number of columns of the vectors."""
        return self.model.dims

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors `(B, d)` of B videos; a video that cannot be opened is listed in `problems`."""
        vectors, problems = np.zeros((len(batch), self.dims), dtype=np.float32), {}
        for index, prepared in enumerate(batch):  # one video after the other, since their sizes differ
            try:
                frames = read_frames(prepared.value, self.frames)
            except MediaError as error:
                problems[index] = str(error)
                continue
            values = np.stack([np.asarray(frame) for frame in frames])  # (frames, h, w, 3)
            vectors[index] = self.model.encode([{"array": values.transpose(0, 3, 1, 2), "video_metadata": None}])[0]
        return Encoded(vectors, problems)

    def release(self) -> None:
        """Free the weights."""
        self.model.release()
