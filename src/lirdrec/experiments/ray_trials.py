"""Trials on a Ray cluster: a task starts the usual worker process on its machine, and waits until it ends.

A trial gets the same job file as on a single machine: it has the path of the development copy and, only for a final
trial, the path of the sealed test. The experiment's folder must have the same path on all machines: checkpoints, the
sealed test and the values of users are stored there, so a trial can continue on another machine. The worker process
ends with its task, and the task ends with the process that started the experiment.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.worker_process import start_worker
from lirdrec.files.atomic import write_json, write_text
from lirdrec.ray_cluster import RETRIES, LostTaskError, RayCluster, quiet_output, result_of

POLL = 0.5  # seconds until a task notices that it was cancelled
GRACE = 10.0  # seconds to wait for a cancelled task to end, before it is killed


class RayTrials(contextlib.AbstractContextManager["RayTrials"]):
    """The machines of a Ray cluster that compute trials; use it in a `with` block, whose end closes the connection.

    Args:
        address: address of the cluster, as in `RayCluster`.
        jobs: number of trials at the same time; None: as many as the cluster has room for, one for each GPU or, without
            GPUs, one for each `OMP_NUM_THREADS` processors (by default as many as this machine has).
        gpus: whether to use GPUs.

    Raises:
        ConfigError: Ray is not installed, no cluster answers, or it has no room for so many trials.
    """

    def __init__(self, address: str, jobs: int | None = None, gpus: bool = True):
        import torch

        self.threads = torch.get_num_threads()
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(RayCluster(address))
            self._ray = cluster.connect(self.threads, jobs)
            share = cluster.share(self._ray, self.threads, jobs, gpus=gpus, option="jobs")
            stack.enter_context(quiet_output())
            self._stack = stack.pop_all()
        self.jobs = share.workers
        resources = {"num_cpus": share.cpus, "num_gpus": share.gpus}
        # otherwise Ray would start a task that ran out of memory again and again
        self._task = self._ray.remote(max_retries=0, **resources)(run_worker)

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, job: Path, result: Path, log: Path) -> RayProcess:
        """Start the worker process of a trial on one of the machines; the files are those of `start_worker`."""
        return RayProcess(self._ray, self._task, job, result, log, self.threads)


class RayProcess:
    """A worker process on a Ray cluster; has the methods of `subprocess.Popen` that the scheduler needs."""

    stdin = None

    def __init__(self, ray: Any, task: Any, job: Path, result: Path, log: Path, threads: int):
        self._ray, self._task, self._result = ray, task, result
        self._arguments = *(os.path.abspath(path) for path in (job, result, log)), threads
        self._deaths = 0
        self._reference = task.remote(*self._arguments)

    def poll(self) -> int | None:
        """Return None while the process runs; then write the result file, and return the exit code.

        A task whose process or machine died is started again, up to `RETRIES` times. If it dies once more, or runs out
        of memory, the result file says so, and the exit code is 1.

        Raises:
            ConfigError: a machine cannot read the experiment's folder.
        """
        ready, _ = self._ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            code, text = result_of(self._ray, self._reference)
        except LostTaskError as error:
            return self._failed({"status": "out of memory"}) if error.out_of_memory else self._died(error)
        if text is not None:
            write_text(self._result, text)  # a shared disk may show the file on this machine only later
        return int(code)

    def _died(self, error: LostTaskError) -> int | None:
        if self._result.is_file():  # the process had ended with a result
            return 0
        self._deaths += 1
        if self._deaths <= RETRIES:
            self._reference = self._task.remote(*self._arguments)
            return None
        text = f"the process of the trial on the Ray cluster died {self._deaths} times ({error})"
        return self._failed({"status": "failed", "error": text})

    def _failed(self, values: dict[str, Any]) -> int:
        write_json(self._result, values)
        return 1

    def kill(self) -> None:
        """Cancel the task, which then ends the worker process."""
        self._ray.cancel(self._reference)

    def wait(self) -> None:
        """Wait until a cancelled task has ended; kill a task that does not end."""
        for force in (False, True):
            if force:
                self._ray.cancel(self._reference, force=True)
            ready, _ = self._ray.wait([self._reference], timeout=GRACE)
            if ready:
                return


def run_worker(job: str, result: str, log: str, threads: int) -> tuple[int, str | None]:
    """Run the worker process of a trial on this machine until it ends.

    Return its exit code and the content of the result file; None instead of the content if there is no such file.

    Raises:
        ConfigError: this machine cannot read the job file.
    """
    if not Path(job).is_file():
        raise ConfigError(
            f"the machine {platform.node()} cannot read {job}; the folder of the experiment (--output) must have "
            "the same path on all machines of the cluster, for instance on a shared disk"
        )
    process = start_worker(Path(job), Path(result), Path(log), threads=threads)
    try:
        while process.poll() is None:  # Ray cancels by a KeyboardInterrupt, which an endless wait would not notice
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
    finally:
        process.kill()
        process.wait()
    with contextlib.suppress(FileNotFoundError):
        return process.returncode, Path(result).read_text(encoding="utf-8")
    return process.returncode, None
