"""The run folder on disk: a lock, files written all together, checksums, and errors in one sentence.

This module knows files, not recommenders; `saving.py` says which files a recommender needs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lirdrec.atomic import make_folder, sha256, write_errors
from lirdrec.errors import RunFolderError
from lirdrec.locks import folder_lock

log = logging.getLogger(__name__)

FORMAT = "lirdrec-run"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
VECTORS = "vectors.safetensors"
TRAINING_FILES = ("checkpoint", "history.jsonl", "curves.png", "metrics.json", "environment.json", "tensorboard")
SMALL_FILE_BYTES = 1 << 20  # files up to this size have their checksum verified at every load

Writer = Callable[[Path], None]


# ---------------------------------------------------------------- locking


@contextlib.contextmanager
def run_lock(folder: str | Path) -> Iterator[Path]:
    """Hold the run folder for this process alone; the folder is made where it is missing.

    The lock belongs to the operating system, so a killed training leaves none behind.

    Raises:
        RunFolderError: another training holds the folder, or it cannot be made.
    """
    with folder_lock(
        folder,
        lambda owner: (
            f"{folder}: another training{owner} is writing to this run folder; "
            "wait until it ends or choose another folder"
        ),
    ) as held:
        yield held


# ---------------------------------------------------------------- writing


def write_run(folder: str | Path, writers: Mapping[str, Writer]) -> None:
    """Write all files (name inside the folder → function that writes it to a path) and then the manifest, or nothing.

    Everything is first written beside its final place; only when all of it is on disk is the old manifest taken away,
    the files renamed into place and the new manifest written. A run that was there stays whole if writing fails.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    _write(folder, writers, {})


