"""Connect to a Ray cluster, and divide its machines among worker processes.

All machines of the cluster need the same version of lirdrec, of Python and of Ray.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lirdrec.errors import ConfigError, LirdrecError
from lirdrec.option_names import option_name

LOCAL = "local"
LOCAL_WORKERS = 2
RETRIES = 3  # how often work is repeated whose process or machine died
STORE_BYTES = 160 * 2**20  # shared memory of a local Ray; objects beyond it are stored on disk
CONNECT_SECONDS = 5.0


class RayCluster(contextlib.AbstractContextManager["RayCluster"]):
    """A Ray cluster, used as a context manager. Inside the block, `connect` starts the cluster or connects to it.

    The end of the block disconnects, and ends a local Ray. If this process was connected before, it stays connected.

    Args:
        address: "local" starts Ray on this machine; "auto" is the cluster that runs on this machine already; others
            are given as "HOST:PORT" or "ray://HOST:PORT".

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, address: str = LOCAL):
        import_ray()
        self.address = address
        self._started = False

    def __exit__(self, *error: object) -> None:
        if self._started:
            import_ray().shutdown()
            self._started = False

    @property
    def is_started_here(self) -> bool:
        """Whether `connect` has started Ray on this machine."""
        return self._started and self.address == LOCAL

    def connect(self, threads: int, workers: int | None = None) -> Any:
        """Connect to the cluster, unless this process is connected already, and return the module `ray`.

        Args:
            threads: number of threads of each process that a local Ray starts (`OMP_NUM_THREADS`).
            workers: number of processes for which a local Ray must have room; None: 2.

        Raises:
            ConfigError: no cluster answers, the cluster needs a token, or Ray cannot be started on this machine.
        """
        ray = import_ray()
        if ray.is_initialized():
            return ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            if self.address == LOCAL:
                options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
                # room for all workers, even if the processors are fewer: fewer threads would change the results' bits
                n = max((workers or LOCAL_WORKERS) * threads, os.cpu_count() or 1)
                with _environment("OMP_NUM_THREADS", str(threads)):  # inherited by all that Ray starts
                    ray.init(address=LOCAL, num_cpus=n, **options)
            else:
                _check_listens(self.address)  # Ray itself retries for many minutes
                ray.init(address=self.address, **options)
        except (OSError, ValueError, RuntimeError) as error:
            if _wants_token(error):
                raise ConfigError(
                    f"the Ray cluster at '{self.address}' asks for a token: set RAY_AUTH_MODE=token, and give the"
                    " cluster's token as Ray's documentation says"
                ) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if self.address == LOCAL:
                raise ConfigError(
                    f"Ray cannot be started on this machine ({reason}); correct this, or work without Ray"
                ) from error
            raise ConfigError(
                f"no Ray cluster answers at '{self.address}' ({reason}); start one with ray start --head, or use"
                " 'local'"
            ) from error
        self._started = True
        return ray

    def share(
        self, ray: Any, threads: int, workers: int | None, *, gpus: bool = True, option: str = "workers"
    ) -> Share:
        """Divide the cluster among `workers` processes: each gets a GPU if there are any, else `threads` processors.

        If the smallest machine has fewer processors than `threads`, each process gets as many as this machine has.

        Args:
            ray: the result of `connect`.
            threads: number of threads of each process.
            workers: number of processes; None: as many as have room, or two if `connect` started Ray on this machine
                and it has no GPU.
            gpus: whether to use the GPUs.
            option: name of the argument `workers` in messages.

        Raises:
            ConfigError: the cluster has no room for so many processes.
        """
        machines = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        if not gpus:
            machines = [{name: n for name, n in machine.items() if name != "GPU"} for machine in machines]
        plain = self.is_started_here and not any("GPU" in machine for machine in machines)
        return share_out(machines, workers or (LOCAL_WORKERS if plain else None), threads, option)


@dataclass(frozen=True)
class Share:
    """The number of workers, and the numbers of processors and GPUs of each worker."""

    workers: int
    cpus: int
    gpus: int


def share_out(
    machines: Sequence[Mapping[str, float]], workers: int | None, threads: int, option: str = "workers"
) -> Share:
    """Divide machines among workers that get one GPU each or, if there are no GPUs, `threads` processors each.

    Args:
        machines: the numbers of processors ("CPU") and GPUs ("GPU") of each machine.
        workers: number of workers; None: as many as have room.
        threads: processors of a worker, or fewer: as many as the smallest machine has.
        option: name of the argument `workers` in messages.

    Raises:
        ConfigError: there is no room for so many workers.
    """
    if gpus := sum(int(machine.get("GPU", 0)) for machine in machines):
        cpus, room = 0, gpus
    else:
        hosts = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
        cpus = min([threads, *hosts])
        room = sum(host // cpus for host in hosts)
    if not room or (workers or 1) > room:
        each = "a GPU" if gpus else "1 thread" if threads == 1 else f"{threads} threads"
        raise ConfigError(
            f"the Ray cluster has room for {room} workers of {each} each, not for {workers or 1}: take fewer"
            f" ({option_name(option)})" + ("" if gpus else ", or fewer threads (OMP_NUM_THREADS)")
        )
    return Share(workers or room, cpus, min(gpus, 1))


def import_ray() -> Any:
    """Return the module `ray`; raise a ConfigError if it is not installed."""
    try:
        import ray
    except ImportError:
        raise ConfigError('Ray is not installed, which a Ray cluster needs: pip install "lirdrec[ray]"') from None
    return ray


class LostTaskError(Exception):
    """The process or the machine of a Ray task died.

    Args:
        reason: the first line of Ray's message.
        out_of_memory: whether Ray ended the process because its machine was short of memory.
    """

    def __init__(self, reason: str, out_of_memory: bool = False):
        super().__init__(reason)
        self.out_of_memory = out_of_memory


def result_of(ray: Any, reference: Any) -> Any:
    """Return the result of a Ray task.

    Raises:
        LostTaskError: the process or the machine of the task died.
        LirdrecError: the task raised it. Any other error of the task is raised as Ray's `RayTaskError`.
    """
    exceptions = ray.exceptions
    try:
        return ray.get(reference)
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, LirdrecError):
            raise error.cause from None
        raise
    except exceptions.RayError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise LostTaskError(reason, isinstance(error, exceptions.OutOfMemoryError)) from error


def quiet_output() -> contextlib.AbstractContextManager[Any]:
    """Return a context manager that sends the standard output to the error stream.

    Without this, Ray would report dead workers on the standard output, where a program may expect lirdrec's JSON.
    """
    return contextlib.redirect_stdout(sys.stderr)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.copy()
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        os.environ.update({name: before[name]} if name in before else {})


def _wants_token(error: BaseException | None) -> bool:
    while error is not None:
        if "AuthenticationError" in f"{type(error).__name__} {error}":  # Ray puts the cause into the message
            return True
        error = error.__cause__ or error.__context__
    return False


def _check_listens(address: str) -> None:
    """Raise an OSError if no process listens at HOST:PORT or ray://HOST:PORT; other addresses are not checked."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
