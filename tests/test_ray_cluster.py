"""Trials and recommendations on a Ray cluster of two nodes: what one machine gives, whatever is killed on the way.

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

from lirdrec.errors import ConfigError
from lirdrec.experiments import ray_trials
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.experiment import Experiment
from lirdrec.experiments.results import Results
from lirdrec.experiments.scheduler import compute
from lirdrec.experiments.trial import TrialSpec
from lirdrec.recommender import ray_ranking
from lirdrec.recommender.batch import recommend_all

from .experiments.conftest import data as planted  # noqa: F401  # fixtures
from .experiments.test_scheduler import alive, command, figures, here, stamps
from .export.conftest import data, grown, made  # noqa: F401
from .helpers import PATIENCE, assert_error
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


def test_a_trial_is_given_what_it_gets_here_and_survives_the_death_of_its_task(nodes, planted, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_trials, "RETRIES", 1)
    cells = [
        TrialSpec("planned.works:seen", str(planted), ""),
        TrialSpec("planned.works:task_killed", str(planted), "", seed=1, extra={"times": 1}),
        TrialSpec("planned.works:task_killed", str(planted), "", seed=2, extra={"times": 9}),
        TrialSpec("planned.works:killed", str(planted), ""),
    ]
    output = tmp_path / "out"
    seen, once, always, memory = computed(cells, output, nodes)
    assert (seen.status, seen.data["vault"], seen.data["test"]) == ("done", False, 0)
    here_given = str(planted), str(output / "sealed")
    assert not [text for text in seen.data["given"] if any(path in text for path in here_given)]
    assert (once.status, once.data, once.attempts) == ("done", {"deaths": 1}, 1)
    assert (always.status, always.attempts) == ("failed", 1)
    assert "2" in str(always.error)
    assert memory.status == "out of memory"
    assert not ray.is_initialized()


def test_the_trial_of_a_dead_node_is_computed_on_another(nodes, planted, tmp_path):
    extra = {"mark": str(tmp_path / "mark"), "first": nodes.first}
    cells = [TrialSpec("planned.works:node_killed", str(planted), "", seed=seed, extra=extra) for seed in range(2)]
    results = computed(cells, tmp_path / "out", nodes)
    assert [(one.status, one.data, one.attempts) for one in results] == [("done", {"node": nodes.first}, 1)] * 2


def test_a_machine_that_does_not_see_the_folder_is_named(tmp_path):
    with assert_error(ConfigError, mentions=[tmp_path / "job.json", "--output"]):
        ray_trials.run_worker(str(tmp_path / "job.json"), "", "", 1)


# ------------------------------------------------------------ recommendations


def dying(folder: str, first: str) -> Any:
    """Stands in for `ray_ranking._rank`: the first two tasks kill a process, then the second node."""
    rank = ray_ranking._rank

    def rank_or_die(held: Any, rows: range, threads: int) -> Any:
        mark, node_mark = Path(folder) / "process", Path(folder) / "node"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ["RAY_NODE_ID"] != first:
            node_mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        while not node_mark.exists():
            os.sched_yield()
        return rank(held, rows, threads)

    return rank_or_die


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_the_file_of_all_users_has_the_bytes_of_one_machine(nodes, grown, tmp_path, monkeypatch, ending):
    options: dict[str, Any] = {"k": 7, "shard_users": 10, "new_items": "share=0.2"}
    recommend_all(grown, tmp_path / f"here{ending}", **options)
    if ending == ".csv":
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        monkeypatch.setattr(ray_ranking, "_rank", dying(str(tmp_path), nodes.first))
    done = recommend_all(grown, tmp_path / f"there{ending}", ray=nodes.address, **options)
    assert (tmp_path / f"there{ending}").read_bytes() == (tmp_path / f"here{ending}").read_bytes()
    assert (done.users, done.resumed) == (45, 0) and not ray.is_initialized()
    assert (tmp_path / "node").exists() == (ending == ".csv")
