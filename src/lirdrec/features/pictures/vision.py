"""Any vision model of Hugging Face, by name or from a folder, without torchvision."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lirdrec.configuration import nearest
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError
from lirdrec.features.batching import give_memory_back
from lirdrec.features.encoder import Encoded, Encoder, Kind, Prepared
from lirdrec.features.pictures.batches import open_batch
from lirdrec.features.pictures.vision_models import Outline, load, outline, pooled
from lirdrec.features.weights import fingerprint

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
            hint = nearest(precision, PRECISIONS, f"choose one of {', '.join(PRECISIONS)}")
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
