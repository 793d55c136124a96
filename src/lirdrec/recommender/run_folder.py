"""The run folder on disk: its lock, its manifest with checksums, and atomic writes of all files together.

This module handles files only; `serialization.py` decides which files a run has.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lirdrec.errors import RunFolderError, describe_read_error
from lirdrec.files import atomic
from lirdrec.files.atomic import recover, sha256, write_errors
from lirdrec.files.locks import folder_lock
from lirdrec.files.manifest import MANIFEST, check_manifest, file_entry, manifest_format, read_manifest, resolve_path
from lirdrec.files.transaction import commit_stage, foreign_names, new_stage, recover_folder
from lirdrec.option_names import option_text

FORMAT = "lirdrec-run"
FORMAT_VERSION = 1
VECTORS = "vectors.safetensors"
DATASET = "lirdrec-dataset"
KINDS = {DATASET: "a prepared dataset", "lirdrec-export": "an export"}  # format of another kind of folder → its name
# files of a run folder that may exist without an entry in its manifest
TRAINING_FILES = ("checkpoint", "history.jsonl", "curves.png", "metrics.json", "environment.json", "tensorboard")
# files that an earlier version of lirdrec, killed while it wrote the run, may have left beside the checkpoint
WRITTEN = (
    *("config.json", "users.parquet", "items.parquet", "interactions.parquet", "features.json", "features"),
    *("dislikes.parquet", VECTORS, "weights.safetensors"),
)
REMEDY = "restore it or train again"
SMALL_FILE_BYTES = 1 << 20  # files up to this size have their checksum verified at every load

Writer = Callable[[Path], None]


# ---------------------------------------------------------------- locking


@contextlib.contextmanager
def run_lock(folder: str | Path) -> Iterator[Path]:
    """Return a context manager that locks the run folder for this process; a missing folder is created.

    To change a run, hold the lock from before the run is read until it is written, so that no change of another
    process is lost. The operating system releases the lock of a killed process.

    Raises:
        RunFolderError: another process uses the folder, or the folder cannot be made.
    """
    with folder_lock(
        folder,
        lambda owner: (
            f"{folder}: another process{owner} is writing to this run folder; "
            "wait until it ends or choose another folder"
        ),
        nested=True,
    ) as locked:
        yield locked


# ---------------------------------------------------------------- writing


def write_files(folder: str | Path, writers: Mapping[str, Writer]) -> None:
    """Write all files and the manifest, or nothing. `writers`: name inside the folder → function that writes the file.

    An existing run stays complete until the new run is on disk and replaces it in one step. Files of the existing run
    that are not in `writers` are removed, except those of the training.

    Raises:
        RunFolderError: another process uses the folder, the disk is full, or the folder cannot be written.
    """
    _write(Path(folder), writers, keep=False)


def rewrite(folder: str | Path, writers: Mapping[str, Writer]) -> None:
    """Replace or add single files of a finished run; its other files stay as they are.

    Raises:
        RunFolderError: there is no finished run, another process uses the folder, or it cannot be written.
    """
    _write(Path(folder), writers, keep=True)


def _write(folder: Path, writers: Mapping[str, Writer], keep: bool) -> None:
    recover(folder)
    with run_lock(folder), write_errors(folder):
        recover_folder(folder)
        old = _manifest(folder)["files"] if keep or (folder / MANIFEST).is_file() else {}
        with new_stage(folder) as stage:
            entries = dict(old) if keep else {}
            for name, write in writers.items():
                path = stage / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path)
                entries[name] = file_entry(path)
            manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": entries}
            commit_stage(folder, stage, manifest, removed=set(old) - set(entries) - set(TRAINING_FILES))


def leave_out(folder: str | Path, names: tuple[str, ...]) -> None:
    """Remove the entries of files from a run's manifest, because a new training is about to write to these files.

    The files themselves stay.
    """
    folder = Path(folder)
    with run_lock(folder), write_errors(folder):
        recover_folder(folder)
        if not (folder / MANIFEST).is_file():
            return
        manifest = _manifest(folder)
        files = {name: entry for name, entry in manifest["files"].items() if name not in names}
        if len(files) < len(manifest["files"]):
            with new_stage(folder) as stage:
                commit_stage(folder, stage, {**manifest, "files": files})


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file of a run; values that JSON does not know are written as strings."""
    atomic.write_json(path, value, indent=2, default=str)


