"""Download a prepared dataset or a run from a hub such as Hugging Face's, and verify it before use. No code is run."""

from __future__ import annotations

import glob
import json
import logging
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lirdrec.data import storage
from lirdrec.errors import RunFolderError
from lirdrec.files.atomic import sha256
from lirdrec.files.manifest import MANIFEST, check_manifest, read_manifest
from lirdrec.files.transaction import atomic_folder
from lirdrec.hub.client import HubError, Repository, bars, hub_errors, is_absent, repository
from lirdrec.hub.contents import FEATURES, check_content, check_name, is_document
from lirdrec.recommender import run_folder

log = logging.getLogger(__name__)

FORMATS = {storage.FORMAT: storage.FORMAT_VERSION, run_folder.FORMAT: run_folder.FORMAT_VERSION}
WORKERS = 4


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
    connection. They are verified against the manifest, copied to a temporary folder and renamed to `folder`. If the
    repository has files that the manifest does not list, it is refused. Nothing is unpickled or run.

    Args:
        repo: "OWNER/NAME"; if both a run and a dataset have this name, "datasets/OWNER/NAME" is the dataset.
        folder: the folder to write.
        revision: branch, tag or commit; None for the main branch.
        token: token of the hub; None for the token of `hf auth login` or of the variable HF_TOKEN.
        endpoint: the address of another hub; None for the client's default (the variable HF_ENDPOINT).
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
        cached, manifest = fetch(source, progress)
        for name in (*manifest["files"], MANIFEST):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cached / name, temporary / name)
    return Path(folder)


def fetch(repo: Repository, progress: bool = False) -> tuple[Path, dict[str, Any]]:
    """Download a repository into the hub's cache and verify it; return the folder in the cache and its manifest.

    The caller must not write to this folder.

    Raises:
        HubError: see `pull`.
    """
    with bars(progress):
        repo, folder = _fetch_manifest(repo)
        try:
            manifest = _read_manifest(repo, folder)
            names = manifest["files"].keys()
            _check_listing(repo, folder.name, names)
            with hub_errors(repo):
                _download(repo, folder.name, names)
            for name, entry in manifest["files"].items():
                _check_file(repo, folder, name, entry)
        except RunFolderError as error:
            raise HubError(f"{repo}: {error}; nothing was written") from None
        if FEATURES in names and not _features_inside(folder, names):
            raise HubError(f"{repo}: its {FEATURES} names files outside of the run; the run is not used")
    return folder, manifest


def _fetch_manifest(repo: Repository) -> tuple[Repository, Path]:
    """Download the manifest; return the repository with its type, and the folder of the commit in the cache.

    Without a type, a run of this name is tried first, then a dataset.
    """
    with hub_errors(repo):
        first = replace(repo, type=repo.type or "model")
        try:
            return first, _download(first, repo.revision, [MANIFEST])
        except Exception as error:
            if repo.type or not is_absent(error):
                raise
        second = replace(repo, type="dataset")
        return second, _download(second, repo.revision, [MANIFEST])


def _download(repo: Repository, revision: str | None, names: Collection[str]) -> Path:
    folder = repo.api().snapshot_download(
        repo.name,
        repo_type=repo.type,
        revision=revision,
        allow_patterns=[glob.escape(name) for name in names],
        max_workers=WORKERS,
    )
    return Path(folder)


def _read_manifest(repo: Repository, folder: Path) -> dict[str, Any]:
    """Read the downloaded manifest, and check its format, its format version and all file names.

    Raises:
        HubError: the manifest is not one of lirdrec, or has a newer format.
        RunFolderError: a name or an entry is invalid.
    """
    foreign = HubError(f"{repo} contains neither a dataset nor a run of lirdrec")
    try:
        manifest = read_manifest(folder, "")
    except RunFolderError:
        raise foreign from None
    version, supported = manifest["format_version"], FORMATS.get(manifest["format"])
    if supported is None or not all(isinstance(manifest.get(key, {}), dict) for key in ("files", "features")):
        raise foreign
    if version > supported:
        raise HubError(
            f"{repo} was written in format {version}, which is newer than {supported}, the newest format known here;"
            " upgrade lirdrec"
        )
    names = {check_name(name) for name in manifest.get("files", {})}
    check_manifest(manifest, Path(MANIFEST), "push it again")
    features = manifest.get("features", {}) if manifest["format"] == storage.FORMAT else {}
    for name in features:  # loading builds paths from these names
        if not {f"features/{name}.npy", f"features/{name}.mask.npy"} <= names:
            raise RunFolderError(f"its {MANIFEST} names features {name!r} without listing their files")
    return manifest


def _check_listing(repo: Repository, commit: str, names: Collection[str]) -> None:
    """Raise a HubError if the repository has files that its manifest does not list, except documents.

    Nothing is checked if the client works offline or the hub cannot be reached.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return  # only files of the manifest are ever used
    try:
        with hub_errors(repo):
            listed = repo.api().list_repo_files(repo.name, repo_type=repo.type, revision=commit)
    except HubError as error:
        log.info("%s; its copy in the cache is used", error)
        return
    unlisted = sorted(name for name in listed if name not in names and name != MANIFEST and not is_document(name))
    if unlisted:
        raise HubError(
            f"{repo} contains {unlisted[0]!r}, which its {MANIFEST} does not list: it was changed after it was pushed, "
            "or cannot be trusted; nothing was written"
        )


def _check_file(repo: Repository, folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Compare a downloaded file with its entry in the manifest, and check its format.

    If the file differs, it is downloaded again, since the cache may be damaged.

    Raises:
        RunFolderError: it differs again, or has another format.
    """
    path = folder / name
    if not _is_intact(path, entry):
        with hub_errors(repo):
            repo.api().hf_hub_download(repo.name, name, repo_type=repo.type, revision=folder.name, force_download=True)
        if not _is_intact(path, entry):
            raise RunFolderError(f"{name} is damaged: its checksum differs from the manifest's")
    check_content(path, name)


def _is_intact(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]


def _features_inside(folder: Path, names: Collection[str]) -> bool:
    """Return whether features.json of a run names only files of the run, or of a dataset by names without a path."""
    try:
        description = json.loads((folder / FEATURES).read_bytes())
        prefixes, reference = list(description["added_blocks"]), description.get("dataset")
        if reference is None:
            prefixes.append("features")
        else:
            for part in (reference["folder"], reference["relative"], *map(str, description["names"])):
                if not isinstance(part, str) or "/" in check_name(f"{part}.npy"):
                    return False
            for entry in reference["files"].values():
                check_name(entry["file"])
        return {f"{prefix}/{name}.npy" for name in description["names"] for prefix in prefixes} <= set(names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RunFolderError):
        return False
