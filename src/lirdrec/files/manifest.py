"""The manifest of a folder: which files belong to it, with their sizes and checksums; checked before anything is used.

Prepared datasets, run folders and exports have one. Readers take a folder's files from the manifest alone, so that
writing a new manifest, one small file, is what replaces a version of the folder by the next (`transaction.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lirdrec.errors import RunFolderError, unreadable
from lirdrec.files.atomic import sha256

MANIFEST = "manifest.json"
BESIDE = ".new"  # ending of a new file beside the one that it replaces, in folders of earlier versions
MAX_BYTES = 64 << 20  # of a manifest
SHA256 = re.compile(r"[0-9a-f]{64}")
STAGE = re.compile(r"\.stage-[0-9a-f]+")  # a hidden folder with the files of the next version


def is_relative_name(name: object) -> bool:
    """Whether a name from a file stays inside its folder on every system: relative, no `..`, no drive, no link up."""
    if not isinstance(name, str) or not name or len(name) > 1000 or "\\" in name or "\0" in name or ":" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def file_entry(path: Path) -> dict[str, Any]:
    """What a manifest says about a file: its size in bytes and its SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def manifest_format(folder: str | Path) -> str | None:
    """The format that the manifest of a folder names, such as "lirdrec-run"; None where there is no such manifest."""
    try:
        value = json.loads(_text(Path(folder) / MANIFEST))
    except (OSError, ValueError, RecursionError):
        return None
    kind = value.get("format") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def folder_around(path: str | Path) -> Path | None:
    """The prepared dataset, run or export that a path lies in, up to two folders deep; None where there is none."""
    parents = list(Path(os.path.abspath(path)).parents)[:3]
    return next((one for one in parents if (kind := manifest_format(one)) and kind.startswith("lirdrec-")), None)


def refuse_inside(path: str | Path, option: str = "") -> None:
    """Refuse a file that would be written into a prepared dataset, a run or an export.

    Args:
        path: of the file.
        option: of the command line that names it, such as "--output "; it comes before the path.

    Raises:
        RunFolderError: names the folder.
    """
    if (around := folder_around(path)) is not None:
        raise RunFolderError(f"{option}{path}: lies in {around}, which holds files of lirdrec; choose another folder")


def read_manifest(folder: str | Path, remedy: str) -> dict[str, Any]:
    """A manifest as a mapping with `format` and `format_version`; the rest is not looked at yet.

    Args:
        folder: the folder; its manifest must exist.
        remedy: what to do about a damaged one, such as "restore it or train again".

    Raises:
        RunFolderError: it may not be read, or is no JSON object with a format and a version.
    """
    path = Path(folder) / MANIFEST
    try:
        value = json.loads(_text(path))
    except OSError as error:
        raise RunFolderError(f"{path}: {unreadable(error, remedy)}") from None
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: is damaged: it is not JSON ({type(error).__name__}); {remedy}") from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{path}: is damaged: it is not a JSON object; {remedy}")
    version = value.get("format_version")
    if not isinstance(value.get("format"), str) or not isinstance(version, int) or isinstance(version, bool):
        raise RunFolderError(f"{path}: is damaged: its format or its format version is missing; {remedy}")
    return value


def check_manifest(manifest: Mapping[str, Any], path: Path, remedy: str) -> None:
    """Check the types of what every manifest of ours lists, and that no name in it leaves the folder.

    Raises:
        RunFolderError: names the first entry that is wrong.
    """

    def refuse(what: str) -> RunFolderError:
        return RunFolderError(f"{path}: is damaged: {what}; {remedy}")

    files = manifest.get("files")
    if not isinstance(files, dict):
        raise refuse("its list of files is missing")
    for name, entry in files.items():
        if not is_relative_name(name) or name == MANIFEST:
            raise refuse(f"it lists {name[:80]!r}, which does not stay inside the folder")
        size = entry.get("bytes") if isinstance(entry, dict) else None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise refuse(f"it gives no size of {name[:80]!r}")
        if not isinstance(entry.get("sha256"), str) or not SHA256.fullmatch(entry["sha256"]):
            raise refuse(f"it gives no checksum of {name[:80]!r}")
    for key in ("moved", "removed"):
        names = manifest.get(key, [])
        if not isinstance(names, list) or not all(is_relative_name(name) and name != MANIFEST for name in names):
            raise refuse(f"its entry '{key}' is no list of files inside the folder")
    if not set(manifest.get("moved", [])) <= set(files):
        raise refuse("its entry 'moved' names files that it does not list")
    if (stage := manifest.get("stage")) is not None and not (isinstance(stage, str) and STAGE.fullmatch(stage)):
        raise refuse("its entry 'stage' is no folder of new files")


def resolve_path(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    """Where a file of the manifest lies: under its name or, until a transaction is settled, in its stage."""
    if name not in manifest.get("moved", ()):
        return folder / name
    return folder / manifest["stage"] / name if manifest.get("stage") else folder / (name + BESIDE)


def stamp(folder: str | Path) -> tuple[object, ...] | None:
    """What changes whenever the manifest of a folder is written; None where there is none."""
    path = Path(folder) / MANIFEST
    try:
        status = os.stat(path)
        return status.st_ino, status.st_mtime_ns, status.st_size, _text(path)
    except (OSError, ValueError):
        return None


def checksum(folder: str | Path) -> str | None:
    """A checksum of all files of a folder, as its manifest lists them; None where there is no readable manifest.

    Unlike `stamp`, it stays the same while the files get their final names.
    """
    try:
        files = json.loads(_text(Path(folder) / MANIFEST))["files"]
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError("a manifest is never that large")
    return content.decode("utf-8")
