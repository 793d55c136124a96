"""Image encoder for Hugging Face vision models, by name or from a folder, without torchvision."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lirdrec.data.frames import first_line
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError, LirdrecError
from lirdrec.features.encoder import Encoded, Encoder, Kind, Prepared, give_memory_back
from lirdrec.features.encoders.model_loading import EXTRA, PRECISIONS, check_choice, fingerprint, model_folder, quietly
from lirdrec.features.images import encode_images

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Module

_OTHER_TOWER = ("text_model", "text_projection", "logit_scale", "logit_bias")
# The longer side of an image is at most so many times the shorter side. Models scale an image by its shorter side, so
# that an image of 9,000 × 3 pixels would fill gigabytes.
_LONGEST = 16


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights.

    Attributes:
        processor: prepares the model's inputs.
        pooling: the name of the rule that gives the vector of an image, see `VisionEncoder`.
        dims: number of columns of the vectors.
        folder: the folder of the model.
    """

    processor: Any
    pooling: str
    dims: int
    folder: Path

    def pixels(self, image: Image) -> np.ndarray:
        """Return an image as `(3, h, w)` float32, preprocessed as the model's own configuration says."""
        return pixels_of(self.processor, image)


def outline(model: str, revision: str | None) -> Outline:
    """Return what is known of a model without its weights: from its configuration, and from a try on an empty image.

    A model on the hub is downloaded, with its weights, if it is not in the cache. Raises a ConfigError if it cannot be
    loaded or does not take images.
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
                raise ConfigError(
                    f"'{model}' was loaded, but is not in the Hugging Face cache; give the path of its folder"
                )
        # `backend` since transformers 5, `use_fast` before: both mean Pillow and numpy instead of torchvision
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", use_fast=False)
        with torch.device("meta"):
            network = AutoModel.from_config(AutoConfig.from_pretrained(folder))
        pixels = torch.from_numpy(pixels_of(processor, Images.new("RGB", (64, 64))))[None].to("meta")
        pooling = _pooling(network, pixels, _weight_names(folder))
        return Outline(processor, pooling, pooled(network, pixels, pooling).shape[1], folder)


def load(model: str, revision: str | None, precision: str) -> Module:
    """Load a model on the CPU, without its text part.

    Raises a ConfigError if there is no such model, or some of its weights are missing.
    """
    with explained(model):
        result: Module = load_network(model, revision, precision, "get_image_features", _is_other_part).eval()
        return result


def load_network(
    model: str, revision: str | None, precision: str, method: str, is_other_part: Callable[[str], bool]
) -> Any:
    """Load a model with `AutoModel` on the CPU, and remove its text part if it has the method `method`.

    Args:
        model, revision, precision: see `VisionEncoder`.
        method: name of the method that gives vectors without the text part, such as CLIP's `get_image_features`.
        is_other_part: returns whether a weight, given by name, belongs to a part that is not needed.

    Raises:
        ConfigError: weights are missing that are needed.
    """
    import torch
    from transformers import AutoModel

    network, loading_info = AutoModel.from_pretrained(
        model, revision=revision, dtype=getattr(torch, precision), output_loading_info=True
    )
    missing = [name for name in sorted(loading_info["missing_keys"]) if not is_other_part(name)]
    if missing:
        raise ConfigError(
            f"'{model}' lacks weights that its configuration asks for: {', '.join(missing[:3])} …; choose another model"
        )
    for name in ("text_model", "text_projection"):
        if hasattr(network, method) and hasattr(network, name):
            delattr(network, name)
    return network


def origin_of(model: str, folder: Path) -> dict[str, str]:
    """Return what an identity says of the model: its name and commit on the hub, or the hash of its folder."""
    if Path(model).is_dir():
        return {"model": "folder", "sha256": fingerprint(folder)}
    return {"model": model, "revision": folder.name}  # the cached folder is named by its commit


def _is_other_part(name: str) -> bool:
    return name.startswith(_OTHER_TOWER) or "pooler" in name.split(".")


def pixels_of(processor: Any, image: Image) -> np.ndarray:
    """Return an image as `(3, h, w)` float32, preprocessed; of a very long image, only the middle is used.

    Raises a ConfigError if the model cuts an image into several.
    """
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) > longest:
        left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
        image = image.crop((left, top, left + min(width, longest), top + min(height, longest)))
    # given here, since the library would guess wrong: an image three pixels high looks as if its channels came first
    values = processor(images=[image], return_tensors="np", input_data_format="channels_last")["pixel_values"]
    pixels = np.asarray(values[0], dtype=np.float32)
    if pixels.ndim != 3:
        raise ConfigError("this model cuts an image into several; choose a model that takes an image as a whole")
    return pixels


def pooled(network: Any, pixels: Tensor, pooling: str) -> Tensor:
    """Return the vectors `(B, d)` of B images by a vision model of transformers.

    Args:
        network: the model.
        pixels: `(B, 3, h, w)`, the preprocessed images.
        pooling: the name of the rule that gives the vector of an image, see `VisionEncoder`.
    """
    if pooling == "image_embeds":
        output = network.get_image_features(pixel_values=pixels)
        output = getattr(output, "pooler_output", output)  # a tensor itself before transformers 5
    elif pooling == "pooler":
        output = network(pixel_values=pixels).pooler_output
    else:
        last = network(pixel_values=pixels).last_hidden_state  # (B, tokens, d) or (B, d, h, w)
        output = last[:, 0] if pooling == "cls" else last.mean(dim=1) if last.ndim == 3 else last.mean(dim=(2, 3))
    vectors: Tensor = output.flatten(1)
    return vectors


@contextlib.contextmanager
def explained(model: str, noun: str = "vision model") -> Iterator[None]:
    """Hide progress bars and reports of loading inside the block, and convert errors to a ConfigError of one sentence.

    Raises a ConfigError if transformers is not installed.
    """
    try:
        from transformers.utils import logging
    except ImportError:
        raise ConfigError(f"encoding with {noun}s needs transformers: {EXTRA}") from None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with quietly():
            yield
    except (LirdrecError, MemoryError):
        raise
    except Exception as error:  # transformers, the hub's client and safetensors each have errors of their own
        location = "in this folder" if Path(model).is_dir() else "it is not a folder, and"
        raise ConfigError(
            f"'{model}': {location} no {noun} can be loaded ({first_line(error)}); check the name or the folder"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _pooling(network: Module, pixels: Tensor, weights: set[str]) -> str:
    if hasattr(network, "get_image_features"):
        return "image_embeds"
    output: Any = network(pixel_values=pixels)
    names = network.state_dict()
    needs_weights, has_weights = (any("pooler" in name.split(".") for name in each) for each in (names, weights))
    if getattr(output, "pooler_output", None) is not None and (has_weights or not needs_weights):
        return "pooler"
    return "cls" if any(name.endswith("cls_token") for name in names) else "mean"


def _weight_names(folder: Path) -> set[str]:
    """Return the names of the weights in a model's folder, read from the headers of the files; empty if it has none."""
    import torch
    from safetensors import SafetensorError, safe_open

    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="numpy") as file:
                names.update(file.keys())
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"{path}: these weights cannot be read ({first_line(error)}); download the model again"
            ) from None
    for path in [] if names else folder.glob("pytorch_model*.bin"):
        names.update(torch.load(path, map_location="meta", mmap=True, weights_only=True))
    return names


