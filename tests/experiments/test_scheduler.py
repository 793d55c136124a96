"""Experiments run in processes: killed, shared, failing; what is finished is never computed again."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lirdrec.cli.main import app
from lirdrec.errors import ConfigError, DataError
from lirdrec.experiments import worker
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.registry import Experiment
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.scheduler import compute, report
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.training.callbacks import Callback

from ..helpers import assert_error, assert_mentions, needs_sigkill
from .conftest import assert_facts, compute_cells_here

PATIENCE = 600.0  # seconds until a process that makes no progress is given up

TUNED: dict[str, Any] = {"options": ("trials", "tuned")}  # fields of an `Experiment`; the context sets `trials`

pytestmark = needs_sigkill


@pytest.fixture(autouse=True)
def planned_works(monkeypatch):
    """Workers find tests/experiments/planned."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, "it ended before"
        assert time.monotonic() < deadline, "it makes no progress"
        time.sleep(0.01)


def toy(data, works) -> Experiment:
    """An experiment of one trial for each work."""
    cells = [TrialSpec(f"planned.works:{name}", str(data), "", seed=n) for n, name in enumerate(works)]
    return Experiment("toy", "", lambda context, results: cells, lambda context, results: context.output, **TUNED)


def alive(needle: str) -> list[int]:
    """Processes whose command line holds a text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, state = (entry / "cmdline").read_bytes(), (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if needle.encode() in words and state != "Z":
            found.append(int(entry.name))
    return found


# ------------------------------------------------------------ cells that fail


def test_failed_trials_become_rows_and_the_others_continue(data, context):
    experiment = toy(data, ["fine", "killed", "fine", "too_big", "broken", "fine"])
    settings = context(jobs=2)
    results = compute(experiment, settings)
    assert [one.status for one in results] == [
        "done",
        "out of memory",
        "done",
        "out of memory",
        "failed",
        "done",
    ]
    assert [one.error for one in results][3:5] == ["MemoryError", "ValueError: the number 4 is unlucky"]
    assert [one.data for one in results.where(status="done")] == [{"square": n**2} for n in (0, 2, 5)]
    assert results.frame()["value"].to_list() == [0.0, 0.02, 0.05]
    assert all(one.peak_memory > 5 << 20 for one in results.where(status="done"))
    log = settings.output / "jobs" / f"{next(iter(results.where(status='failed'))).trial.key}.log"
    assert "Traceback" in log.read_text()


def test_a_cell_that_failed_is_tried_once_more_at_the_next_start(data, context):
    experiment, settings = toy(data, ["broken", "fine"]), context()
    assert [one.attempts for one in compute(experiment, settings)] == [1, 1]
    fine = settings.output / "cells" / f"{experiment.plan(settings, None)[1].key}.json"
    before = fine.stat().st_mtime_ns
    assert [one.attempts for one in compute(experiment, settings)] == [2, 1]
    assert [one.attempts for one in compute(experiment, settings)] == [2, 1]
    assert fine.stat().st_mtime_ns == before


def test_a_worker_ends_with_the_process_that_started_it(data, context):
    """Killed with SIGKILL, which cannot be prepared for, the parent leaves no worker behind."""
    settings = context()
    code = (
        "from lirdrec.experiments import scheduler; from lirdrec.experiments.trial_spec_and_result import TrialSpec\n"
        "from lirdrec.experiments.config import ExperimentConfig\n"
        "from lirdrec.experiments.registry import Experiment\n"
        f"cells = [TrialSpec('planned.works:forever', {str(data)!r}, '')]\n"
        "toy = Experiment('toy', '', lambda c, r: cells, lambda c, r: c.output)\n"
        f"scheduler.compute(toy, ExperimentConfig(({str(data)!r},), {str(settings.output)!r}, quiet=True))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
    )
    jobs = settings.output / "jobs"
    until(lambda: any("started" in log.read_text() for log in jobs.glob("*.log")), parent)
    assert len(alive(str(jobs))) == 1
    parent.kill()
    parent.wait(PATIENCE)
    until(lambda: not alive(str(jobs)))
    assert not list((settings.output / "cells").glob("*"))


def test_a_missing_dataset_is_reported_before_anything_runs(context, tmp_path):
    settings = context(datasets=(str(tmp_path / "nowhere"),))
    with assert_error(DataError, mentions=[tmp_path / "nowhere"]):
        compute(toy(tmp_path / "nowhere", ["fine"]), settings)
    assert not settings.output.exists()


def test_a_split_that_the_dataset_does_not_allow_is_a_row(data, context):
    cells = [
        TrialSpec("planned.works:fine", str(data), "", split={"split": "global_time"}),
        TrialSpec("planned.works:fine", str(data), ""),
    ]
    experiment = Experiment("toy", "", lambda context, results: cells, lambda context, results: context.output, **TUNED)
    first, second = compute(experiment, context())
    assert (first.status, second.status) == ("failed", "done")
    assert first.error is not None and "global_time" in first.error


# ------------------------------------------------------------ killed, and gone on with

MODELS = "popularity,lirdrec"
SETTINGS = [f"--set={key}={value}" for key, value in {"embedding_size": 8, "n_neighbors": 5, "n_layers": 1}.items()]


def command(data: Path, output: Path) -> list[str]:
    asked = f"experiment compare {data} --models {MODELS} --trials 1 --seeds 1 --epochs 2 --losses bpr --device cpu"
    return [sys.executable, "-m", "lirdrec", *asked.split(), *SETTINGS, "--output", str(output)]


def start(data: Path, output: Path, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "LIRDREC_CACHE": str(output.parent / "cache")}

    def hear_interrupts() -> None:  # what a shell starts in the background does not, nor do its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command(data, output), env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts, **options
    )


def here(data: Path, output: Path) -> str:
    """What the same command writes to the error stream, run in this process with its cells."""
    with pytest.MonkeyPatch.context() as patch:
        compute_cells_here(patch)
        done = CliRunner().invoke(app, command(data, output)[3:])
    assert done.exit_code == 0, done.output
    return done.stderr


def finish(process: subprocess.Popen) -> str:
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, said
    return said


def figures(output: Path) -> dict[str, object]:
    """What must be the same whatever happened on the way: all but times and memory."""
    return {
        one.trial.key: [
            one.status,
            one.figures,
            one.best_epoch,
            [{k: v for k, v in line.items() if k != "seconds"} for line in one.history],
        ]
        for one in Results.load(TrialStore(output))
    }


@pytest.fixture(scope="module")
def never_stopped(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "out"
    said = here(data, output)
    lines = [line for line in said.splitlines() if line.startswith("[")]
    # one trial and one final each
    assert [re.match(r"\[(\d)/4\]", line)[1] for line in lines] == list("1234")
    assert_facts(lines[0], ["popularity", "trial 1", "valid", "recall@20"])
    assert_facts(lines[3], ["lirdrec", "0", "test", "recall@20"])
    # how long the trial took, and how long all others will still take
    assert [len(re.findall(r"\d\s(?:s|min|h)\b", lines[index])) for index in (0, 3)] == [2, 1]
    return output


def done_before(said: str) -> int:
    """How many cells an earlier run has done, as the first line with a number says."""
    lines = [line for line in said.splitlines() if not line.startswith("[")]
    return next(int(found[1]) for line in lines if (found := re.match(r"\D*(\d+) ", line)))


def stamps(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "cells").glob("*.json")}


def test_stopped_and_killed_and_gone_on_with_by_two_is_never_stopped(data, never_stopped, tmp_path):
    output = tmp_path / "out"

    def begin_and(number: int, cells: int) -> str:
        process = start(data, output, start_new_session=True)

        # in the middle of a trial, or where we were too slow for that before the last one, which is held
        def midway() -> bool:
            done = len(stamps(output))
            return done == 3 or (done >= cells and any((output / "jobs").glob("*.log")))

        until(midway, process)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        until(lambda: not alive(str(output)))
        return said

    store = TrialStore(output)
    (last,) = (
        one.trial for one in Results.load(TrialStore(never_stopped)) if one.trial.final and one.trial.model == "lirdrec"
    )
    with store.claim(last) as mine:
        assert mine
        said = begin_and(signal.SIGINT, 1)
        assert str(output) in said and "Traceback" not in said
        begin_and(signal.SIGKILL, 2)
    before = stamps(output)
    assert 2 <= len(before) < 4

    both = [start(data, output) for _ in range(2)]
    said_by = [finish(process) for process in both]
    assert [done_before(text) for text in said_by] == [len(before)] * 2
    computed = [line.split("  ")[1:4] for text in said_by for line in text.splitlines() if line.startswith("[")]
    assert len(computed) == 4 - len(before), "each of the others is computed once, by one of the two"
    after = stamps(output)
    assert len(after) == 4 and {name: after[name] for name in before} == before
    assert figures(output) == figures(never_stopped)
    assert all(one.attempts == 1 for one in Results.load(TrialStore(output)))

    again = here(data, output)
    assert done_before(again) == 4 and "[" not in again and stamps(output) == after
    assert not list((output / "runs").glob("*")) and not list((output / "jobs").glob("*"))


# ------------------------------------------------------------ within a trial


class Killer(Callback):
    """Ends the process, as it were, in the middle of the training."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_epoch_end(self, line):
        if line["epoch"] == self.epoch:
            raise SystemExit


