"""Mutations of files, of option values and of folders: always the same for one seed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

# fmt: off
VALUES: tuple[str, ...] = (
    "", " ", "0", "-1", "-0", "1.5", "1e400", "nan", "inf", "-inf", "none", "null", "true", "1_000", "0x" + "f" * 5000,
    "9" * 19, "9" * 40, "-" + "9" * 40, "9" * 5000, "1180591620717411303424", "é", "１", "\udcff", "a\udc80b", 
    "💡" * 90,
    "x" * 255, "x" * 300, "x" * 5000, "../../..", "./.", "/dev/null", "/dev/zero", "fifo", "folder", "folder/none/none",
    "[" * 5000, "{" * 5000, '{"a":' * 5000, "[1,2", "{}", "[]", '{"price": {"lt": "x"}}', '{"title": {"in": 3}}',
    '{"title": {"contains": ""}}', '{"price": {"lt": 1e999}}', '{"price": {"lt": NaN}}', "=", "text=", "=text",
    "a=b=c", "text=text.npy", "text=folder", "text=fifo", ",", ",,,", "1,,2", "--", "-h", "\x1b[31m", "a\nb", "'", '"',
    "%s%n", "{title}", "\\", "*", "?", "[a]", "1979-13-45", "1979-05-27T07:32:00Z", "recall@0", "recall@99999999999",
)
PIECES: tuple[bytes, ...] = (
    b"", b"\0", b"\n", b"\r\n", b"\r", b'"', b"'", b",", b"\t", b";", b"=", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf",
    b"\xed\xa0\x80", b"NaN", b"inf", b"-1", b"1e999", b"null", b"9" * 40, b"9" * 5000, b"[" * 3000, b"{" * 3000,
    b"(" * 200, b'{"a":' * 3000, b"\x1f\x8b", b"PAR1", b"\x93NUMPY", b"\0" * 64, b" " * 500, b"x" * 70_000, b"0x7f",
    b"True", b"__import__", b"#", b"[model]", b"..", b"\x1b[2J",
)
# fmt: on
JSON_VALUES: tuple[Any, ...] = (None, True, 0, -1, 2**70, 0.5, 1e308, "", "x", "../x", "/etc/hostname", [], {}, [[]])


def bytes_of(content: bytes, rng: random.Random) -> bytes:
    """A file's bytes after one to three mutations."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(OF_BYTES)(content, rng)
    return content


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        index = rng.randrange(min(len(changed), rng.choice((64, 256, len(changed)))))
        changed[index] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(content: bytes, rng: random.Random) -> bytes:
    index = rng.randrange(len(content) + 1)
    return content[:index] + rng.choice(PIECES) + content[index:]


def _replace(content: bytes, rng: random.Random) -> bytes:
    index = rng.randrange(len(content) + 1)
    return content[:index] + rng.choice(PIECES) + content[index + rng.randrange(1, 20) :]


def _double(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:last] + content[first:last] * rng.choice((1, 2, 30)) + content[last:]


def _drop(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:first] + content[min(last, first + rng.choice((1, 5, 100))) :]


def _numbers(content: bytes, rng: random.Random) -> bytes:
    digits = [index for index, one in enumerate(content) if 48 <= one <= 57]
    if not digits:
        return content
    index = rng.choice(digits)
    return (
        content[:index]
        + rng.choice((b"-1", b"9" * 30, b"9" * 5000, b"1e400", b"", b"0.5", b"x"))
        + content[index + 1 :]
    )


def _encode(content: bytes, rng: random.Random) -> bytes:
    return content.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "cp037")), "replace")


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


OF_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _flip, _cut, _insert, _insert, _replace, _double, _drop, _numbers, _encode, _lines,
)  # fmt: skip


def value(base: str, rng: random.Random) -> str:
    """An option's value after a mutation, or another value altogether."""
    if rng.random() < 0.6:
        return rng.choice(VALUES)
    changed = bytes_of(base.encode(), rng).replace(b"\0", b"0").replace(b"/", b"-")[:20_000]
    return changed.decode("utf-8", "surrogateescape")


DAMAGES = (
    "bytes", "bytes", "flip", "flip", "flip", "cut", "remove", "empty", "swap", "json", "json", "json", "name",
    "folder", "fifo", "link", "zeros", "append", "extra",
)  # fmt: skip


def damage(folder: Path, rng: random.Random) -> str:
    """Damage a folder in one way; says how, for the report."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    kind = rng.choice(DAMAGES)
    documents = [one for one in files if one.suffix == ".json"]
    if kind in ("json", "name"):
        path = rng.choice([*documents, folder / "manifest.json"])
        document = json.loads(path.read_text(encoding="utf-8"))
        _wrong_name(document, rng) if kind == "name" else _wrong_type(document, rng)
        path.write_text(json.dumps(document), encoding="utf-8")
        return f"{kind} {path.relative_to(folder)}"
    other = rng.choice(files)
    content = path.read_bytes()
    if kind == "swap":
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind in ("remove", "folder", "fifo", "link"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to(rng.choice((path.name, "/dev/null", "/dev/zero", "..", other.name)))
    elif kind == "extra":
        shutil.copy(path, path.with_name(f"more-{path.name}"))
    else:
        path.write_bytes(_damaged(kind, content, rng))
    return f"{kind} {path.relative_to(folder)}"


def _damaged(kind: str, content: bytes, rng: random.Random) -> bytes:
    if kind == "flip":
        return _flip(content, rng)
    if kind == "cut":
        return _cut(content, rng)
    if kind == "empty":
        return b""
    if kind == "append":
        return content + rng.choice(PIECES) + b"\n"
    if kind == "zeros":
        index = rng.randrange(len(content) + 1)
        return content[:index] + bytes(len(content[index : index + 16])) + content[index + 16 :]
    return bytes_of(content, rng)


def _wrong_type(document: Any, rng: random.Random) -> None:
    """Replace one value somewhere in a document, or take it out."""
    place = document
    while place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.25:
            if rng.random() < 0.2:
                del place[key]
            else:
                place[key] = rng.choice(JSON_VALUES)
            return
        place = inner


def _wrong_name(document: Any, rng: random.Random) -> None:
    """Give a file in the document's list a name that leaves the folder, or that of another file."""
    files = document.get("files", document)
    if not isinstance(files, dict) or not files:
        return
    old = rng.choice(list(files))
    new = rng.choice((f"../{old}", f"/{old}", "..", ".", "", f"{old}/../{old}", "C:\\x", f"./{old}", *files))
    files[new] = files.pop(old)
