"""The folder that stores the results of trials, as JSON files with checksums, and locks of files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lirdrec.errors import RunFolderError
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec, short_hash
from lirdrec.files.atomic import make_folder, write_errors, write_json
from lirdrec.files.locks import lock_file, unlock_file

CHECKSUM = "checksum"


class TrialStore:
    """The results of trials, stored in an experiment's folder as `cells/KEY.json`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._cache: dict[str, tuple[int, TrialResult]] = {}  # key → modification time, result

    def result(self, trial: TrialSpec) -> TrialResult | None:
        """Return the result of a trial, or None if there is none yet.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self._path(trial)
        try:
            stamp = path.stat().st_mtime_ns
            if self._cache.get(trial.key, (None,))[0] == stamp:
                return self._cache[trial.key][1]
            result = replace(_read_result(path), trial=trial)  # with the dataset's current path
        except FileNotFoundError:
            return None
        self._cache[trial.key] = (stamp, result)
        return result

    def __iter__(self) -> Iterator[TrialResult]:
        """Return an iterator over all results in the folder, ordered by key.

        Raises:
            RunFolderError: a file is damaged.
        """
        return map(_read_result, sorted((self.folder / "cells").glob("*.json")))

    def record(self, result: TrialResult) -> None:
        """Write the result of a trial into the folder; it replaces an earlier result of the same trial."""
        path = self._path(result.trial)
        make_folder(path.parent)
        write_checked(path, result.to_json())

    def claim(self, trial: TrialSpec) -> AbstractContextManager[bool]:
        """Lock the trial for this process inside a `with` block, which gets False if another process has locked it."""
        return locked(self.folder / "locks" / trial.key, wait=False)

    def _path(self, trial: TrialSpec) -> Path:
        return self.folder / "cells" / f"{trial.key}.json"


def _read_result(path: Path) -> TrialResult:
    try:
        return TrialResult.from_json(read_checked(path))
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: the file is damaged ({error}); delete it to compute the trial again") from None


@contextlib.contextmanager
def locked(path: str | Path, wait: bool = True) -> Iterator[bool]:
    """Lock a file inside a `with` block; create it if missing.

    The block gets True. It gets False, and no lock, if `wait` is False and another process has locked the file.
    """
    path = Path(path)
    make_folder(path.parent)
    with write_errors(path):
        handle = path.open("a+b")
    with handle:
        acquired = lock_file(handle, wait)
        if acquired:
            handle.truncate(0)
            handle.write(str(os.getpid()).encode())
            handle.flush()
        try:
            yield acquired
        finally:
            if acquired:
                unlock_file(handle)


def write_checked(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum into a file, atomically."""
    plain = json.loads(json.dumps(values))  # with lists and text keys, as they will be read from JSON
    write_json(path, plain | {CHECKSUM: short_hash(plain)})


def read_checked(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file that `write_checked` wrote, after a check of its checksum.

    A file of an earlier version, which has no checksum, is read without this check.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if values.pop(CHECKSUM, None) not in (None, short_hash(values)):
        raise ValueError("wrong checksum")
    return values
