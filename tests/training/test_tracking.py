"""Trackers: what a training, an experiment and a feature job log to MLflow and to Weights & Biases (offline)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from lirdrec.cli.main import app
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError, TrainingError
from lirdrec.models.mf import MF
from lirdrec.trackers import Tracker, check_tracker, flat, tracker

from ..experiments.conftest import compute_cells_here
from ..helpers import assert_error, assert_refused

QUICK = ["--model", "mf", "--set", "epochs=2", "--set", "embedding_size=8"]


@pytest.fixture
def lirdrec(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIRDREC_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    make_synthetic_dataset(50, 40, 700, {"image": 6, "text": 6}, groups=4, seed=2).save(tmp_path / "data")
    return lambda *arguments: CliRunner().invoke(app, ["--quiet", *map(str, arguments)])


def logged(name: str):
    """The runs of MLflow with this name."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient("sqlite:///mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("lirdrec").experiment_id])
    return client, [run for run in runs if run.info.run_name.startswith(name)]


class Recorder(Tracker):
    """Keeps what is logged, in the class."""

    runs: ClassVar[list[Recorder]] = []

    def __init__(self, name, params):
        self.name, self.params, self.steps, self.final, self.failed = name, dict(params), [], None, None
        self.runs.append(self)

    def log(self, metrics, step):
        self.steps.append((step, dict(metrics)))

    def finish(self, metrics, failed=False):
        self.final, self.failed = dict(metrics), failed


@pytest.fixture
def recorder(monkeypatch):
    from lirdrec import trackers

    Recorder.runs = []
    monkeypatch.setattr(trackers, "MLflowTracker", Recorder)
    monkeypatch.setattr(trackers, "check_tracker", lambda kind: None)
    for module in ("cli.train", "cli.features", "experiments.config", "training.callbacks"):
        monkeypatch.setattr(f"lirdrec.{module}.check_tracker", lambda kind: None)
    return Recorder


def test_a_training_logs_its_epochs_and_its_test_metrics(lirdrec, recorder):
    shown = json.loads(lirdrec("train", "data", "--run", "r", "--track", "mlflow", "--json", *QUICK).stdout)
    (run,) = recorder.runs
    history = [json.loads(line) for line in Path("r/history.jsonl").read_text().splitlines()]
    assert [step for step, _ in run.steps] == [1, 2] and run.name == "r" and not run.failed
    for (_, metrics), line in zip(run.steps, history, strict=True):
        assert metrics["loss"] == line["loss"] and metrics["valid/recall@20"] == line["valid"]["recall@20"]
    assert run.final == {f"test/{name}": value for name, value in shown["test"]["mf"].items()}
    assert run.params["training"]["epochs"] == 2 and run.params["config"]["embedding_size"] == 8
    assert run.params["dataset"] == "planted" and run.params["model"] == "mf"


def test_a_training_that_fails_ends_its_run(lirdrec, recorder, monkeypatch):
    def loss(self, users, positives, negatives):
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr(MF, "loss", loss)
    assert_refused(lirdrec("train", "data", "--run", "r", "--track", "mlflow", *QUICK), ["not finite"], exit_code=1)
    assert [run.failed for run in recorder.runs] == [True]


def test_a_training_that_is_refused_starts_no_run(lirdrec, recorder):
    assert lirdrec("train", "data", "--run", "r", *QUICK).exit_code == 0
    assert_refused(lirdrec("train", "data", "--run", "r", "--track", "mlflow", *QUICK), ["r"])
    assert_refused(lirdrec("train", "data", "--run", "s", "--track", "mlflow", "--model", "slim"), ["slim"])
    assert recorder.runs == []


def test_a_model_in_closed_form_logs_its_test_metrics(lirdrec, recorder):
    shown = json.loads(lirdrec("train", "data", "--run", "r", "--track", "mlflow", "--json", "--model", "ease").stdout)
    (run,) = recorder.runs
    assert run.steps == [] and not run.failed
    assert run.final == {f"test/{name}": value for name, value in shown["test"]["ease"].items()}


