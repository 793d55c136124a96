"""What the process that forks imports, and what each child changes so that it is quick and equal to every other one."""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import pkgutil
import time
from collections.abc import Iterator
from typing import Any

FIRST_SECOND = 1_700_000_000.0
FIRST_NAMES = ("manifest.json", "plan.json", "config.json")


def import_all() -> None:
    """Import all of lirdrec and what its functions import when they are first called; compute nothing."""
    import lirdrec

    for module in pkgutil.walk_packages(lirdrec.__path__, "lirdrec."):
        if module.name != "lirdrec.__main__":
            importlib.import_module(module.name)
    for name in (
        "PIL.PngImagePlugin",
        "PIL.JpegImagePlugin",
        "huggingface_hub.hf_api",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "pandas",
        "pyarrow.parquet",
        "sklearn.decomposition",
        "sklearn.feature_extraction.text",
        "torch._dynamo",
        "faults.running",
    ):
        importlib.import_module(name)
    command()
    gc.freeze()  # children share the memory as long as nothing writes to it


def command() -> Any:
    """The command `lirdrec`; making it takes as long as most of its work here."""
    import typer.main

    from lirdrec.cli.main import app

    global _command
    if _command is None:
        _command = typer.main.get_command(app)
    return _command


_command: Any = None


def prepare_child() -> None:
    """Let no clock, no drawing and no order of a folder make one child differ from another, or slow."""
    from matplotlib.figure import Figure

    import lirdrec.recommender.serialization

    ticks = itertools.count()

    def seconds() -> float:
        return FIRST_SECOND + next(ticks) / 1000

    gc.disable()
    time.perf_counter = seconds
    os.scandir = _SortedScandir
    Figure.savefig = _drawn
    lirdrec.recommender.serialization.environment = lambda seed=None: {"seed": seed}
    os.environ.pop("LIRDREC_API_KEY", None)


def _drawn(figure: Any, path: Any, **options: Any) -> None:
    with open(path, "wb") as file:
        file.write(b"\x89PNG an image")


class _SortedScandir:
    """`os.scandir` in the order that does most harm if folders are removed in it: first what says what the rest is."""

    def __init__(self, path: Any = "."):
        with _scandir(path) as entries:
            found = sorted(entries, key=lambda entry: (os.fsdecode(entry.name) not in FIRST_NAMES, entry.name))
        self._entries = iter(found)

    def __iter__(self) -> Iterator[Any]:
        return self._entries

    def __next__(self) -> Any:
        return next(self._entries)

    def __enter__(self) -> _SortedScandir:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def close(self) -> None:
        return None


_scandir = os.scandir
