"""Counts what a process does to the files of a folder, and ends the process at one of these operations.

Wrapped are the functions of `os` and `io` that Python code changes files with. What libraries in other languages write
is not seen; they only ever fill files that have a temporary name.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link", "symlink", "truncate", "fsync", "fdatasync")
BEFORE, AFTER, POWER = "before", "after", "power"
WAYS = (BEFORE, AFTER, POWER)  # the last one: killed after the operation, and what was not fsynced is empty
FOREIGN = "hub-cache"  # written by a library of others, in threads
REBUILT = ("cache", FOREIGN)  # folders that may be lost at any time


class Disk:
    """What of a folder is on the disk for certain: what was there at the beginning, and what was fsynced since.

    A file counts by its inode, time and size, a folder by the names and inodes in it.
    """

    def __init__(self, root: Path):
        self.root = root
        self._files: dict[int, tuple[int, int]] = {}
        self._folders: dict[int, dict[str, int]] = {}
        for path in self._paths():
            self._note(path)

    def synced(self, path: Path) -> None:
        """Note an fsync."""
        self._note(path)

    def lost(self) -> list[Path]:
        """Files whose content a power cut would take."""
        return [path for path in self._paths() if path.is_file() and not self._has(path)]

    def unnamed(self) -> list[Path]:
        """Files and folders whose name a power cut would take."""
        found = []
        for path in self._paths():
            known = self._folders.get(path.parent.stat().st_ino, {})
            if path != self.root and known.get(path.name) != path.lstat().st_ino:
                found.append(path)
        return found

    def cut_power(self) -> None:
        """Empty what `lost` gives, as many file systems do."""
        for path in self.lost():
            with path.open("wb"):
                pass

    def _paths(self) -> Iterator[Path]:
        yield self.root
        for path in self.root.rglob("*"):
            if path.relative_to(self.root).parts[0] not in REBUILT and not path.is_symlink():
                yield path

    def _note(self, path: Path) -> None:
        status = path.stat()
        if path.is_dir():
            self._folders[status.st_ino] = {one.name: one.lstat().st_ino for one in path.iterdir()}
        else:
            self._files[status.st_ino] = status.st_mtime_ns, status.st_size

    def _has(self, path: Path) -> bool:
        status = path.stat()
        return self._files.get(status.st_ino) == (status.st_mtime_ns, status.st_size)


class Injector:
    """Operations of this process on the files of a folder.

    Args:
        root: only paths below it count.
        kill: the operation, from 0, at which the process ends itself with SIGKILL; None: none.
        way: of `WAYS`.
        state: called before and after each operation, if given.

    Attributes:
        operations: (function, paths below the folder) of each one, in order.
        states: what `state` gave, before and after each one.
        disk: what is on the disk for certain.
    """

    def __init__(self, root: Path, kill: int | None = None, way: str = AFTER, state: Callable[[], str] | None = None):
        self.root, self.kill, self.way, self._state = root.resolve(), kill, way, state
        self.operations: list[tuple[str, list[str]]] = []
        self.states: list[list[str]] = []
        self.disk = Disk(self.root)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Count inside the block."""
        import lirdrec.files.atomic

        wrapped: list[tuple[Any, str, Any]] = []

        def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
            wrapped.append((owner, name, getattr(owner, name)))
            setattr(owner, name, make(getattr(owner, name)))

        for name in NAMES:
            wrap(os, name, functools.partial(self._counted, name))
        wrap(lirdrec.files.atomic, "exchange_folders", functools.partial(self._counted, "exchange"))
        wrap(os, "open", self._opened_by_flags)
        for owner in (builtins, io):
            wrap(owner, "open", self._opened_by_mode)
        for name in ("send", "sendall"):
            wrap(socket.socket, name, functools.partial(self._sent, name))
        try:
            yield
        finally:
            for owner, name, value in reversed(wrapped):
                setattr(owner, name, value)

    def _around(self, name: str, paths: list[str], call: Callable[[], Any]) -> Any:
        number = len(self.operations)
        self.operations.append((name, paths))
        if number == self.kill and self.way == BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._state is not None:
            self.states.append([self._state()])
        try:
            result = call()
            if name in ("fsync", "fdatasync") and paths:
                self.disk.synced(self.root / paths[0])
            return result
        finally:  # also where the operation was refused
            if self._state is not None:
                self.states[number].append(self._state())
            if number == self.kill:
                if self.way == POWER:
                    self.kill = None
                    self.disk.cut_power()
                os.kill(os.getpid(), signal.SIGKILL)

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def counted(*arguments: Any, **options: Any) -> Any:
            folder = options.get("dir_fd", options.get("src_dir_fd"))
            n_paths = 2 if name in ("rename", "replace", "link", "symlink", "exchange") else 1
            paths = [one for value in arguments[:n_paths] if (one := self._below(value, folder)) is not None]
            if not paths:
                return real(*arguments, **options)
            return self._around(name, paths, lambda: real(*arguments, **options))

        return counted

    def _opened_by_flags(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> Any:
            below = self._below(path, options.get("dir_fd"))
            if below is None or not flags & (os.O_CREAT | os.O_TRUNC):
                return real(path, flags, *arguments, **options)
            return self._around("open", [below], lambda: real(path, flags, *arguments, **options))

        return opened

    def _opened_by_mode(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            below = None if isinstance(path, int) else self._below(path, None)
            if below is None or not set(mode) & set("wax+"):
                return real(path, mode, *arguments, **options)
            return self._around("open", [below], lambda: real(path, mode, *arguments, **options))

        return opened

    def _sent(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def sent(this: Any, data: Any, *arguments: Any) -> Any:
            return self._around(name, [], lambda: real(this, data, *arguments))

        return sent

    def _below(self, path: Any, folder: int | None) -> str | None:
        """The path below the root; None where it lies elsewhere."""
        if hasattr(path, "fileno"):
            path = path.fileno()
        if isinstance(path, int):
            whole = os.readlink(f"/proc/self/fd/{path}")
        else:
            start = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
            whole = os.path.join(start, os.fsdecode(path))
            # the last part is not followed: a link is what is renamed or removed
            whole = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
        below = os.path.relpath(whole, self.root)
        return None if below.startswith(("..", FOREIGN)) else below
