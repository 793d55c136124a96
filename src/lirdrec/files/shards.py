"""Resumable work on rows: shards, which are ranges of rows, are stored with checksums as soon as they are finished.

An interruption loses only the shards that were not finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from lirdrec.errors import ConfigError
from lirdrec.files.atomic import atomic_write, remove, sha256, write_errors, write_text
from lirdrec.files.locks import LOCK
from lirdrec.option_names import option_text

logger = logging.getLogger(__name__)

PLAN = "plan.json"
JOINING = "joining"  # marker file: exists from when finished work is added to the dataset until the work is removed


@dataclass(frozen=True)
class Shard:
    """A finished shard: arrays, and facts that JSON can represent."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def has_partial_work(folder: Path) -> bool:
    """Return whether a folder of shards contains finished shards, and nothing of them is added to the dataset yet."""
    return any(folder.glob("[0-9]*.json")) and not (folder / JOINING).exists()


def forget(folder: Path) -> None:
    """Delete the shards in a folder and the file of their plan; other files stay."""
    for path in (*folder.glob("[0-9]*"), folder / PLAN):
        path.unlink(missing_ok=True)


class Shards:
    """A folder with the shards of some work on `n_rows` rows; a shard is a range of rows that is stored together.

    `00012.safetensors` contains a shard's arrays; `00012.json`, its seal, contains their checksum and the facts. A
    shard without a valid seal is pending: it has still to be made.

    Args:
        folder: created if it does not exist.
        plan: all settings that determine the content of the shards, JSON-serializable; stored in the folder.
        n_rows: number of rows in all shards.
        shard_rows: rows of a shard; the last one may be shorter.
        keep_existing: what to do if the folder has shards of another plan. True: raise a ConfigError. False: discard
            them. None: raise a ConfigError if any of them is finished and not yet being added to a dataset, else
            discard them.

    Attributes:
        sealed: the indices of the finished shards.

    Raises:
        ConfigError: the folder contains shards of another plan (see `keep_existing`).
        RunFolderError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        plan: Mapping[str, Any],
        n_rows: int,
        shard_rows: int,
        keep_existing: bool | None = None,
    ):
        self.folder, self.n_rows, self.shard_rows = Path(folder), n_rows, shard_rows
        self.plan = {**plan, "rows": n_rows, "shard_rows": shard_rows}
        text = json.dumps(self.plan, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        path = self.folder / PLAN
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            if has_partial_work(self.folder) if keep_existing is None else keep_existing:
                raise ConfigError(
                    f"{self.folder} contains unfinished work with other settings (see {PLAN} there);"
                    f" finish it with those settings, or start again ({option_text('restart', True)})"
                )
            forget(self.folder)
        if not path.is_file():
            with write_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        self.sealed = {index for index in range(len(self)) if self._is_sealed(index)}

    def __len__(self) -> int:
        return -(-self.n_rows // self.shard_rows)

    def rows(self, index: int) -> range:
        """Return the row numbers of a shard."""
        return range(index * self.shard_rows, min(self.n_rows, (index + 1) * self.shard_rows))

    def pending(self) -> list[int]:
        """Return the indices of the unfinished shards, in order."""
        return [index for index in range(len(self)) if index not in self.sealed]

    def seal(self, index: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Write a shard: first its arrays, then its seal. With the seal it is finished. Equal content: equal bytes."""
        seal: dict[str, Any] = {"facts": dict(facts), "sha256": None}
        if arrays:
            content = save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
            with atomic_write(self._arrays(index)) as temporary:
                temporary.write_bytes(content)
            seal["sha256"] = hashlib.sha256(content).hexdigest()
        write_text(self._seal(index), json.dumps(seal, ensure_ascii=False, sort_keys=True) + "\n")
        self.sealed.add(index)

    def read(self, index: int) -> Shard:
        """Read a finished shard; its checksum was compared when this object was made."""
        seal = self._read_seal(index)
        arrays = {} if seal["sha256"] is None else load(self._arrays(index).read_bytes())
        return Shard(arrays, seal["facts"])

    def facts(self, index: int) -> dict[str, Any]:
        """Read the facts of a finished shard, without its arrays."""
        return self._read_seal(index)["facts"]

    def discard(self) -> None:
        """Delete the folder; the plan is deleted last, so that after an interruption it is still a folder of shards."""
        for path in sorted(self.folder.glob("*")):
            if path.name not in (PLAN, LOCK):
                remove(path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _arrays(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def _seal(self, index: int) -> Path:
        return self.folder / f"{index:05d}.json"

    def _read_seal(self, index: int) -> dict[str, Any]:
        return json.loads(self._seal(index).read_text(encoding="utf-8"))

    def _is_sealed(self, index: int) -> bool:
        if not self._seal(index).is_file():
            return False
        try:
            seal = self._read_seal(index)
            if seal["sha256"] is None or sha256(self._arrays(index)) == seal["sha256"]:
                return isinstance(seal["facts"], dict)
        except (ValueError, KeyError, TypeError, OSError):
            pass
        logger.warning("%s: shard %d is damaged; it is computed again", self.folder, index)
        return False
