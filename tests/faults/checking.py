"""Kills a writer at chosen operations and counts what came of it."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import states
from .forking import Child, Forks
from .injecting import AFTER, BEFORE, POWER
from .running import differences
from .writers import HUB, STEPS, WRITERS

MOVES = ("rename", "replace", "unlink", "remove", "rmdir", "link", "symlink", "exchange")
SENT = ("send", "sendall")


@dataclass(frozen=True)
class Start:
    """A state of files, and of the stand-in of the hub."""

    folder: Path
    hub: Any


@dataclass
class Recording:
    """An undisturbed work.

    Attributes:
        start: what was there before.
        old: what a reader found before.
        good: pairs of what a reader found, and of all names, after it, and after doing it twice if that differs.
        operations: (function, paths) of each one.
        lost, unnamed: paths whose content, or name, a power cut right afterwards would take.
    """

    start: Start
    old: Any
    good: list[Any]
    operations: list[tuple[str, list[str]]]
    lost: list[str]
    unnamed: list[str]


@dataclass
class Counts:
    """What came of the kills of a writer."""

    writer: str
    operations: int
    kills: int = 0
    states: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{number} {word}" for word, number in sorted(self.outcomes.items()))
        return (
            f"{self.writer}: {self.operations} operations, {self.kills} kills, {self.states} states: {outcomes};"
            f" {len(self.problems)} problems"
        )


class Faults:
    """Records writers once, and kills them.

    Args:
        forks: where processes come from.
        folder: for all files.
        hub: the stand-in of the hub, or None where its client is not installed.
    """

    def __init__(self, forks: Forks, folder: Path, hub: Any = None):
        self.forks, self.folder, self.hub = forks, folder, hub
        self.place, self.kept = folder / "place", folder / "kept"
        self.environment = {} if hub is None else {HUB: hub.url}
        self._recordings: dict[tuple[str, bool], Recording] = {}
        self._starts: dict[tuple[Any, ...], Start] = {}

    def recording(self, name: str, exchange: bool = True) -> Recording:
        """The undisturbed work of a writer; `exchange`: on a file system that can exchange two folders."""
        if (name, exchange) not in self._recordings:
            self._recordings[name, exchange] = self._record(name, exchange)
        return self._recordings[name, exchange]

    def _record(self, name: str, exchange: bool) -> Recording:
        start = self.started(WRITERS[name].start)
        self.restore(start)
        old, _ = self.call("look", name=name)
        self.restore(start)
        did = self._work(name, None, AFTER, exchange)
        assert did.code == 0, did.printed
        good = [self.call("look", name=name, tidy=True)]
        if not WRITERS[name].same:
            self.call("again", name=name, number=0, good=[])
            good.append(self.call("look", name=name))
        new = good[0][0]
        operations = [(function, paths) for function, paths in did.answer["operations"]]
        assert "nothing" not in new, new
        assert set(differences(old, new)) > set(WRITERS[name].loose) or not WRITERS[name].loose, (old, new)
        assert old != new
        return Recording(start, old, good, operations, did.answer["lost"], did.answer["unnamed"])

    def started(self, steps: tuple[Any, ...]) -> Start:
        """What steps lead to; those that begin with the same ones share what these made."""
        if steps not in self._starts:
            if steps:
                self.restore(self.started(steps[:-1]))
                self.call("start", number=STEPS.index(steps[-1]))
            else:
                _empty(self.place)
                self._set_hub(({}, {}))
            folder = self.folder / f"start-{len(self._starts)}"
            shutil.copytree(self.place, folder, symlinks=True)
            hub = None if self.hub is None else copy.deepcopy((self.hub.repos, self.hub.stored))
            self._starts[steps] = Start(folder, hub)
        return self._starts[steps]

    def kill(self, name: str, points: Iterable[tuple[int, str]], exchange: bool = True) -> Counts:
        """Kill a writer at (operation, way) and check what is there; what people may do then is taken in turn.

        Args:
            name: of the writer.
            points: where.
            exchange: whether the file system can exchange two folders.
        """
        recording = self.recording(name, exchange)
        counts = Counts(name, len(recording.operations))
        seen: dict[str, str] = {}
        for number, way in points:
            self.restore(recording.start)
            ended = self._work(name, number, way, exchange)
            counts.kills += 1
            case = f"{name}, killed {way} {number} ({_shown(recording.operations, number)})"
            if ended.code == 0 and WRITERS[name].hub:  # the client's threads did fewer operations this time
                counts.outcomes["ended"] += 1
                continue
            if not ended.killed:
                counts.problems.append(f"{case}: ended with {ended.code}: {ended.printed[-300:]}")
                continue
            state = states.tree(self.place) + self._hub_state(name)
            if state not in seen:
                seen[state], problems = self._check(name, counts.states, exchange)
                counts.states += 1
                counts.problems += [f"{case}: {problem}" for problem in problems]
            counts.outcomes[seen[state]] += 1
        return counts

    def _check(self, name: str, turn: int, exchange: bool) -> tuple[str, list[str]]:
        """Look at what is there now, and do the work again, also without having looked; outcome and problems."""
        recording = self.recording(name, exchange)
        killed = Start(self.kept, None if self.hub is None else copy.deepcopy((self.hub.repos, self.hub.stored)))
        _fill(self.kept, self.place)
        looked = self.call("check", name=name, old=recording.old, new=recording.good[0][0], exchange=exchange)
        problems, number = list(looked["problems"]), turn % len(WRITERS[name].again)
        for unseen in (False, True) if looked["changed"] else (True,):
            if unseen and looked["changed"]:
                self.restore(killed)
            found = self.call("again", name=name, number=number, good=recording.good, exchange=exchange)
            what = f"again {number}" + (", not looked at" if unseen and looked["changed"] else "")
            problems += [f"{what}: {problem}" for problem in found]
        return looked["outcome"], problems

    def every_point(self, name: str, exchange: bool = True) -> list[tuple[int, str]]:
        """Where to kill a writer so that no state of its files is left out: before and after every operation.

        Kills that leave the same files are one: after an fsync there is what was there before it. Power is cut at moves
        only: other operations leave nothing under a name that people see.
        """
        recording = self.recording(name, exchange)
        if WRITERS[name].hub:  # its client works in threads: the states are not the same every time
            return [(number, way) for number in range(len(recording.operations)) for way in (BEFORE, AFTER)]
        self.restore(recording.start)
        did = self._work(name, None, AFTER, exchange, trace=True).answer
        points, known = [], set()
        for number, ((function, _), found) in enumerate(zip(did["operations"], did["states"], strict=True)):
            for way, state in zip((BEFORE, AFTER), found, strict=True):
                if state not in known:
                    points.append((number, way))
                known.add(state)
            if function in MOVES:
                points.append((number, POWER))
        return points

    def some_points(self, name: str, at_most: int, exchange: bool = True) -> list[tuple[int, str]]:
        """Where to kill a writer in a short test: at moves of what people see, evenly spread."""
        operations = self.recording(name, exchange).operations
        moves = [number for number, (function, paths) in enumerate(operations) if function in MOVES and _seen(paths)]
        if not moves:
            moves = [number for number, (function, _) in enumerate(operations) if function in SENT]
        some = min(at_most, len(moves))
        chosen = [moves[place * (len(moves) - 1) // max(1, some - 1)] for place in range(some)]
        return [(number, AFTER if place % 2 else BEFORE) for place, number in enumerate(chosen)]

    def _work(self, name: str, kill: int | None, way: str, exchange: bool, trace: bool = False) -> Any:
        return self.forks.start(
            "running:work",
            name=name,
            place=str(self.place),
            environment=self.environment,
            kill=kill,
            way=way,
            exchange=exchange,
            trace=trace,
        ).wait()

    def call(self, function: str, **arguments: Any) -> Any:
        """Run a function of `running.py` in the working folder."""
        return self.forks.call(f"running:{function}", place=str(self.place), environment=self.environment, **arguments)

    def start(self, function: str, **arguments: Any) -> Child:
        """The same, without waiting for its end."""
        return self.forks.start(f"running:{function}", place=str(self.place), environment=self.environment, **arguments)

    def restore(self, start: Start) -> None:
        """Make the working folder what it was at a start."""
        _fill(self.place, start.folder)
        self._set_hub(start.hub)

    def _set_hub(self, content: Any) -> None:
        if self.hub is not None and content is not None:
            self.hub.repos, self.hub.stored = copy.deepcopy(content)

    def _hub_state(self, name: str) -> str:
        if self.hub is None or not WRITERS[name].hub:
            return ""
        return repr({key: sorted(repo.files().items()) for key, repo in self.hub.repos.items()})


def _seen(paths: list[str]) -> bool:
    """Whether one of the paths is no temporary one."""
    return any(not any(part.startswith(".") for part in Path(path).parts) for path in paths)


def _shown(operations: list[tuple[str, list[str]]], number: int) -> str:
    if number >= len(operations):
        return "?"
    function, paths = operations[number]
    return f"{function} {' → '.join(states.TEMPORARY.sub('#', path) for path in paths)}"


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _fill(folder: Path, source: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, symlinks=True)
