"""Pointer to the run to serve: a run folder, a link or a small file, shared by all workers."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.files.atomic import atomic_write, flush, remove_leftovers, temporary_name, write_errors
from lirdrec.files.manifest import manifest_checksum
from lirdrec.recommender.run_folder import is_run, open_run
from lirdrec.server.private_files import write_lock

Stamp = tuple[object, ...]
MAX_BYTES = 4096


class RunPointer:
    """Path to a run: the folder itself, a link to it, or a text file that names it.

    A name in a file is relative to the folder of the file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def target(self) -> Path:
        """The run folder; raises a RunFolderError if the path cannot be resolved, or the file names no run folder."""
        if not os.path.isfile(self.path):
            return _resolved(self.path, str(self.path))
        try:
            with self.path.open("rb") as file:
                name = file.read(MAX_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError):
            name = ""
        if not name or "\0" in name or "\n" in name:
            raise RunFolderError(f"{self.path} must contain the name of a run folder, and nothing else")
        return _resolved(self.path.resolve().parent / name, f"{self.path}: the run folder that it names")

    def stamp(self) -> Stamp:
        """Target and checksum of the run to serve, to detect a change."""
        target = self.target()
        return target, manifest_checksum(target)

    def point(self, run: Path) -> None:
        """Point to another run, atomically; raises a ConfigError if the path is a run folder, which stays as it is."""
        with write_lock(self.path):
            if self.path.is_symlink():
                with write_errors(self.path), temporary_name(self.path) as beside:
                    remove_leftovers(self.path.parent)
                    beside.symlink_to(run, target_is_directory=True)
                    os.replace(beside, self.path)
                    flush(self.path.parent)
            elif self.path.is_dir():
                raise ConfigError(f"{self.path.name} is a run folder, not a link or a file that names one")
            else:
                with atomic_write(self.path) as temporary:
                    temporary.write_text(os.path.relpath(run, self.path.resolve().parent) + "\n", encoding="utf-8")


def _resolved(path: Path, subject: str) -> Path:
    """The path without links; `subject` starts the error message about a path that cannot be looked up."""
    try:
        resolved = path.resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            resolved.lstat()
        return resolved
    except (OSError, ValueError, RuntimeError) as error:  # names that are too long, circular links
        reason = getattr(error, "strerror", None) or "it is not a path"
        subject = subject if len(subject) < 300 else f"{subject[:300]}…"
        raise RunFolderError(f"{subject} cannot be looked up: {reason}") from None


def allowed_run(name: str, folder: str | Path) -> Path:
    """The run of a name below a folder; raises a RunFolderError if there is no finished one."""
    root = Path(folder).resolve()
    try:
        run = (root / name).resolve()
        is_allowed = run.is_relative_to(root) and run != root and is_run(run)
    except (OSError, RuntimeError, ValueError):  # names that are too long, circular links, null characters
        is_allowed = False
    if not is_allowed:
        raise RunFolderError(f"there is no run '{name}' below the folder of --runs-dir")
    open_run(run)
    return run
