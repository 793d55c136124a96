"""Vision models of Hugging Face: what they would do, known without their weights, and one vector of each picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lirdrec.data.frames import first_line
from lirdrec.errors import ConfigError, LirdrecError
from lirdrec.features.weights import model_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Module

_OTHER_TOWER = ("text_model", "text_projection", "logit_scale", "logit_bias")
_LONGEST = 16  # of the shorter side: scaled by its shorter side, a picture of 9,000 × 3 would fill gigabytes


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights in memory.

    Attributes:
        processor: makes arrays of pictures.
        pooling: "image_embeds", "pooler", "cls" or "mean", see `VisionEncoder`.
        dims: columns of the vectors.
        folder: where its files lie.
    """

    processor: Any
    pooling: str
    dims: int
    folder: Path

    def pixels(self, picture: Image) -> np.ndarray:
        """`(3, h, w)` float32, as the model's own configuration wants it."""
        return pixels_of(self.processor, picture)


def outline(model: str, revision: str | None) -> Outline:
    """The model's configuration, tried on an empty picture. Downloads the weights of a name if they are not here.

    Raises:
        ConfigError: there is no such model, or it makes no vectors of pictures.
    """
    with explained(model):
        import torch
        from PIL import Image as Images
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        folder = model_folder(model, revision)
        if folder is None or not _weight_names(folder):
            load(model, revision, "float32")
            folder = model_folder(model, revision)
            if folder is None:
                raise ConfigError(f"'{model}' was loaded, but is not in the Hugging Face cache; name its folder")
        # `backend` since transformers 5, `use_fast` before: both mean Pillow and numpy instead of torchvision
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", use_fast=False)
        with torch.device("meta"):
            network = AutoModel.from_config(AutoConfig.from_pretrained(folder))
        pixels = torch.from_numpy(pixels_of(processor, Images.new("RGB", (64, 64))))[None].to("meta")
        pooling = _pooling(network, pixels, _weight_names(folder))
        return Outline(processor, pooling, pooled(network, pixels, pooling).shape[1], folder)


def load(model: str, revision: str | None, precision: str) -> Module:
    """The network on the CPU, ready for inference; the half that reads texts is left out.

    Raises:
        ConfigError: there is no such model, or some of its weights are missing.
    """
    with explained(model):
        import torch
        from transformers import AutoModel

        network, told = AutoModel.from_pretrained(
            model, revision=revision, dtype=getattr(torch, precision), output_loading_info=True
        )
        missing = sorted(name for name in told["missing_keys"] if not name.startswith(_OTHER_TOWER))
        missing = [name for name in missing if "pooler" not in name.split(".")]
        if missing:
            raise ConfigError(f"'{model}' lacks weights that its configuration asks for: {', '.join(missing[:3])} …")
        for name in _OTHER_TOWER[:2]:
            if hasattr(network, "get_image_features") and hasattr(network, name):
                delattr(network, name)
        result: Module = network.eval()
        return result


def pixels_of(processor: Any, picture: Image) -> np.ndarray:
    """One picture `(3, h, w)` float32; of a very long one only the middle."""
    width, height = picture.size
    most = _LONGEST * min(width, height)
    if max(width, height) > most:
        left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
        picture = picture.crop((left, top, left + min(width, most), top + min(height, most)))
    # said, not guessed: a picture three pixels high looks as if its channels came first
    made = processor(images=[picture], return_tensors="np", input_data_format="channels_last")["pixel_values"]
    pixels = np.asarray(made[0], dtype=np.float32)
    if pixels.ndim != 3:
        raise ConfigError("this model cuts a picture into several; choose a model that takes one whole")
    return pixels


def pooled(network: Module, pixels: Tensor, pooling: str) -> Tensor:
    """Vectors `(B, d)` of pixels `(B, 3, h, w)`."""
    if pooling == "image_embeds":
        found: Any = network.get_image_features(pixel_values=pixels)  # type: ignore[operator]
        found = getattr(found, "pooler_output", found)  # a tensor itself before transformers 5
    elif pooling == "pooler":
        found = network(pixel_values=pixels).pooler_output
    else:
        last = network(pixel_values=pixels).last_hidden_state  # (B, tokens, d) or (B, d, h, w)
        found = last[:, 0] if pooling == "cls" else last.mean(dim=1) if last.ndim == 3 else last.mean(dim=(2, 3))
    vectors: Tensor = found.flatten(1)
    return vectors


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """Loading without bars and reports; whatever goes wrong as one sentence."""
    try:
        from transformers.utils import logging
    except ImportError:
        raise ConfigError(
            'encoding pictures with a vision model needs transformers: pip install "lirdrec[encoders]"'
        ) from None
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (LirdrecError, MemoryError):
        raise
    except Exception as error:  # transformers, the hub's client and safetensors each have errors of their own
        place = "in this folder" if Path(model).is_dir() else "no folder here, and"
        raise ConfigError(f"'{model}': {place} no vision model can be loaded ({first_line(error)})") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _pooling(network: Module, pixels: Tensor, weights: set[str]) -> str:
    if hasattr(network, "get_image_features"):
        return "image_embeds"
    output: Any = network(pixel_values=pixels)
    learned = any("pooler" in name.split(".") for name in network.state_dict())
    came = any("pooler" in name.split(".") for name in weights)
    if getattr(output, "pooler_output", None) is not None and (came or not learned):
        return "pooler"
    return "cls" if any(name.endswith("cls_token") for name in network.state_dict()) else "mean"


def _weight_names(folder: Path) -> set[str]:
    """Names of the stored weights, from the files' headers."""
    import torch
    from safetensors import SafetensorError, safe_open

    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="numpy") as file:
                names.update(file.keys())
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path}: these weights cannot be read ({first_line(error)})") from None
    for path in [] if names else folder.glob("pytorch_model*.bin"):
        names.update(torch.load(path, map_location="meta", mmap=True, weights_only=True))
    return names
