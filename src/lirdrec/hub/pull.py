"""`pull`: download a prepared dataset or a run from a hub and verify it before use. No code is run."""

from __future__ import annotations

import glob
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lirdrec.data import storage
from lirdrec.errors import RunFolderError
from lirdrec.files.atomic import sha256
from lirdrec.files.transaction import atomic_folder
from lirdrec.hub.client import HubError, Repository, bars, hub_errors, is_absent, repository
from lirdrec.hub.contents import FEATURES, MANIFEST, check_content, check_name, is_document
from lirdrec.recommender import run_folder

log = logging.getLogger(__name__)

FORMATS = {storage.FORMAT: storage.FORMAT_VERSION, run_folder.FORMAT: run_folder.FORMAT_VERSION}
MOST_BYTES = 64 << 20  # of a manifest
WORKERS = 4


@dataclass(frozen=True)
class Snapshot:
    """A verified copy in the hub's cache, which must not be written to.

    Attributes:
        folder: its path.
        format: "lirdrec-dataset" or "lirdrec-run".
        names: the files of its manifest.
    """

    folder: Path
    format: str
    names: list[str]


def pull(
    repo: str,
    folder: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Download a prepared dataset or a run from the Hugging Face hub.

    The files are downloaded into the hub's cache, so an interrupted pull resumes, and a cached copy needs no
    connection. They are verified against the manifest, copied beside `folder` and renamed. Files that the manifest
    does not list are refused; nothing is unpickled or run.

    Args:
        repo: "OWNER/NAME"; if both a run and a dataset have this name, "datasets/OWNER/NAME" is the dataset.
        folder: target folder.
        revision: branch, tag or commit; None for the main branch.
        token: of the hub; None for that of `hf auth login` or of the variable HF_TOKEN.
        endpoint: the address of another hub; None for the client's (the variable HF_ENDPOINT).
        overwrite: replace a folder that contains a dataset or a run.
        progress: draw the client's progress bars on the error stream.

    Returns:
        The folder.

    Raises:
        HubError: the repository cannot be read, is damaged, or was not made by lirdrec.
        RunFolderError: the folder exists already or cannot be written.
        ConfigError: a name or an option is invalid; or the hub's client is not installed.
    """
    source = repository(repo, revision, endpoint, token)
    extra = (*storage.EXTRA, *run_folder.TRAINING_FILES)
    with atomic_folder(folder, overwrite, FORMATS, extra) as temporary:
        snapshot = fetch(source, progress)
        for name in (*snapshot.names, MANIFEST):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot.folder / name, temporary / name)
    return Path(folder)


def fetch(repo: Repository, progress: bool = False) -> Snapshot:
    """Download a repository into the hub's cache and verify it.

    Raises:
        HubError: see `pull`.
    """
    with bars(progress):
        repo, folder = _manifest(repo)
        commit = folder.name
        manifest = _read(repo, folder)
        names = _names(repo, manifest)
        _check_listing(repo, commit, names)
        with hub_errors(repo):
            _download(repo, commit, names)
        for name, entry in manifest["files"].items():
            _check(repo, folder, commit, name, entry)
        if FEATURES in names:
            _check_reference(repo, folder, names)
    return Snapshot(folder, manifest["format"], names)


def _manifest(repo: Repository) -> tuple[Repository, Path]:
    """The repository with its type, and the cache folder with its manifest."""
    with hub_errors(repo):
        for kind in (repo.type,) if repo.type else ("model", "dataset"):
            tried = replace(repo, type=kind)
            try:
                return tried, Path(_download(tried, repo.revision, [MANIFEST]))
            except Exception as error:
                if kind == "dataset" or repo.type or not is_absent(error):
                    raise
    raise AssertionError("unreachable")


def _download(repo: Repository, revision: str | None, names: list[str]) -> str:
    return repo.api().snapshot_download(
        repo.name,
        repo_type=repo.type,
        revision=revision,
        allow_patterns=[glob.escape(name) for name in names],
        max_workers=WORKERS,
    )


def _read(repo: Repository, folder: Path) -> dict[str, Any]:
    """The manifest; raises if this version cannot read its format."""
    path = folder / MANIFEST
    foreign = HubError(f"{repo} holds neither a dataset nor a run of lirdrec")
    if not path.is_file():
        raise foreign
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError
        manifest = json.loads(path.read_bytes())
        version, known = manifest["format_version"], FORMATS[manifest["format"]]
        manifest["files"].items()
        newer = not isinstance(version, int) or version > known
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise foreign from None
    if newer:
        raise HubError(f"{repo} was written in format {version}, newer than the {known} known here; upgrade lirdrec")
    return manifest


def _names(repo: Repository, manifest: Mapping[str, Any]) -> list[str]:
    """The validated names of the files in the manifest."""
    names = _checked(repo, lambda: [check_name(name) for name in manifest["files"]])
    for name, entry in manifest["files"].items():
        good = isinstance(entry, dict) and isinstance(entry.get("bytes"), int)
        if not good or not re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256"))):
            raise HubError(f"{repo}: its {MANIFEST} gives no checksum of {name}; it is not used")
    features = manifest.get("features", {}) if manifest["format"] == storage.FORMAT else {}
    for name in features:  # loading builds paths from these names
        if not {f"features/{name}.npy", f"features/{name}.mask.npy"} <= set(names):
            raise HubError(
                f"{repo}: its {MANIFEST} names features {name!r} without listing their files; it is not used"
            )
    return names


def _check_listing(repo: Repository, commit: str, names: list[str]) -> None:
    """Raise if the repository has files that its manifest does not list; skipped offline."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return  # only files of the manifest are ever used
    try:
        with hub_errors(repo):
            held = repo.api().list_repo_files(repo.name, repo_type=repo.type, revision=commit)
    except HubError as error:
        log.info("%s; its copy in the cache is used", error)
        return
    unlisted = sorted(name for name in held if name not in names and name != MANIFEST and not is_document(name))
    if unlisted:
        raise HubError(
            f"{repo} holds {unlisted[0]!r}, which its {MANIFEST} does not list: it was changed after it was pushed, or "
            "cannot be trusted; nothing was written"
        )


def _check(repo: Repository, folder: Path, commit: str, name: str, entry: Mapping[str, Any]) -> None:
    """Compare a file with the manifest; if it differs, download it again, since the cache may be damaged."""
    path = folder / name
    if not _is_intact(path, entry):
        with hub_errors(repo):
            repo.api().hf_hub_download(repo.name, name, repo_type=repo.type, revision=commit, force_download=True)
        if not _is_intact(path, entry):
            raise HubError(f"{repo}: {name} is damaged: its checksum differs from the manifest's; nothing was written")
    _checked(repo, lambda: check_content(path, name))


def _is_intact(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]


def _check_reference(repo: Repository, folder: Path, names: list[str]) -> None:
    """Raise if features of a run would be read from outside of its folder."""
    try:
        description = json.loads((folder / FEATURES).read_bytes())
        files = [f"{prefix}/{name}.npy" for name in description["names"] for prefix in description["added_blocks"]]
        reference = description.get("dataset")
        if reference is None:
            files += [f"features/{name}.npy" for name in description["names"]]
        else:
            names_used = [reference["folder"], reference["relative"], *map(str, description["names"])]
            good = all(isinstance(one, str) and check_name(f"{one}.npy") and "/" not in one for one in names_used)
            good = good and all(check_name(one["file"]) for one in reference["files"].values())
            files += [] if good else ["?"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RunFolderError):
        files = ["?"]
    if not set(files) <= set(names):
        raise HubError(f"{repo}: its {FEATURES} names files outside of the run; it is not used")


def _checked(repo: Repository, check: Callable[[], Any]) -> Any:
    try:
        return check()
    except RunFolderError as error:
        raise HubError(f"{repo}: {error}; nothing was written") from None
