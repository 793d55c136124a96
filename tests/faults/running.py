"""What children do: make a start, work until they are killed, look at what is there, and do the work again."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from . import states
from .injecting import Injector
from .preparing import prepare_child
from .writers import ALTERNATING, STEPS, WRITERS, Refused, Writer, add_item

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
    """What a file system does that cannot let two folders change names."""
    import lirdrec.files.atomic

    lirdrec.files.atomic.exchange_folders = lambda one, other: False


def _look(writer: Writer) -> Any:
    """What a reader finds, or the sentence that says why there is nothing."""
    from lirdrec.errors import LirdrecError

    try:
        return json.loads(json.dumps(writer.look()))  # as it comes to the process of the tests and back
    except (LirdrecError, FileNotFoundError) as error:
        return {"nothing": f"{type(error).__name__}: {error}"}


def start(number: int, place: str, environment: Mapping[str, str]) -> None:
    """Do one step of what is there before the work."""
    _enter(place, environment)
    STEPS[number]()


def work(
    name: str,
    place: str,
    environment: Mapping[str, str],
    kill: int | None,
    way: str,
    exchange: bool = True,
    trace: bool = False,
) -> Any:
    """Do the work; returns its operations, and what of its result is not on the disk for certain.

    With `trace` also the state of the files before and after each operation.
    """
    root = _enter(place, environment, exchange)
    injector = Injector(root, kill, way, partial(states.tree, root) if trace else None)
    with injector.installed():
        WRITERS[name].work()
    lost = [path for path in injector.disk.lost() if path.name not in LOCKS]
    unnamed = [path for path in injector.disk.unnamed() if path.name not in LOCKS]
    return {
        "operations": injector.operations,
        "states": injector.states,
        "lost": sorted(path.relative_to(root).as_posix() for path in lost),
        "unnamed": sorted(path.relative_to(root).as_posix() for path in unnamed),
    }


def look(name: str, place: str, environment: Mapping[str, str], tidy: bool = False) -> Any:
    """What a reader finds, and, with `tidy`, all names once the next write is done."""
    root = _enter(place, environment)
    found = _look(WRITERS[name])
    if tidy:
        WRITERS[name].tidy()
    return found, states.names(root)


def check(
    name: str, place: str, environment: Mapping[str, str], old: Any, new: Any, exchange: bool = True
) -> dict[str, Any]:
    """Look at what a killed process left; `old` and `new` are what a reader found before and after an undisturbed work.

    Returns:
        "outcome": a word for what was there; "problems": sentences; "changed": whether looking changed anything.
    """
    root, writer = _enter(place, environment, exchange), WRITERS[name]
    before = states.tree(root)
    problems: list[str] = []
    try:
        outcome = _outcome(_look(writer), old, new, writer, root, problems)
    except Exception as error:
        outcome = "damaged"
        problems.append(f"looking: {type(error).__name__}: {error}")
    return {"outcome": outcome, "problems": problems, "changed": states.tree(root) != before}


def again(
    name: str, number: int, place: str, environment: Mapping[str, str], good: list[Any], exchange: bool = True
) -> list[str]:
    """Do what people do after a kill; returns what differs from an undisturbed work.

    Args:
        number: in the writer's `again`.
        good: pairs of what a reader finds, and of all names, after an undisturbed work.
    """
    root, writer = _enter(place, environment, exchange), WRITERS[name]
    problems = []
    try:
        writer.again[number]()
        found = _look(writer)
        writer.tidy()
        names = states.names(root)
        if [found, names] not in good:
            new, expected = good[0]
            left = ", ".join(sorted(set(names) ^ set(expected)))[:300]
            problems.append(f"differs in {differences(found, new)}; left over or missing: {left or 'nothing'}")
    except Exception as error:
        problems.append(f"{type(error).__name__}: {str(error)[:400]}")
    return problems


def _outcome(found: Any, old: Any, new: Any, writer: Writer, root: Path, problems: list[str]) -> str:
    if found == new:
        return "new"
    if isinstance(found, dict) and "nothing" in found:
        if isinstance(old, dict) and "nothing" in old:
            return _nothing(writer, root)
        problems.append(f"the old one is gone: {found['nothing']}")
        return "gone"
    if found == old:
        return "old"
    for word, known in (("old", old), ("new", new)):
        if isinstance(found, dict) and isinstance(known, dict) and set(differences(found, known)) <= set(writer.loose):
            return f"{word} (not {', '.join(differences(found, known))})"
    problems.append(
        f"neither old nor new: differs from them in {differences(found, old)} and {differences(found, new)}"
    )
    return "mixed"


def _nothing(writer: Writer, root: Path) -> str:
    if (root / writer.place / "checkpoint").exists():
        return "resumable"
    return "nothing" if not (root / writer.place).exists() else "started"


def differences(one: Any, other: Any) -> list[str]:
    """Keys in which two values differ."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [] if one == other else ["all"]
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


# ---------------------------------------------------------------- at once


def add_when_allowed(place: str, environment: Mapping[str, str], gate: str, number: int) -> str | None:
    """Add an item as soon as nobody holds the lock on the file `gate`; returns what was said where it is refused."""
    _enter(place, environment)
    with open(gate) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    try:
        add_item(number)
    except Refused as refused:
        return str(refused)
    return None


def items(place: str, environment: Mapping[str, str]) -> Any:
    """The items of the run, once all of it is checked."""
    _enter(place, environment)
    return states.run(Path("r"))["items"]


def replace_often(
    place: str, environment: Mapping[str, str], case: str, times: int, done: str, exchange: bool = True
) -> None:
    """Write the versions of a case in turn, then make the file `done`."""
    _enter(place, environment, exchange)
    try:
        for number in range(times):
            ALTERNATING[case].steps[number % 2]()
    finally:
        Path(done).touch()


def read_until(
    place: str, environment: Mapping[str, str], case: str, done: str, versions: list[Any], exchange: bool = True
) -> Any:
    """Read until the file `done` is there; returns the number of reads, and what was none of the versions."""
    _enter(place, environment, exchange)
    reads, wrong, last = 0, [], False
    while not last:
        last = Path(done).exists()  # one more read after it
        reads += 1
        try:
            found = json.loads(json.dumps(ALTERNATING[case].look()))
            if found not in versions:
                wrong.append(f"differs from them in {[differences(found, version) for version in versions]}")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
    return reads, wrong


def alternate(place: str, environment: Mapping[str, str], case: str, step: int) -> Any:
    """Write one version of a case and read it."""
    _enter(place, environment)
    ALTERNATING[case].steps[step]()
    return ALTERNATING[case].look()
