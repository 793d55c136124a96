"""Which run is to be served, and how that changes: a link or a small file that is the truth for all workers."""

from __future__ import annotations

import os
from pathlib import Path

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.files.atomic import atomic_write, flush, remove_leftovers, temporary_name, write_errors
from lirdrec.files.manifest import checksum
from lirdrec.recommender.run_folder import is_run, open_run
from lirdrec.server.private_files import one_writer

Stamp = tuple[object, ...]
MAX_BYTES = 4096


class RunPointer:
    """A path that leads to a run: the folder itself, a link to it, or a text file that names it.

    A name in a file counts from the folder that the file lies in.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._taken: Stamp | None = None

    def target(self) -> Path:
        """The run folder.

        Raises:
            RunFolderError: there is nothing, or the file names nothing.
        """
        if not os.path.isfile(self.path):
            return _resolved(self.path, str(self.path))
        try:
            with self.path.open("rb") as file:
                name = file.read(MAX_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError):
            name = ""
        if not name or "\0" in name or "\n" in name:
            raise RunFolderError(f"{self.path}: must hold the name of a run folder, and nothing else")
        return _resolved(self.path.resolve().parent / name, f"{self.path}: the run folder that it names")

    def stamp(self) -> Stamp:
        """What changes when another run is to be served: the target, and the checksums of its files."""
        target = self.target()
        return target, checksum(target)

    def moved(self) -> bool:
        """Whether it leads to something else than what was taken."""
        return self.stamp() != self._taken

    def took(self, stamp: Stamp) -> None:
        """Note what is being served."""
        self._taken = stamp

    def point(self, run: Path) -> None:
        """Lead to another run from now on, in one step.

        Raises:
            ConfigError: it is a folder itself, which cannot lead elsewhere.
            RunFolderError: it cannot be written.
        """
        with one_writer(self.path):
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


def _resolved(path: Path, what: str) -> Path:
    """The path without links; `what` begins the sentence about one that no file system can look up."""
    try:
        found = path.resolve()
        found.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # names too long, links in a circle
        reason = getattr(error, "strerror", None) or "it is no path"
        what = what if len(what) < 300 else f"{what[:300]}…"
        raise RunFolderError(f"{what} cannot be looked up: {reason}") from None
    return found


def allowed_run(name: str, folder: str | Path) -> Path:
    """A run below a folder.

    Raises:
        RunFolderError: there is no finished run of that name below the folder.
    """
    root = Path(folder).resolve()
    nothing = RunFolderError(f"there is no run '{name}' below the folder of --runs-dir")
    if "\0" in name:
        raise nothing
    try:
        run = (root / name).resolve()
        if not run.is_relative_to(root) or run == root or not is_run(run):
            raise nothing
    except (OSError, RuntimeError):  # names that are too long, links in a circle
        raise nothing from None
    open_run(run)
    return run
