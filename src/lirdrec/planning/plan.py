"""Memory, communication and time of a training on given devices, and what would make it fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.planning.device_speeds import DEVICES, Cluster, Device
from lirdrec.planning.workload import Sizes, Work, Workload, workload
from lirdrec.training.config import TrainConfig

USABLE = 0.9  # share of a device's memory for a training; driver, libraries and gaps between tensors need the rest
SAMPLING_SECONDS = 2.6e-7  # that the host needs to sample one interaction; measured by benchmarks/plan.py
FEATURE_SIZES = (2048, 1024, 512, 256, 128, 64)
MOST_DEVICES = 1024
SMALLEST_BATCH = 1024


@dataclass(frozen=True)
class Plan:
    """The memory, communication and time that a training needs on a cluster.

    Attributes:
        cluster: the devices.
        work: what one rank (the process of one device) holds, computes and sends.
        step: part of a training step → seconds; "communication" is one of the parts.
        validation_seconds: time of the validation after an epoch.
        sampling_seconds: time that the host needs to sample the interactions of an epoch.
        epochs: largest number of epochs of the training; it may stop earlier.
        validations: number of validations in so many epochs.
    """

    cluster: Cluster
    work: Workload
    step: dict[str, float]
    validation_seconds: float
    sampling_seconds: float
    epochs: int
    validations: int

    @property
    def memory(self) -> int:
        """Bytes that the training needs on each device."""
        return sum(self.work.memory.values())

    @property
    def fits(self) -> bool:
        return self.memory <= USABLE * self.cluster.device.memory

    @property
    def sent(self) -> float:
        """Bytes that a rank (the process of one device) sends in a step."""
        return sum(size for size, _ in self.work.sent.values())

    @property
    def step_seconds(self) -> float:
        return sum(self.step.values())

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch, including sampling and one validation."""
        return self.work.n_steps * self.step_seconds + self.sampling_seconds + self.validation_seconds

    @property
    def training_seconds(self) -> float:
        """Seconds of all epochs, if the training does not stop earlier."""
        steps = self.epochs * (self.work.n_steps * self.step_seconds + self.sampling_seconds)
        return steps + self.validations * self.validation_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values in bytes and seconds."""
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
            "epochs": self.epochs,
            "training_seconds": self.training_seconds,
        }


def make_plan(config: Any, training: TrainConfig, sizes: Sizes, cluster: Cluster) -> Plan:
    """Compute the memory, communication and time that the training of a model needs on a cluster.

    A part of a step has three times: for its operations (by the rate of products), for its bytes (by the bandwidth of
    the memory), and for starting its kernels (operations on the device). On a GPU they overlap, so the longest time
    counts. On a CPU the longer one of the first two counts, and the third is added. The times of all parts are added,
    and the time of the exchanges between the devices.

    Args:
        config: configuration of the model, lirdrec or lightgcn.
        training: its batch size, order and precision are used.
        sizes: sizes of the data.
        cluster: the devices.

    Raises:
        CapabilityError: the needs of this model are not known, or it is lirdrec and `sizes` has no features.
        ConfigError: the data cannot be split over so many devices, or the configuration does not fit the features.

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
    n_validations = math.ceil(training.epochs / training.evaluate_every)
    return Plan(cluster, work, step, validation, SAMPLING_SECONDS * work.sampled, training.epochs, n_validations)


def seconds(part: Work, device: Device, precision: str) -> float:
    """Return the time of a part of a step on a device, as `make_plan` describes it."""
    products, traffic = part.flop / device.rate(precision), part.bytes / device.bytes_per_second
    started = part.kernels * device.kernel_seconds
    return max(products, traffic, started) if device.asynchronous else max(products, traffic) + started


def _communication(work: Workload, cluster: Cluster) -> float:
    device, ranks = cluster.device, cluster.number
    total = 0.0
    for name, (size, exchanges) in work.sent.items():
        if cluster.machines == 1:
            time = size / device.link
        elif name == "rows and columns":  # each other rank gets its part, and most ranks are on other machines
            outside = (ranks - device.per_machine) / (ranks - 1)
            time = max(size * (1 - outside) / device.link, size * outside / device.network)
        else:  # sent around a ring of the ranks; its slowest connection determines the time
            time = size / min(device.link, device.network)
        total += time + exchanges * device.message_seconds
    return total


def remedies(config: Any, training: TrainConfig, sizes: Sizes, cluster: Cluster) -> list[dict[str, Any]]:
    """Return changes each of which alone makes a training fit into the devices' memory.

    The list is empty if the training fits already, or if no such change is found.

    Returns:
        For each change its kind ("change"), its "value", and the "bytes" that a device needs then. The kinds are
        "feature_size" (largest number of columns in each feature matrix), "devices" (number of devices), "batch_size",
        and "device" (the same number of another kind of device).
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
    while not cluster.shares_memory and (number := 2 * number) <= MOST_DEVICES:
        if attempt("devices", number, _plan_or_none(config, training, sizes, replace(cluster, number=number))):
            break
    batch = training.pairs_per_step(sizes.interactions)
    while (batch := batch // 2) >= SMALLEST_BATCH:
        if attempt("batch_size", batch, _plan_or_none(config, replace(training, batch_size=batch), sizes, cluster)):
            break
    for device in DEVICES.values():
        larger = replace(cluster, device=device)
        if device.name != cluster.device.name and device.memory > cluster.device.memory:
            attempt("device", device.name, _plan_or_none(config, training, sizes, larger))
    return found


def _plan_or_none(config: Any, training: TrainConfig, sizes: Sizes, cluster: Cluster) -> Plan | None:
    """Return the result of `make_plan`; None if it raises a ConfigError (more devices than rows or columns)."""
    try:
        return make_plan(config, training, sizes, cluster)
    except ConfigError:
        return None
