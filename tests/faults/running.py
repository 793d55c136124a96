"""What children do: make a start, work until they are killed, look at what is there, and do the work again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import states
from .injecting import Injector
from .preparing import prepare_child
from .writers import WRITERS, Writer

LOCKS = (".lock",)


def _enter(place: str, environment: Mapping[str, str], exchange: bool = True) -> Path:
    prepare_child()
    os.environ.update(environment)
    os.environ["LIRDREC_CACHE"] = f"{place}/cache"
    os.chdir(place)
    if not exchange:
        _without_exchange()
    return Path(place)


def _without_exchange() -> None:
    raise NotImplementedError


def _look(writer: Writer) -> Any:
    """What a reader finds, or the sentence that says why there is nothing."""
    from lirdrec.errors import LirdrecError

    try:
        return json.loads(json.dumps(writer.look()))  # as it comes to the process of the tests and back
    except (LirdrecError, FileNotFoundError) as error:
        return {"nothing": f"{type(error).__name__}: {error}"}


def start(name: str, place: str, environment: Mapping[str, str]) -> Any:
    """Make what is there before the work, and look at it."""
    _enter(place, environment)
    WRITERS[name].start()
    return _look(WRITERS[name])


def work(
    name: str, place: str, environment: Mapping[str, str], kill: int | None, way: str, exchange: bool = True
) -> Any:
    """Do the work; returns its operations, and what of its result is not on the disk for certain."""
    root = _enter(place, environment, exchange)
    injector = Injector(root, kill, way)
    with injector.installed():
        WRITERS[name].work()
    ours = [path for path in injector.disk.lost() if path.name not in LOCKS]
    named = [path for path in injector.disk.unnamed() if path.name not in LOCKS]
    return {
        "operations": injector.operations,
        "lost": sorted(path.relative_to(root).as_posix() for path in ours),
        "unnamed": sorted(path.relative_to(root).as_posix() for path in named),
    }


def look(name: str, place: str, environment: Mapping[str, str], tidy: bool = True) -> Any:
    """What a reader finds, and all names once the next write is done."""
    root = _enter(place, environment)
    found = _look(WRITERS[name])
    if tidy and (last := WRITERS[name].tidy) is not None:
        last()
    return found, states.names(root)


def check(
    name: str,
    place: str,
    kept: str,
    environment: Mapping[str, str],
    old: Any,
    new: Any,
    names: list[str],
    every: bool,
    exchange: bool = True,
) -> dict[str, Any]:
    """Look at what a killed process left in `place`, then do its work again; `kept` is a copy of `place`.

    Args:
        old, new: what a reader found before and after an undisturbed work.
        names: all names after an undisturbed work.
        every: do all that the writer has in `again`, not only the first.

    Returns:
        "outcome": a word for what was there; "problems": sentences.
    """
    root, writer = _enter(place, environment, exchange), WRITERS[name]
    before = states.tree(root)
    problems: list[str] = []
    try:
        found = _look(writer)
        outcome = _outcome(found, old, new, writer, root, problems)
    except Exception as error:
        outcome = "damaged"
        problems.append(f"looking: {type(error).__name__}: {error}")
    looked = states.tree(root) != before
    for number, again in enumerate(writer.again if every else writer.again[:1]):
        for restored in (False, True) if looked else (bool(number),):
            if restored:
                _restore(root, Path(kept))
            problems += _again(writer, again, root, new, names, f"again {number}{', not looked' if looked and restored else ''}")
    return {"outcome": outcome, "problems": problems}


def _again(writer: Writer, again: Any, root: Path, new: Any, names: list[str], what: str) -> list[str]:
    problems = []
    try:
        again()
        found = _look(writer)
        if found != new:
            problems.append(f"{what}: differs from an undisturbed one in {differences(found, new)}")
        if writer.tidy is not None:
            writer.tidy()
        if left := sorted(set(states.names(root)) ^ set(names)):
            problems.append(f"{what}: left over or missing: {', '.join(left)[:300]}")
    except Exception as error:
        problems.append(f"{what}: {type(error).__name__}: {str(error)[:400]}")
    return problems


def _outcome(found: Any, old: Any, new: Any, writer: Writer, root: Path, problems: list[str]) -> str:
    if found in (old, new):
        return "old" if found == old and "nothing" not in found else "new" if found == new else _nothing(writer, root)
    if isinstance(found, dict) and "nothing" in found:
        if "nothing" in old:
            return _nothing(writer, root)
        problems.append(f"the old one is gone: {found['nothing']}")
        return "gone"
    for word, known in (("old", old), ("new", new)):
        if isinstance(found, dict) and isinstance(known, dict) and set(differences(found, known)) <= set(writer.loose):
            return f"{word}, but {'+'.join(differences(found, known))}"
    problems.append(f"neither old nor new: differs from them in {differences(found, old)} and {differences(found, new)}")
    return "mixed"


def _nothing(writer: Writer, root: Path) -> str:
    if (root / writer.place / "checkpoint").exists():
        return "resumable"
    return "nothing" if not (root / writer.place).exists() else "begun"


def differences(one: Any, other: Any) -> list[str]:
    """Keys in which two values differ."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [] if one == other else ["all"]
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _restore(root: Path, kept: Path) -> None:
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.copytree(kept, root, symlinks=True, dirs_exist_ok=True)