def test_a_killed_training_resumes_from_its_checkpoint(data, context, job):
    settings = context(training={"epochs": 6})
    trial = TrialSpec(
        "train", str(data), "lirdrec", settings.model_options, {"epochs": 6, "learning_rate": 1e-3}, seed=2
    )
    whole = worker.compute(job(trial, context(training={"epochs": 6}, output=settings.output / "whole")))
    given = job(trial, settings)
    given.checkpoint_seconds = 0.0
    with pytest.raises(SystemExit):
        given.fit(callbacks=(Killer(4),))
    given = job(trial, settings)
    found = worker.compute(given)
    assert given.callback is not None and given.callback.earlier > 0
    for name in ("figures", "best_epoch", "epochs", "options"):
        assert found[name] == whole[name]
    untimed = [[{**line, "seconds": 0} for line in one["history"]] for one in (found, whole)]
    assert untimed[0] == untimed[1] and len(untimed[0]) == 6


def test_a_trial_below_the_line_stops_there_also_after_a_kill(data, context, job):
    """The line is out of reach from epoch 3 on: three epochs, whether it is killed after any of them or not."""
    settings = context()
    limits = {"stop_below": [[1, 0.0], [3, 2.0]]}
    trial = TrialSpec("trial", str(data), "lirdrec", settings.model_options, {"epochs": 9}, extra=limits)
    whole = worker.compute(job(trial, context(output=settings.output / "whole")))
    assert whole["epochs"] == 3 and whole["data"] == {"stopped": "callback", "stopped_early": True}
    for epoch in (2, 3):
        given = job(trial, context(output=settings.output / str(epoch)))
        given.checkpoint_seconds = 0.0
        with pytest.raises(SystemExit):
            given.fit(callbacks=(Killer(epoch),))
        found = worker.compute(job(trial, context(output=settings.output / str(epoch))))
        assert (found["epochs"], found["figures"], found["data"]) == (3, whole["figures"], whole["data"])


