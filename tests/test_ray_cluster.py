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
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
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
from lirdrec.experiments.registry import Experiment
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.scheduler import compute
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.ray_cluster import LostTaskError, RayCluster
from lirdrec.recommender import ray_ranking, ray_training
from lirdrec.recommender.fit import fit
from lirdrec.recommender.ray_training import fit_on_ray
from lirdrec.recommender.recommend_all import recommend_all
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.callbacks import Callback, StopTraining
from lirdrec.training.config import TrainConfig

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


@pytest.mark.parametrize(("address", "is_local"), [("local", True), ("auto", False)])
def test_a_ray_that_cannot_be_started_here_is_no_cluster_that_does_not_answer(monkeypatch, address, is_local):
    def init(**options):
        raise RuntimeError("no room left")

    library = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setattr("lirdrec.ray_cluster.import_ray", lambda: library)
    with assert_error(ConfigError, mentions=["no room left"]) as caught:
        RayCluster(address).connect(1)
    assert ("ray start --head" in str(caught.value)) != is_local


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
    assert (one.data["sealed_folder"], one.data["test"]) == (False, 0)
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


def test_the_command_ranks_all_users_on_the_cluster_that_it_names(made, tmp_path, monkeypatch):
    asked = []

    def ranked_here(address: str, ranking: Any, shards: Any) -> Any:
        asked.append(address)
        yield from ((rows, ranking.shard(rows)) for rows in shards)

    monkeypatch.setattr("lirdrec.recommender.recommend_all.rank_on_ray", ranked_here)
    made().save(tmp_path / "run")
    for name, options in (("there.csv", ["--ray-address", "head:6379"]), ("here.csv", [])):
        command = ["recommend", str(tmp_path / "run"), "--all", "-k", "3", "--output", str(tmp_path / name)]
        assert CliRunner().invoke(app, [*command, *options]).exit_code == 0
    assert asked == ["head:6379"]
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_only_lists_of_all_users_are_ranked_on_a_cluster(tmp_path):
    done = CliRunner().invoke(app, ["recommend", str(tmp_path), "--user", "1", "--ray-address", "auto"])
    assert_refused(done, ["--ray-address", "--all", "--output"])


# ------------------------------------------------------------ training


