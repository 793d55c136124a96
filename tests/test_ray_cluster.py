"""Trials, recommendations and a training on a Ray cluster of two nodes: what one machine gives, whatever dies.

Both nodes are on this machine, and start once for all tests here. Skipped where Ray is not installed.
"""

# ruff: noqa: F811

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lirdrec.cli.main import app
from lirdrec.data.dataset import Dataset
from lirdrec.errors import ConfigError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.experiments import ray_trials
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.experiment import Experiment
from lirdrec.experiments.results import Results
from lirdrec.experiments.scheduler import compute
from lirdrec.experiments.trial import TrialSpec
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.recommender import ray_ranking, ray_training
from lirdrec.recommender.batch import recommend_all
from lirdrec.recommender.fit import fit
from lirdrec.recommender.ray_training import fit_on_ray
from lirdrec.training.config import TrainConfig
from lirdrec.training.loop import Callback, StopTraining

from .experiments.conftest import data as planted  # noqa: F401  # fixtures
from .experiments.test_scheduler import alive, command, figures, here, stamps
from .export.conftest import data, grown, made  # noqa: F401
from .helpers import PATIENCE, assert_error, assert_refused
from .parallel.rank_program import planted as rank_data
from .ray_nodes import Nodes, patient_ray

ray = pytest.importorskip("ray", reason='the cluster is not tested: Ray is missing (pip install "lirdrec[ray]")')

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes that it finds in /proc")


@pytest.fixture(scope="module")
def started() -> Iterator[Nodes]:
    with patient_ray(), pytest.MonkeyPatch.context() as patch:
        path = [str(Path(__file__).parent / "experiments"), *sys.path]  # with `planned.works`
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        nodes = Nodes()
        try:
            yield nodes
        finally:
            nodes.cluster.shutdown()


@pytest.fixture
def nodes(started) -> Nodes:
    started.complete()
    return started


# ------------------------------------------------------------ trials


def computed(cells: list[TrialSpec], output: Path, nodes: Nodes) -> Results:
    """The results of an experiment of these trials, on the cluster."""
    toy = Experiment("toy", "", lambda config, results: cells, lambda config, results: config.output)
    return compute(toy, ExperimentConfig((cells[0].dataset,), output, ray=nodes.address, device="cpu", quiet=True))


@pytest.mark.slow  # an experiment three times
def test_an_interrupted_experiment_on_a_cluster_continues_without_it(nodes, planted, tmp_path):
    output = tmp_path / "out"

    def hear_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [*command(planted, output), "--ray-address", nodes.address],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "LIRDREC_CACHE": str(tmp_path / "cache")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    deadline = time.monotonic() + PATIENCE
    while len(stamps(output)) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode in (130, 0) and "Traceback" not in said, said
    assert not alive(str(output))
    here(planted, output)
    here(planted, tmp_path / "alone")
    assert figures(output) == figures(tmp_path / "alone")
    assert not list((output / "runs").glob("*")) and not list((output / "jobs").glob("*"))


def test_a_trial_is_given_what_it_gets_here_and_survives_the_death_of_its_task(nodes, planted, tmp_path):
    output = tmp_path / "out"
    (one,) = computed([TrialSpec("planned.works:seen", str(planted), "", extra={"times": 1})], output, nodes)
    assert (one.status, one.attempts, one.data["deaths"]) == ("done", 1, 1)
    assert (one.data["vault"], one.data["test"]) == (False, 0)
    here_given = str(planted), str(output / "sealed")
    assert not [text for text in one.data["given"] if any(path in text for path in here_given)]
    assert not ray.is_initialized()


@pytest.mark.slow  # three processes, one after another
def test_a_trial_that_dies_again_and_again_has_failed(nodes, planted, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_trials, "RETRIES", 1)
    cells = [
        TrialSpec("planned.works:seen", str(planted), "", extra={"times": 9}),
        TrialSpec("planned.works:killed", str(planted), ""),
    ]
    always, memory = computed(cells, tmp_path / "out", nodes)
    assert (always.status, always.attempts) == ("failed", 1)
    assert "2" in str(always.error)
    assert memory.status == "out of memory"


def test_the_trial_of_a_dead_node_is_computed_on_another(nodes, planted, tmp_path):
    extra = {"mark": str(tmp_path / "mark"), "first": nodes.first}
    cells = [TrialSpec("planned.works:node_killed", str(planted), "", seed=seed, extra=extra) for seed in range(2)]
    results = computed(cells, tmp_path / "out", nodes)
    assert [(one.status, one.data, one.attempts) for one in results] == [("done", {"node": nodes.first}, 1)] * 2


def test_a_machine_that_does_not_see_the_folder_is_named(tmp_path):
    with assert_error(ConfigError, mentions=[tmp_path / "job.json", "--output"]):
        ray_trials.run_worker(str(tmp_path / "job.json"), "", "", 1)


# ------------------------------------------------------------ recommendations


