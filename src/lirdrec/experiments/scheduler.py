"""Scheduler of an experiment: plan trials, compute those without results, and plan again, until there is no new trial.

Then the report is written. Each trial runs in its own process (`worker`) on this machine or on a Ray cluster
(`ray_trials`); these processes end when the scheduler ends. An interrupted experiment resumes when it is started again.
Several processes may run one experiment at once: each trial is locked by the process that computes it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lirdrec.errors import ConfigError, DataError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.progress import Progress
from lirdrec.experiments.ray_trials import RayProcess, RayTrials
from lirdrec.experiments.registry import Experiment
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.sealed_test_set import Preregistration, seal
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec, fingerprint
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.experiments.worker_process import last_line, start_worker, was_killed
from lirdrec.files.atomic import atomic_write, make_folder, write_json
from lirdrec.option_names import option_name

POLL = 0.2  # seconds between checks of the running trials
POLL_OTHERS = 1.0  # seconds between checks of the trials of other processes
SETTINGS = "experiment.json"
TRIES = 2  # attempts of a trial: a failed one is tried once more when the experiment is started again


def run(experiment: Experiment, config: ExperimentConfig) -> Path:
    """Compute all trials of an experiment and write its report; return the path of the HTML page.

    Args:
        experiment: the experiment.
        config: its configuration. The folder `config.output` may have results of the same experiment, interrupted or
            with other settings; results of equal trials are used, and only a failed trial is computed again, once.

    Raises:
        ConfigError, DataError: a dataset or model is unknown, or options differ from a declaration (the options of a
            final model) whose test has been scored.
        RunFolderError: a file in `config.output` is damaged.
        KeyboardInterrupt: Ctrl-C was pressed; the same call resumes the experiment.
    """
    return _write_report(experiment, config, compute(experiment, config))


def report(experiment: Experiment, config: ExperimentConfig) -> Path:
    """Write the report of the results so far, without computing any trial; return the path of the HTML page.

    Raises:
        ConfigError: there are no results with this configuration, or it is wrong, as for `run`.
        DataError, RunFolderError: as for `run`.
    """
    _check(experiment, config)
    started = (config.output / "cells").is_dir()  # otherwise planning would write tuning proposals
    results = _Run(experiment, replace(config, quiet=True)).known() if started else Results()
    if not len(results):
        raise ConfigError(
            f"{config.output}: there is no result of '{experiment.name}' with these settings yet, so there is no"
            " report; run the experiment first"
        )
    return _write_report(experiment, config, results)


def _write_report(experiment: Experiment, config: ExperimentConfig, results: Results) -> Path:
    """Write the report, `runs.parquet` with a row per trial, and `histories.parquet` with the metrics of each epoch."""
    for name, frame in (("runs", results.runs()), ("histories", results.histories())):
        with atomic_write(config.output / f"{name}.parquet") as temporary:
            frame.write_parquet(temporary)
    return experiment.report(config, results)


def compute(experiment: Experiment, config: ExperimentConfig) -> Results:
    """Compute all trials of an experiment, without a report; return their results in the order of the plan.

    Raises:
        ConfigError, DataError, RunFolderError, KeyboardInterrupt: as for `run`.
    """
    _check(experiment, config)
    with ExitStack() as stack:
        cluster = None
        if config.ray is not None:
            cluster = stack.enter_context(RayTrials(config.ray, config.jobs, gpus=config.device != "cpu"))
        make_folder(config.output)
        _write_settings(experiment, config)
        return _Run(experiment, config, cluster).until_done()


def _write_settings(experiment: Experiment, config: ExperimentConfig) -> None:
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
    write_json(config.output / SETTINGS, {"experiment": experiment.name, **settings})


def _check(experiment: Experiment, config: ExperimentConfig) -> None:
    """Raise ConfigError or DataError if the experiment cannot run with this configuration.

    The reasons: the output folder belongs to another experiment; options of the evaluation have no effect; a dataset,
    feature matrix, model or the folder `config.tuned` is unknown.
    """
    from lirdrec.experiments.tuning import feature_names
    from lirdrec.models.registry import model_type

    name, found = experiment.name, _name_of(config.output)
    if found not in (None, name):
        tuned = f", and take the settings of this folder: --config-from {config.output}" if found == "compare" else ""
        raise ConfigError(
            f"{config.output} has the results of the experiment '{found}'; choose another --output for '{name}'{tuned}"
        )
    for option in (*config.evaluation, *config.special):
        if option not in (*experiment.evaluation, *experiment.options):
            raise ConfigError(f"{option_name(option)}: this option has no effect in the experiment '{name}'; omit it")
    for dataset in config.datasets:
        fingerprint(dataset)  # raises if the dataset does not exist
        for label, names in config.feature_sets.items():
            available = feature_names(dataset)
            for name in names:
                if name not in available:
                    listed = ", ".join(available) or "none"
                    raise ConfigError(
                        f"feature set '{label}': '{name}' is not one of the features of {dataset}, which are: {listed}"
                    )
    for model in config.models:
        model_type(model)
    if config.tuned is not None and not (config.tuned / "cells").is_dir():
        raise ConfigError(
            f"{config.tuned}: no results of an experiment; give the folder of a 'compare' experiment with --config-from"
        )


def _name_of(folder: Path) -> str | None:
    """Return the name of the experiment whose results are in a folder; None for a new folder."""
    try:
        return str(json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["experiment"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / SETTINGS}: the file is damaged ({error}); delete it to continue") from None


class _Files:
    """The paths of a worker's files (job, result and log) and of the folder for its checkpoints."""

    def __init__(self, folder: Path, key: str):
        jobs = folder / "jobs"
        jobs.mkdir(parents=True, exist_ok=True)
        self.job, self.result, self.log = jobs / f"{key}.json", jobs / f"{key}.result.json", jobs / f"{key}.log"
        self.runs = folder / "runs" / key


