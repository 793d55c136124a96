"""Commands that export vectors and share folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_mentions, assert_refused


def test_export_writes_a_folder_that_says_how_to_use_it(lirdrec, run, tmp_path):
    result = lirdrec("export", run, "--format", "npy", "out")
    assert result.exit_code == 0 and result.stdout.count("\n") == 1 and "out/README.txt" in result.stdout
    assert_mentions((tmp_path / "out" / "README.txt").read_text(), ["2 users", "3 items", "m on d"])
    assert np.load(tmp_path / "out" / "items.npy").tolist() == [[1, 3], [2, 2], [3, 1]]
    assert lirdrec("export", run, "--format", "npy", "out", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["RUN", "--format", "pgvektor", "out"], ["pgvektor", "pgvector"]),
        (["RUN", "--format", "npy", "RUN"], ["RUN"]),
        (["nowhere", "--format", "npy", "out"], ["nowhere"]),
        (["RUN", "--format", "onnx", "out"], []),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(lirdrec, run, tmp_path, arguments, facts):
    arguments = [run if one == "RUN" else one for one in arguments]
    result = lirdrec("export", *arguments)
    assert_refused(result, [run if one == "RUN" else one for one in facts])
    assert len(result.stderr.strip().splitlines()) == 1 and result.stdout == ""
    assert os.listdir(tmp_path) == ["run"]


@pytest.fixture
def unfinished(lirdrec, run, tmp_path, monkeypatch):
    """A file of every user whose last step Ctrl-C stopped."""

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lirdrec.recommender.recommend_all._join", stopped)
        result = lirdrec("recommend", run, "--all", "-k", 1, "-o", "all.csv")
    assert result.exit_code == 130 and "Traceback" not in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["all.csv.parts", "run"]


def test_everyone_resumes_with_what_is_unfinished(lirdrec, run, tmp_path, unfinished, monkeypatch):
    def ranked_again(*arguments):
        raise AssertionError("what was ranked is ranked again")

    monkeypatch.setattr("lirdrec.recommender.ranking_for_workers.UserRanking.shard", ranked_again)
    assert lirdrec("recommend", run, "--all", "-k", 1, "-o", "all.csv").exit_code == 0
    assert pl.read_csv(tmp_path / "all.csv").rows() == [(1, 20, 1, 2.0), (2, 10, 1, 3.0)]
    assert sorted(os.listdir(tmp_path)) == ["all.csv", "run"]


def test_everyone_from_scratch_or_refused_with_other_settings(lirdrec, run, tmp_path, unfinished):
    result = lirdrec("recommend", run, "--all", "-k", 2, "-o", "all.csv")
    assert_refused(result, ["all.csv", "--no-resume"])
    assert lirdrec("recommend", run, "--all", "-k", 2, "-o", "all.csv", "--no-resume").exit_code == 0
    assert pl.read_csv(tmp_path / "all.csv")["item"].to_list() == [20, 10, 10, 20]


def test_choosing_among_items_by_their_columns(lirdrec, run, tmp_path):
    later = '{"title": {"gt": "B"}}'

    def items(*options: object) -> list[int]:
        return [row["item"] for row in json.loads(lirdrec("recommend", run, *options, "-k", 2, "--json").stdout)]

    assert items("--user", 2, "--filter", later) == [20, 30]
    assert items("--user", 1, "--filter", later) == [20]  # it liked 30
    assert items("--user", 2, "--filter", later, "--candidates", "10,20") == [20]
    lirdrec("recommend", run, "--all", "-k", 2, "--filter", later, "-o", "all.parquet")
    assert pl.read_parquet(tmp_path / "all.parquet")["item"].to_list() == [20, 20, 30]


@pytest.mark.parametrize(
    ("where", "facts"),
    [
        ("price < 30", ["--filter", "JSON"]),
        ("[1]", ["--filter"]),
        ('{"titel": "Alien"}', ["titel", "'title'"]),
        ('{"title": "Dune"}', ["Dune"]),
    ],
)
def test_conditions_that_cannot_be_met(lirdrec, run, where, facts):
    result = lirdrec("recommend", run, "--user", 1, "--filter", where)
    assert_refused(result, facts)
    assert len(result.stderr.strip().splitlines()) == 1


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
