"""Memory, communication and time of a training on given devices, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.planning.hardware import DEVICES, Cluster, Device
from lirdrec.planning.workload import Sizes, Work, Workload, workload
from lirdrec.training.config import TrainConfig

USABLE = 0.9  # part of a device's memory; the rest is for the driver, libraries and gaps between tensors
SAMPLING_SECONDS = 2.6e-7  # of the host for an interaction; measured by benchmarks/plan.py
FEATURE_SIZES = (2048, 1024, 512, 256, 128, 64)
MOST_DEVICES = 1024
SMALLEST_BATCH = 1024


@dataclass(frozen=True)
class Plan:
    """The needs of a training on a cluster.

    Attributes:
        cluster: the devices.
        work: what one rank holds, computes and sends.
        step: part of a step → seconds, "communication" among them.
        validation_seconds: seconds of the validation after an epoch; sampling_seconds: of the host, in an epoch.
    """

    cluster: Cluster
    work: Workload
    step: dict[str, float]
    validation_seconds: float
    sampling_seconds: float

    @property
    def memory(self) -> int:
        """Bytes of a device."""
        return sum(self.work.memory.values())

    @property
    def fits(self) -> bool:
        return self.memory <= USABLE * self.cluster.device.memory

    @property
    def sent(self) -> float:
        """Bytes that a rank sends in a step."""
        return sum(size for size, _ in self.work.sent.values())

    @property
    def step_seconds(self) -> float:
        return sum(self.step.values())

    @property
    def epoch_seconds(self) -> float:
        """With sampling and validation."""
        return self.work.n_steps * self.step_seconds + self.sampling_seconds + self.validation_seconds

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values: bytes and seconds."""
        return {
            "devices": str(self.cluster),
            "machines": self.cluster.machines,
            "fits": self.fits,
            "device_bytes": self.cluster.device.memory,
            "bytes": self.memory,
            "memory": self.work.memory,
            "host_bytes": self.work.host,
            "sent_bytes": self.sent,
            "sent": {name: size for name, (size, _) in self.work.sent.items()},
            "step_seconds": self.step_seconds,
            "step": self.step,
            "steps": self.work.n_steps,
            "validation_seconds": self.validation_seconds,
            "sampling_seconds": self.sampling_seconds,
            "epoch_seconds": self.epoch_seconds,
        }


def make_plan(config: Any, training: TrainConfig, sizes: Sizes, cluster: Cluster) -> Plan:
    """The needs of training a model on a cluster.

    A part of a step takes the longer of two times: its operations by the rate of products, and its bytes by the
    bandwidth of the memory; on a GPU, also the time in which the host starts its kernels, which a CPU spends besides.
    Exchanges that are waited for come on top.

    Args:
        config: of lirdrec or lightgcn; training: batch size, order and precision are used.
        sizes: of the data; cluster: the devices.

    Raises:
        CapabilityError: a model whose needs are not known.
        ConfigError: more devices than the data can be split over.

    >>> from lirdrec.models.lightgcn import LightGCNConfig
    >>> plan = make_plan(LightGCNConfig(), TrainConfig(), Sizes(1000, 500, 20_000), Cluster.parse("2xL4"))
    >>> plan.fits, plan.work.n_steps
    (True, 10)
    """
    device, on_cpu = cluster.device, cluster.device.name.startswith("cpu")
    work = workload(config, training, sizes, cluster.number, on_cpu)
    step = {name: seconds(part, device, training.precision) for name, part in work.step.items()}
    if work.sent:
        step["communication"] = _communication(work, cluster)
    validation = sum(seconds(part, device, training.precision) for part in work.validation.values())
    return Plan(cluster, work, step, validation, SAMPLING_SECONDS * work.sampled)


def seconds(part: Work, device: Device, precision: str) -> float:
    """The time of a part of a step on a device."""
    products, traffic = part.flop / device.rate(precision), part.bytes / device.bytes_per_second
    started = part.kernels * device.kernel_seconds
    return max(products, traffic, started) if device.asynchronous else max(products, traffic) + started


def _communication(work: Workload, cluster: Cluster) -> float:
    device, ranks = cluster.device, cluster.number
    total = 0.0
    for name, (size, exchanges) in work.sent.items():
        if cluster.machines == 1:
            time = size / device.link
        elif name == "rows and columns":  # to each other rank its part: most are on other machines
            outside = (ranks - device.per_machine) / (ranks - 1)
            time = max(size * (1 - outside) / device.link, size * outside / device.network)
        else:  # around a ring, whose slowest connection counts
            time = size / min(device.link, device.network)
        total += time + exchanges * device.message_seconds
    return total


def remedies(config: Any, training: TrainConfig, sizes: Sizes, cluster: Cluster) -> list[dict[str, Any]]:
    """Changes that make a training fit, one at a time: {"change", "value", "bytes"}; [] where it fits.

    The changes are "feature_size" (at most so many columns in each feature matrix), "devices" (so many), "batch_size"
    and "device" (another kind of the same number).
    """
    if make_plan(config, training, sizes, cluster).fits:
        return []
    found = []

    def attempt(change: str, value: Any, plan: Plan | None) -> bool:
        if plan is not None and plan.fits:
            found.append({"change": change, "value": value, "bytes": plan.memory})
        return plan is not None and plan.fits

    widest = max(sizes.features, default=0)
    for columns in (size for size in FEATURE_SIZES if size < widest):
        if attempt("feature_size", columns, _plan_or_none(config, training, sizes.reduced(columns), cluster)):
            break
    number = cluster.number
    while (number := 2 * number) <= MOST_DEVICES:
        if attempt("devices", number, _plan_or_none(config, training, sizes, replace(cluster, number=number))):
            break
    batch = training.pairs_per_step(sizes.interactions)
    while (batch := batch // 2) >= SMALLEST_BATCH:
        if attempt("batch_size", batch, _plan_or_none(config, replace(training, batch_size=batch), sizes, cluster)):
            break
    for device in DEVICES.values():
        larger = replace(cluster, device=device)
        if device.memory > cluster.device.memory:
            attempt("device", device.name, _plan_or_none(config, training, sizes, larger))
    return found


def _plan_or_none(config: Any, training: TrainConfig, sizes: Sizes, cluster: Cluster) -> Plan | None:
    """A plan, or None where the data cannot be split over so many devices."""
    try:
        return make_plan(config, training, sizes, cluster)
    except ConfigError:
        return None
