"""Image encoder from color and edge statistics: no weights, no download, same result on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lirdrec.features.encoder import Encoded, Encoder, Kind, Prepared
from lirdrec.features.images import encode_images

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 96
_COLOR_CELLS, _EDGE_CELLS = 4, 6
_HUES, _LIGHTS, _DIRECTIONS = 8, 4, 8
_GRAY = 12.0  # chroma at which a hue counts half
_FAINT = 2.0  # steps of lightness below which an edge is noise

# linear sRGB → XYZ of the white point D65, each row divided by the white's value
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_XYZ = (_XYZ / _XYZ.sum(axis=1, keepdims=True)).astype(np.float32)


class ColorEdgeEncoder(Encoder):
    """Encoder by histograms of colors and edges in the cells of an image, 496 columns.

    The image is resized to 96 × 96 pixels and converted to CIE L*a*b*. Each pixel has a lightness L, a chroma
    C = √(a² + b²), a hue, and a gradient of L with magnitude m and direction θ modulo π.

    * **Color**, 4 × 4 cells of 13 columns: 8 hues, *gray* and 4 lightnesses; 208 columns. A pixel adds C / (C + 12) to
      the two nearest hues, 12 / (C + 12) to *gray*, and 1 to the two nearest lightnesses.
    * **Edges**, 6 × 6 cells of 8 columns, the directions; 288 columns. A pixel adds m to the two nearest directions.
      Each cell is divided by 2 plus the mean magnitude of the 3 × 3 cells around it, so that weak and strong edges
      count alike and noise does not count.

    What a pixel adds is divided between the two columns linearly, and between the nearest cells bilinearly, so that a
    small shift of the image changes little. The square root of both blocks (color and edges) is taken, so that no large
    area dominates, and each block is scaled to length 1: inner products are Hellinger affinities. Finally the vector is
    scaled to length 1.
    """

    kind: ClassVar[Kind] = "image"

    @property
    def identity(self) -> Mapping[str, Any]:
        """The encoder's name and the version of its method."""
        return {"encoder": "descriptor", "version": 1}

    @property
    def dims(self) -> int:
        """Number of columns of the vectors: 496."""
        return _COLOR_CELLS**2 * (_HUES + 1 + _LIGHTS) + _EDGE_CELLS**2 * _DIRECTIONS

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors `(B, 496)` of length 1; an image that cannot be opened is listed in `problems`."""
        return encode_images(batch, _describe, np.array, self.dims, enough=2 * _SIDE)


def _describe(image: Image) -> np.ndarray:
    """Return the vector `(496,)` float32 of an image."""
    from PIL.Image import Resampling

    small = image.resize((_SIDE, _SIDE), Resampling.BILINEAR)
    lightness, a, b = _lab(np.asarray(small, dtype=np.float32) / 255)
    vector = np.concatenate([_unit_root(_colors(lightness, a, b)), _unit_root(_edges(lightness))])
    return vector / np.linalg.norm(vector)


def _lab(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert sRGB values from 0 to 1, `(96, 96, 3)`, to L* (from 0 to 100), a* and b*."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _XYZ.T
    x, y, z = np.moveaxis(np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29), -1, 0)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _colors(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    chroma = np.hypot(a, b)
    colored = chroma / (chroma + _GRAY)
    hues = _votes(np.arctan2(b, a) / (2 * np.pi) * _HUES, _HUES, circular=True) * colored
    lights = _votes(lightness / 100 * (_LIGHTS - 1), _LIGHTS, circular=False)
    return _in_cells(np.concatenate([hues, 1 - colored[None], lights]), _COLOR_CELLS)


def _edges(lightness: np.ndarray) -> np.ndarray:
    down, right = np.gradient(lightness)
    magnitude = np.hypot(down, right)
    directions = _votes(np.arctan2(down, right) / np.pi * _DIRECTIONS, _DIRECTIONS, circular=True) * magnitude
    cells = _in_cells(directions, _EDGE_CELLS)  # (8, 6, 6)
    around = np.pad(cells.sum(axis=0), 1, mode="edge")
    n = _EDGE_CELLS
    energy = sum(around[i : i + n, j : j + n] for i in range(3) for j in range(3)) / 9
    return cells / (energy + _FAINT)


def _votes(position: np.ndarray, n: int, circular: bool) -> np.ndarray:
    """Return `(n, 96, 96)`, the weight of each pixel in n bins: the two bins next to its `position` share 1."""
    distance = np.abs(position[None] - np.arange(n, dtype=np.float32)[:, None, None])
    if circular:
        distance = np.abs((distance + n / 2) % n - n / 2)
    return np.maximum(0, 1 - distance)


def _in_cells(maps: np.ndarray, n: int) -> np.ndarray:
    """Return the means `(c, n, n)` of maps `(c, 96, 96)` over n × n cells; the nearest cells share each pixel."""
    center = (np.arange(_SIDE, dtype=np.float32) + 0.5) * n / _SIDE - 0.5
    share = np.maximum(0, 1 - np.abs(center.clip(0, n - 1)[None] - np.arange(n, dtype=np.float32)[:, None]))  # (n, 96)
    share /= share.sum(axis=1, keepdims=True)
    return share @ maps @ share.T


def _unit_root(block: np.ndarray) -> np.ndarray:
    root = np.sqrt(block.reshape(-1)).astype(np.float32)
    length = float(np.linalg.norm(root))
    return root / length if length else root
