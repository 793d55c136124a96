"""The item features of a run, which are needed when items are added: in memory, or read from disk when first used.

Features of the trained items are a reference to a prepared dataset folder (with checksums) or a copy in the run
folder. Features of items that were added later are in the run folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix, open_array
from lirdrec.errors import RunFolderError, describe_read_error
from lirdrec.files.atomic import share
from lirdrec.files.manifest import MANIFEST, file_entry, is_relative_name, resolve_path
from lirdrec.nn.principal_components import Projection
from lirdrec.recommender.run_folder import REMEDY, Writer, check_file, read_errors, read_json, write_json
from lirdrec.row_buffers import append_rows

DESCRIPTION = "features.json"
PROJECTIONS = "features/projections.safetensors"
Blocks = list[dict[str, FeatureMatrix]]


@dataclass
class FeatureStore:
    """The feature matrices of a run's items, in blocks of item rows; read from disk when they are first needed.

    Attributes:
        trained: name → matrix of the items known in training, or None until `blocks` reads it.
        added: blocks of the items that were added, in the order of their rows; must not be changed.
        folder: the prepared dataset that contains `trained`, if there is one.
        files: "NAME.values" / "NAME.mask" → {"file", "bytes", "sha256"} inside `folder`.
        missing: the reason why `trained` cannot be read, or None; `blocks` raises it as an error.
        projections: name → projection that reduces a matrix before the model reads it (feature_pca.py).
    """

    trained: dict[str, FeatureMatrix] | None
    added: Blocks = field(default_factory=list)
    folder: Path | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: str | None = None
    projections: Mapping[str, Projection] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset, projections: Mapping[str, Projection] | None = None) -> FeatureStore:
        """Make the store of a dataset's features, with a reference to its folder if it was loaded from one."""
        projections = projections or {}
        if dataset.folder is None or not dataset.features:
            return cls(dict(dataset.features), projections=projections)
        files = _prepared_files(dataset.folder, list(dataset.features))
        return cls(dict(dataset.features), folder=dataset.folder, files=files, projections=projections)

    def blocks(self) -> Blocks:
        """Return all blocks in the order of item rows: trained items first.

        Raises:
            RunFolderError: the referenced dataset is missing or has changed.
        """
        if self.trained is None:
            raise RunFolderError(self.missing or "this run has no features")
        return [self.trained, *self.added]

    def with_added(self, new: Mapping[str, FeatureMatrix]) -> FeatureStore:
        """Return a store with the features of more items. All added items become one block, which is faster to read."""
        merged = dict(new)
        for name, matrix in new.items():
            added = [block[name] for block in self.added]
            if added:
                merged[name] = _appended(added[0], [*added[1:], matrix])
        return replace(self, added=[merged])

    def names(self) -> list[str]:
        """Return the names of the modalities, in the order in which the model uses them.

        Raises:
            RunFolderError: see `blocks`.
        """
        return list(self.blocks()[0])

    def known_names(self) -> list[str]:
        """Return the names of the modalities, without an error if their files are missing or damaged."""
        return list(self.trained) if self.trained is not None else sorted({k.rsplit(".", 1)[0] for k in self.files})

    def writers(self, run: Path) -> dict[str, Writer]:
        """Return the files that store these features in the folder `run`: name → function that writes the file."""
        files: dict[str, Writer] = {}
        description: dict[str, Any] = {"names": self.known_names(), "added_blocks": []}
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
        if self.projections:
            description["projections"] = PROJECTIONS
            files[PROJECTIONS] = lambda path: _write_projections(path, self.projections)
        return files | {DESCRIPTION: lambda path: write_json(path, description)}

    @classmethod
    def read(
        cls,
        run: Path,
        elsewhere: str | Path | None = None,
        verify: bool = False,
        manifest: Mapping[str, Any] | None = None,
    ) -> FeatureStore:
        """Read the features that `writers` wrote. A missing or damaged dataset raises an error only in `blocks`.

        Args:
            run: the run folder.
            elsewhere: the prepared dataset's folder, if it was moved.
            verify: compare the checksums of the dataset's feature files.
            manifest: the manifest of the run, if the caller has read it.

        Raises:
            RunFolderError: a file of the run is damaged, or names a file outside of its folder.
        """
        manifest = manifest or {}
        path = resolve_path(run, manifest, DESCRIPTION)
        description = read_json(path)
        _check(description, path)
        store = cls._read_matrices(run, description, elsewhere, verify, manifest)
        if description.get("projections") is None:
            return store
        file = resolve_path(run, manifest, description["projections"])
        return replace(store, projections=_read_projections(file, description["names"]))

    @classmethod
    def _read_matrices(
        cls,
        run: Path,
        description: Mapping[str, Any],
        elsewhere: str | Path | None,
        verify: bool,
        manifest: Mapping[str, Any],
    ) -> FeatureStore:
        names = description["names"]
        added = [{n: _read_matrix(run, manifest, prefix, n) for n in names} for prefix in description["added_blocks"]]
        reference = description.get("dataset")
        if reference is None:
            return cls({n: _read_matrix(run, manifest, "features", n) for n in names}, added)
        candidates = [Path(elsewhere)] if elsewhere else [run / reference["relative"], Path(reference["folder"])]
        files = reference["files"]
        for folder in candidates:
            if not folder.is_dir():
                continue
            try:
                prepared = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
                for entry in files.values():
                    check_file(resolve_path(folder, prepared, entry["file"]), entry, verify, small=0)
                prefix = {n: Path(files[f"{n}.values"]["file"]).parent.as_posix() for n in names}
                trained = {n: _read_matrix(folder, prepared, prefix[n], n) for n in names}
            except RunFolderError as error:
                return cls(
                    None, added, folder, files, f"the features that this run was trained with are damaged: {error}"
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


def _appended(first: FeatureMatrix, more: Sequence[FeatureMatrix]) -> FeatureMatrix:
    values, present = first.values, first.present
    dtype = np.result_type(values, *(matrix.values for matrix in more))
    values = values if values.dtype == dtype else values.astype(dtype)
    for matrix in more:
        values, present = append_rows(values, matrix.values), append_rows(present, matrix.present)
    return FeatureMatrix.known_good(values, present)


def _prepared_files(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    manifest = read_json(folder / MANIFEST)
    recorded = manifest.get("files", {})
    entries = {}
    for name in names:
        for array, ending in (("values", ".npy"), ("mask", ".mask.npy")):
            file = f"features/{name}{ending}"
            entries[f"{name}.{array}"] = {"file": file} | (
                recorded.get(file) or file_entry(resolve_path(folder, manifest, file))
            )
    return entries


def _check(description: Any, path: Path) -> None:
    """Check the types in `features.json`, and that no name in it leaves its folder.

    Raises:
        RunFolderError: an entry is wrong; the message names it.
    """

    def damage(fault: str) -> RunFolderError:
        return RunFolderError(f"{path} is damaged: {fault}; {REMEDY}")

    def all_inside(values: Any) -> bool:
        return isinstance(values, list) and all(is_relative_name(value) for value in values)

    if not isinstance(description, dict):
        raise damage("it is not a JSON object")
    for key in ("names", "added_blocks"):
        if not all_inside(description.get(key)):
            raise damage(f"its entry '{key}' is not a list of names inside the folder")
    projections = description.get("projections")
    if projections is not None and not is_relative_name(projections):
        raise damage("its entry 'projections' is not a name inside the folder")
    reference = description.get("dataset")
    if reference is None:
        return
    if not isinstance(reference, dict) or not all(isinstance(reference.get(k), str) for k in ("folder", "relative")):
        raise damage("its entry 'dataset' does not say where the dataset is")
    files = reference.get("files")
    required = {f"{name}.{array}" for name in description["names"] for array in ("values", "mask")}
    if not isinstance(files, dict) or not required <= set(files):
        raise damage("its entry 'dataset' does not list the files of all features")
    for name, entry in files.items():
        is_valid = (
            isinstance(entry, dict) and is_relative_name(entry.get("file")) and isinstance(entry.get("sha256"), str)
        )
        if not is_valid or not isinstance(entry.get("bytes"), int):
            raise damage(f"its entry for the file {name!r} is not of the right form")


def _write_projections(path: Path, projections: Mapping[str, Projection]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for name, projection in projections.items():
        tensors |= {f"{name}.offset": projection.offset, f"{name}.directions": projection.directions}
    save_file(tensors, path)
    share(path)


def _read_projections(path: Path, names: Sequence[str]) -> dict[str, Projection]:
    """Read the projections in a file; a modality of `names` without a projection is left out.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    with read_errors(path):
        tensors = load_file(path)
        found = {
            name: Projection(tensors[f"{name}.offset"], tensors[f"{name}.directions"])
            for name in names
            if f"{name}.offset" in tensors
        }
    for name, p in found.items():
        is_matrix = p.directions.ndim == 2 and p.offset.shape == p.directions.shape[:1] and p.directions.shape[1] > 0
        if not is_matrix or {p.offset.dtype, p.directions.dtype} != {torch.float64}:
            raise RunFolderError(f"{path} is damaged: the projection of '{name}' is not a matrix; {REMEDY}")
    return found


def _matrix_writers(prefix: str, block: Mapping[str, FeatureMatrix]) -> dict[str, Writer]:
    files: dict[str, Writer] = {}
    for name, matrix in block.items():
        files[f"{prefix}/{name}.npy"] = _array_writer(matrix.values)
        files[f"{prefix}/{name}.mask.npy"] = _array_writer(matrix.present)
    return files


def _array_writer(array: np.ndarray) -> Writer:
    return lambda path: np.save(path, array, allow_pickle=False)


def _read_matrix(folder: Path, manifest: Mapping[str, Any], prefix: str, name: str) -> FeatureMatrix:
    arrays = []
    for ending in (".npy", ".mask.npy"):
        path = resolve_path(folder, manifest, f"{prefix}/{name}{ending}")
        try:
            arrays.append(open_array(path))
        except (OSError, ValueError, MemoryError) as error:
            raise RunFolderError(f"{path}: {describe_read_error(error, 'restore it')}") from None
    values, present = arrays
    if values.ndim != 2 or values.dtype.kind != "f" or present.dtype != np.bool_ or present.shape != values.shape[:1]:
        raise RunFolderError(f"{folder}: the features '{name}' are damaged: not a matrix and its mask; restore them")
    return FeatureMatrix.known_good(values, np.asarray(present))


def _relative(folder: Path, run: Path) -> str:
    try:
        return os.path.relpath(folder.resolve(), run.resolve())
    except ValueError:  # another drive on Windows
        return str(folder.resolve())
