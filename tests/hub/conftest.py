"""A hub of one's own, a run and a dataset to share, and a client that never waits or leaves the machine."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import lirdrec
from lirdrec.data import Dataset

from .hub import OWNER, Hub


@pytest.fixture
def hub(monkeypatch, tmp_path_factory) -> Iterator[Hub]:
    """The stand-in, an empty cache, nobody logged in, and no waiting between the client's attempts."""
    pytest.importorskip("huggingface_hub", reason="sharing needs lirdrec[hub]")
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    home = tmp_path_factory.mktemp("hub")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "tokens"))
    for module in (_http, file_download):
        patient = types.SimpleNamespace(**vars(module.time))
        patient.sleep = lambda seconds: None
        monkeypatch.setattr(module, "time", patient)
    made = Hub()
    use_endpoint(monkeypatch, made.url)
    yield made
    _http.close_session()
    made.close()


def use_endpoint(monkeypatch, url: str) -> None:
    """What HF_ENDPOINT does before the client is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def login(monkeypatch) -> str:
    """The owner's token, as HF_TOKEN gives it."""
    monkeypatch.setenv("HF_TOKEN", OWNER)
    return OWNER


@pytest.fixture(scope="session")
def films() -> Dataset:
    """12 users, 10 films in two planted tastes, titles, texts and images."""
    rng = np.random.default_rng(0)
    pairs = [(f"u{user}", 10 * item) for user in range(12) for item in range(10) if (user + item) % 2 == 0 or item == 9]
    frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    values = rng.standard_normal((10, 6)).astype(np.float32) + np.arange(10)[:, None] % 2 * 5
    table = pl.DataFrame({"item": [10 * n for n in range(10)], "title": [f"Film {n}" for n in range(10)]})
    return Dataset.from_frames(
        frame,
        items=table,
        features={"text": values, "image": values[:, :4] + 1},
        split="random",
        name="films",
        info={"source": {"format": "tables", "files": ["films.csv"]}, "licence": "cc-by-4.0"},
    )


@pytest.fixture(scope="session")
def shelf(films, tmp_path_factory) -> Path:
    """`films` as a prepared folder."""
    return films.save(tmp_path_factory.mktemp("shelf") / "films")


@pytest.fixture(scope="session")
def trained(shelf, tmp_path_factory) -> Path:
    """A run on the prepared folder, to whose features it refers; two epochs, test figures recorded."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    training = lirdrec.TrainConfig(epochs=2, batch_size=32, metric="recall@5")
    made = lirdrec.fit(Dataset.load(shelf), training=training, run=folder, device="cpu", progress=False, cache=False)
    made.record_metrics("test", {"recall@5": 0.25, "ndcg@5": 0.125})
    return folder
