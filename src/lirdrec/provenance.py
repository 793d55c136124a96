"""Provenance of results: versions, git revision, platform and time."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any


def environment(seed: int | None = None) -> dict[str, Any]:
    """Return versions, git revision, platform, time and `seed`, which are recorded with a result to make it repeatable.

    The seed is recorded as given; nothing is seeded.
    """
    versions = {}
    for package in ("lirdrec", "torch", "numpy", "polars", "pyarrow", "safetensors"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "git_revision": _git_revision(),
        "seed": seed,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git_revision() -> str | None:
    """Return the git revision of lirdrec's checkout, with "+changes" if it was edited.

    Returns None for an installed wheel, or if git fails.
    """
    here = Path(__file__).resolve()
    if not any((parent / ".git").exists() for parent in here.parents):
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--abbrev=40", "--exclude=*"],
            cwd=here.parent,
            capture_output=True,
            text=True,
            timeout=60,  # in case git hangs
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