def node_of(process: int) -> int:
    """The process id of the node, "raylet", that has started a process of its own."""
    while " (raylet) " not in (facts := Path(f"/proc/{process}/stat").read_text()):
        process = int(facts.rpartition(")")[2].split()[1])
    return process


def dying(folder: str, first: int) -> Any:
    """Stands in for `ray_ranking._rank`: the first two tasks kill a process, then the second node."""

    def rank_or_die(held: Any, rows: range, threads: int) -> Any:
        mark, node_mark = Path(folder) / "process", Path(folder) / "node"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if (node := node_of(os.getpid())) != first:
            node_mark.touch()
            os.kill(node, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        while not node_mark.exists():
            time.sleep(0.05)
        return ray_ranking._rank(held, rows, threads)  # that of the module as the task imports it

    return rank_or_die


def test_the_file_of_all_users_has_the_bytes_of_one_machine_whatever_dies(nodes, grown, tmp_path, monkeypatch):
    options: dict[str, Any] = {"k": 7, "shard_users": 10, "new_items": "share=0.2"}
    recommend_all(grown, tmp_path / "here.parquet", **options)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_ranking, "_rank", dying(str(tmp_path), nodes.first))
    done = recommend_all(grown, tmp_path / "there.parquet", ray=nodes.address, **options)
    assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    assert (done.users, done.resumed) == (45, 0) and not ray.is_initialized()
    assert (tmp_path / "process").exists() and (tmp_path / "node").exists()


def test_only_lists_of_all_users_are_ranked_on_a_cluster(tmp_path):
    done = CliRunner().invoke(app, ["recommend", str(tmp_path), "--user", "1", "--ray-address", "auto"])
    assert_refused(done, ["--ray-address", "--all", "--output"])


# ------------------------------------------------------------ training


def losing_a_node(folder: str, first: int) -> Any:
    """Stands in for `ray_training._train_rank`: in epoch 2 the rank on another node than the first kills that node.

    It is replaced in this process; the modules that the ranks import are as they are.
    """

    def train(job: dict[str, Any]) -> None:
        fit, sizes = ray_training.fit_on_ranks, Path(folder) / "sizes"

        class Killer(Callback):
            def on_epoch_end(self, line: dict[str, Any]) -> None:
                if line["epoch"] == 2 and (node := node_of(os.getpid())) != first:
                    os.kill(node, signal.SIGKILL)
                    os.kill(os.getpid(), signal.SIGKILL)

        def fit_or_die(ranks: Any, data: Any, *, callbacks: Any, **options: Any) -> Any:
            if ranks.is_first:
                sizes.open("a").write(f"{ranks.size}\n")
            return fit(ranks, data, callbacks=(*callbacks, Killer()), **options)

        ray_training.fit_on_ranks = fit_or_die
        ray_training._train_rank(job)

    return train


@pytest.mark.slow  # Ray Train starts twice, and waits until the dead node is noticed
def test_a_training_that_lost_a_node_continues_with_the_ranks_that_are_left(nodes, tmp_path, monkeypatch):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_training, "_train_rank", losing_a_node(str(tmp_path), nodes.first))
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(int(PATIENCE)))
    data = rank_data()
    data.save(tmp_path / "data")
    training = TrainConfig(epochs=3, batch_size=256, metric="recall@5", seed=2)
    config = LightGCNConfig(embedding_size=8)
    arguments: dict[str, Any] = {"config": config, "training": training, "cache": False}
    done = fit_on_ray(nodes.address, tmp_path / "data", run=tmp_path / "run", **arguments)
    alone = fit(Dataset.load(tmp_path / "data"), progress=False, **arguments)
    assert (tmp_path / "sizes").read_text().split() == ["2", "1"]
    assert done.info["devices"] == 1 and done.info["metrics"]["epochs"] == 3
    assert evaluate(done, data).values == pytest.approx(evaluate(alone, data).values, abs=1e-5)
    torch.testing.assert_close(done.scorer.tensors(), alone.scorer.tensors(), rtol=1e-3, atol=1e-5)
    assert not list(tmp_path.glob(".run-*")) and not ray.is_initialized()


def test_ctrl_c_stops_a_training_after_the_epoch(tmp_path):
    class Trainer:
        def fit(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            while not (tmp_path / "stop").exists():
                time.sleep(0.01)

    assert ray_training._fitted(Trainer(), tmp_path / "stop")
    with pytest.raises(StopTraining):
        ray_training._StopFile(str(tmp_path / "stop")).on_epoch_end({})
    ray_training._StopFile(str(tmp_path / "go")).on_epoch_end({})


@pytest.mark.parametrize(
    ("options", "facts"),
    [({"callbacks": (Callback(),)}, ["track"]), ({"address": "ray://x:1"}, ["ray://x:1", "HOST:PORT"])],
)
def test_what_a_training_on_a_cluster_cannot_do_is_refused_at_once(tmp_path, options, facts):
    with assert_error(ConfigError, mentions=facts):
        fit_on_ray(**{"address": "auto", "dataset": tmp_path, "run": tmp_path / "run", **options})
