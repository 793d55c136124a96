"""Resolve the name of a device, such as "auto" or "cuda:0", to a torch device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lirdrec.errors import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """Return the torch device called `name`; "auto" is cuda if it is available, else cpu.

    Raises:
        ConfigError: there is no such device, or it is not available on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):  # AssertionError: torch was built without that kind of device
        raise ConfigError(f"device '{name}' is not available here; choose cpu, cuda or mps, or keep auto") from None
    return device
