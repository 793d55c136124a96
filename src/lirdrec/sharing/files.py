"""Which files may travel: their names, and that each holds what its ending says. Nothing pickled, nothing outside."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lirdrec.errors import RunFolderError

MANIFEST = "manifest.json"
CARD = "README.md"
DOCUMENTS = re.compile(r"\.gitattributes|\.gitignore|[^/]+\.md|(LICENSE|LICENCE|NOTICE|COPYING)(\.txt)?")
PARTS = 3  # features/added-0/text.npy
BLOCK_BYTES = 1 << 20

_PLAIN = re.compile(r"[^\x00-\x1f\x7f\\/:*?\"<>|\[\]]+")


def is_document(name: str) -> bool:
    """Whether a file of a repository only tells people something, so that it may lie beside what the manifest lists."""
    return DOCUMENTS.fullmatch(name) is not None


def check_name(name: object) -> str:
    """A name from a manifest, if it stays inside its folder on every system and has an ending that is known here.

    Raises:
        RunFolderError: it does not; the sentence can follow "FOLDER: ".
    """
    if not isinstance(name, str) or len(name) > 200:
        raise RunFolderError(f"its {MANIFEST} lists {str(name)[:60]!r}, which is no file name")
    parts = name.split("/")
    plain = all(_PLAIN.fullmatch(part) and part[0] not in ". " and part[-1] not in ". " for part in parts)
    if not plain or len(parts) > PARTS:
        raise RunFolderError(f"its {MANIFEST} lists {name!r}, which does not stay inside the folder")
    if name == MANIFEST or Path(name).suffix not in _CHECKS:
        raise RunFolderError(
            f"its {MANIFEST} lists {name!r}, a kind of file that is never shared; "
            f"datasets and runs consist of {', '.join(_CHECKS)}"
        )
    return name


def check_content(path: Path, name: str) -> None:
    """Look whether the file at `path` is what the ending of `name` says; nothing of it is run or unpickled.

    Raises:
        RunFolderError: it is something else; the sentence can follow "FOLDER: ".
    """
    try:
        with path.open("rb") as file:
            good = _CHECKS[Path(name).suffix](file)
    except (ValueError, EOFError, OSError):
        good = False
    if not good:
        raise RunFolderError(f"{name} does not hold what its name says (a table, an array or a text without pickles)")


def _begins(start: bytes) -> Callable[[BinaryIO], bool]:
    return lambda file: file.read(len(start)) == start


def _is_text(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while block := file.read(BLOCK_BYTES):
        if "\0" in decoder.decode(block):
            return False
    decoder.decode(b"", final=True)
    return True


def _is_array(file: BinaryIO) -> bool:
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return not read(file)[2].hasobject  # an array of objects is a pickle


def _is_safetensors(file: BinaryIO) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file.name, framework="numpy"):
            return True
    except SafetensorError:
        return False


_CHECKS: dict[str, Callable[[BinaryIO], bool]] = {
    ".parquet": _begins(b"PAR1"),
    ".npy": _is_array,
    ".safetensors": _is_safetensors,
    ".json": _is_text,
    ".jsonl": _is_text,
    ".csv": _is_text,
    ".png": _begins(b"\x89PNG\r\n\x1a\n"),
}
