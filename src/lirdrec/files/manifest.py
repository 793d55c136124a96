"""Read and check the manifest of a folder: the list of its files with their sizes and checksums.

Prepared datasets, run folders and exports have a manifest. Readers find a folder's files only through the manifest. So
one version of the folder is replaced by the next when a new manifest, one small file, is written (`transaction.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lirdrec.errors import RunFolderError, describe_read_error
from lirdrec.files.atomic import sha256

MANIFEST = "manifest.json"
BESIDE = ".new"  # suffix of a new file beside the one that it replaces, in folders of earlier versions
MAX_BYTES = 64 << 20  # largest size of a manifest
SHA256 = re.compile(r"[0-9a-f]{64}")
STAGE = re.compile(r"\.stage-[0-9a-f]+")  # a hidden folder with the files of the next version


def is_relative_name(name: object) -> bool:
    """Return whether a name from a manifest stays inside its folder on every system: relative, no `..`, no drive."""
    if not isinstance(name, str) or not name or len(name) > 1000 or "\\" in name or "\0" in name or ":" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def file_entry(path: Path) -> dict[str, Any]:
    """Return the manifest's entry of a file: its size in bytes and its SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def manifest_format(folder: str | Path) -> str | None:
    """Return the format in a folder's manifest, such as "lirdrec-run" for a run; None without a readable manifest."""
    try:
        name = json.loads(_text(Path(folder) / MANIFEST))["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def check_not_inside_folder(path: str | Path, option: str = "") -> None:
    """Raise a RunFolderError if the path of a new file is inside a prepared dataset, a run or an export.

    The message begins with `option`, such as "--output ".
    """
    for folder in list(Path(os.path.abspath(path)).parents)[:3]:  # features/added-0/text.npy
        if (manifest_format(folder) or "").startswith("lirdrec-"):
            raise RunFolderError(
                f"{option}{path} is inside {folder}, which contains files of lirdrec; choose another folder"
            )


def read_manifest(folder: str | Path, remedy: str) -> dict[str, Any]:
    """Read the manifest of a folder, and check that it has a `format` and a `format_version`, with any values.

    `check_manifest` checks the other entries.

    Args:
        folder: its manifest must exist.
        remedy: end of the message about a damaged manifest, such as "restore it or train again".

    Raises:
        RunFolderError: the manifest cannot be read, is too large, or is not a JSON object with a format and a version.
    """
    path = Path(folder) / MANIFEST
    try:
        value = json.loads(_text(path))
    except OSError as error:
        raise RunFolderError(f"{path}: {describe_read_error(error, remedy)}") from None
    except _TooLargeError:
        raise RunFolderError(
            f"{path} is damaged: it has more than {MAX_BYTES} bytes, which no manifest has; {remedy}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged: it is not JSON ({type(error).__name__}); {remedy}") from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} is damaged: it is not a JSON object; {remedy}")
    version = value.get("format_version")
    if not isinstance(value.get("format"), str) or not isinstance(version, int) or isinstance(version, bool):
        raise RunFolderError(f"{path} is damaged: its format or its format version is missing; {remedy}")
    return value


def check_manifest(manifest: Mapping[str, Any], path: Path, remedy: str) -> None:
    """Check the types of the entries that all manifests have, and that every file name stays inside the folder.

    The files themselves are not read.

    Args:
        path: the path of the manifest, for the message.
        remedy: end of the message, as in `read_manifest`.

    Raises:
        RunFolderError: an entry is wrong; the message names the first wrong entry.
    """

    def damaged(problem: str) -> RunFolderError:
        return RunFolderError(f"{path} is damaged: {problem}; {remedy}")

    files = manifest.get("files")
    if not isinstance(files, dict):
        raise damaged("its list of files is missing")
    for name, entry in files.items():
        if not is_relative_name(name) or name == MANIFEST:
            raise damaged(f"it lists {name[:80]!r}, which is outside of the folder")
        size = entry.get("bytes") if isinstance(entry, dict) else None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise damaged(f"the size of the file {name[:80]!r} is missing, or is not a number")
        if not isinstance(entry.get("sha256"), str) or not SHA256.fullmatch(entry["sha256"]):
            raise damaged(f"it does not have the checksum of the file {name[:80]!r}")
    for key in ("moved", "removed"):
        names = manifest.get(key, [])
        if not isinstance(names, list) or not all(is_relative_name(name) and name != MANIFEST for name in names):
            raise damaged(f"its entry '{key}' is not a list of files inside the folder")
    if not set(manifest.get("moved", [])) <= set(files):
        raise damaged("its entry 'moved' names files that are not in its list of files")
    if (stage := manifest.get("stage")) is not None and not (isinstance(stage, str) and STAGE.fullmatch(stage)):
        raise damaged("its entry 'stage' is not a folder of new files")


def resolve_path(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    """Return the path of a file of the manifest.

    This is its name in the folder or, until the change of the folder is finished, its path among the new files in the
    hidden folder `manifest["stage"]` (see `transaction.py`).
    """
    if name not in manifest.get("moved", ()):
        return folder / name
    return folder / manifest["stage"] / name if manifest.get("stage") else folder / (name + BESIDE)


def manifest_stamp(folder: str | Path) -> tuple[object, ...] | None:
    """Return a value that changes whenever the manifest of a folder is written; None if the manifest cannot be read."""
    path = Path(folder, MANIFEST)
    try:
        status = os.stat(path)
        return status.st_ino, status.st_mtime_ns, status.st_size, _text(path)
    except (OSError, ValueError):
        return None


def file_list_checksum(folder: str | Path) -> str | None:
    """Return one checksum of the list of files (with their checksums) in a folder's manifest; None if it is unreadable.

    The files themselves are not read. Unlike `manifest_stamp`, the checksum does not change when the files are moved
    from the stage to their final names.
    """
    try:
        files = json.loads(_text(Path(folder) / MANIFEST))["files"]
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


class _TooLargeError(ValueError):
    """The file is larger than a manifest can be."""


def _text(path: Path) -> str:
    """Return the text of a manifest; raise an OSError, a UnicodeDecodeError or a _TooLargeError."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _TooLargeError
    return content.decode("utf-8")
