"""Work on rows cut into shards, each written whole, then sealed with its checksum: a kill loses one shard only."""

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
from lirdrec.files.atomic import atomic_write, remove, sha256, write_errors
from lirdrec.files.locks import LOCK

logger = logging.getLogger(__name__)

PLAN = "plan.json"
JOINING = "joining"  # a file that is there from before the finished work joins the dataset until it is discarded


@dataclass(frozen=True)
class Shard:
    """What was sealed: arrays, and whatever JSON can say."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def has_partial_work(folder: Path) -> bool:
    """Whether anything was finished in a folder of shards that would be lost with it."""
    return any(folder.glob("[0-9]*.json")) and not (folder / JOINING).exists()


def forget(folder: Path) -> None:
    """Remove the shards of a folder and their plan; what else lies there stays."""
    for path in (*folder.glob("[0-9]*"), folder / PLAN):
        path.unlink(missing_ok=True)


class Shards:
    """A folder of sealed shards of `n_rows` rows.

    `00012.safetensors` holds a shard's arrays, `00012.json` is its seal: the checksum of the former, and the facts. A
    shard without a seal, or whose seal does not fit, is work to be done again.

    Args:
        folder: made if it does not exist.
        plan: JSON-able, all that decides the content.
        n_rows: rows altogether.
        shard_rows: rows of a shard; the last one may be shorter.
        dear: whether a folder of another plan is refused, or what it holds forgotten. By default it is refused if
            anything came of that plan, that is, if a shard is sealed.

    Raises:
        ConfigError: the folder holds shards of another plan.
        RunFolderError: it cannot be written.
    """

    def __init__(
        self, folder: str | Path, plan: Mapping[str, Any], n_rows: int, shard_rows: int, dear: bool | None = None
    ):
        self.folder, self.n_rows, self.shard_rows = Path(folder), n_rows, shard_rows
        self.plan = {**plan, "rows": n_rows, "shard_rows": shard_rows}
        text = json.dumps(self.plan, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        path = self.folder / PLAN
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            if has_partial_work(self.folder) if dear is None else dear:
                raise ConfigError(
                    f"{self.folder}: holds unfinished work with other settings (see {PLAN} there);"
                    " finish it with those, or start again (--no-resume)"
                )
            forget(self.folder)
        if not path.is_file():
            with write_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        self._sealed = {index for index in range(len(self)) if self._holds(index)}

    def __len__(self) -> int:
        return -(-self.n_rows // self.shard_rows)

    def rows(self, index: int) -> range:
        """The rows of a shard."""
        return range(index * self.shard_rows, min(self.n_rows, (index + 1) * self.shard_rows))

    def pending(self) -> list[int]:
        """The shards that are still to be done, in order."""
        return [index for index in range(len(self)) if index not in self._sealed]

    def seal(self, index: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Write a shard: first its arrays, then the seal. Equal content gives equal bytes.

        Raises:
            RunFolderError: it cannot be written (a full disk included).
        """
        seal: dict[str, Any] = {"facts": dict(facts), "sha256": None}
        if arrays:
            content = save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
            with atomic_write(self._arrays(index)) as temporary:
                temporary.write_bytes(content)
            seal["sha256"] = hashlib.sha256(content).hexdigest()
        with atomic_write(self._seal(index)) as temporary:
            temporary.write_text(json.dumps(seal, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        self._sealed.add(index)

    def read(self, index: int) -> Shard:
        """A sealed shard."""
        seal = self._told(index)
        arrays = {} if seal["sha256"] is None else load(self._arrays(index).read_bytes())
        return Shard(arrays, seal["facts"])

    def facts(self, index: int) -> dict[str, Any]:
        """The facts of a sealed shard alone; its arrays stay on the disk."""
        return self._told(index)["facts"]

    def discard(self) -> None:
        """Remove the folder; its plan goes last, so that what a kill leaves is known as ours."""
        for path in sorted(self.folder.glob("*")):
            if path.name not in (PLAN, LOCK):
                remove(path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _arrays(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def _seal(self, index: int) -> Path:
        return self.folder / f"{index:05d}.json"

    def _told(self, index: int) -> dict[str, Any]:
        return json.loads(self._seal(index).read_text(encoding="utf-8"))

    def _holds(self, index: int) -> bool:
        if not self._seal(index).is_file():
            return False
        try:
            seal = self._told(index)
            if seal["sha256"] is None or sha256(self._arrays(index)) == seal["sha256"]:
                return isinstance(seal["facts"], dict)
        except (ValueError, KeyError, TypeError, OSError):
            pass
        logger.warning("%s: shard %d is damaged; it is done again", self.folder, index)
        return False
