"""Select the files of a folder to upload (all in its manifest) and remove private metadata from them.

File names and contents are checked: nothing pickled, no path outside of the folder.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lirdrec.data.storage import FORMAT as DATASET
from lirdrec.data.storage import check_files, read_manifest, resolve_path
from lirdrec.errors import ConfigError, DataError, RunFolderError
from lirdrec.files.atomic import sha256
from lirdrec.hub.licenses import License, find_license
from lirdrec.hub.metadata_redaction import as_bytes, check_table, folders_in, scrub, scrub_file
from lirdrec.recommender.feature_store import FeatureStore
from lirdrec.recommender.run_folder import is_run, open_run, read_json

MANIFEST = "manifest.json"
CARD = "README.md"
DOCUMENTS = re.compile(r"\.gitattributes|\.gitignore|[^/]+\.md|(LICENSE|LICENSE|NOTICE|COPYING)(\.txt)?")
PARTS = 3  # features/added-0/text.npy
BLOCK_BYTES = 1 << 20

_PLAIN = re.compile(r"[^\x00-\x1f\x7f\\/:*?\"<>|\[\]]+")


def is_document(name: str) -> bool:
    """Whether a file is documentation, which a repository may hold beside the files of the manifest."""
    return DOCUMENTS.fullmatch(name) is not None


def check_name(name: object) -> str:
    """Validate a file name of a manifest: inside its folder on every system, with a known suffix.

    Raises:
        RunFolderError: it is not valid; the message can follow "FOLDER: ".
    """
    if not isinstance(name, str) or len(name) > 200:
        raise RunFolderError(f"its {MANIFEST} lists {str(name)[:60]!r}, which is not a file name")
    parts = name.split("/")
    plain = all(_PLAIN.fullmatch(part) and part[0] not in ". " and part[-1] not in ". " for part in parts)
    if not plain or len(parts) > PARTS:
        raise RunFolderError(
            f"its {MANIFEST} lists {name!r}, which is not a plain name inside the folder; upload the folder again"
        )
    if name == MANIFEST or Path(name).suffix not in _CHECKS:
        raise RunFolderError(
            f"its {MANIFEST} lists {name!r}, a file type that is never shared; "
            f"datasets and runs consist of {', '.join(_CHECKS)}"
        )
    return name


def check_content(path: Path, name: str) -> None:
    """Validate that the file at `path` has the format of the suffix of `name`; nothing is run or unpickled.

    Raises:
        RunFolderError: it has another format; the message can follow "FOLDER: ".
    """
    try:
        with path.open("rb") as file:
            good = _CHECKS[Path(name).suffix](file)
    except (ValueError, EOFError, OSError):
        good = False
    if not good:
        raise RunFolderError(f"{name} does not match its suffix (a table, an array or a text without pickles)")


def _begins(start: bytes) -> Callable[[BinaryIO], bool]:
    return lambda file: file.read(len(start)) == start


def _is_text(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while block := file.read(BLOCK_BYTES):
        if "\0" in decoder.decode(block):
            return False
    decoder.decode(b"", final=True)
    return True


def _is_array(file: BinaryIO) -> bool:
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return not read(file)[2].hasobject  # an array of objects is a pickle


def _is_safetensors(file: BinaryIO) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file.name, framework="numpy"):
            return True
    except SafetensorError:
        return False


_CHECKS: dict[str, Callable[[BinaryIO], bool]] = {
    ".parquet": _begins(b"PAR1"),
    ".npy": _is_array,
    ".safetensors": _is_safetensors,
    ".json": _is_text,
    ".jsonl": _is_text,
    ".csv": _is_text,
    ".png": _begins(b"\x89PNG\r\n\x1a\n"),
}


TEXTS = (".json", ".jsonl", ".csv")
CONFIG = "config.json"
FEATURES = "features.json"
ITEMS = "items.parquet"

Content = Path | bytes


@dataclass
class Shared:
    """A prepared dataset or a run, ready to be uploaded.

    Attributes:
        folder: the local folder.
        format: "lirdrec-dataset" or "lirdrec-run".
        manifest: the manifest to upload.
        contents: name → path of the file, or its bytes if they differ from those on disk; includes the manifest.
        info: metadata on how it was made, scrubbed.
        data_info: for a run, the metadata of its training dataset, if found.
        license: the license it is shared under.
    """

    folder: Path
    format: str
    manifest: dict[str, Any]
    contents: dict[str, Content]
    info: dict[str, Any]
    license: License
    data_info: dict[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The hub's repository type."""
        return "dataset" if self.format == DATASET else "model"

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def open(self, name: str) -> Path:
        """The path of a file that is sent unchanged.

        Raises:
            KeyError: there is none.
        """
        content = self.contents[name]
        if not isinstance(content, Path):
            raise KeyError(name)
        return content

    def json(self, name: str) -> Any:
        """The content of a JSON file to upload, or None."""
        content = self.contents.get(name)
        if content is None:
            return None
        return json.loads(content if isinstance(content, bytes) else content.read_bytes())