def check_new(folder: str | Path, overwrite: bool = False) -> None:
    """Check that a run may be written to a folder: it is missing, empty, or has a run and `overwrite` is true.

    Raises:
        RunFolderError: the folder has other files, or a run, finished or stopped, while `overwrite` is false.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file, not a folder; choose another run folder")
    if not folder.is_dir() and not recover(folder):
        return
    kind = manifest_format(folder)
    if kind is not None and kind != FORMAT:
        raise RunFolderError(f"{folder} is {_kind_name(kind)}, not a run; choose another folder")
    if not overwrite and (folder / MANIFEST).is_file():
        remedy = f"choose another folder or overwrite it ({option_text('overwrite', True)})"
        raise RunFolderError(f"{folder} already has a finished run; {remedy}")
    extra = set(TRAINING_FILES) | (set(WRITTEN) if (folder / "checkpoint").is_dir() else set())
    if foreign := foreign_names(folder, extra):
        raise RunFolderError(f"{folder} is not a run folder (it has {foreign[0]}); choose another folder")
    if not overwrite and any((folder / "checkpoint").glob("*")):
        raise RunFolderError(
            f"{folder} has a stopped training; resume it ({option_text('resume', True)}), choose another folder or"
            f" overwrite it ({option_text('overwrite', True)})"
        )


# ---------------------------------------------------------------- reading


def is_run(folder: str | Path) -> bool:
    """Return whether `folder` has a run, which may be finished, unfinished or damaged."""
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        return manifest_format(folder) == FORMAT
    return (folder / "checkpoint").is_dir()


def open_run(folder: str | Path, verify: bool = False) -> dict[str, Any]:
    """Check the files of a finished run folder, and return its manifest.

    Sizes of all files and checksums of small files are always checked, checksums of large files only with `verify`.

    Raises:
        RunFolderError: no such folder, no finished run in it, a newer format, a missing or damaged file.
    """
    folder = Path(folder)
    if not folder.is_dir() and not recover(folder):
        raise RunFolderError(f"{folder}: no such run folder")
    if not (folder / MANIFEST).is_file():
        if (folder / "checkpoint").exists():
            raise RunFolderError(f"{folder}: its training has not ended; resume it: lirdrec train … --resume")
        raise RunFolderError(f"{folder} is not a run folder ({MANIFEST} is missing)")
    manifest = _manifest(folder)
    if (kind := manifest["format"]) != FORMAT:
        remedy = f"train on it first: lirdrec train {folder}" if kind == DATASET else "give the folder of a run"
        raise RunFolderError(f"{folder} is {_kind_name(kind)}, not a run; {remedy}")
    for name, entry in manifest["files"].items():
        check_file(resolve_path(folder, manifest, name), entry, verify)
    return manifest


def check_vectors(folder: str | Path) -> None:
    """Check that the file of a run's vectors can be opened; of a large file `open_run` checks only the size.

    Raises:
        RunFolderError: the file cannot be read or is not a safetensors file.
    """
    path = resolve_path(Path(folder), _manifest(Path(folder)), VECTORS)
    with read_errors(path), safe_open(path, framework="np") as file:
        file.keys()


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Return a context manager that turns errors of reading the tensor file `path` into a RunFolderError."""
    try:
        with path.open("rb"):  # safetensors reports a file without read permission as missing
            pass
        yield
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise RunFolderError(f"{path}: {describe_read_error(error, REMEDY)}") from None


def check_file(path: Path, entry: Mapping[str, Any], verify: bool = False, small: int = SMALL_FILE_BYTES) -> None:
    """Check that a file has the size and the checksum that its manifest entry records.

    The checksum is compared only if `verify` is set or the file has at most `small` bytes.

    Raises:
        RunFolderError: the file is missing, differs, or cannot be read.
    """
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise RunFolderError(f"{path}: {describe_read_error(error, REMEDY)}") from None
    if size is None:
        raise RunFolderError(f"{path} is missing; {REMEDY}")
    if size != entry["bytes"]:
        raise RunFolderError(
            f"{path} is damaged: it has {size:,} bytes, but {entry['bytes']:,} were written; restore it or train again"
        )
    try:
        damaged = (verify or size <= small) and sha256(path) != entry["sha256"]
    except OSError as error:
        raise RunFolderError(f"{path}: {describe_read_error(error)}") from None
    if damaged:
        raise RunFolderError(f"{path} is damaged: its checksum differs from the manifest's; {REMEDY}")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        RunFolderError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: {describe_read_error(error, REMEDY)}") from None


def _kind_name(kind: str) -> str:
    """Return the name of another kind of folder for a message, from the format in its manifest."""
    return KINDS.get(kind) or f"a folder of the format '{kind[:80]}'"


def _manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder, and check it if it is of a run; one of another kind is returned as it is."""
    manifest = read_manifest(folder, REMEDY)
    if manifest["format"] != FORMAT:
        return manifest
    if manifest["format_version"] > FORMAT_VERSION:
        raise RunFolderError(
            f"{folder} was written by a newer lirdrec (format {manifest['format_version']}, this one reads up to "
            f"{FORMAT_VERSION}); update lirdrec"
        )
    check_manifest(manifest, folder / MANIFEST, REMEDY)
    return manifest
