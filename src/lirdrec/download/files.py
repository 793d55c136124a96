"""Download one file, resume after an interruption, and check the size and the digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lirdrec.download.connection import DownloadError, Network, Response, get, tries
from lirdrec.errors import ConfigError
from lirdrec.files.atomic import sha256, write_errors, write_json
from lirdrec.option_names import option_text

MAX_BYTES = 50 * 2**30
TRIES = 6  # tries in a row that give no new byte
_MOST_TRIES = 200  # tries in total, for a server that gives a few bytes each time


@dataclass(frozen=True)
class RemoteFile:
    """A file of a published dataset.

    Attributes:
        name: name of the file in the target folder.
        url: address of the file.
        bytes: size; None if it is not known.
        sha256: digest; None if it is not known.
        git_blob: the SHA-1 by which git names the content, for a file whose SHA-256 is not known.
        unpack: whether the file is a zip archive that is unpacked.
    """

    name: str
    url: str
    bytes: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    unpack: bool = False

    @property
    def checked(self) -> bool:
        """Whether a digest is known, so that the download is checked."""
        return self.sha256 is not None or self.git_blob is not None


def fetch(
    file: RemoteFile,
    folder: Path,
    network: Network | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> Path:
    """Download a file into a folder of unfinished work, unless the correct file is there already.

    The content is in NAME.part until it is complete and checked. After an interruption only the rest is requested. If
    the file has changed on the server meanwhile, or the server cannot send a part, the download starts again.

    Args:
        file: the file to download.
        folder: the folder of unfinished work.
        network: how hosts are reached.
        advance: called with the number of bytes that are there already and of new bytes; with a negative number if the
            download starts again.

    Returns:
        The path of the complete file.

    Raises:
        DownloadError: the file cannot be downloaded, or is not the expected one.
        RunFolderError: the folder cannot be written.
    """
    network = network or Network()
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / file.name
    if path.is_file():
        if _fault(file, path) is None:
            advance(path.stat().st_size)
            return path
        path.unlink()
    part = _Part(file, folder, network, advance, file.bytes or MAX_BYTES)
    advance(part.size)
    while True:
        before = part.size
        try:
            tries(TRIES, network, part.load)
            break
        except DownloadError as error:
            part.n_tries += 1
            if not error.passing or part.size <= before or part.n_tries > _MOST_TRIES:
                raise
    if (fault := _fault(file, part.path)) is not None:
        part.discard()
        raise DownloadError(
            f"{file.url}: the complete file {fault}; it was deleted: try again, or correct the expected digest"
        )
    with write_errors(path):
        part.path.replace(path)
        part.note.unlink(missing_ok=True)
    return path


def _fault(file: RemoteFile, path: Path) -> str | None:
    """Return what is wrong with the size or the digest of a complete file, in words; None if it is right."""
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"has {size:,} bytes, not {file.bytes:,}"
    if file.sha256 is not None and (found := sha256(path)) != file.sha256:
        return f"has the SHA-256 {found}, not {file.sha256}"
    if file.git_blob is not None and (found := git_blob(path)) != file.git_blob:
        return f"has the git digest {found}, not {file.git_blob}"
    return None


def git_blob(path: Path) -> str:
    """Return the SHA-1 by which git names the content of a file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(text: str) -> str:
    """Return a SHA-256 in lower case; raise a ConfigError if it is not 64 hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ConfigError(f"{option_text('sha256', text)}: a SHA-256 has 64 hexadecimal digits")
    return text.lower()


class _Part:
    """The unfinished content of a file, and a small file that notes to which version of the file it belongs."""

    def __init__(
        self, file: RemoteFile, folder: Path, network: Network, advance: Callable[[int], object], max_bytes: int
    ):
        self.file, self.network, self.advance, self.max_bytes = file, network, advance, max_bytes
        self.path, self.note = folder / f"{file.name}.part", folder / f"{file.name}.part.json"
        self.n_tries = 0
        if self._noted().get("url") != file.url or self.size > max_bytes:
            self.discard()

    @property
    def size(self) -> int:
        """Number of bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def discard(self) -> None:
        """Delete the content and the note."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def load(self) -> None:
        """Download the rest of the file and append it to the content; or all, if the server cannot send the rest."""
        start = self.size
        if start and start == self.file.bytes:
            return
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            if version := self._noted().get("version"):
                headers["If-Range"] = version
        with get(self.file.url, headers, self.network) as response:
            if start and not _continues(response, start, self.file.bytes):
                self.advance(-start)
                self.discard()
                if response.status != 200:
                    raise DownloadError(
                        f"{self.file.url}: the server sends another part than was requested", passing=True
                    )
                start = 0
            elif response.status != (206 if start else 200):
                raise DownloadError(f"{self.file.url}: the server answers {response.status} to a usual request", True)
            _check_content(response, self.file, start, self.max_bytes)
            self._write(response, start)

    def _write(self, response: Response, start: int) -> None:
        with write_errors(self.path):
            write_json(self.note, {"url": self.file.url, "version": _version(response)})
            with self.path.open("ab" if start else "wb") as target:
                self._copy(response, target, start)

    def _copy(self, response: Response, target: BinaryIO, n: int) -> None:
        for block in response.blocks():
            n += len(block)
            if n > self.max_bytes:
                target.close()
                self.discard()
                raise DownloadError(f"{self.file.url} is larger than {self.max_bytes:,} bytes; the download is deleted")
            target.write(block)
            self.advance(len(block))

    def _noted(self) -> Mapping[str, Any]:
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}


def _continues(response: Response, start: int, size: int | None) -> bool:
    """Return whether a response is the rest of the file from byte `start`."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("content-range", "").strip())
    if response.status != 206 or match is None or int(match[1]) != start:
        return False
    return size is None or match[3] in ("*", str(size))


def _version(response: Response) -> str | None:
    """Return a header that changes when the file changes: a strong ETag, else the date of its last change, or None."""
    tag = response.headers.get("etag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("last-modified")


def _check_content(response: Response, file: RemoteFile, start: int, max_bytes: int) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and not file.name.endswith((".html", ".htm")):
        raise DownloadError(
            f"{file.url}: the server sends a web page instead of {file.name} (a notice, or too many downloads today);"
            " open the address in a browser"
        )
    if response.n_bytes is not None and start + response.n_bytes > max_bytes:
        expected = f"{file.bytes:,}" if file.bytes else f"at most {max_bytes:,}"
        raise DownloadError(f"{file.url} has {start + response.n_bytes:,} bytes, not {expected}")