@dataclass
class _Folder:
    """A verified folder on disk."""

    manifest: dict[str, Any]
    contents: dict[str, Content]
    info: dict[str, Any]
    data_info: dict[str, Any] = field(default_factory=dict)


def gather(folder: str | Path, license: str | None = None, features: bool = True) -> Shared:
    """Read a folder, verify it, and remove what identifies the machine. Nothing is written.

    Args:
        folder: a prepared dataset or a finished run.
        license: license given by the user (see `find_license`).
        features: for a run, also upload the features that it refers to, which are needed to add items.

    Raises:
        RunFolderError: it is neither, is damaged, or contains a file type that is never shared.
        ConfigError: the license is invalid or missing.
        DataError: the item table contains paths of this machine.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; name a prepared dataset or a run")
    local = _run(folder, features) if is_run(folder) else _dataset(folder)
    terms = find_license(license, {**local.data_info, **local.info}, str(folder))
    folders = [str(Path.home()), str(Path.cwd()), str(folder.resolve().parent)]
    known = folders + folders_in(local.info) + folders_in(local.data_info)
    info = scrub(local.info, known) | {"licence": terms.text}
    contents = {name: _clean(folder, name, content, known) for name, content in local.contents.items()}
    if ITEMS in contents:
        check_table(folder / ITEMS)
    manifest = local.manifest
    if manifest["format"] == DATASET:
        manifest = scrub(manifest, known) | {"info": info}
    else:
        contents[CONFIG] = as_bytes(json.loads(_read(contents[CONFIG])) | {"info": info})
    recorded = local.manifest["files"]
    manifest = manifest | {"files": {name: _entry(content, recorded.get(name)) for name, content in contents.items()}}
    contents[MANIFEST] = as_bytes(manifest)
    return Shared(folder, manifest["format"], manifest, contents, info, terms, scrub(local.data_info, known))


def _dataset(folder: Path) -> _Folder:
    manifest = read_manifest(folder)
    check_files(folder, manifest, verify=True)
    contents: dict[str, Content] = {name: resolve_path(folder, manifest, name) for name in manifest["files"]}
    return _Folder(manifest, contents, dict(manifest["info"]))


def _run(folder: Path, features: bool) -> _Folder:
    manifest = open_run(folder, verify=True)
    contents: dict[str, Content] = {name: resolve_path(folder, manifest, name) for name in manifest["files"]}
    if CONFIG not in contents:
        raise RunFolderError(f"{folder / MANIFEST}: is damaged: it does not list {CONFIG}; train again")
    local = _Folder(manifest, contents, read_json(folder / CONFIG).get("info", {}))
    description = read_json(folder / FEATURES) if FEATURES in contents else {}
    if "dataset" in description:
        _settle_reference(folder, local, description, features)
    return local


def _settle_reference(folder: Path, local: _Folder, description: dict[str, Any], features: bool) -> None:
    """Replace a run's reference to the features of a dataset by the features, or only by the dataset's name."""
    store = FeatureStore.read(folder, verify=True)
    if store.folder is not None and (store.folder / MANIFEST).is_file():
        local.data_info = dict(read_manifest(store.folder)["info"])
    if features:
        if store.folder is None or store.trained is None:
            raise RunFolderError(f"{store.missing}; or share the run without them (--no-features)")
        for name in store.names():
            for part, ending in (("values", ".npy"), ("mask", ".mask.npy")):
                local.contents[f"features/{name}{ending}"] = store.folder / store.files[f"{name}.{part}"]["file"]
        del description["dataset"]
    else:
        dataset_name = Path(description["dataset"]["folder"]).name
        description["dataset"] |= {"folder": dataset_name, "relative": dataset_name}
    local.contents[FEATURES] = as_bytes(description)


def _clean(folder: Path, name: str, content: Content, known: list[str]) -> Content:
    """The file to upload, after checks of its name and content."""
    try:
        check_name(name)
        if isinstance(content, bytes):
            return content
        check_content(content, name)
        scrubbed = scrub_file(content, known) if content.suffix in TEXTS else None
    except (RunFolderError, DataError) as error:
        raise RunFolderError(f"{folder}: {error}; it is not shared") from None
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{folder / name}: cannot be read ({type(error).__name__}); restore it") from None
    return content if scrubbed is None else scrubbed


def _entry(content: Content, recorded: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if recorded is not None:  # verified a moment ago
        return {"bytes": recorded["bytes"], "sha256": recorded["sha256"]}
    return {"bytes": content.stat().st_size, "sha256": sha256(content)}


def _read(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
