"""Encoders by sentence-transformers models that take images, sounds or videos (version 6): joint, audio, video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lirdrec.errors import ConfigError
from lirdrec.features.encoder import Encoded, Encoder, Kind, Prepared, TextAndImage
from lirdrec.features.encoders.frames import FRAMES, check_frames
from lirdrec.features.encoders.model_loading import SentenceModel
from lirdrec.features.encoders.sentence_encoder import normalizes
from lirdrec.features.encoders.sound import SECONDS, SoundEncoder
from lirdrec.features.images import ImageError, open_image
from lirdrec.features.media import MediaError, read_frames


class MultimodalModel(SentenceModel):
    """A model with the vectors of `SentenceTransformer.encode`.

    Args:
        model, device, precision, revision: as of `SentenceModel`.
        prompt: put before each text, where the model takes texts; None is the model's default, "" is none.
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
        """Whether the model takes inputs of these kinds ("text", "image", "audio", "video"), several as one input."""
        modality: Any = kinds[0] if len(kinds) == 1 else tuple(sorted(kinds))
        return bool(self.outline.supports(modality))

    def encode(self, inputs: Sequence[Any]) -> np.ndarray:
        """Vectors `(n, d)` float32 of inputs of one kind."""
        vectors = self._model.encode(
            list(inputs),
            prompt=self.prompt,
            batch_size=len(inputs),
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, dtype=np.float32)[:, : self.dims]


class JointEncoder(Encoder):
    """Encoder of the text and the image of an item as one vector.

    A model that takes both as one input (a multimodal language model) is given both. Of a model with one part for texts
    and one for images (CLIP, SigLIP) the vector is the mean of both vectors, each of length 1. An item with only one of
    the two is encoded by that.

    Args:
        model, device, precision, revision, prompt: as of `MultimodalModel`.

    Raises:
        ConfigError: an argument is out of range; at the first use: there is no such model, or not for both.
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
        """Columns of the vectors."""
        return self.model.dims

    @cached_property
    def joined(self) -> str:
        """ "model" or "mean"."""
        if self.model.supports("text", "image"):
            return "model"
        if self.model.supports("text") and self.model.supports("image"):
            return "mean"
        raise ConfigError(f"'{self.model.model}' does not take texts and images; choose a multimodal model")

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors `(B, d)`; images that cannot be opened are problems."""
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
                problems |= dict.fromkeys(alone, f"this model takes no {kind} alone, and the other is missing")
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
        model, device, precision, revision: as of `MultimodalModel`.
        max_seconds: seconds of each sound that are used.
    """

    def __init__(self, model: str | Path, max_seconds: float = SECONDS, **options: Any):
        super().__init__(max_seconds)
        self.model = MultimodalModel(model, **options)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's identity, the seconds that are used and the length of a window."""
        if not self.model.supports("audio"):
            raise ConfigError(f"'{self.model.model}' takes no sounds; choose an audio model")
        return {**self.model.identity, "inputs": "audio", "seconds": self.seconds, "window": self.window}

    @property
    def dims(self) -> int:
        """Columns of the vectors."""
        return self.model.dims

    @cached_property
    def rate(self) -> int:
        """Samples a second of the model's feature extractor."""
        processor: Any = getattr(self.model.outline[0], "processor", None)
        extractor = getattr(processor, "feature_extractor", processor)
        return int(getattr(extractor, "sampling_rate", 16_000))

    def vectors(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors `(n, d)` of windows of one length."""
        return self.model.encode([{"array": window, "sampling_rate": self.rate} for window in windows])

    def release(self) -> None:
        """Free the weights."""
        self.model.release()


class MultimodalVideo(Encoder):
    """Encoder of videos by a sentence-transformers model that takes a video as one input, of sampled frames.

    Args:
        model, device, precision, revision: as of `MultimodalModel`.
        frames: sampled from each video.
    """

    kind: ClassVar[Kind] = "video"
    shard_rows: ClassVar[int] = 64
    batch_size = 1

    def __init__(self, model: str | Path, frames: int = FRAMES, **options: Any):
        self.frames = check_frames(frames)
        self.model = MultimodalModel(model, **options)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's identity, and the number of frames."""
        if not self.model.supports("video"):
            raise ConfigError(f"'{self.model.model}' takes no videos; choose another model, or an image model")
        return {**self.model.identity, "inputs": "video", "frames": self.frames}

    @property
    def dims(self) -> int:
        """Columns of the vectors."""
        return self.model.dims

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors `(B, d)`; videos that cannot be opened are problems."""
        vectors, problems = np.zeros((len(batch), self.dims), dtype=np.float32), {}
        for index, prepared in enumerate(batch):  # one after the other: videos differ in size
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
