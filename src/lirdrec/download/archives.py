"""Unpack a zip archive that others made: no file outside of the folder, no links, limits for number and size."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from lirdrec.download.connection import DownloadError
from lirdrec.download.files import MAX_BYTES
from lirdrec.errors import describe_error
from lirdrec.files.atomic import write_errors

MAX_FILES = 10_000
_ENCRYPTED = 0x1


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> list[str]:
    """Unpack an archive into an empty folder.

    If one top folder of the archive contains all files, they are unpacked without it, directly into `folder`. All names
    are checked before anything is written. The sizes that the archive states are not trusted: unpacking stops at
    `max_bytes`.

    Returns:
        The names of the unpacked files below `folder`, with forward slashes.

    Raises:
        DownloadError: the file is not a zip archive, is damaged, encrypted or too large, has more than `max_files`
            files, or contains a link, a name twice, or a name that leads out of the folder.
        RunFolderError: the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = [entry for entry in file.infolist() if not entry.is_dir()]
            if len(entries) > max_files:
                raise DownloadError(f"{archive.name} has {len(entries):,} files; the limit is {max_files:,}")
            names = _names(archive.name, entries)
            left = max_bytes
            for entry, name in zip(entries, names, strict=True):
                left -= _extract(file, entry, folder / name, left, f"{archive.name}: {name}")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise DownloadError(f"{archive.name} cannot be unpacked ({describe_error(error)})") from None
    return names


def _names(archive: str, entries: list[zipfile.ZipInfo]) -> list[str]:
    paths = []
    for entry in entries:
        mode = entry.external_attr >> 16
        if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            raise DownloadError(f"{archive}: {entry.filename!r} is a link or another special file; nothing is unpacked")
        if entry.flag_bits & _ENCRYPTED:
            raise DownloadError(f"{archive} is encrypted")
        paths.append(_checked(archive, entry.orig_filename))
    tops = {path.parts[0] for path in paths}
    if len(tops) == 1 and all(len(path.parts) > 1 for path in paths):
        paths = [PurePosixPath(*path.parts[1:]) for path in paths]
    folded = [str(path).casefold() for path in paths]
    if len(set(folded)) < len(folded):
        raise DownloadError(f"{archive} has two files with the same name; nothing is unpacked")
    return [str(path) for path in paths]


def _checked(archive: str, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    unsafe = path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or ":" in path.parts[0]
    if unsafe or not name.isprintable():
        raise DownloadError(f"{archive}: the name {name!r} leads out of the folder or is unsafe; nothing is unpacked")
    return path


def _extract(file: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, left: int, where: str) -> int:
    n = 0
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with file.open(entry) as source, path.open("xb") as target:
            while block := source.read(1 << 20):
                n += len(block)
                if n > left:
                    raise DownloadError(
                        f"{where}: the unpacked files are larger than the size limit; unpacking stopped"
                    )
                target.write(block)
    return n
