"""Runs with known properties, a shop whose users like one kind each, and servers of them."""

from __future__ import annotations

import io
import socket
import threading
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import torch
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

import lirdrec
from lirdrec.data import Dataset
from lirdrec.data.dataset import Interactions
from lirdrec.data.ids import IdMap
from lirdrec.data.images import with_images
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.features.job_parsing import parse_jobs
from lirdrec.features.pipeline import make_features
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.app import create_app
from lirdrec.server.config import ServerConfig
from lirdrec.server.main import uvicorn_options
from lirdrec.server.store import NewItem
from lirdrec.training.config import TrainConfig

from ..helpers import PATIENCE

USERS, ITEMS = 60, 50
DIMS = {"image": 12, "text": 8}


def growing(folder: Path, seed: int = 1, items: int = ITEMS, dims: dict[str, int] = DIMS) -> Path:
    """LIRDRec with the weights that it starts with: takes new items and new users. Users 0…59, items 0…49."""
    data = make_synthetic_dataset(USERS, items, 12 * items, dims, groups=5, noise=0.3, seed=seed)
    torch.manual_seed(0)
    config = LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=4)
    return Recommender.from_training(LIRDRec(make_model_inputs(data, "cpu", seed=3), config), data).save(folder)


def whole_numbers(n_users: int = 40, n_items: int = 300, seed: int = 0) -> Recommender:
    """Vectors of small integers, so that any way to add up a score gives the same bits, and many scores are equal."""
    draw = np.random.default_rng(seed)
    vectors = [torch.tensor(draw.integers(-2, 3, (n, 6)), dtype=torch.float32) for n in (n_users, n_items)]
    pairs = np.unique(draw.integers(0, n_users * n_items, 8 * n_users))
    table = pl.DataFrame(
        {
            "item": [f"i{row}" for row in range(n_items)],
            "price": [None if row % 7 == 3 else float(row % 50) for row in range(n_items)],
            "kind": [("tent", "lamp", "boot")[row % 3] for row in range(n_items)],
        }
    )
    return Recommender(
        VectorScorer(*vectors, ("image", "text")),
        IdMap([f"u{row}" for row in range(n_users)], "user"),
        IdMap(table["item"], "item"),
        table,
        Interactions(pairs // n_items, pairs % n_items),
        info={"dataset": "whole numbers", "model": "lirdrec"},
    )


def new_item(id: int | str, seed: int | None = None, dims: dict[str, int] = DIMS, **more: object) -> NewItem:
    """An item with random features, always the same for one seed."""
    own = id % 2**32 if isinstance(id, int) else zlib.crc32(id.encode())  # hash() differs from process to process
    draw = np.random.default_rng(own if seed is None else seed)
    features = {name: draw.normal(size=width).astype(np.float32) for name, width in dims.items()}
    return NewItem(id, features=features, **more)


# ---------------------------------------------------------------- a shop with a planted taste


KINDS = ("lamp", "tent", "boot", "cup")
COLORS = {"lamp": (230, 200, 40), "tent": (40, 140, 60), "boot": (110, 60, 30), "cup": (60, 80, 200)}
WORDS = ("small", "large", "old", "new", "light", "heavy")
EACH = 12  # items of a kind
N_USERS = 48


def trained(folder: Path, seed: int = 0) -> Path:
    """A run of the shop, beside its dataset with images and with encoders that are noted."""
    data = prepared(folder / "data", folder / "images")
    config = LIRDRecConfig(embedding_size=8, n_layers=1, n_neighbors=5)
    training = TrainConfig(epochs=12, batch_size=256, seed=seed)
    run = folder / "run"
    lirdrec.fit(Dataset.load(data), config, training, device="cpu", progress=False, cache=False).save(run)
    return run


def prepared(folder: Path, images: Path) -> Path:
    """The dataset. Item 100 · kind + number; a user of kind k likes most items of that kind, and one other."""
    draw = np.random.default_rng(0)
    rows = []
    images.mkdir()
    for kind, name in enumerate(KINDS):
        for number in range(EACH):
            id = 100 * (kind + 1) + number
            (images / f"{id}.png").write_bytes(image(name, number))
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
    dataset = with_images(Dataset.from_frames(frame, items=pl.DataFrame(rows), split="none"), images)
    dataset.save(folder)
    make_features(folder, parse_jobs(folder, [("text", "hashed"), ("image", "descriptor")]), progress=False)
    return folder


def image(kind: str, seed: int, size: int = 48, form: str = "PNG", **more: Any) -> bytes:
    """An image in the kind's color, with a little noise."""
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


class Servers:
    """Starts servers that share a store, and stops them."""

    def __init__(self, run: Path, store: str):
        self.defaults: dict[str, Any] = {"run": str(run), "store": store, "timeout_seconds": PATIENCE}
        self._open: dict[TestClient, ExitStack] = {}

    def __call__(self, *, ready: bool = True, **options: Any) -> TestClient:
        client = TestClient(create_app(ServerConfig(**self.defaults | options)), base_url="http://127.0.0.1")
        self._open[client] = stack = ExitStack()
        stack.enter_context(client)
        while ready and client.get("/ready").status_code == 503 and client.get("/health").status_code == 200:
            pass
        return client

    def stop(self, client: TestClient) -> None:
        self._open.pop(client).close()

    def stop_all(self) -> None:
        for client in list(self._open):
            self.stop(client)


class Listening:
    """A real server on a free port, in a thread."""

    def __init__(self, shop, tmp_path, **options):
        options = {"store": f"sqlite:///{tmp_path / 'live.sqlite'}", "timeout_seconds": PATIENCE} | options
        config = ServerConfig(str(shop), **options)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(create_app(config), **uvicorn_options(config)))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})

    def __enter__(self):
        self.thread.start()
        with httpx.Client(base_url=self.url, timeout=PATIENCE) as client:
            while client.get("/ready").status_code == 503:
                assert client.get("/health").status_code == 200
        return self

    def __exit__(self, *error):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()