@dataclass
class _Worker:
    """A process that computes a trial, with its files and the lock on the trial."""

    trial: TrialSpec
    process: subprocess.Popen[bytes] | RayProcess
    claim: ExitStack
    files: _Files
    attempt: int


class _Run:
    def __init__(self, experiment: Experiment, config: ExperimentConfig, cluster: RayTrials | None = None):
        self.experiment, self.config, self.cluster = experiment, config, cluster
        self.jobs = config.jobs or 1 if cluster is None else cluster.jobs
        self.store = TrialStore(config.output)
        self.planned: dict[str, TrialSpec] = {}
        self.again: dict[str, int] = {}  # key → attempts so far of trials that failed at an earlier start
        self.running: dict[str, _Worker] = {}
        expected = experiment.expected(config) if experiment.expected is not None else {}
        self.progress = Progress(expected, self.jobs, config.metric, config.quiet)

    def until_done(self) -> Results:
        """Plan and compute until no trial is left; return all results."""
        ended: set[str] | None = None
        announced = False
        try:
            while True:
                done = self._done()
                if done.keys() != ended:  # a trial has ended, here or in another process
                    ended = set(done)
                    if self._plan(done):
                        continue
                if not announced and done:
                    self.progress.say(f"{len(done)} trials already have results")
                announced = True
                waiting = [trial for key, trial in self.planned.items() if key not in done and key not in self.running]
                if not waiting and not self.running:
                    self._tidy(done)
                    return self._results(done)
                self._start(waiting)
                waiting = [trial for trial in waiting if trial.key not in self.running]
                self.progress.show(done.values(), waiting, [worker.trial for worker in self.running.values()])
                time.sleep(POLL if self.running else POLL_OTHERS)
                self._collect()
        finally:
            self._stop()

    def known(self) -> Results:
        """Return the results so far, without computing any trial."""
        while self._plan(self._done()):
            self.again.clear()  # report failed trials as they are
        self.again.clear()
        return self._results(self._done())

    def _done(self) -> dict[str, TrialResult]:
        """Return key → result of the planned trials, in the order of the plan; leave out trials to be tried again."""
        results = {key: self.store.result(trial) for key, trial in self.planned.items()}
        return {key: result for key, result in results.items() if result is not None and self._is_settled(result)}

    def _is_settled(self, result: TrialResult) -> bool:
        """Whether a result is kept: the trial has succeeded, or has failed and is not to be tried again."""
        return result.done or result.attempts > self.again.get(result.trial.key, 0)

    def _results(self, done: dict[str, TrialResult]) -> Results:
        return Results(done.values(), self.experiment.name, self.config.output)

    def _plan(self, done: dict[str, TrialResult]) -> bool:
        """Update the planned trials; return whether there are new ones."""
        before = self.planned
        planned = {trial.key: trial for trial in self.experiment.plan(self.config, self._results(done))}
        for key in planned.keys() - before.keys():
            result = self.store.result(planned[key])
            if result is not None and not result.done and result.attempts < TRIES:
                self.again[key] = result.attempts
        # in the order of the last plan: the final trainings of a model come before the tuning of the next
        self.planned = planned | {key: trial for key, trial in before.items() if key not in planned}
        return len(self.planned) > len(before)

    def _start(self, waiting: list[TrialSpec]) -> None:
        """Start waiting trials up to the number of jobs; skip those that another process has locked or computed."""
        for trial in waiting:
            if len(self.running) >= self.jobs:
                return
            with ExitStack() as stack:
                if not stack.enter_context(self.store.claim(trial)):
                    continue
                earlier = self.store.result(trial)
                if earlier is not None and self._is_settled(earlier):
                    continue  # another process has just computed it
                attempt = 1 if earlier is None else earlier.attempts + 1
                files = _Files(self.config.output, trial.key)
                if files.result.is_file():  # computed, but the scheduler was killed before it recorded the result
                    self._record(trial, files, attempt, 0)
                    continue
                try:
                    process = self._begin(trial, files)
                except DataError as error:  # for instance a split that the dataset does not allow
                    self._ended(TrialResult(trial, "failed", str(error), attempts=attempt))
                    continue
                self.running[trial.key] = _Worker(trial, process, stack.pop_all(), files, attempt)

    def _begin(self, trial: TrialSpec, files: _Files) -> subprocess.Popen[bytes] | RayProcess:
        sealed = seal(trial.dataset, self.config.output, trial.split)
        if trial.final:
            Preregistration(sealed.sealed_folder).declare(trial)
        job = {
            "cell": trial.with_(dataset=os.path.abspath(sealed.development)).to_json(),
            "folder": os.path.abspath(self.config.output),
            "runs": os.path.abspath(files.runs),
            "sealed_folder": os.path.abspath(sealed.sealed_folder) if trial.final else None,
            "device": self.config.device,
            "cache": self.config.cache,
        }
        write_json(files.job, job)
        if self.cluster is not None:
            return self.cluster.start(files.job, files.result, files.log)
        return start_worker(files.job, files.result, files.log, self.jobs)

    def _collect(self) -> None:
        """Record the results of workers that have ended."""
        for key, worker in list(self.running.items()):
            code = worker.process.poll()
            if code is not None:
                del self.running[key]
                with worker.claim:
                    self._record(worker.trial, worker.files, worker.attempt, code)
                if worker.process.stdin is not None:
                    worker.process.stdin.close()

    def _record(self, trial: TrialSpec, files: _Files, attempt: int, code: int) -> None:
        try:
            values = json.loads(files.result.read_text(encoding="utf-8"))
        except FileNotFoundError:
            error = {"status": "failed", "error": last_line(files.log)}
            values = {"status": "out of memory"} if was_killed(code) else error
        result = TrialResult.from_json({"cell": trial.to_json(), "attempts": attempt, **values})
        self._ended(result)
        files.result.unlink(missing_ok=True)
        files.job.unlink(missing_ok=True)
        if result.done:
            files.log.unlink(missing_ok=True)
        if result.done and trial.extra.get("keep"):
            for checkpoint in files.runs.glob("checkpoint*"):
                shutil.rmtree(checkpoint, ignore_errors=True)
        elif result.status != "out of memory":  # else keep the checkpoint, for a machine with more memory
            shutil.rmtree(files.runs, ignore_errors=True)

    def _tidy(self, done: dict[str, TrialResult]) -> None:
        """Remove the files of finished trials that remained because the scheduler was killed."""
        for key, result in done.items():
            files = _Files(self.config.output, key)
            for file in (files.job, files.result, *([files.log] if result.done else [])):
                file.unlink(missing_ok=True)
            if result.done and not result.trial.extra.get("keep"):
                shutil.rmtree(files.runs, ignore_errors=True)

    def _ended(self, result: TrialResult) -> None:
        self.store.record(result)
        if self.config.track is not None:
            log_trial(self.config.track, self.experiment.name, result)
        done = self._done()
        waiting = [trial for key, trial in self.planned.items() if key not in done]
        self.progress.ended(result, done.values(), waiting)

    def _stop(self) -> None:
        """Kill the running workers; their checkpoints are kept."""
        for worker in self.running.values():
            worker.process.kill()
        for worker in self.running.values():
            worker.process.wait()
            worker.claim.close()
        self.progress.stop()


def log_trial(kind: str, experiment: str, result: TrialResult) -> None:
    """Log a trial that ended to a tracker: its specification, one step per epoch, its metrics, time and memory.

    Args:
        kind: name of the tracker, "mlflow" or "wandb".
        experiment: name of the experiment.
        result: the trial's result.
    """
    from lirdrec.experiments.progress import name_of
    from lirdrec.trackers import tracker

    trial = result.trial
    params = {**trial.to_json(), "dataset": trial.dataset_name, "experiment": experiment, "key": trial.key}
    run = tracker(kind, " ".join(name_of(trial).split()), params)
    for line in result.history:
        run.log({name: value for name, value in line.items() if name != "epoch"}, int(line["epoch"]))
    final = {f"{stage}/{name}": value for stage, values in result.figures.items() for name, value in values.items()}
    final |= {"seconds": result.seconds, "peak_memory": result.peak_memory, "best_epoch": result.best_epoch}
    run.finish(final, failed=not result.done)