def test_a_trial_ends_when_its_time_is_up(data, context, job):
    settings = context()
    trial = TrialSpec("trial", str(data), "lirdrec", settings.model_options, {"epochs": 500}, extra={"seconds": 1e-6})
    found = worker.compute(job(trial, settings))
    assert found["epochs"] == 1 and found["data"] == {"stopped": "callback", "stopped_early": False}


def test_the_peak_memory_is_that_of_the_process(tmp_path):
    """A parent that holds 300 MB makes no difference to what a child reports, an array of 200 MB in it does."""
    ballast = bytearray(300 << 20)
    code = (
        "import sys; a = bytearray(int(sys.argv[1]) << 20)\n"
        "from lirdrec.experiments.worker import peak_memory; print(peak_memory())"
    )

    def peak(size: int) -> int:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return int(subprocess.run([sys.executable, "-c", code, str(size)], env=environment, capture_output=True).stdout)

    small, large = peak(0), peak(200)
    assert 150 << 20 < large - small < 250 << 20
    assert len(ballast) == 300 << 20


def test_a_model_that_needs_features_gets_those_of_the_cell(data, context, job):
    from lirdrec.experiments.config import resolve_options

    trial = TrialSpec("train", str(data), "lirdrec", modalities=("text",), training={"epochs": 1})
    given = job(trial, context())
    assert resolve_options(given.trial)[0].modalities == ("text",)
    assert worker.compute(given)["options"]["model"]["modalities"] == ["text"]
    wrong = worker.compute(job(trial.with_(modalities=("sound",)), context()))
    assert wrong["status"] == "failed"
    assert_mentions(wrong["error"], ["planted", "sound", "image", "text"])


