"""Sound encoder for Hugging Face audio models: Wav2Vec2, HuBERT, WavLM, Whisper, AST, CLAP …"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError
from lirdrec.features.encoder import give_memory_back
from lirdrec.features.encoders.audio_encoder import SECONDS, WINDOW, SoundEncoder
from lirdrec.features.encoders.model_loading import PRECISIONS, check_choice, model_folder
from lirdrec.features.encoders.transformers_vision import explained, load_network, origin_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_OTHER_PARTS = ("text_model", "text_projection", "decoder", "lm_head", "proj_out", "logit_scale", "masked_spec_embed")


class TransformersAudio(SoundEncoder):
    """Encoder of sounds by Hugging Face models that `AutoModel` and `AutoFeatureExtractor` load.

    A sound is cut into windows, see `SoundEncoder`. The first of these rules that applies gives the vector of a window:

    1. *audio_embeds*: the result of `get_audio_features`, if the model has this method (CLAP: projected);
    2. *pooler*: the model's own pooled output, if it has one (AST);
    3. *mean*: the mean over the steps of the encoder's last layer. If the model pads its input to a fixed length
       (Whisper: 30 seconds), only the steps of the sound itself count.

    A window is as long as the model's input (Whisper 30 s, CLAP 10 s, AST 10.24 s), or 30 s if the model has no length.

    Args:
        model: a folder, or a name on the Hugging Face hub.
        device: "auto", "cpu", "cuda" …
        precision: of the weights: "float32", "bfloat16" or "float16"; vectors are always float32.
        revision: branch, tag or commit of a model on the hub.
        max_seconds: seconds of each sound that are used.

    Raises:
        ConfigError: an argument is out of range. At the first use: there is no such model, or it does not take sounds.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "auto",
        precision: str = "float32",
        revision: str | None = None,
        max_seconds: float = SECONDS,
    ):
        super().__init__(max_seconds)
        check_choice("precision", precision, PRECISIONS)
        self.model = os.path.expanduser(model)
        self.device, self.precision, self.revision = device, precision, revision

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's name and commit, or the hash of its folder; pooling, precision and windows."""
        outline = self._outline
        settings: dict[str, Any] = {"pooling": outline.pooling, "precision": self.precision}
        settings |= {"seconds": self.seconds, "window": outline.window}
        return {"encoder": "transformers-audio", **origin_of(self.model, outline.folder), **settings}

    @property
    def dims(self) -> int:
        """Number of columns of the vectors."""
        return self._outline.dims

    @property
    def rate(self) -> int:
        """Number of samples per second that the model takes."""
        return int(self._outline.extractor.sampling_rate)

    @property
    def window(self) -> float:
        """Length of a window in seconds: that of the model's input, or 30 if it has no fixed length."""
        return self._outline.window

    def vectors(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vectors `(n, d)` of n windows of the same length."""
        import torch

        network = self._network
        with torch.inference_mode():
            features = {
                name: value.to(network.device, network.dtype if value.is_floating_point() else None)
                for name, value in inputs_of(self._outline.extractor, windows).items()
            }
            share = len(windows[0]) / (self.rate * self.window)
            found = pooled(network, features, self._outline, share)
        return found.float().cpu().numpy()

    def release(self) -> None:
        """Free the weights."""
        self.__dict__.pop("_network", None)
        give_memory_back()

    @cached_property
    def _outline(self) -> Outline:
        return outline(self.model, self.revision)

    @cached_property
    def _network(self) -> Any:
        return load(self.model, self.revision, self.precision).to(resolve_device(self.device))


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights.

    Attributes:
        extractor: the feature extractor, which prepares the model's inputs.
        pooling: the name of the rule that gives the vector of a window, see `TransformersAudio`.
        dims: number of columns of the vectors.
        window: seconds of a window.
        padded: whether shorter inputs are padded to the length of a window.
        folder: the folder of the model.
    """

    extractor: Any
    pooling: str
    dims: int
    window: float
    padded: bool
    folder: Path


def outline(model: str, revision: str | None) -> Outline:
    """Return what is known of a model without its weights: from its configuration, and from a try on silence.

    A model on the hub is downloaded if it is not in the cache. Raises a ConfigError if it cannot be loaded or does not
    take sounds.
    """
    with explained(model, "audio model"):
        import torch
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

        if model_folder(model, revision) is None:
            load(model, revision, "float32")
        folder = model_folder(model, revision)
        if folder is None:
            raise ConfigError(
                f"'{model}' was loaded, but is not in the Hugging Face cache; give the path of its folder"
            )
        extractor = AutoFeatureExtractor.from_pretrained(folder)
        if not getattr(extractor, "sampling_rate", None):
            raise ConfigError(f"'{model}' does not take sounds; choose an audio model")
        with torch.device("meta"):
            network = _encoder(AutoModel.from_config(AutoConfig.from_pretrained(folder)))
        window, padded = _window(extractor)
        silence = [np.zeros(extractor.sampling_rate // 2, dtype=np.float32)]
        features = {name: value.to("meta") for name, value in inputs_of(extractor, silence).items()}
        kind = _pooling(network, features)
        found = Outline(extractor, kind, 0, window, padded, folder)
        dims = pooled(network, features, found, 1.0).shape[1]
        return Outline(extractor, kind, dims, window, padded, folder)


def load(model: str, revision: str | None, precision: str) -> Module:
    """Load a model on the CPU, without its decoder or text part; raises a ConfigError if weights are missing."""
    with explained(model, "audio model"):
        network: Module = _encoder(load_network(model, revision, precision, "get_audio_features", _is_other_part))
        return network.eval()


def inputs_of(extractor: Any, windows: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Return the model's inputs, by name, for windows of the same length."""
    import torch

    values = extractor(list(windows), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    features: dict[str, Tensor] = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    if "is_longer" in features:  # CLAP marks a random window as too long, but no window is longer than its input
        features["is_longer"] = torch.zeros_like(features["is_longer"], dtype=torch.bool)
    return features


def pooled(network: Any, features: dict[str, Tensor], outline: Outline, share: float) -> Tensor:
    """Return the vectors `(B, d)` of B windows.

    Args:
        network: the model.
        features: the model's inputs, a result of `inputs_of`.
        outline: the outline of the model, which has the rule for pooling.
        share: the part of each window, from 0 to 1, that is sound; the rest is padding.
    """
    if outline.pooling == "audio_embeds":
        output = network.get_audio_features(**features)
        vectors: Tensor = getattr(output, "pooler_output", output)  # a tensor itself before transformers 5
    elif outline.pooling == "pooler":
        vectors = network(**features).pooler_output
    else:
        last = network(**features).last_hidden_state  # (B, steps, d)
        steps = max(1, round(min(share, 1.0) * last.shape[1])) if outline.padded else last.shape[1]
        vectors = last[:, :steps].mean(dim=1)
    return vectors.flatten(1)


def _encoder(network: Any) -> Any:
    return network.get_encoder() if network.config.is_encoder_decoder else network


def _pooling(network: Any, features: dict[str, Tensor]) -> str:
    if hasattr(network, "get_audio_features"):
        return "audio_embeds"
    return "pooler" if getattr(network(**features), "pooler_output", None) is not None else "mean"


def _window(extractor: Any) -> tuple[float, bool]:
    """Return the seconds of the model's input, and whether shorter inputs are padded to this length.

    For a model without a fixed length, these are 30 and False.
    """
    if (seconds := getattr(extractor, "chunk_length", None) or getattr(extractor, "max_length_s", None)) is not None:
        return float(seconds), True
    if isinstance(frames := getattr(extractor, "max_length", None), int):
        return frames / 100, True  # spectrogram frames of 10 ms
    return WINDOW, False


def _is_other_part(name: str) -> bool:
    return any(part in _OTHER_PARTS for part in name.split("."))
