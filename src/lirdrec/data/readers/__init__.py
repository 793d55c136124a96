"""Readers of the file formats that data comes in; `read_any` and `read_raw` recognise which one."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lirdrec.data.readers.amazon import read_amazon
    from lirdrec.data.readers.feature_files import read_features
    from lirdrec.data.readers.interactions import read_interactions
    from lirdrec.data.readers.lightgcn import read_lightgcn
    from lirdrec.data.readers.microlens import read_microlens
    from lirdrec.data.readers.mmrec import read_mmrec
    from lirdrec.data.readers.movielens import read_movielens
    from lirdrec.data.readers.recbole import read_recbole
    from lirdrec.data.readers.recognise import kind_of, read_any, read_raw
    from lirdrec.data.readers.sparse_matrices import read_matrices
    from lirdrec.data.readers.split_files import read_split_files, read_split_folder

__all__ = [
    "kind_of",
    "read_amazon",
    "read_any",
    "read_features",
    "read_interactions",
    "read_lightgcn",
    "read_matrices",
    "read_microlens",
    "read_mmrec",
    "read_movielens",
    "read_raw",
    "read_recbole",
    "read_split_files",
    "read_split_folder",
]

# Loaded when asked for: `building` needs the feature files, and the readers of whole datasets need `building`.
_HOMES = {
    "kind_of": "recognise",
    "read_amazon": "amazon",
    "read_any": "recognise",
    "read_features": "feature_files",
    "read_interactions": "interactions",
    "read_lightgcn": "lightgcn",
    "read_matrices": "sparse_matrices",
    "read_microlens": "microlens",
    "read_mmrec": "mmrec",
    "read_movielens": "movielens",
    "read_raw": "recognise",
    "read_recbole": "recbole",
    "read_split_files": "split_files",
    "read_split_folder": "split_files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
