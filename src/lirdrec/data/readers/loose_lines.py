"""Files of one record a line whose last or middle value may hold the separator: cut by hand, where CSV rules fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lirdrec.data.tables import exists
from lirdrec.errors import DataError


def text_lines(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> list[str]:
    """The lines of a text file, without line ends and without empty lines at the end.

    Args:
        path: the file.
        encodings: tried in turn; the first that fits all bytes is taken.

    Raises:
        DataError: the file is missing or empty, or no encoding fits; names the line.
    """
    exists(path)
    content = path.read_bytes()
    for encoding in encodings:
        try:
            lines = [line.removesuffix("\r") for line in content.decode(encoding).split("\n")]
        except UnicodeDecodeError as error:
            fault = error
            continue
        while lines and not lines[-1].strip():
            lines.pop()
        if not lines:
            raise DataError(f"{path}: the file is empty")
        return lines
    line = content.count(b"\n", 0, fault.start) + 1
    raise DataError(f"{path}: not UTF-8 text (byte 0x{content[fault.start]:02x} in line {line}); save it as UTF-8")


def unquoted(text: str) -> str:
    """A value without the quotes of CSV, also where they are misplaced, and with single spaces."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', ""):
        text = text[1:-1].replace('""', '"')
    elif ',"' in text and text.endswith('"'):  # opened in the middle: `Postman," The (Postino, Il) (1994)"`
        text = text.replace('"', "")
    return " ".join(text.split())