def _write(folder: Path, writers: Mapping[str, Writer], kept: Mapping[str, Any]) -> None:
    existed = folder.exists()
    stage = folder / f".writing-{os.getpid()}"
    try:
        make_folder(stage)
        with write_errors(folder):
            entries = dict(kept)
            for name, write in writers.items():
                path = stage / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path)
                entries[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            write_json(stage / MANIFEST, {"format": FORMAT, "format_version": FORMAT_VERSION, "files": entries})
            old = set(_listed(folder)) - set(entries) - set(TRAINING_FILES)
            (folder / MANIFEST).unlink(missing_ok=True)
            _remove(folder, old)
            for name in writers:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(stage / name, folder / name)
            os.replace(stage / MANIFEST, folder / MANIFEST)  # the last step: only now is the run complete
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # only removes a folder that stayed empty
                folder.rmdir()


def rewrite(folder: str | Path, writers: Mapping[str, Writer]) -> None:
    """Replace or add single files of a finished run; the others stay listed as they are.

    Raises:
        RunFolderError: there is no finished run, the disk is full, or the folder cannot be written.
    """
    folder = Path(folder)
    _write(folder, writers, _manifest(folder)["files"])


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted structure kept as given, readable, one newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def check_new(folder: str | Path, overwrite: bool = False) -> None:
    """Refuse a folder that holds something else than a run, or a finished or stopped run unless `overwrite`.

    Raises:
        RunFolderError: writing there would destroy something.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file, not a folder; choose another run folder")
    if (folder / MANIFEST).is_file():
        if _manifest(folder).get("format") != FORMAT:
            raise RunFolderError(f"{folder}: holds a prepared dataset, not a run; choose another folder")
        if not overwrite:
            raise RunFolderError(f"{folder}: already holds a finished run; choose another folder or overwrite it")
        return
    if not folder.is_dir():
        return
    strange = sorted(p.name for p in folder.iterdir() if p.name not in TRAINING_FILES and p.name[0] != ".")
    if strange:
        raise RunFolderError(f"{folder}: is not a run folder (it holds {strange[0]}); choose another folder")
    if not overwrite and any((folder / "checkpoint").glob("*")):
        raise RunFolderError(
            f"{folder}: holds a training that was stopped; go on with it (--resume), choose another folder "
            "or overwrite it"
        )


# ---------------------------------------------------------------- reading


def is_run(folder: str | Path) -> bool:
    """Whether `folder` holds a run, be it finished, unfinished or damaged."""
    manifest = Path(folder) / MANIFEST
    if manifest.is_file():
        return f'"{FORMAT}"' in manifest.read_text(encoding="utf-8", errors="replace")
    return (Path(folder) / "checkpoint").is_dir()


def open_run(folder: str | Path, verify: bool = False) -> dict[str, Any]:
    """The manifest of a complete run folder, after checking that its files are whole.

    Sizes of all files and checksums of small ones are checked always, checksums of big ones with `verify`.

    Raises:
        RunFolderError: no such folder, no finished run in it, a newer format, a missing or damaged file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such run folder")
    if not (folder / MANIFEST).is_file():
        if (folder / "checkpoint").exists():
            raise RunFolderError(f"{folder}: its training has not ended; go on with it: lirdrec train … --resume")
        raise RunFolderError(f"{folder}: is not a run folder ({MANIFEST} is missing)")
    manifest = _manifest(folder)
    if manifest.get("format") != FORMAT:
        raise RunFolderError(
            f"{folder}: holds a prepared dataset, not a run; train on it first: lirdrec train {folder}"
        )
    for name, entry in manifest["files"].items():
        check_file(folder / name, entry, verify)
    return manifest


def check_vectors(folder: str | Path) -> None:
    """Look into the vectors of a run, of which `open_run` sees the size only.

    Raises:
        RunFolderError: they may not be read, or are something else.
    """
    path = Path(folder) / VECTORS
    with read_errors(path), safe_open(path, framework="np") as file:
        file.keys()


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn what is wrong with a tensor file inside the block into one sentence."""
    try:
        with path.open("rb"):  # safetensors would call a file that may not be read a missing one
            pass
        yield
    except PermissionError:
        raise RunFolderError(f"{path}: may not be read by this user; change its rights, or the user") from None
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{path}: cannot be read: {reason(error)}; restore it or train again") from None


def check_file(path: Path, entry: Mapping[str, Any], verify: bool = False, small: int = SMALL_FILE_BYTES) -> None:
    """Compare a file with its recorded size and, where it is small or `verify` is set, its checksum.
    `small` is the size up to which a checksum costs nothing worth mentioning.

    Raises:
        RunFolderError: it is missing or differs.
    """
    if not path.is_file():
        raise RunFolderError(f"{path}: is missing; restore it or train again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise RunFolderError(
            f"{path}: is damaged: {size:,} bytes where {entry['bytes']:,} were written; restore it or train again"
        )
    if (verify or size <= small) and sha256(path) != entry["sha256"]:
        raise RunFolderError(f"{path}: is damaged: its checksum differs from the manifest's; restore it or train again")


def read_json(path: Path) -> Any:
    """JSON from a run folder.

    Raises:
        RunFolderError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read: {reason(error)}; restore it or train again") from None


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        raise RunFolderError(f"{folder / MANIFEST}: is damaged: it is not a JSON object; restore it or train again")
    if manifest.get("format") != FORMAT:
        return manifest
    version = manifest.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise RunFolderError(
            f"{folder}: was written by a newer lirdrec (format {version}, this one reads up to {FORMAT_VERSION}); "
            "update lirdrec"
        )
    if not isinstance(version, int) or not isinstance(manifest.get("files"), dict):
        raise RunFolderError(f"{folder / MANIFEST}: is damaged: format version or files are missing; train again")
    return manifest


# ---------------------------------------------------------------- small things


def reason(error: BaseException) -> str:
    """The operating system's words without its number and path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()
    return text[0] if text else type(error).__name__


def _listed(folder: Path) -> list[str]:
    """Files of the finished run in the folder, if there is one."""
    if not (folder / MANIFEST).is_file():
        return []
    return list(_manifest(folder)["files"])


def _remove(folder: Path, names: set[str]) -> None:
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
            continue
        path.unlink(missing_ok=True)
        for parent in list(path.relative_to(folder).parents)[:-1]:
            with contextlib.suppress(OSError):  # only empty folders go
                (folder / parent).rmdir()
