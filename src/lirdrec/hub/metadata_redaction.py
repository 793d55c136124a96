"""Remove private metadata from files before they are shared: absolute paths, keys, the host name."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from lirdrec.errors import DataError

ENVIRONMENT = ("python", "platform", "versions", "git_revision", "seed", "written")
FILES = ("image", "audio", "video")  # columns of the item table that name files

_ABSOLUTE_PATH = re.compile(r"(?:/|~[/\\]|[A-Za-z]:[\\/]|\\\\|file://)", re.IGNORECASE)
_BEFORE = r"(?<![\w.:/\\~-])"  # not preceded by the host of an address or by a word
_INSIDE = re.compile(
    rf"{_BEFORE}(?:file://|~?/(?=[^\s/]+/)|~/|[A-Za-z]:[\\/]|\\\\(?=\w))[^\s\"'<>|,;:)\]}}]*", re.IGNORECASE
)
_SECRETS = re.compile(r"\b(?:hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,})|(?<=://)[^/@\s]+@|(?<=[Bb]earer )\S+")
_ABSOLUTE = r"^(?:/[^/\s][^/]*/|~/|[A-Za-z]:[\\/]|\\\\\w|file://)"  # polars' dialect


def without_secrets(text: str) -> str:
    """Return the text without keys and tokens, and without passwords in addresses."""
    return _SECRETS.sub("", text)


def scrub(value: Any, folders: Sequence[str] = ()) -> Any:
    """Return a JSON value with each absolute path reduced to its last part, and without keys and passwords.

    Args:
        value: any JSON value; it is not changed.
        folders: folders to remove from the start of paths, which also works for paths with spaces (see `folders_in`).
    """
    if isinstance(value, str):
        return _text(value, folders)
    if isinstance(value, dict):
        return {_text(str(key), folders): scrub(inner, folders) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(inner, folders) for inner in value]
    return value


def folders_in(value: Any) -> list[str]:
    """Return the strings of a JSON value that are absolute paths."""
    if isinstance(value, str):
        return [value] if _ABSOLUTE_PATH.match(value) and len(value) > 1 else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [path for element in inner for path in folders_in(element)]


def scrub_environment(facts: Any) -> dict[str, Any]:
    """Return only the facts that are needed to repeat a run: versions, revision, seed, time, operating system."""
    kept = {key: facts[key] for key in ENVIRONMENT if key in facts} if isinstance(facts, dict) else {}
    if isinstance(kept.get("platform"), str):
        kept["platform"] = kept["platform"].split("-")[0]
    return scrub(kept)


def scrub_file(path: Path, folders: Sequence[str]) -> bytes | None:
    """Return a text file (.json, .jsonl, .csv) as bytes after `scrub`, or None if that changes nothing.

    Raises:
        ValueError: its content does not match its suffix.
    """
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        if (clean := scrub(rows, folders)) == rows:
            return None
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(clean)
        return text.getvalue().encode()
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in content.splitlines() if line.strip()]
        if (clean := scrub(lines, folders)) == lines:
            return None
        return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in clean).encode()
    value = json.loads(content)
    clean = scrub_environment(value) if path.name == "environment.json" else scrub(value, folders)
    return None if clean == value else as_bytes(clean)


def check_table(path: Path) -> None:
    """Check that an item table has no absolute paths.

    Raises:
        DataError: a cell of the column `image`, `audio` or `video`, or every cell of another column, is an absolute
            path; the message names the column and the row.
    """
    import polars as pl

    table = pl.read_parquet(path, glob=False)
    for name in table.columns:
        column = table[name]
        if column.dtype != pl.String or column.null_count() == len(column):
            continue
        absolute = column.str.contains(_ABSOLUTE)
        if absolute.any() if name in FILES else absolute.all():
            row = int(absolute.arg_true()[0])
            raise DataError(
                f"{path}: column '{name}' contains paths of this machine (row {row + 1}: {column[row]}); make them "
                "relative to the folder of the images, or leave the column out, and prepare the dataset again"
            )


def as_bytes(value: Any) -> bytes:
    """Return a JSON document as bytes, formatted as in prepared folders and runs."""
    return f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode()


def _text(text: str, folders: Iterable[str]) -> str:
    text = without_secrets(text)
    if _ABSOLUTE_PATH.match(text) and "\n" not in text:
        return _last(text)
    for folder in sorted(folders, key=len, reverse=True):
        base = folder.rstrip("/\\")
        if len(base) > 1:
            text = re.sub(rf"{_BEFORE}{re.escape(base)}[/\\]", "", text)
    return _INSIDE.sub(lambda match: _last(match[0]), text)


def _last(path: str) -> str:
    """Return the last part of a path of any system, with / or \\ between the parts."""
    return PureWindowsPath(path.rstrip("/\\")).name
