"""push and pull as a person types them, in processes of their own, against a hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_mentions, assert_refused

pytest.importorskip("huggingface_hub", reason="sharing needs lirdrec[hub]")


@pytest.fixture
def hub():
    from tests.hub.hub import Hub

    made = Hub()
    yield made
    made.close()


@pytest.fixture
def shell(hub, tmp_path, monkeypatch):
    """`shell("push", run, "me/films")` with the variables that the client's documentation names."""
    from tests.hub.hub import OWNER

    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": OWNER,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    def call(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lirdrec", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=kept | settings | more)

    return call


def test_a_run_goes_to_the_hub_and_comes_back(shell, hub, run, tmp_path):
    done = shell("push", run, "me/films", "--license", "mit", "-m", "Three films")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert_mentions(done.stdout, [run, f"{hub.url}/me/films"])
    repo = hub.repos["me/films"]
    assert repo.private and repo.messages[-1] == "Three films"
    done = shell("pull", "me/films", "--output", "runs/films")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert_mentions(done.stdout, ["me/films", "lirdrec recommend runs/films --all"])
    before, after = Recommender.load(run), Recommender.load(tmp_path / "runs" / "films", verify=True)
    assert before.recommend(k=2).equals(after.recommend(k=2))
    # and once more without a connection
    hub.close()
    done = shell("pull", "me/films", "--output", "runs/again", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr


def test_a_dataset_for_everyone(shell, hub, sample):
    done = shell("--quiet", "push", sample, "me/films", "--public", "--revision", "v1")
    assert (done.returncode, done.stderr) == (0, "")
    repo = hub.repos["datasets/me/films"]
    assert not repo.private and "users.parquet" in repo.files("v1") and "users.parquet" not in repo.files()
    done = shell("pull", "datasets/me/films", "-o", "films", "--revision", "v1", HF_TOKEN="")
    assert done.stdout.count("\n") == 1
    assert_mentions(done.stdout, ["datasets/me/films", "lirdrec train films"])


BAD = [
    (["push", "RUN", "me/films"], 2, ["RUN", "license"]),
    (["push", "RUN", "films", "--license", "mit"], 2, ["'films'", "OWNER/NAME"]),
    (["push", "nowhere", "me/films"], 2, ["nowhere"]),
    (["push", "RUN", "you/films", "--license", "mit"], 1, ["you/films", "token"]),
    (["pull", "me/films", "-o", "got"], 1, ["me/films", "token"]),
    (["pull", "me/films", "-o", "RUN"], 2, ["RUN"]),
]


@pytest.mark.parametrize(("arguments", "code", "facts"), BAD)
def test_refusals_are_one_sentence(lirdrec, hub, run, tmp_path, monkeypatch, arguments, code, facts):
    from huggingface_hub import constants
    from tests.hub.hub import OWNER

    monkeypatch.setenv("HF_TOKEN", OWNER)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    before = sorted(Path(tmp_path).iterdir())
    result = lirdrec(*(run if one == "RUN" else one for one in arguments), "--endpoint", hub.url)
    assert_refused(result, [run if one == "RUN" else one for one in facts], exit_code=code)
    assert result.stderr.count("\n") == 1 and result.stdout == "" and OWNER not in result.stderr
    assert sorted(Path(tmp_path).iterdir()) == before


def test_debug_does_not_show_the_token(shell, hub, run):
    done = shell("--debug", "push", run, "me/films", "--license", "mit", HF_TOKEN="hf_wrongwrongwrongwrong")
    assert done.returncode == 1 and "Traceback" in done.stderr and "HubError" in done.stderr
    assert "hf_wrong" not in done.stderr + done.stdout
