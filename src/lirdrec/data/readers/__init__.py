"""Readers of the file formats that data comes in; `read_any` recognises a folder."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lirdrec.data.readers.feature_files import read_features
    from lirdrec.data.readers.interactions import read_interactions
    from lirdrec.data.readers.mmrec import read_mmrec
    from lirdrec.data.readers.recbole import read_recbole
    from lirdrec.data.readers.recognise import read_any

__all__ = ["read_any", "read_features", "read_interactions", "read_mmrec", "read_recbole"]

# Loaded when asked for: `building` needs the feature files, and the readers of whole datasets need `building`.
_HOMES = {
    "read_any": "recognise",
    "read_features": "feature_files",
    "read_interactions": "interactions",
    "read_mmrec": "mmrec",
    "read_recbole": "recbole",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
