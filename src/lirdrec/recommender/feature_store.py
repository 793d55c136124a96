"""Where a recommender finds the features of its catalogue when items are added: memory, its run folder, or a dataset.

The features of the items known in training are either a reference to a prepared dataset folder (with checksums) or a
copy in the run folder. Items added later keep their features in the run folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lirdrec.atomic import sha256
from lirdrec.errors import RunFolderError
from lirdrec.recommender.run_folder import Writer, check_file, read_json, reason, write_json

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.data.matrices import FeatureMatrix

Blocks = list[dict[str, "FeatureMatrix"]]


@dataclass
class FeatureStore:
    """Feature matrices in blocks of item rows, read from disk when they are first needed.

    Attributes:
        trained: name → matrix of the items known in training, or None until `blocks` reads it.
        added: one mapping per `add_items`, in order.
        folder: the prepared dataset that `trained` lies in, if it lies in one.
        files: "NAME.values" / "NAME.mask" → {"file", "bytes", "sha256"} inside `folder`.
        missing: why `trained` cannot be read, if it cannot; told only to who needs it.
    """

    trained: dict[str, FeatureMatrix] | None
    added: Blocks = field(default_factory=list)
    folder: Path | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: str | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> FeatureStore:
        """The features of a dataset; a reference where it was loaded from a prepared folder."""
        if dataset.folder is None or not dataset.features:
            return cls(dict(dataset.features))
        files = _prepared_files(dataset.folder, list(dataset.features))
        return cls(dict(dataset.features), folder=dataset.folder, files=files)

    def blocks(self) -> Blocks:
        """All blocks in row order: trained items first.

        Raises:
            RunFolderError: the referenced dataset is gone or has changed.
        """
        if self.trained is None:
            raise RunFolderError(self.missing or "this run has no features")
        return [self.trained, *self.added]

    def names(self) -> list[str]:
        """Names of the modalities, in the order of the model's branches."""
        return list(self.blocks()[0])

    def writers(self, run: Path) -> dict[str, Writer]:
        """The files that keep these features in the run folder `run`."""
        files: dict[str, Writer] = {}
        names = list(self.trained) if self.trained is not None else sorted({k.rsplit(".", 1)[0] for k in self.files})
        description: dict[str, Any] = {"names": names, "added_blocks": []}
        if self.folder is not None:
            description["dataset"] = {
                "folder": str(self.folder.resolve()),
                "relative": _relative(self.folder, run),
                "files": self.files,
            }
        else:
            files |= _matrix_writers("features", self.blocks()[0])
        for number, block in enumerate(self.added):
            prefix = f"features/added-{number}"
            description["added_blocks"].append(prefix)
            files |= _matrix_writers(prefix, block)
        return files | {"features.json": lambda path: write_json(path, description)}

    @classmethod
    def read(cls, run: Path, elsewhere: str | Path | None = None, verify: bool = False) -> FeatureStore:
        """The features that `writers` wrote; a missing dataset is an error only when it is needed.

        Args:
            run: the run folder.
            elsewhere: where the prepared dataset lies now, if it was moved.
            verify: read the whole feature files of the dataset and compare checksums.
        """
        description = read_json(run / "features.json")
        names = description["names"]
        added = [{n: _read_matrix(run / prefix, n) for n in names} for prefix in description["added_blocks"]]
        reference = description.get("dataset")
        if reference is None:
            return cls({n: _read_matrix(run / "features", n) for n in names}, added)
        candidates = [Path(elsewhere)] if elsewhere else [run / reference["relative"], Path(reference["folder"])]
        files = reference["files"]
        for folder in candidates:
            if not folder.is_dir():
                continue
            try:
                for entry in files.values():
                    check_file(folder / entry["file"], entry, verify, small=0)
                trained = {n: _read_matrix((folder / files[f"{n}.values"]["file"]).parent, n) for n in names}
            except RunFolderError as error:
                return cls(
                    None, added, folder, files, f"the features that this run was trained with are not whole: {error}"
                )
            return cls(trained, added, folder, files)
        return cls(
            None,
            added,
            candidates[-1],
            files,
            f"{run}: the features that it was trained with are not at {candidates[-1]}; put that dataset back, or "
            "say where it is: Recommender.load(run, features=FOLDER)",
        )


def _prepared_files(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    recorded = read_json(folder / "manifest.json").get("files", {})
    entries = {}
    for name in names:
        for part, ending in (("values", ".npy"), ("mask", ".mask.npy")):
            file = f"features/{name}{ending}"
            known = recorded.get(file)
            digest = known.get("sha256") if isinstance(known, Mapping) else known
            size = (folder / file).stat().st_size
            entries[f"{name}.{part}"] = {"file": file, "bytes": size, "sha256": digest or sha256(folder / file)}
    return entries


def _matrix_writers(prefix: str, block: Mapping[str, FeatureMatrix]) -> dict[str, Writer]:
    files: dict[str, Writer] = {}
    for name, matrix in block.items():
        files[f"{prefix}/{name}.npy"] = _array_writer(matrix.values)
        files[f"{prefix}/{name}.mask.npy"] = _array_writer(matrix.present)
    return files


def _array_writer(array: np.ndarray) -> Writer:
    return lambda path: np.save(path, array, allow_pickle=False)


def _read_matrix(folder: Path, name: str) -> FeatureMatrix:
    from lirdrec.data.matrices import FeatureMatrix

    arrays = []
    for ending in (".npy", ".mask.npy"):
        try:
            arrays.append(np.load(folder / f"{name}{ending}", mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{folder / (name + ending)}: cannot be read: {reason(error)}; restore it") from None
    return FeatureMatrix.known_good(arrays[0], np.asarray(arrays[1]))


def _relative(folder: Path, run: Path) -> str:
    try:
        return os.path.relpath(folder.resolve(), run.resolve())
    except ValueError:  # another drive on Windows
        return str(folder.resolve())
