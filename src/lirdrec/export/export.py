"""Export a recommender to a folder, for another search engine or runtime: the folder appears only when complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lirdrec.config import suggest_name
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.export.onnx_export import write_onnx
from lirdrec.export.pgvector import write_pgvector
from lirdrec.export.qdrant_files import write_qdrant
from lirdrec.export.vectors import Vectors, vectors_of, write_faiss, write_npy
from lirdrec.files.manifest import MANIFEST, file_entry, manifest_format
from lirdrec.files.transaction import atomic_folder, manifest_text
from lirdrec.recommender.recommender import Recommender

FORMAT = "lirdrec-export"
FORMAT_VERSION = 1
# kind → function that writes its files into an empty folder and returns its part of README.txt
KINDS: Mapping[str, Callable[[Recommender, Vectors, Path], str]] = {
    "npy": write_npy,
    "faiss": write_faiss,
    "qdrant": write_qdrant,
    "pgvector": write_pgvector,
    "onnx": write_onnx,
}
WRITTEN = (
    *(f"{name}.{ending}" for name in ("users", "items") for ending in ("npy", "parquet", "csv", "jsonl", "faiss")),
    *("README.txt", "load.py", "load.sql", "index.sql", "seen.csv"),
    *("item_branches.onnx", "item_vector.onnx", "item_vector.bin"),
)
README = """\
{n_users:,} users and {n_items:,} items of a run of lirdrec ({model} on {dataset}); vectors of {width} numbers.
The score of an item for a user is the inner product of their vectors; larger is better. It is not a cosine: do not
normalize the vectors. The best items include those that the user has seen: request more items and remove these.
Items of equal score may have another order than in lirdrec.
{offsets}
"""
OFFSETS = """\
The last column is the offset of an item: 0 for items of the training, the calibrated offset for items that were added
later. It is 1 for users, so that the inner product includes the offset.
"""


def check_kind(kind: str) -> None:
    """Raise a ConfigError unless `kind` is one of `KINDS`."""
    if kind not in KINDS:
        raise ConfigError(f"no export to '{kind}'; {suggest_name(kind, KINDS, 'choose ' + ', '.join(KINDS))}")


def export(recommender: Recommender, kind: str, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Export a recommender for another search engine or runtime, with a README.txt that explains its use.

    Args:
        recommender: a run, stripped or not.
        kind: one of `KINDS`.
        folder: the folder to create.
        overwrite: replace a folder, but only if it contains an export and nothing else.

    Returns:
        The folder.

    Raises:
        ConfigError: an unknown kind, or its library is not installed.
        CapabilityError: the model does not support this kind of export.
        RunFolderError: the folder is not empty and `overwrite` is False, contains other files, or cannot be written.
            For "onnx": the features that the run was trained with are missing.
        DataError: a vector has a number that is not finite.
    """
    check_kind(kind)
    folder = Path(folder)
    earlier = folder.is_dir() and manifest_format(folder) is None  # earlier exports have no manifest
    if earlier and any(folder.iterdir()) and overwrite and not (folder / "README.txt").is_file():
        raise RunFolderError(f"{folder} is not an export, so it is not replaced; choose another name")
    with atomic_folder(folder, overwrite, (FORMAT,), WRITTEN if earlier else ()) as temporary:
        vectors = vectors_of(recommender)
        readme = README.format(
            n_users=recommender.n_users,
            n_items=recommender.n_items,
            model=recommender.info.get("model", "a model"),
            dataset=recommender.info.get("dataset", "unnamed data"),
            width=vectors.width,
            offsets=OFFSETS if vectors.has_offsets else "",
        )
        readme += KINDS[kind](recommender, vectors, temporary)
        (temporary / "README.txt").write_text(readme, encoding="utf-8")
        files = {path.relative_to(temporary).as_posix(): file_entry(path) for path in sorted(temporary.rglob("*"))}
        manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": kind, "files": files}
        (temporary / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
    return folder
