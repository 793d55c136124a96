"""Download published datasets by name; the addresses and digests are in `datasets.toml`."""

from __future__ import annotations

import logging
import shlex
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from lirdrec.config import suggest_name
from lirdrec.download.archives import unpack
from lirdrec.download.connection import DownloadError, Network
from lirdrec.download.files import RemoteFile, check_sha256, fetch
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.files.atomic import sha256, write_errors, write_json
from lirdrec.files.locks import folder_lock
from lirdrec.files.progress_bars import progress_bar
from lirdrec.files.transaction import atomic_folder

log = logging.getLogger(__name__)

RECORD = "download.json"  # in the folder: the addresses, sizes and digests of what was downloaded
_DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"


@dataclass(frozen=True)
class PublishedDataset:
    """A published dataset.

    Attributes:
        name: name for `lirdrec download`.
        title: short description.
        source: the page that describes the dataset.
        digests: who recorded the digests (checksums of the files).
        next: command to use after the download; FOLDER stands for the folder.
        files: the files to download.
    """

    name: str
    title: str
    source: str
    digests: str
    next: str
    files: tuple[RemoteFile, ...]

    @property
    def n_bytes(self) -> int | None:
        """Size of all files together in bytes; None if the size of one is not known."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def checked(self) -> bool:
        """Whether the digests of all files are known, so that a download is checked."""
        return all(file.checked for file in self.files)


@dataclass(frozen=True)
class Downloaded:
    """What was downloaded.

    Attributes:
        folder: the folder of the dataset.
        digests: name of a file → SHA-256.
        unchecked: names of the files that were not checked, because their digest was not known before.
        next: command to use now.
    """

    folder: Path
    digests: Mapping[str, str] = field(default_factory=dict)
    unchecked: Sequence[str] = ()
    next: str = ""


@cache
def table() -> Mapping[str, PublishedDataset]:
    """Return the published datasets: name → dataset."""
    text = resources.files("lirdrec.download").joinpath("datasets.toml").read_text(encoding="utf-8")
    return {name: _dataset(name, entry) for name, entry in tomllib.loads(text).items()}


def names() -> list[str]:
    """Return the names of the published datasets."""
    return list(table())


def _dataset(name: str, entry: Mapping[str, Any]) -> PublishedDataset:
    values = dict(entry)
    files = []
    for described in values.pop("files"):
        fields = dict(described)
        if "drive" in fields:
            fields["url"] = _DRIVE.format(fields.pop("drive"))
        files.append(RemoteFile(**fields))
    return PublishedDataset(name=name, files=tuple(files), **values)


def find(name: str) -> PublishedDataset:
    """Return the published dataset with a name; raise a ConfigError if there is none."""
    datasets = table()
    if name not in datasets:
        hint = suggest_name(name, datasets, f"choose one of {', '.join(datasets)}")
        raise ConfigError(f"no dataset is called '{name}'; {hint}")
    return datasets[name]


def download(
    dataset: str | PublishedDataset,
    folder: str | Path,
    *,
    digests: Mapping[str, str] | None = None,
    network: Network | None = None,
    progress: bool = False,
) -> Downloaded:
    """Download a published dataset into a new folder, and check it.

    The files are first written to a hidden folder next to the new one, `.NAME.download`. After an interruption the next
    call resumes there. The new folder appears when all files are complete, correct and unpacked.

    Args:
        dataset: one of `names()`, or a description of the files.
        folder: target folder; it must be empty or missing.
        digests: name of a file → the SHA-256 that it must have, instead of the recorded digest.
        network: how hosts are reached.
        progress: show progress bars on the error stream.

    Raises:
        ConfigError: there is no such dataset or file, or a digest is not a SHA-256.
        DownloadError: a file cannot be downloaded, is not the expected one, or cannot be unpacked.
        RunFolderError: the folder is not empty, cannot be written, or another process downloads to it.

    Example:
        >>> from lirdrec.download import names
        >>> "baby" in names()
        True
    """
    published = find(dataset) if isinstance(dataset, str) else dataset
    files = _with_digests(published, digests or {})
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise RunFolderError(f"{folder} is not empty; choose another folder (--output), or remove it")
    work = folder.absolute().parent / f".{folder.absolute().name}.download"
    with folder_lock(work, lambda owner: f"{folder}: another process{owner} downloads to it; wait until it ends"):
        paths = [_fetch(file, work, network, progress) for file in files]
        found = {file.name: sha256(path) for file, path in zip(files, paths, strict=True)}
        with atomic_folder(folder) as temporary:
            _place(files, paths, temporary)
            entries = [
                {"name": file.name, "url": file.url, "bytes": path.stat().st_size, "sha256": found[file.name]}
                for file, path in zip(files, paths, strict=True)
            ]
            record = {"dataset": published.name, "source": published.source, "digests": published.digests}
            write_json(temporary / RECORD, {**record, "files": entries})
        for path in paths:
            path.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    unchecked = [file.name for file in files if not file.checked]
    for name in unchecked:
        log.warning("%s was not checked, because its digest is not known; it has the SHA-256 %s", name, found[name])
    return Downloaded(folder, found, unchecked, published.next.replace("FOLDER", shlex.quote(str(folder))))


def _with_digests(published: PublishedDataset, digests: Mapping[str, str]) -> list[RemoteFile]:
    known = [file.name for file in published.files]
    for name in digests:
        if name not in known:
            raise ConfigError(f"'{published.name}' has no file '{name}' for a SHA-256, only {', '.join(known)}")
    return [
        replace(file, sha256=check_sha256(digests[file.name]), git_blob=None) if file.name in digests else file
        for file in published.files
    ]


def _fetch(file: RemoteFile, work: Path, network: Network | None, progress: bool) -> Path:
    total = (file.bytes or 0) // 1000
    if not total:
        log.info("%s: its size is not known, so there is no progress bar", file.name)
    with progress_bar(file.name, total, 0, progress and total > 0, unit="kB") as advance:
        return fetch(file, work, network, _in_kilobytes(advance))


def _in_kilobytes(advance: Callable[[int], object]) -> Callable[[int], None]:
    """Return a function that adds up numbers of bytes and calls `advance` with the numbers of new full kilobytes."""
    total = reported = 0

    def report(n: int) -> None:
        nonlocal total, reported
        total += n
        if total // 1000 != reported:
            advance(total // 1000 - reported)
            reported = total // 1000

    return report


def _place(files: Sequence[RemoteFile], paths: Sequence[Path], folder: Path) -> None:
    for file, path in zip(files, paths, strict=True):
        if file.unpack:
            unpacked = unpack(path, folder)
            if RECORD in unpacked:
                raise DownloadError(f"{file.name} contains a file {RECORD}, a name that lirdrec uses for its own file")
        else:
            with write_errors(folder):
                _copy(path, folder / file.name)


def _copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