class NodeKiller(Callback):
    """In epoch 2, on another node than the first, kills that node."""

    def __init__(self, first: int):
        self.first = first

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        if line["epoch"] == 2 and (node := node_of(os.getpid())) != self.first:
            os.kill(node, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


class Interrupter(Callback):
    """In epoch 1 presses Ctrl-C in the process that started the training, and waits until it has noticed."""

    def __init__(self, process: int, stop: Path):
        self.process, self.stop = process, stop

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        if line["epoch"] == 1:
            os.kill(self.process, signal.SIGINT)
            while not self.stop.exists():
                time.sleep(0.05)


def training_with(callback: Callable[[dict[str, Any], bool], Callback], sizes: Path) -> Any:
    """Stands in for `ray_training._train_rank`: a rank trains with one more callback; the first notes the ranks.

    `fit_on_ranks` is replaced in this process; the modules that the ranks import are as they are.
    """

    def train(job: dict[str, Any]) -> None:
        fit = ray_training.fit_on_ranks

        def fit_with(ranks: Any, data: Any, *, callbacks: Any, **options: Any) -> Any:
            if ranks.is_first:
                sizes.open("a").write(f"{ranks.size}\n")
            return fit(ranks, data, callbacks=(callback(job, ranks.is_first), *callbacks), **options)

        ray_training.fit_on_ranks = fit_with
        ray_training._train_rank(job)

    return train


TRAINING = TrainConfig(epochs=3, batch_size=256, metric="recall@5", seed=2)
SETTINGS: dict[str, Any] = {"config": LightGCNConfig(embedding_size=8), "training": TRAINING, "cache": False}


@pytest.fixture
def trained_on(nodes, tmp_path, monkeypatch) -> Callable[..., Any]:
    """`trained_on(callback)`: the result of a training on both nodes, each rank with a callback of its own."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(int(PATIENCE)))
    rank_data().save(tmp_path / "data")

    def train(callback: Callable[[dict[str, Any], bool], Callback]) -> Any:
        monkeypatch.setattr(ray_training, "_train_rank", training_with(callback, tmp_path / "sizes"))
        return fit_on_ray(nodes.address, tmp_path / "data", run=tmp_path / "run", **SETTINGS)

    return train


@pytest.mark.slow  # Ray Train starts twice, and waits until the dead node is noticed
def test_a_training_that_lost_a_node_continues_with_the_ranks_that_are_left(nodes, trained_on, tmp_path):
    first = nodes.first
    done = trained_on(lambda job, is_first: NodeKiller(first))
    data = Dataset.load(tmp_path / "data")
    alone = fit(data, progress=False, **SETTINGS)
    assert (tmp_path / "sizes").read_text().split() == ["2", "1"]
    assert done.info["devices"] == 1 and done.info["metrics"]["epochs"] == 3
    assert evaluate(done, data).values == pytest.approx(evaluate(alone, data).values, abs=1e-5)
    torch.testing.assert_close(done.scorer.tensors(), alone.scorer.tensors(), rtol=1e-3, atol=1e-5)
    assert not list(tmp_path.glob(".run-*")) and not ray.is_initialized()


@pytest.mark.slow  # starts Ray Train
def test_a_training_stopped_on_a_cluster_continues_without_it(trained_on, tmp_path):
    this = os.getpid()
    done = trained_on(lambda job, first: Interrupter(this, Path(job["folder"]) / "stop") if first else Callback())
    assert (done.info["stopped"], done.info["devices"], done.info["metrics"]["epochs"]) == ("interrupted", 2, 1)
    assert not list(tmp_path.glob(".run-*"))
    data = Dataset.load(tmp_path / "data")
    resumed = fit(data, run=tmp_path / "run", resume=True, progress=False, **SETTINGS)
    alone = fit(data, progress=False, **SETTINGS)
    assert resumed.info["metrics"]["epochs"] == 3
    torch.testing.assert_close(resumed.scorer.tensors(), alone.scorer.tensors(), rtol=1e-3, atol=1e-5)


def test_the_command_trains_on_the_cluster_that_it_names(tmp_path, monkeypatch):
    asked = []

    def fit_here(address: str, dataset: Path, *, devices: int, device: str, **options: Any) -> Any:
        asked.append((address, dataset, devices, device))
        return fit(Dataset.load(dataset), **options)

    monkeypatch.setattr(ray_training, "fit_on_ray", fit_here)
    rank_data().save(tmp_path / "data")
    command = [
        "train",
        str(tmp_path / "data"),
        "--run",
        str(tmp_path / "run"),
        "--model",
        "lightgcn",
        "--set",
        "epochs=1",
    ]
    done = CliRunner().invoke(app, [*command, "--ray-address", "head:6379", "--devices", "3"])
    assert done.exit_code == 0
    assert asked == [("head:6379", tmp_path / "data", 3, "auto")]
    assert Recommender.load(tmp_path / "run").info["metrics"]["epochs"] == 1


class Trainer:
    """Stands in for that of Ray Train: Ctrl-C is pressed, a run folder is written or not, a process dies or not."""

    def __init__(self, folder: Path, written: bool, died: bool = False):
        self.folder, self.written, self.died = folder, written, died

    def fit(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not (self.folder / "stop").exists():
            time.sleep(0.01)
        if self.written:
            (self.folder / "written").touch()
        if self.died:
            raise LostTaskError("a process died")


def test_ctrl_c_stops_a_training_after_the_epoch(tmp_path):
    assert ray_training._fitted(Trainer(tmp_path, written=True), tmp_path)
    with pytest.raises(StopTraining):
        ray_training._StopFile(tmp_path / "stop").on_epoch_end({})
    ray_training._StopFile(tmp_path / "go").on_epoch_end({})


@pytest.mark.parametrize("died", [False, True])
def test_a_training_stopped_without_a_run_folder_of_its_own_gives_none(tmp_path, died):
    with pytest.raises(KeyboardInterrupt):
        ray_training._fitted(Trainer(tmp_path, written=False, died=died), tmp_path)


@pytest.mark.parametrize(
    ("options", "facts"),
    [({"callbacks": (Callback(),)}, ["track"]), ({"address": "ray://x:1"}, ["ray://x:1", "HOST:PORT"])],
)
def test_what_a_training_on_a_cluster_cannot_do_is_refused_at_once(tmp_path, options, facts):
    with assert_error(ConfigError, mentions=facts):
        fit_on_ray(**{"address": "auto", "dataset": tmp_path, "run": tmp_path / "run", **options})
