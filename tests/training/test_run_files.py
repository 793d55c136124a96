"""What a training leaves in its run folder: history, curves, TensorBoard events; and training in bfloat16."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import RunFolderError, TrainingError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.models.popularity import PopularityConfig
from lirdrec.recommender.fit import fit
from lirdrec.training.callbacks import HistoryFile, plot_curves
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error

CONFIG = LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=5)
TRAINING = TrainConfig(epochs=3, batch_size=512, learning_rate=5e-3)
QUIET = {"progress": False, "cache": False, "device": "cpu"}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_synthetic_dataset(120, 150, 2400, {"image": 6, "text": 5}, groups=10, noise=0.5, seed=3)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(dataset, CONFIG, replace(TRAINING, tensorboard=has_tensorboard()), run=folder, **QUIET)
    return folder


def has_tensorboard() -> bool:
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def test_history_has_a_line_for_each_epoch(run):
    history = lines(run)
    assert [line["epoch"] for line in history] == [1, 2, 3]
    for line in history:
        assert line["loss"] == pytest.approx(line["ranking"] + line["regularization"], rel=1e-5)
        assert set(line["valid"]) == {"recall@20", "ndcg@20"}
        assert 0 < line["seconds"] <= line["seconds_with_validation"]
    assert history[0]["loss"] > history[2]["loss"]


def test_metrics_are_those_of_the_best_epoch(run):
    history, metrics = lines(run), json.loads((run / "metrics.json").read_text())
    best = max(history, key=lambda line: line["valid"]["recall@20"])
    assert metrics == {"best_epoch": best["epoch"], "epochs": 3, "valid": best["valid"]}


def test_curves_are_an_image(run):
    import matplotlib.image

    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = matplotlib.image.imread(run / "curves.png")
    assert pixels.shape[0] > 300 and pixels.shape[1] > 800
    drawn = np.abs(pixels[..., :3] - 1).max(-1) > 0.3
    halves = np.array_split(drawn, 2, axis=1)
    assert all(half.mean() > 0.005 for half in halves)  # something is drawn on both sides


def test_curves_of_few_figures(tmp_path):
    plot_curves([{"epoch": 1, "loss": 0.7}], "recall@20", tmp_path / "one.png")
    plot_curves(
        [{"epoch": 1, "loss": 0.7, "valid": {}}, {"epoch": 2, "loss": 0.6, "valid": {"recall@20": 0.1}}],
        "recall@20",
        tmp_path / "two.png",
    )
    assert {file.name for file in tmp_path.iterdir()} == {"one.png", "two.png"}


def test_tensorboard_holds_the_figures(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "valid/recall@20", "valid/ndcg@20"}
    for tag, figure in [("loss", lambda line: line["loss"]), ("valid/ndcg@20", lambda line: line["valid"]["ndcg@20"])]:
        assert [(e.step, e.value) for e in events.Scalars(tag)] == [
            (line["epoch"], pytest.approx(figure(line), rel=1e-6)) for line in lines(run)
        ]


def test_the_history_file_is_rewritten_to_the_epochs_of_the_checkpoint(tmp_path):
    path = tmp_path / "folder" / "history.jsonl"
    past = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4, "valid": {"recall@20": 0.1}}]
    HistoryFile(path, past)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"epoch": 3, "loss": 0.3}\n{"epoch": 4, "lo')  # after the last checkpoint, and torn
    HistoryFile(path, past).append({"epoch": 3, "loss": 0.35})
    assert lines(path.parent) == [*past, {"epoch": 3, "loss": 0.35}]
    HistoryFile(path)
    assert path.read_text() == ""


def test_bfloat16_runs_and_learns(dataset):
    popularity = evaluate(fit(dataset, PopularityConfig(), **QUIET), dataset)["recall@20"]
    training = replace(TRAINING, epochs=12, precision="bfloat16")
    found = fit(dataset, CONFIG, training, **QUIET)
    whole = fit(dataset, CONFIG, replace(training, precision="float32"), **QUIET)
    assert found.scorer.user_vectors.dtype == found.scorer.item_vectors.dtype == whole.scorer.user_vectors.dtype
    assert not torch.equal(found.scorer.user_vectors, whole.scorer.user_vectors)  # it did compute in bfloat16
    assert evaluate(found, dataset)["recall@20"] > popularity + 0.2


@pytest.mark.parametrize("options", [{"dct": None}, {"dct": "matrix"}, {"pwc": None}, {"pwc": "logits"}], ids=str)
def test_bfloat16_with_every_branch(dataset, options):
    config = replace(CONFIG, edge_dropout=0.1, **options)
    found = fit(dataset, config, replace(TRAINING, epochs=1, precision="bfloat16"), **QUIET)
    assert torch.isfinite(found.scorer.item_vectors).all()


def test_a_training_that_explodes_leaves_no_finished_run(dataset, tmp_path):
    training = replace(TRAINING, learning_rate=1e30)
    with assert_error(TrainingError, mentions=["loss", "learning_rate", 1e30, "gradient_clip"]) as caught:
        fit(dataset, CONFIG, training, run=tmp_path / "run", **QUIET)
    assert re.search(r"\bepoch [12]\b", str(caught.value))
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_more_epochs_can_be_asked_for(dataset, run, tmp_path):
    """Three epochs and then three more are six."""
    whole = fit(dataset, CONFIG, replace(TRAINING, epochs=6), **QUIET)
    folder = tmp_path / "run"
    fit(dataset, CONFIG, TRAINING, run=folder, **QUIET)
    with assert_error(RunFolderError, mentions=[folder]):
        fit(dataset, CONFIG, replace(TRAINING, epochs=6), run=folder, **QUIET)
    more = fit(dataset, CONFIG, replace(TRAINING, epochs=6), run=folder, resume=True, **QUIET)
    assert [line["epoch"] for line in lines(folder)] == [1, 2, 3, 4, 5, 6]
    for name, tensor in whole.scorer.tensors().items():
        assert torch.equal(tensor, more.scorer.tensors()[name]), name


def test_a_new_training_forgets_the_old_one(dataset, tmp_path):
    folder = tmp_path / "run"
    fit(dataset, CONFIG, replace(TRAINING, seed=1), run=folder, **QUIET)
    again = fit(dataset, CONFIG, TRAINING, run=folder, overwrite=True, **QUIET)
    fresh = fit(dataset, CONFIG, TRAINING, **QUIET)
    assert torch.equal(again.scorer.item_vectors, fresh.scorer.item_vectors)
    assert [line["epoch"] for line in lines(folder)] == [1, 2, 3]
