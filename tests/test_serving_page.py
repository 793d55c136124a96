"""The commands of docs/serving.md work as they are written, line after line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import lirdrec
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.training.config import TrainConfig

from .helpers import PATIENCE, FreePort

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
SERVED = re.compile(r"^lirdrec serve .*$", re.MULTILINE)


def steps() -> list[tuple[str, str]]:
    """(number of the step, the lines of a block) of the numbered steps before the last, in order."""
    found = []
    for number, text in re.findall(r"^## (\d)\. .*?\n(.*?)(?=^## )", PAGE, flags=re.DOTALL | re.MULTILINE):
        found += [(number, block) for block in re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A clone after `make demo`, of a training that was short."""
    shutil.copytree(ROOT / "sample", tmp_path / "sample")
    films = lirdrec.Dataset.load(tmp_path / "sample" / "movielens")
    config, training = LIRDRecConfig(embedding_size=8, loss="softmax"), TrainConfig(epochs=2, batch_size=4096)
    lirdrec.fit(films, config, training, device="cpu", progress=False).save(tmp_path / "runs" / "demo")
    return tmp_path


class Newcomer:
    """Types the blocks of the page into one shell; servers run beside it."""

    def __init__(self, folder: Path):
        self.held = FreePort()
        self.port = self.held.number
        self.folder = folder
        self.server: subprocess.Popen[bytes] | None = None
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def type(self, block: str) -> list[dict]:
        """The answers of a block's requests; every command must succeed, and every request."""
        block = block.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}").replace("curl ", "curl -sS --fail-with-body ")
        served = SERVED.search(block)
        if served is None:
            return answers(self._run(block))
        self._run(block[: served.start()])
        self._serve(served.group())
        return answers(self._run(block[served.end() :]))

    def end(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait()
            self.server = None

    def _run(self, lines: str) -> str:
        keep = "declare -p KEY > .key 2> /dev/null || true"  # from block to block, as in one terminal
        script = "\n".join(["set -euo pipefail", "[ ! -f .key ] || . ./.key", lines, keep])
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, line: str) -> None:
        self.end()
        command = f"exec {line.split('#')[0].strip()} --port {self.port}"
        self.server = subprocess.Popen(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, stderr=subprocess.DEVNULL
        )
        with httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", transport=httpx.HTTPTransport(retries=10), timeout=PATIENCE
        ) as client:
            while client.get("/ready").status_code == 503:
                assert self.server.poll() is None


def answers(text: str) -> list[dict]:
    """JSON documents one after another; keys that were printed between them are no answers."""
    found, at = [], text.find("{")
    while at >= 0:
        one, end = json.JSONDecoder().raw_decode(text, at)
        found.append(one)
        at = text.find("{", end)
    return found


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs bash and curl")
def test_from_a_run_to_a_server_with_keys_and_live_items(place):
    newcomer, reported = Newcomer(place), {}
    try:
        for number, block in steps():
            reported.setdefault(number, []).extend(newcomer.type(block))
    finally:
        newcomer.end()
        newcomer.held.close()
    assert sorted(reported) == ["1", "2", "3", "4"]
    (asked,), (added, similar) = reported["1"], reported["3"]
    assert [set(one) for one in asked["items"]] == [{"item", "score", "columns"}] * 3
    assert added["items"] == [900001]
    assert similar["neighbors"][0]["item"] == 1240  # whose vectors it brought
    events, recommended, removed, partial = reported["4"]
    assert partial["change"] == removed["change"] + 2 and [one["position"] for one in partial["refused"]] == [2]
    assert events["change"] == added["change"] + 2 and removed["items"] == [900001]
    assert len(recommended["items"]) == 10
    assert (place / "runs" / "current.live.sqlite").is_file() and not (place / "runs" / "demo.live.sqlite").exists()
