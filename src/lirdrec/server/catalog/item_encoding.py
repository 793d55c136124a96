"""Encode titles and images of new items with the encoders that made the dataset's features."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from lirdrec.errors import DataError, LirdrecError
from lirdrec.server.store import NewItem

if TYPE_CHECKING:
    from lirdrec.features.encoder import Encoder
    from lirdrec.features.sources import Item
    from lirdrec.recommender.recommender import Recommender

log = logging.getLogger(__name__)


class _LoadedEncoder(NamedTuple):
    encoder: Encoder
    source: Mapping[str, Any]  # {"template": …} or {"column": …}


@dataclass(frozen=True)
class Encoders:
    """The encoders of a dataset, by the name of the features that they made."""

    _loaded: Mapping[str, _LoadedEncoder] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)  # name of features → why they have no encoder

    @classmethod
    def load(cls, recommender: Recommender, device: str = "cpu") -> Encoders:
        """Load the encoders that the manifest of the run's dataset names, with their weights.

        If an encoder cannot be loaded, or encodes audio or video, no error is raised: the reason is logged, and stored
        in `reasons`.
        """
        from lirdrec.data.storage import read_manifest
        from lirdrec.features.encoder_specs import load_encoder

        features = recommender.features
        if features is None or features.trained is None:
            return cls()
        loaded: dict[str, _LoadedEncoder] = {}
        reasons: dict[str, str] = {}
        for name in features.trained:
            try:
                if features.folder is None:
                    raise DataError(
                        "the run stores its features itself, without information on which encoder made them"
                    )
                info = read_manifest(features.folder)["info"].get("encoders", {}).get(name, {})
                encoder = load_encoder(features.folder, name, device=device)
                if encoder.kind in ("audio", "video"):
                    raise DataError(f"the server does not accept {encoder.kind} files of new items; send vectors")
                _warm_up(encoder)
                loaded[name] = _LoadedEncoder(encoder, info.get("source", {}))
                log.info(
                    "the server makes the features '%s' of new items itself, with an encoder (%s)", name, encoder.kind
                )
            except LirdrecError as error:
                reasons[name] = str(error)
                log.warning(
                    "the server cannot make the features '%s' of new items, so requests must have these vectors: %s",
                    name,
                    error,
                )
        return cls(loaded, reasons)

    @property
    def kinds(self) -> dict[str, str]:
        """Name of features → what their encoder reads: "text", "image" or "joint" (a text, an image or both)."""
        return {name: loaded.encoder.kind for name, loaded in self._loaded.items()}

    def encode(self, name: str, items: Sequence[NewItem]) -> list[np.ndarray | None]:
        """Return the features `name` of new items: a vector `(d,)` for each item; None if it has no text or image.

        Raises:
            DataError: a text or image of an item cannot be encoded.
            ConfigError: the columns of the items do not fit the template of the texts.
        """
        from lirdrec.features.encode import encode_shard

        loaded = self._loaded[name]
        sources = _inputs(loaded, items)
        arrays, facts = encode_shard(loaded.encoder, sources, loaded.encoder.batch_size)
        if facts["problems"]:
            index, _, message = facts["problems"][0]
            raise DataError(f"new item {index + 1}: its '{name}' features cannot be made: {message}")
        return [row if present else None for row, present in zip(arrays["vectors"], arrays["present"], strict=True)]


def _inputs(loaded: _LoadedEncoder, items: Sequence[NewItem]) -> list[Item]:
    from lirdrec.features.sources import joint_item

    if loaded.encoder.kind == "text":
        return _texts(loaded, items)
    images = _images(item.image for item in items)
    if loaded.encoder.kind == "image":
        return images
    return [joint_item(text, image) for text, image in zip(_texts(loaded, items), images, strict=True)]


def _texts(loaded: _LoadedEncoder, items: Sequence[NewItem]) -> list[Item]:
    """Make the texts to encode from the columns of new items, with the template of the dataset."""
    from lirdrec.features.sources import text_item
    from lirdrec.features.template import recorded_template

    parsed = recorded_template(loaded.source)
    rows = {name: [item.columns.get(name) for item in items] for name in parsed.columns}
    try:
        frame = pl.DataFrame(rows, strict=False)
    except (TypeError, ValueError, pl.exceptions.PolarsError):
        raise DataError(
            "the columns of the new items have values that cannot be written as a text for the encoder; send texts, "
            "numbers, true or false"
        ) from None
    return [text_item(text) for text in parsed.render(frame)]


def _images(contents: Iterable[bytes | None]) -> list[Item]:
    from lirdrec.features.sources import KEY_BYTES, Item

    return [
        Item() if content is None else Item(content, hashlib.blake2b(content, digest_size=KEY_BYTES).digest())
        for content in contents
    ]


def _warm_up(encoder: Encoder) -> None:
    """Encode a small sample, so that the weights are loaded now instead of for the first new item."""
    from PIL import Image

    from lirdrec.features.encode import encode_shard
    from lirdrec.features.sources import joint_item, text_item

    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    text, image = text_item("a"), _images([content.getvalue()])[0]
    samples = {"text": [text], "image": [image], "joint": [joint_item(text, image)]}
    encode_shard(encoder, samples[encoder.kind], 1)