def test_settings_are_kept_beside_the_results(data, context):
    settings = context()
    compute(toy(data, ["fine"]), settings)
    kept = json.loads((settings.output / "experiment.json").read_text())
    assert kept["experiment"] == "toy" and kept["trials"] == 2
    assert isinstance(settings, ExperimentConfig)


def test_a_folder_is_one_experiment_s(data, context):
    """The report of another would take the place of its own."""
    settings = context()
    compute(toy(data, ["fine"]), settings)
    other = dataclasses.replace(toy(data, ["fine"]), name="compare")
    for ask in (compute, report):
        with assert_error(ConfigError, mentions=[settings.output, "toy", "compare"]):
            ask(other, settings)
    (settings.output / "experiment.json").write_text("{")
    with assert_error(ConfigError, mentions=[settings.output / "experiment.json"]):
        compute(other, settings)


def test_settings_of_another_folder_must_be_there(data, context, tmp_path):
    with assert_error(ConfigError, mentions=[tmp_path / "nowhere"]):
        compute(toy(data, ["fine"]), context(tuned=tmp_path / "nowhere"))
    assert not context().output.exists()


def test_a_report_of_what_is_done_computes_nothing(data, context):
    """Cells that failed are in it as they are; those without a result are left out."""
    calls = []
    cells = [TrialSpec(f"planned.works:{name}", str(data), "") for name in ("fine", "broken")]

    def plan(settings, results):
        yield from cells
        if len(results) == 2:  # what can be planned only when these have ended
            yield TrialSpec("planned.works:fine", str(data), "", seed=9)

    experiment = Experiment(
        "toy", "", plan, lambda settings, results: calls.append(list(results)) or settings.output, **TUNED
    )
    settings = context()
    with assert_error(ConfigError, mentions=[settings.output, "toy"]):
        report(experiment, settings)
    compute(experiment, settings)
    (settings.output / "cells" / f"{TrialSpec('planned.works:fine', str(data), '', seed=9).key}.json").unlink()
    before = sorted((settings.output / "cells").iterdir())
    report(experiment, settings)
    assert [(one.trial, one.status) for one in calls[0]] == [(cells[0], "done"), (cells[1], "failed")]
    assert sorted((settings.output / "cells").iterdir()) == before


def test_the_cells_of_the_last_plan_are_computed_in_its_order(data, context):
    """A final that follows from the first trial comes before the trials of the next model."""

    def plan(settings, results):
        for model in range(2):
            trial = TrialSpec("planned.works:fine", str(data), "", seed=model, variant="trial")
            yield trial
            if results.get(trial) is not None:
                yield TrialSpec("planned.works:fine", str(data), "", seed=model, variant="final")

    settings = context()
    compute(Experiment("toy", "", plan, lambda settings, results: settings.output, **TUNED), settings)
    written = sorted((settings.output / "cells").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    computed = [json.loads(path.read_text())["cell"] for path in written]
    assert [(one["seed"], one["variant"]) for one in computed] == [
        (0, "trial"),
        (0, "final"),
        (1, "trial"),
        (1, "final"),
    ]