class VisionEncoder(Encoder):
    """Image encoder by Hugging Face models that `AutoModel` and `AutoImageProcessor` load.

    Examples are CLIP, SigLIP, DINOv2, ViT, Swin, ResNet and ConvNeXt. The first of these rules that applies gives the
    vector of an image:

    1. *image_embeds*: the result of `get_image_features`, if the model has this method (CLIP: projected; SigLIP: its
       attention pooling);
    2. *pooler*: the model's own pooled output, unless its weights are missing (a ViT trained as a classifier);
    3. *cls*: the first token of the last layer, if the model has a class token;
    4. *mean*: the mean over the tokens or positions of the last layer.

    Images are preprocessed as the model's `preprocessor_config.json` says, by Pillow and numpy. If an image is more
    than 16 times as long as wide, only its middle is used.

    Args:
        model: a folder, or a name on the Hugging Face hub.
        device: "auto", "cpu", "cuda" …
        precision: of the weights: "float32", "bfloat16" or "float16"; vectors are always float32.
        revision: branch, tag or commit of a model on the hub.

    Raises:
        ConfigError: an argument is out of range. At the first use: there is no such model, or it does not take images.
    """

    kind: ClassVar[Kind] = "image"
    shard_rows: ClassVar[int] = 512

    def __init__(
        self, model: str | Path, device: str = "auto", precision: str = "float32", revision: str | None = None
    ):
        check_choice("precision", precision, PRECISIONS)
        self.model = os.path.expanduser(model)
        self.device, self.precision, self.revision = device, precision, revision

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's name and commit, or the hash of its folder; pooling and precision."""
        outline = self._outline
        settings = {"pooling": outline.pooling, "precision": self.precision}
        return {"encoder": "transformers-vision", **origin_of(self.model, outline.folder), **settings}

    @property
    def dims(self) -> int:
        """Number of columns of the vectors."""
        return self._outline.dims

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors `(B, d)` of B images; an image that cannot be opened is listed in `problems`."""
        return encode_images(batch, self._outline.pixels, self._vectors, self.dims)

    def _vectors(self, images: list[np.ndarray]) -> np.ndarray:
        import torch

        network, vectors = self._network, np.zeros((len(images), self.dims), dtype=np.float32)
        indices_of: dict[tuple[int, ...], list[int]] = {}  # by shape: some models keep the proportions of each image
        for index, image in enumerate(images):
            indices_of.setdefault(image.shape, []).append(index)
        for indices in indices_of.values():
            pixels = torch.from_numpy(np.stack([images[index] for index in indices]))
            with torch.inference_mode():
                rows = pooled(network, pixels.to(network.device, network.dtype), self._outline.pooling)
            vectors[indices] = rows.float().cpu().numpy()
        return vectors

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
