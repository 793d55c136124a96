"""A shop with a planted taste: lamps, tents, boots and cups, each with words and a color; a user likes one kind."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image
from starlette.testclient import TestClient

import lirdrec
from lirdrec.data import Dataset
from lirdrec.data.images import with_images
from lirdrec.features.pipeline import make_features
from lirdrec.features.registry import parse_jobs
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.training.config import TrainConfig

KINDS = ("lamp", "tent", "boot", "cup")
COLORS = {"lamp": (230, 200, 40), "tent": (40, 140, 60), "boot": (110, 60, 30), "cup": (60, 80, 200)}
WORDS = ("small", "large", "old", "new", "light", "heavy")
EACH = 12  # items of a kind
N_USERS = 48


def trained(folder: Path, seed: int = 0) -> Path:
    """A run of the shop, beside its dataset with pictures and with encoders that are noted."""
    data = prepared(folder / "data", folder / "pictures")
    config = LIRDRecConfig(embedding_size=8, n_layers=1, n_neighbors=5)
    training = TrainConfig(epochs=12, batch_size=256, seed=seed)
    run = folder / "run"
    lirdrec.fit(Dataset.load(data), config, training, device="cpu", progress=False, cache=False).save(run)
    return run


def prepared(folder: Path, pictures: Path) -> Path:
    """The dataset. Item 100 · kind + number; a user of kind k likes most items of that kind, and one other."""
    draw = np.random.default_rng(0)
    rows = []
    pictures.mkdir()
    for kind, name in enumerate(KINDS):
        for number in range(EACH):
            id = 100 * (kind + 1) + number
            (pictures / f"{id}.png").write_bytes(picture(name, number))
            rows.append(
                {
                    "item": id,
                    "title": f"{WORDS[number % len(WORDS)]} {name} number {number}",
                    "kind": name,
                    "price": float(5 + 7 * number),
                    "in_stock": number % 3 != 0,
                }
            )
    pairs = []
    for user in range(N_USERS):
        kind = user % len(KINDS)
        liked = draw.permutation(EACH)[: EACH - 3]
        pairs += [(user, 100 * (kind + 1) + int(number)) for number in liked]
        pairs.append((user, 100 * ((kind + 1) % len(KINDS) + 1) + int(draw.integers(EACH))))
    frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    dataset = with_images(Dataset.from_frames(frame, items=pl.DataFrame(rows), split="none"), pictures)
    dataset.save(folder)
    make_features(folder, parse_jobs(folder, [("text", "hashed"), ("image", "descriptor")]), progress=False)
    return folder


def picture(kind: str, seed: int, size: int = 48, form: str = "PNG", **more: Any) -> bytes:
    """A picture in the kind's color, with a little noise."""
    noise = np.random.default_rng(seed).integers(-12, 13, (size, size, 3))
    pixels = (np.array(COLORS[kind]) + noise).clip(0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form, **more)
    return content.getvalue()


def asked(client: TestClient, **request: Any) -> list[Any]:
    """Ids that POST /recommend answers with."""
    response = client.post("/recommend", json=request)
    assert response.status_code == 200, response.text
    return [one["item"] for one in response.json()["items"]]


def vectors(recommender: Any, item: int, noise: float = 0.0) -> dict[str, list[float]]:
    """Features like those of an item of the shop."""
    row = int(recommender.items.rows([item])[0])
    draw = np.random.default_rng(item)
    return {
        name: (matrix.values[row] + noise * draw.normal(size=matrix.dims)).astype(float).tolist()
        for name, matrix in recommender.features.trained.items()
    }
