"""Devices with the speeds and sizes that their makers publish, and clusters with names such as `8xH100`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lirdrec.available_memory import free_memory
from lirdrec.config import suggest_name
from lirdrec.errors import ConfigError

GB = 10**9
NAME = re.compile(r"(?:(?P<number>[0-9]+)x)?(?P<device>[A-Za-z][A-Za-z0-9-]*)")


@dataclass(frozen=True)
class Device:
    """A GPU, or a core of a CPU.

    Attributes:
        name: as in `DEVICES`.
        memory: bytes; for a core, its share of the memory of the machine.
        float32, tf32, bfloat16: floating-point operations a second in dense matrix products, without sparsity.
        bandwidth: bytes a second that the device reads from and writes to its memory.
        link: bytes a second, one way, to the other devices of its machine.
        network: bytes a second, one way, to other machines: the device's share of the connection.
        per_machine: number of devices in a usual machine.
        kernel_seconds: time to start one operation.
        message_seconds: time of an exchange in addition to the time for its bytes.
        asynchronous: whether the host starts the next operations while the device computes.
        efficiency: the share of the published numbers that programs reach; 1 for measured numbers.
        source: where the numbers are from.
    """

    name: str
    memory: float
    float32: float
    tf32: float
    bfloat16: float
    bandwidth: float
    link: float
    network: float
    per_machine: int
    kernel_seconds: float
    message_seconds: float
    asynchronous: bool
    efficiency: float
    source: str

    def rate(self, precision: str) -> float:
        """Return the operations a second that matrix products reach in "float32", "tf32" or "bfloat16"."""
        return {"float32": self.float32, "tf32": self.tf32, "bfloat16": self.bfloat16}[precision] * self.efficiency

    @property
    def bytes_per_second(self) -> float:
        """The bytes a second that programs read from and write to the device's memory."""
        return self.bandwidth * self.efficiency


def _gpu(
    name: str, memory: float, tera: tuple[float, float, float], bandwidth: float, link: float, source: str
) -> Device:
    """Return a GPU as a `Device`, with the same assumptions for all GPUs where the maker publishes no number.

    Args:
        name: as in `DEVICES`.
        memory: in GB.
        tera: 10^12 operations a second in float32, tf32 and bfloat16.
        bandwidth: of the memory, in GB a second.
        link: to the other devices of the machine, in GB a second.
        source: where the numbers are from.
    """
    float32, tf32, bfloat16 = (1e12 * one for one in tera)
    network = 50 * GB if link >= 300 else 12.5 * GB  # 400 Gbit/s for each device of a machine with NVLink, else 100
    return Device(
        name=name,
        memory=memory * GB,
        float32=float32,
        tf32=tf32,
        bfloat16=bfloat16,
        bandwidth=bandwidth * GB,
        link=link * GB,
        network=network,
        per_machine=8,
        kernel_seconds=2e-5,
        message_seconds=3e-5,
        asynchronous=True,
        efficiency=0.7,
        source=source,
    )


DEVICES = {
    device.name: device
    for device in (
        _gpu("H100", 80, (67, 494.7, 989.4), 3350, 450, "NVIDIA H100 Tensor Core GPU datasheet, SXM"),
        _gpu("H200", 141, (67, 494.7, 989.4), 4800, 450, "NVIDIA H200 Tensor Core GPU datasheet, SXM"),
        _gpu("A100", 80, (19.5, 156, 312), 2039, 300, "NVIDIA A100 Tensor Core GPU datasheet, SXM, 80 GB"),
        _gpu("L4", 24, (30.3, 60, 121), 300, 32, "NVIDIA L4 Tensor Core GPU datasheet, PCIe 4 x16"),
        # a core of the machine on which benchmarks/plan.py ran; the memory is usual for a core of a cloud machine
        Device(
            name="cpu-core",
            memory=4 * GB,
            float32=140e9,
            tf32=140e9,
            bfloat16=140e9,
            bandwidth=18 * GB,
            link=4 * GB,
            network=1.25 * GB,
            per_machine=64,
            kernel_seconds=2e-6,
            message_seconds=1e-4,
            asynchronous=False,
            efficiency=1.0,
            source="measured by benchmarks/plan.py, one thread with AVX-512; network of 10 Gbit/s",
        ),
    )
}


@dataclass(frozen=True)
class Cluster:
    """`number` devices of one kind, on as many machines as they need.

    Attributes:
        shares_memory: whether further devices would use the same memory: the device is a core of this machine, and its
            memory is all that the machine has.

    >>> Cluster.parse("16xH100").machines
    2
    """

    number: int
    device: Device
    shares_memory: bool = False

    @classmethod
    def parse(cls, text: str, memory: float | None = None) -> Cluster:
        """Return the cluster that a text describes, such as `8xH100`, `H100` (one device) or `16xcpu-core`.

        Args:
            text: number and name of the devices.
            memory: bytes of each device, if they differ from the usual ones.

        Raises:
            ConfigError: the text has another form, an unknown device, or the number 0.
        """
        match = NAME.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"'{text}' is not a number of devices; write it as 8xH100, or H100 for one")
        names = {name.lower(): name for name in DEVICES}
        wanted = match["device"].lower()
        if wanted not in names:
            hint = suggest_name(match["device"], DEVICES, f"choose one of {', '.join(DEVICES)}")
            raise ConfigError(f"unknown device '{match['device']}'; {hint}")
        number = int(match["number"] or 1)
        if number < 1:
            raise ConfigError(f"'{text}' has no device; give at least one")
        device = DEVICES[names[wanted]]
        return cls(number, device if memory is None else replace(device, memory=memory))

    @classmethod
    def of_this_machine(cls, memory: float | None = None) -> Cluster:
        """Return the GPUs of this machine, or one core of its processor with the memory that is free now.

        Args:
            memory: bytes of each device, if they differ from the machine's.

        Raises:
            ConfigError: the machine has a GPU whose kind is not in `DEVICES`.
        """
        import torch

        if not torch.cuda.is_available():
            device = DEVICES["cpu-core"]
            return cls(1, replace(device, memory=memory or free_memory() or device.memory), shares_memory=True)
        found = torch.cuda.get_device_name(0)
        kind = next((name for name in DEVICES if re.search(rf"\b{name}\b", found)), None)
        if kind is None:
            raise ConfigError(
                f"the speed of this machine's GPU, {found}, is not known; give one of {', '.join(DEVICES)}"
            )
        size = memory or torch.cuda.get_device_properties(0).total_memory
        return cls(torch.cuda.device_count(), replace(DEVICES[kind], memory=size))

    def __str__(self) -> str:
        return f"{self.number} x {self.device.name}"

    @property
    def machines(self) -> int:
        return -(-self.number // self.device.per_machine)
