"""Ray on a busy machine, and a cluster of two nodes on this machine."""

from __future__ import annotations

import inspect
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lirdrec.ray_cluster import RayCluster

from .helpers import PATIENCE

NODE: dict[str, Any] = {
    "num_cpus": 1,
    "object_store_memory": 80 * 2**20,
    "include_log_monitor": False,
    "no_monitor": True,
}
PORTS = "metrics_agent_port", "runtime_env_agent_port", "dashboard_agent_listen_port", "metrics_export_port"


@contextmanager
def patient_ray() -> Iterator[None]:
    """Context manager: give a node of Ray more time to start.

    Ray waits 30 seconds for a node. On a busy machine the agents of the node (Python processes) need most of this time
    to start and to write their port numbers to files. So we choose the ports and write these files before the node
    starts, and wait until the node is registered.
    """
    from ray._private import services

    start_raylet, get_node = services.start_raylet, services.get_node
    parameters = inspect.signature(start_raylet)

    def with_ports(*args: Any, **options: Any) -> Any:
        given = parameters.bind(*args, **options)
        for name in PORTS:
            given.arguments[name] = port = _free_port()
            file = Path(given.arguments["session_dir"]) / f"{name}_{given.arguments['node_id']}"
            file.write_text(str(port))
        return start_raylet(*given.args, **given.kwargs)

    def awaited(*args: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return get_node(*args)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "start_raylet", with_ports)
        patch.setattr(services, "get_node", awaited)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_register_timeout_seconds", str(int(PATIENCE)))
        patch.setenv("RAY_gcs_server_port_wait_time_s", str(int(PATIENCE)))
        # a dead node refuses five checks in 1.5 seconds; one that is slow has 10 seconds for each
        patch.setenv("RAY_health_check_period_ms", "300")
        yield


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


class Nodes:
    """A Ray cluster of two nodes on this machine with a processor each; a test may kill the second one.

    Attributes:
        first: process id of the first node, as `node_of` gives it.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        self.first = _process(self.cluster.add_node(**NODE, include_dashboard=False)).pid
        self.second: Any = None
        self.address = self.cluster.address

    def complete(self) -> None:
        """Wait until there are two living nodes; a new one replaces a dead one."""
        if self.second is None or _process(self.second).poll() is not None:
            self.second = self.cluster.add_node(wait=False, **NODE)
        with RayCluster(self.address) as connection:
            ray, deadline = connection.connect(1), time.monotonic() + PATIENCE
            while True:
                alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
                if len(alive) == 2 and self.second.node_id in alive:
                    return
                assert time.monotonic() < deadline, "the second node does not start"
                time.sleep(0.1)


def _process(node: Any) -> Any:
    (raylet,) = node.all_processes["raylet"]
    return raylet.process
