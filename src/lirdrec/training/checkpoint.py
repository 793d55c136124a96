"""Checkpoints: everything needed to resume a training bit-identically, in safetensors files (no pickle)."""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lirdrec.errors import RunFolderError
from lirdrec.files.atomic import atomic_write, share

log = logging.getLogger(__name__)
LAST = "last.safetensors"


@dataclass
class Checkpoint:
    """The state of a training after an epoch.

    Attributes:
        tensors: named tensors of the model and the optimizer.
        facts: JSON-able facts: best epoch, its metric, history.
        best: the model's parameters after the best epoch, by name.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    best: dict[str, Tensor]


class CheckpointStore:
    """A folder with the last checkpoint: `last.safetensors`, and the best parameters in `best-EPOCH.safetensors`.

    The best parameters are written only when they change. Files are written atomically. The earlier best file is
    removed only after `last`, which refers to the new best file, is written. So the two files match after a kill at any
    moment.

    Args:
        folder: the folder, made at the first `save`.
        fingerprint: identifies data, model and options; a checkpoint with another fingerprint is refused.
        seconds: minimum time between two saves (and from the start to the first); earlier calls of `save` do nothing.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], seconds: float = 0.0):
        self.folder, self.fingerprint = folder, json.loads(json.dumps(fingerprint, default=str))
        self.seconds, self._saved = seconds, time.monotonic()
        self._best: int | None = None  # epoch of the best file that this training wrote or read

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint, in place of the earlier one; do nothing if the last save is less than `seconds` ago.

        Raises:
            RunFolderError: the disk is full or the folder cannot be written.
        """
        if time.monotonic() - self._saved < self.seconds:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for temporary in self.folder.glob(".*"):  # left by a killed training
            temporary.unlink(missing_ok=True)
        best = self._best_file(checkpoint.facts["best_epoch"])
        if checkpoint.facts["best_epoch"] != self._best:
            _write(best, checkpoint.best, {})
        _write(self.folder / LAST, checkpoint.tensors, checkpoint.facts | {"fingerprint": self.fingerprint})
        self._remove_all_but(best)
        self._best, self._saved = checkpoint.facts["best_epoch"], time.monotonic()

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint; None if there is none.

        Raises:
            RunFolderError: the checkpoint is damaged, or is of another training (the message names one difference).
        """
        path = self.folder / LAST
        if not path.exists():
            return None
        tensors, facts = _read(path, {"fingerprint", "best_epoch", "best_value", "history"})
        self.check_fingerprint(facts.pop("fingerprint"))
        best, _ = _read(self._best_file(facts["best_epoch"]))
        self._best = facts["best_epoch"]
        self._remove_all_but(self._best_file(facts["best_epoch"]))
        return Checkpoint(tensors, facts, best)

    def check_fingerprint(self, stored: Mapping[str, Any]) -> None:
        """Compare the fingerprint (settings) of a stored checkpoint with the fingerprint of this training.

        Raises:
            RunFolderError: the settings differ; the message names the first difference.
        """
        for key in self.fingerprint:
            if stored.get(key) != self.fingerprint[key]:
                raise RunFolderError(
                    f"{self.folder}: the checkpoint was made with {key} = {stored.get(key)!r}, not "
                    f"{self.fingerprint[key]!r}; resume with the same value, or train in another folder"
                )

    def _remove_all_but(self, best: Path) -> None:
        """Remove the files with best parameters, except `best`; an interrupted save may have left some."""
        for other in self.folder.glob("best-*.safetensors"):
            if other != best:
                other.unlink()

    def _best_file(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch}.safetensors"


def _write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    with atomic_write(path) as temporary:
        save_file(on_cpu, temporary, metadata={"facts": text, "crc32": _checksum(on_cpu, text)})
        share(temporary)


def _checksum(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Return the CRC-32 of the facts and of all tensors (on the CPU) with their names, types and shapes.

    It detects damage, but not an intended change. It is four times as fast as SHA-256, which matters since a checkpoint
    may be written after every epoch.
    """
    value = zlib.crc32(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _read(path: Path, needed: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            text = metadata.get("facts", "null")
            facts = json.loads(text)
            if not isinstance(facts, dict) or not set(needed) <= set(facts):
                raise ValueError("the file is not a checkpoint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 – not a mapping
        # checkpoints of earlier versions have no checksum
        if "crc32" in metadata and metadata["crc32"] != _checksum(tensors, text):
            raise ValueError("wrong checksum")
        return tensors, facts
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{path}: damaged checkpoint ({error}); delete the checkpoint folder and train again"
        ) from None


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors with the names `NAME.KEY`: name of a parameter, key of its state."""
    return {
        f"{names[parameter]}.{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Set the optimizer's state to `tensors`, which `optimizer_tensors` returned; `names` are the parameters' names."""
    for parameter, name in names.items():
        prefix = f"{name}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        # a longer parameter name may begin with the prefix; keys of the state have no dot
        state = {key: value.clone() for key, value in state.items() if "." not in key}
        if state:
            on_device = {k: v if k == "step" and parameter.is_cpu else v.to(parameter.device) for k, v in state.items()}
            optimizer.state[parameter] = on_device