def test_an_experiment_logs_every_trial(lirdrec, recorder, monkeypatch):
    compute_cells_here(monkeypatch)
    command = ["experiment", "compare", "data", "--models", "mf,ease", "--trials", 1, "--seeds", 2, "--epochs", 2]
    assert lirdrec(*command, "--output", "out", "--track", "mlflow").exit_code == 0
    trials = [json.loads(path.read_text()) for path in Path("out/cells").glob("*.json")]
    assert sorted(run.params["key"] for run in recorder.runs) == sorted(
        path.stem for path in Path("out/cells").glob("*")
    )
    assert len(trials) == len(recorder.runs) == 5
    for run in recorder.runs:
        assert "valid/recall@20" in run.final and not run.failed
        assert ("test/recall@20" in run.final) == bool(run.params["extra"].get("final"))
        assert len(run.steps) == (2 if run.params["model"] == "mf" else 0)
    untracked = len(recorder.runs)
    assert lirdrec(*command, "--output", "out", "--track", "mlflow").exit_code == 0  # nothing is computed again
    assert len(recorder.runs) == untracked


def test_a_feature_job_logs_what_it_made(lirdrec, recorder, tmp_path):
    import polars as pl

    pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 2, 3]}).write_csv("interactions.csv")
    pl.DataFrame({"item": [1, 2, 3], "title": ["a cat", "a dog", "a fish"]}).write_csv("items.csv")
    made = lirdrec("prepare", "interactions.csv", "--items", "items.csv", "--split", "none", "--output", "pets")
    assert made.exit_code == 0, made.stderr
    result = lirdrec("features", "pets", "--text", "hashed", "--text-template", "{title}", "--track", "mlflow")
    assert result.exit_code == 0, result.stderr
    (run,) = recorder.runs
    assert run.params["matrix"] == "text" and run.params["encoder"] == "hashed" and run.params["dataset"] == "pets"
    assert run.final["encoded"] == 3 and run.final["seconds"] >= 0


def test_mlflow_keeps_them(lirdrec):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    assert lirdrec("train", "data", "--run", "runs/mine", "--track", "mlflow", *QUICK).exit_code == 0
    client, (run,) = logged("mine")
    assert run.info.status == "FINISHED" and run.data.params["training.epochs"] == "2"
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in losses] == [1, 2]
    assert 0 <= run.data.metrics["test/recall_at_20"] <= 1 and "valid/recall_at_20" in run.data.metrics
    Path("mlflow.db").unlink()
    assert_refused(lirdrec("train", "data", "--run", "runs/mine", "--track", "mlflow", *QUICK), ["mine"])
    assert not Path("mlflow.db").exists()


def test_wandb_keeps_them_offline(lirdrec, tmp_path):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    assert lirdrec("train", "data", "--run", "runs/mine", "--track", "wandb", *QUICK).exit_code == 0
    wandb.teardown()  # waits for the process that writes the file; at the end of a command this happens by itself
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for fact in (b"valid/recall@20", b"test/recall@20", b"training.epochs", b"lirdrec"):
        assert fact in content


def test_unknown_trackers_are_refused(lirdrec, monkeypatch):
    assert_refused(lirdrec("train", "data", "--run", "r", "--track", "aim"), ["aim", "mlflow", "wandb"])
    assert not Path("r").exists()
    assert_refused(lirdrec("experiment", "compare", "data", "--track", "aim"), ["aim"])
    with assert_error(ConfigError, mentions=["aim"]):
        tracker("aim", "x", {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with assert_error(ConfigError, mentions=["wandb", "lirdrec[wandb]"]):
        check_tracker("wandb")
    check_tracker(None)


def test_params_are_flat():
    assert flat({"a": {"b": {"c": 1}}, "d": [1, "x"], "e": None}) == {"a.b.c": 1, "d": '[1, "x"]', "e": None}
