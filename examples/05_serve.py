"""Serve a run over HTTP and ask it, in one process. For production: `lirdrec serve RUN --workers 4 --keys keys.json`.

python examples/05_serve.py
"""

import tempfile
from pathlib import Path

from fastapi.testclient import TestClient

import lirdrec
from lirdrec.server.app import create_app
from lirdrec.server.config import ServerConfig

SAMPLE = Path(__file__).resolve().parents[1] / "sample" / "movielens"

dataset = lirdrec.Dataset.load(SAMPLE)
with tempfile.TemporaryDirectory() as folder:
    run = Path(folder) / "run"
    lirdrec.fit(dataset, training=lirdrec.TrainConfig(epochs=2), run=run, progress=False)
    with TestClient(create_app(ServerConfig(run=str(run))), base_url="http://127.0.0.1") as client:
        while client.get("/ready").status_code != 200:
            pass
        answer = client.post("/recommend", json={"user": int(dataset.users.ids[0]), "k": 3})
        print(answer.json())
