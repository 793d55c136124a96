"""Image encoder for Hugging Face vision models, by name or from a folder, without torchvision."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lirdrec.config import suggest_name
from lirdrec.data.frames import first_line
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError, LirdrecError
from lirdrec.features.encoder import Encoded, Encoder, Kind, Prepared, give_memory_back
from lirdrec.features.encoders.weights import fingerprint, model_folder
from lirdrec.features.images import open_batch

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

        network, loading_info = AutoModel.from_pretrained(
            model, revision=revision, dtype=getattr(torch, precision), output_loading_info=True
        )
        missing = sorted(name for name in loading_info["missing_keys"] if not name.startswith(_OTHER_TOWER))
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
        found: Any = network.get_image_features(pixel_values=pixels)  # type: ignore[operator]  # a method
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


if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "bfloat16", "float16")


class VisionEncoder(Encoder):
    """CLIP, SigLIP, DINOv2, ViT, Swin, ResNet, ConvNeXt …: what `AutoModel` and `AutoImageProcessor` open.

    The vector of a picture is, by the first rule that applies,

    1. *image_embeds*: `get_image_features`, where the model has it (CLIP: projected; SigLIP: its attention's pooling);
    2. *pooler*: the model's own pooled output, unless it would need weights that the model came without (a ViT that
       was trained as a classifier has none for its pooler; they would be random);
    3. *cls*: the last layer's first token, where the model has such a token;
    4. *mean*: over the last layer's tokens or places.

    Pictures are made ready as the model's own `preprocessor_config.json` says, by Pillow and numpy. Of a picture more
    than 16 times as long as wide only the middle is taken.

    Args:
        model: a folder, or a name on the Hugging Face hub.
        device: "auto", "cpu", "cuda" …
        precision: of the weights: "float32", "bfloat16" or "float16"; vectors are float32 always.
        revision: branch, tag or commit of a model on the hub.

    Raises:
        ConfigError: an argument is out of range. That a model is not there, or is none for pictures, shows at the
            first use.
    """

    kind: ClassVar[Kind] = "image"
    shard_rows: ClassVar[int] = 512

    def __init__(
        self, model: str | Path, device: str = "auto", precision: str = "float32", revision: str | None = None
    ):
        if precision not in PRECISIONS:
            hint = suggest_name(precision, PRECISIONS, f"choose one of {', '.join(PRECISIONS)}")
            raise ConfigError(f"precision is '{precision}'; {hint}")
        self.model = os.path.expanduser(model)
        self.device, self.precision, self.revision = device, precision, revision

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The model's name and commit, or of a folder only its content; how its output is pooled; the precision."""
        folder = self._outline.folder
        if Path(self.model).is_dir():
            origin = {"model": "folder", "sha256": fingerprint(folder)}
        else:
            origin = {"model": self.model, "revision": folder.name}  # the cache calls a copy by its commit
        return {
            "encoder": "transformers-vision",
            **origin,
            "pooling": self._outline.pooling,
            "precision": self.precision,
        }

    @property
    def dims(self) -> int:
        """Columns of the vectors."""
        return self._outline.dims

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors `(B, d)`; pictures that cannot be opened are problems."""
        import torch

        opened = open_batch(batch, self._outline.pixels)
        vectors = np.zeros((len(opened.arrays), self.dims), dtype=np.float32)
        shapes: dict[tuple[int, ...], list[int]] = {}  # some models keep the proportions of each picture
        for at, array in enumerate(opened.arrays):
            shapes.setdefault(array.shape, []).append(at)
        for places in shapes.values():
            pixels = torch.from_numpy(np.stack([opened.arrays[at] for at in places]))
            with torch.inference_mode():
                found = pooled(self._network, pixels.to(self._device, self._network.dtype), self._outline.pooling)
            vectors[places] = found.float().cpu().numpy()
        return opened.encoded(vectors, self.dims)

    def release(self) -> None:
        """Without the weights."""
        self.__dict__.pop("_network", None)
        give_memory_back()

    @cached_property
    def _outline(self) -> Outline:
        return outline(self.model, self.revision)

    @cached_property
    def _device(self) -> torch.device:
        return resolve_device(self.device)

    @cached_property
    def _network(self) -> Any:
        return load(self.model, self.revision, self.precision).to(self._device)
