"""A small planted dataset on disk, experiments run without starting processes, and assertions on their reports."""

from __future__ import annotations

import html
import json
import re
import subprocess
import types
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.experiments import worker, worker_process
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.sealed_test_set import Preregistration, seal
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.files.atomic import write_json

SMALL = {"embedding_size": 8, "n_neighbors": 5, "n_layers": 1}


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Features tell what users like; some items lack their image."""
    dataset = make_synthetic_dataset(150, 80, 1500, {"image": 8, "text": 8}, groups=5, seed=4, missing={"image": 0.1})
    return dataset.save(tmp_path_factory.mktemp("experiments") / "data")


@pytest.fixture
def context(data, tmp_path) -> Callable[..., ExperimentConfig]:
    """`context(trials=2)`: a small context on the planted data."""

    def make(**changes) -> ExperimentConfig:
        given = {
            "datasets": (str(data),),
            "output": tmp_path / "out",
            "models": ("lirdrec",),
            "seeds": 1,
            "trials": 2,
            "model_options": SMALL,
            "training": {"epochs": 2},
            "device": "cpu",
            "cache": str(tmp_path / "cache"),
            "quiet": True,
        }
        return ExperimentConfig(**{**given, **changes})

    return make


def job_for(trial: TrialSpec, context: ExperimentConfig) -> worker.Job:
    """What a worker gets for a trial."""
    sealed = seal(trial.dataset, context.output, trial.split)
    sealed_folder = None
    if trial.final:
        Preregistration(sealed.sealed_folder).declare(trial)
        sealed_folder = sealed.sealed_folder
    runs = context.output / "runs" / trial.key
    return worker.Job(
        trial.with_(dataset=str(sealed.development)), context.output, runs, sealed_folder, context.device, context.cache
    )


@pytest.fixture
def inline() -> Callable[..., Results]:
    """`inline(plan, context)`: what `running.compute` does, one trial after the other in this process.

    `compute(trial) -> Result` may stand in for the work, `pick(waiting) -> int` for the order.
    """

    def run(plan, context, compute=None, pick=lambda waiting: 0) -> Results:
        store = TrialStore(context.output)
        planned: list[TrialSpec] = []
        while True:
            done = [result for result in map(store.result, planned) if result is not None]
            before = len(planned)
            for trial in plan(context, Results(done, "test", context.output)):
                if trial not in planned:
                    planned.append(trial)
            if len(planned) > before:
                continue
            if len(done) < sum(store.result(trial) is not None for trial in planned):
                continue  # results of an earlier run: the plan must see them
            waiting = [trial for trial in planned if store.result(trial) is None]
            if not waiting:
                return Results([r for r in map(store.result, planned) if r is not None], "test", context.output)
            trial = waiting[pick(waiting)]
            if compute is not None:
                store.record(compute(trial))
            else:
                values = worker.compute(job_for(trial, context))
                store.record(replace(TrialResult.from_json({"cell": trial.to_json(), **values}), trial=trial))

    return run


@pytest.fixture
def job() -> Callable[[TrialSpec, ExperimentConfig], worker.Job]:
    return job_for


@pytest.fixture
def scored() -> Callable[..., Callable[[TrialSpec], TrialResult]]:
    """`scored(value)`: a stand-in for the work; a cell's figure is `value(trial)`, on validation and test alike.

    With `folder`, per-user values go there, with the figure for a mean: the same users are easy for every trial.
    """

    def make(
        value: Callable[[TrialSpec], float], folder: Path | None = None, users: int = 200
    ) -> Callable[[TrialSpec], TrialResult]:
        easy = np.random.default_rng(0).normal(0, 0.3, users)
        names = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")

        def compute(trial: TrialSpec) -> TrialResult:
            figures, per_user = {"valid": dict.fromkeys(names, value(trial))}, None
            if trial.final:
                figures["test"] = figures["valid"]
            if trial.final and folder is not None:
                own = np.random.default_rng(int(trial.key[:8], 16)).normal(0, 0.05, users)
                values = value(trial) + easy - easy.mean() + own - own.mean()
                path = folder / "per_user" / f"{trial.key}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                pl.DataFrame({"user": np.arange(users), **dict.fromkeys(names, values)}).write_parquet(path)
                per_user = path.relative_to(folder).as_posix()
            return TrialResult(trial, figures=figures, per_user=per_user, best_epoch=3, epochs=5)

        return compute

    return make


@pytest.fixture
def words() -> Callable[[Path], str]:
    """`words(page)`: the text of a report, without its drawings."""

    def read(page: Path) -> str:
        text = page.read_text(encoding="utf-8")
        text = text[text.index('class="question"') :]
        text = re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", text, flags=re.S)
        return re.sub(r"\s+", " ", html.unescape(text))

    return read


@pytest.fixture
def answer() -> Callable[[Path], str]:
    """`answer(page)`: the answer of a report."""

    def read(page: Path) -> str:
        found = re.search(r'<div class="answer">(.*?)</div>', page.read_text(encoding="utf-8"), flags=re.S)
        assert found is not None
        return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", found[1]))).removeprefix("Answer").strip()

    return read


def _found(text: str, fact: object, start: int) -> int:
    """Where a fact ends that stands whole in the text after `start`; -1 where it does not."""
    word = str(fact)
    sign = r"(?<![+−-])" if word[:1].isdigit() else ""  # 0.5 is not in −0.5
    found = re.compile(rf"(?<!\w)(?<!\d\.){sign}{re.escape(word)}(?!\w|\.\d)").search(text, start)
    return found.end() if found else -1


def assert_facts(text: str, facts: Iterable[object]) -> None:
    """Check that names and numbers stand in the text in this order; those of a set may be in any order."""
    position = 0
    for group in facts:
        ends = {fact: _found(text, fact, position) for fact in (group if isinstance(group, set) else {group})}
        missing = [str(fact) for fact, end in ends.items() if end < 0]
        assert not missing, f"{missing} not mentioned, or not after the facts before them: {text}"
        position = max(ends.values())


def between(text: str, first: object, second: object) -> str:
    """What stands between a fact and another that follows it."""
    assert_facts(text, [first, second])
    start = _found(text, first, 0)
    return text[start : _found(text, second, start)]


def after_numbers(text: str) -> str:
    """What stands after the last number."""
    return re.split(r"\d", text)[-1]


def emphasized(page: Path) -> list[str]:
    """What the answer of a report prints in bold: its results."""
    found = re.search(r'<div class="answer">(.*?)</div>', page.read_text(encoding="utf-8"), flags=re.S)
    assert found is not None
    bold = re.findall(r"<strong>(.*?)</strong>", found[1], flags=re.S)
    return [re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", one))) for one in bold]


class Computed:
    """Replaces the process that computes a trial; a process for each would import torch each time."""

    stdin = None

    def __init__(self, command: list[str], **options: object):
        job, result = map(Path, command[-2:])
        write_json(result, worker.compute(worker.job_of(json.loads(job.read_text(encoding="utf-8")))))

    def poll(self) -> int:
        return 0


def compute_cells_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute trials in this process; test_scheduler.py tests what depends on processes."""
    monkeypatch.setattr(worker_process, "subprocess", types.SimpleNamespace(Popen=Computed, PIPE=subprocess.PIPE))
