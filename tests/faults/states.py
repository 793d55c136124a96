"""What a reader finds: datasets, runs and folders of files as plain values that can be compared; and whole trees."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from .injecting import REBUILT

TEMPORARY = re.compile(r"[0-9a-f]{8}-\d+-[0-9a-f]{8}|[0-9a-f]{8,}")  # numbers of processes, drawn names


def dataset(folder: Path) -> dict[str, Any]:
    """A prepared dataset, all of it."""
    from lirdrec.data.dataset import Dataset
    from lirdrec.data.storage import interactions

    found = Dataset.load(folder, verify=True)
    return {
        "name": found.name,
        "users": found.users.series.to_list(),
        "table": found.item_table.to_dicts(),
        "pairs": interactions(found).rows(),
        "features": {
            name: [_digest(matrix.values.tobytes()), _digest(matrix.present.tobytes())]
            for name, matrix in sorted(found.features.items())
        },
        "info": {key: value for key, value in found.info.items() if key != "images"},
    }


def run(folder: Path) -> dict[str, Any]:
    """A run, all of it: what it recommends, what it is made of, and what is recorded of its training."""
    lines = {name: _lines(folder, name) for name in ("metrics.json", "history.jsonl")}
    return loaded_run(folder) | lines


def loaded_run(folder: Path) -> dict[str, Any]:
    """What a run recommends and is made of."""
    from lirdrec.recommender.recommender import Recommender

    found = Recommender.load(folder, verify=True)
    best = found.recommend(k=5, exclude_seen=not found.is_slim)
    features = []
    if found.features is not None:
        for block in found.features.blocks():
            features.append({name: _digest(matrix.values.tobytes()) for name, matrix in sorted(block.items())})
    return {
        "recommended": _digest(json.dumps(best.rows()).encode()),
        "tensors": _tensors(found.scorer.tensors()),
        "weights": _tensors(found.weights()),
        "items": found.items.series.to_list(),
        "table": found.item_table.to_dicts(),
        "features": features,
        "metrics": found.info.get("metrics"),
    }


def _lines(folder: Path, name: str) -> list[str]:
    """The lines of a file beside a run, but for times."""
    from lirdrec.files.manifest import MANIFEST, read_manifest, resolve_path

    there = (folder / MANIFEST).is_file()
    path = resolve_path(folder, read_manifest(folder, ""), name) if there else folder / name
    lines = path.read_text().splitlines() if path.is_file() else []
    return [re.sub(r'"seconds\w*": [\d.]+', "", line) for line in lines]


def file(path: Path) -> str:
    """The bytes of a file."""
    return _digest(path.read_bytes())


def files(folder: Path) -> dict[str, str]:
    """The bytes of the files of a folder, but for hidden ones; an empty one is none."""
    found = {
        path.relative_to(folder).as_posix(): _digest(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not found:
        raise FileNotFoundError(folder)
    return found


def names(root: Path) -> list[str]:
    """All names below a folder, hidden ones too, with one word for whatever is drawn."""
    return sorted(
        TEMPORARY.sub("#", path.relative_to(root).as_posix())
        for path in root.rglob("*")
        if path.relative_to(root).parts[0] not in REBUILT
    )


def tree(root: Path) -> str:
    """A hash of all names and contents below a folder, with one word for whatever is drawn."""
    parts = []
    for path in root.rglob("*"):
        name = TEMPORARY.sub("#", path.relative_to(root).as_posix())
        if path.is_symlink():
            content = path.readlink().as_posix()
        elif path.is_file() and not path.name.endswith(".lock"):  # a lock holds the number of its process
            content = _digest(path.read_bytes())
        else:
            content = ""
        parts.append(f"{name} {content}")
    return _digest("\n".join(sorted(parts)).encode())


def _tensors(tensors: Any) -> dict[str, str]:
    return {name: _digest(one.detach().contiguous().numpy().tobytes()) for name, one in sorted(tensors.items())}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]
