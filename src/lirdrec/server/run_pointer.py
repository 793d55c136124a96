"""Find the run to serve, for all workers: the run folder, a link to it, or a small file that names it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.files.atomic import atomic_write, flush, remove_leftovers, temporary_name, write_errors
from lirdrec.files.manifest import file_list_checksum
from lirdrec.recommender.run_folder import is_run, open_run
from lirdrec.server.write_lock import write_lock

Stamp = tuple[object, ...]
MAX_BYTES = 4096


class RunPointer:
    """Path to a run: the folder itself, a link to it, or a text file that names it.

    A name in a file is relative to the folder of the file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def target(self) -> Path:
        """Return the path of the run folder, without links; the folder may be missing.

        Raises:
            RunFolderError: the path cannot be resolved, or the file does not contain a name only.
        """
        if not os.path.isfile(self.path):
            return _resolved(self.path, str(self.path))
        try:
            with self.path.open("rb") as file:
                name = file.read(MAX_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError):
            name = ""
        if not name or "\0" in name or "\n" in name:
            raise RunFolderError(f"{self.path} must contain only the name of a run folder; write the name into it")
        return _resolved(self.path.resolve().parent / name, f"{self.path}: the run folder that it names")

    def stamp(self) -> Stamp:
        """Return the folder of the run to serve and the checksum of its manifest, to detect that the run changed."""
        target = self.target()
        return target, file_list_checksum(target)

    def point(self, run: Path) -> None:
        """Make the link or the file name the run folder `run`, in one atomic step.

        Raises:
            ConfigError: the path is a run folder, which cannot be changed to another run.
        """
        with write_lock(self.path):
            if self.path.is_symlink():
                with write_errors(self.path), temporary_name(self.path) as beside:
                    remove_leftovers(self.path.parent)
                    beside.symlink_to(run, target_is_directory=True)
                    os.replace(beside, self.path)
                    flush(self.path.parent)
            elif self.path.is_dir():
                raise ConfigError(
                    f"{self.path.name} is a run folder; to change the run, serve a link or a file that names one"
                )
            else:
                with atomic_write(self.path) as temporary:
                    temporary.write_text(os.path.relpath(run, self.path.resolve().parent) + "\n", encoding="utf-8")


def _resolved(path: Path, subject: str) -> Path:
    """Return the path without links, or raise a RunFolderError whose message starts with `subject`."""
    try:
        resolved = path.resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            resolved.lstat()
        return resolved
    except (OSError, ValueError, RuntimeError) as error:  # names that are too long, circular links
        reason = getattr(error, "strerror", None) or "it is not a path"
        subject = subject if len(subject) < 300 else f"{subject[:300]}…"
        raise RunFolderError(f"{subject} cannot be found: {reason}") from None


def allowed_run(name: str, folder: str | Path) -> Path:
    """Return the path of the run `name` below a folder; raise a RunFolderError if no finished run is there."""
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
