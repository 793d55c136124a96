"""Checkpoints of a training on several devices: every rank (process of a device) writes its rows of the tables.

`torch.distributed.checkpoint` writes and reads them.

    checkpoint/last-EPOCH/    model and optimizer, one safetensors file per rank (no pickle)
    checkpoint/best-EPOCH/    the best parameters
    checkpoint/sharded.json   names the two folders, with the facts and the checksums; written last, atomically

A training can resume with another number of ranks, also from several ranks to one and from one to several.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lirdrec.errors import CapabilityError, RunFolderError, describe_error
from lirdrec.files.atomic import flush_tree, write_errors, write_json
from lirdrec.parallel.ranks_and_shards import Ranks, Shard
from lirdrec.training.checkpoint import LAST, Checkpoint, CheckpointStore

INDEX = "sharded.json"
PREFIXES = ("model.", "optimizer.")


class ShardedCheckpointStore(CheckpointStore):
    """A `CheckpointStore` for several ranks; all ranks call `save` and `load` together, on one file system.

    Args:
        folder, fingerprint, seconds: as for `CheckpointStore`.
        ranks: the processes of the training.
        shard_of: function from the name of a parameter or buffer to the rows of it that this rank holds, or None if
            every rank holds all of it (`Model.shard_of`).
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Mapping[str, Any],
        ranks: Ranks,
        shard_of: Callable[[str], Shard | None],
        seconds: float = 0.0,
    ):
        super().__init__(folder, fingerprint, seconds)
        self.ranks, self._shard_of = ranks, shard_of

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint, and then remove the earlier one; do nothing if the last save is too recent.

        Raises:
            RunFolderError: the disk is full or the folder cannot be written.
        """
        if self.ranks.size == 1:
            saved = self._saved
            super().save(checkpoint)
            if self._saved == saved:  # too early
                return
            (self.folder / INDEX).unlink(missing_ok=True)
            self._remove_folders()
            return
        if not self.ranks.from_first(time.monotonic() - self._saved >= self.seconds):
            return
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = checkpoint.facts
            last = self.folder / f"last-{len(facts['history'])}"
            best = self.folder / f"best-{facts['best_epoch']}"
            checksums = self._write(last, checkpoint.tensors)
            if facts["best_epoch"] != self._best:
                checksums |= self._write(best, checkpoint.best)
            elif self.ranks.is_first:
                checksums |= {n: v for n, v in self._index()["checksums"].items() if n.startswith(f"{best.name}/")}
            if self.ranks.is_first:
                content = {"last": last.name, "best": best.name, "checksums": checksums}
                write_json(self.folder / INDEX, facts | content | {"fingerprint": self.fingerprint})
                self._remove_folders(last, best)
                for file in self.folder.glob("*.safetensors"):  # of a training in one process
                    file.unlink()
        self._best, self._saved = facts["best_epoch"], time.monotonic()

    def load(self) -> Checkpoint | None:
        """Return this rank's rows of the last checkpoint, also if a single process wrote it; None if there is none.

        Raises:
            RunFolderError: the checkpoint is damaged, or is of another training (the message names one difference).
        """
        index, last = self.folder / INDEX, self.folder / LAST
        if not index.exists() or (last.exists() and last.stat().st_mtime > index.stat().st_mtime):
            checkpoint = super().load()
            if checkpoint is None or self.ranks.size == 1:
                return checkpoint
            self._best = None  # the best parameters are written again, in parts
            tensors, best = ({n: self._own(n, t) for n, t in d.items()} for d in (checkpoint.tensors, checkpoint.best))
            return Checkpoint(tensors, checkpoint.facts, best)
        facts = self._index()
        self.check_fingerprint(facts.pop("fingerprint"))
        self._check_files(facts.pop("checksums"))
        tensors, best = (self._read(self.folder / facts.pop(name)) for name in ("last", "best"))
        self._best = facts["best_epoch"] if self.ranks.size > 1 else None
        return Checkpoint(tensors, facts, best)

    def _index(self) -> dict[str, Any]:
        try:
            facts = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            if not {"fingerprint", "best_epoch", "best_value", "history", "last", "best", "checksums"} <= set(facts):
                raise ValueError("the file is not a checkpoint")
        except (OSError, ValueError) as error:
            raise self._damaged(self.folder / INDEX, error) from None
        found: dict[str, Any] = facts
        return found

    def _shard(self, name: str) -> Shard | None:
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        return self._shard_of(name)

    def _own(self, name: str, whole: Tensor) -> Tensor:
        shard = self._shard(name)
        return whole if shard is None or whole.dim() == 0 else whole[shard.rows].clone()

    def _write(self, folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """Write this rank's part of the tensors; return the checksums of the files of all ranks."""
        import torch.distributed.checkpoint as dcp

        if not hasattr(dcp, "HuggingFaceStorageWriter"):
            raise CapabilityError(
                "training on several devices needs PyTorch 2.9 or newer, for its checkpoints; upgrade torch"
            )
        if self.ranks.is_first:  # left by a killed training
            shutil.rmtree(folder, ignore_errors=True)
        self.ranks.wait_for_all()
        state = {name: self._distributed(name, tensor.detach().cpu().contiguous()) for name, tensor in tensors.items()}
        with _quiet():
            dcp.save(state, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
        flush_tree(folder)
        own = {f"{folder.name}/{p.name}": _checksum(p) for p in folder.glob(f"shard-{self.ranks.rank + 1:05d}-*")}
        return {name: value for part in self.ranks.values_of_all(own) for name, value in part.items()}

    def _distributed(self, name: str, own: Tensor) -> Tensor:
        """Return this rank's rows of a split table as a distributed tensor; other tensors are returned unchanged."""
        shard = self._shard(name)
        if shard is None or own.dim() == 0 or self.ranks.size == 1:
            return own
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor
        from torch.distributed.tensor import Shard as Rows

        mesh = init_device_mesh("cpu", (self.ranks.size,))
        shape = torch.Size([shard.total, *own.shape[1:]])
        split: Tensor = DTensor.from_local(own, mesh, [Rows(0)], run_check=False, shape=shape, stride=own.stride())
        return split

    def _read(self, folder: Path) -> dict[str, Tensor]:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.metadata import TensorStorageMetadata

        try:
            described = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
            own: dict[str, Tensor] = {}
            for name, kind in described.items():
                if not isinstance(kind, TensorStorageMetadata):
                    raise ValueError(f"the entry '{name}' of the checkpoint is not a tensor")
                shard = self._shard(name) if len(kind.size) else None
                size = kind.size if shard is None else (shard.length, *kind.size[1:])
                own[name] = torch.zeros(size, dtype=kind.properties.dtype)
            state = {name: self._distributed(name, tensor) for name, tensor in own.items()}
            with _quiet():
                reader = dcp.HuggingFaceStorageReader(str(folder))
                dcp.load(state, storage_reader=reader, no_dist=self.ranks.size == 1)
        except Exception as error:  # of torch, safetensors or the system
            raise self._damaged(folder, error) from None
        return own

    def _check_files(self, checksums: Mapping[str, int]) -> None:
        """Raise a RunFolderError if a file is missing or has another checksum; each rank checks a part of the files."""
        wrong = ""
        for name in sorted(checksums)[self.ranks.rank :: self.ranks.size]:
            path = self.folder / name
            if not path.is_file() or _checksum(path) != checksums[name]:
                wrong = name
        for found in self.ranks.values_of_all(wrong):
            if found:
                raise self._damaged(self.folder / found, ValueError("the file is missing or has a wrong checksum"))

    def _damaged(self, path: Path, error: Exception) -> RunFolderError:
        return RunFolderError(
            f"{path}: damaged checkpoint ({describe_error(error)}); delete the checkpoint folder and train again"
        )

    def _remove_folders(self, *kept: Path) -> None:
        for pattern in ("last-*", "best-*"):
            for folder in self.folder.glob(pattern):
                if folder.is_dir() and folder not in kept:
                    shutil.rmtree(folder, ignore_errors=True)


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context manager that hides warnings, and log messages of `torch.distributed.checkpoint` below errors."""
    logger = logging.getLogger("torch.distributed.checkpoint")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
