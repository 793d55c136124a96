"""Select the files of a folder to upload (those that its manifest lists), and remove private metadata from them.

File names and contents are checked: nothing pickled, no path outside of the folder.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from lirdrec.data.storage import FORMAT as DATASET
from lirdrec.data.storage import check_files, read_manifest, resolve_path
from lirdrec.errors import ConfigError, DataError, RunFolderError
from lirdrec.files.manifest import MANIFEST, file_entry
from lirdrec.hub.folder_license import UNKNOWN, License, find_license
from lirdrec.hub.metadata_redaction import as_bytes, check_table, folders_in, scrub, scrub_file
from lirdrec.recommender.feature_store import FeatureStore
from lirdrec.recommender.run_folder import is_run, open_run, read_json

CARD = "README.md"
DOCUMENTS = re.compile(r"\.gitattributes|\.gitignore|[^/]+\.md|(LICENSE|NOTICE|COPYING)(\.txt)?")
PARTS = 3  # features/added-0/text.npy
BLOCK_BYTES = 1 << 20

TEXTS = (".json", ".jsonl", ".csv")
CONFIG = "config.json"
FEATURES = "features.json"
ITEMS = "items.parquet"
_PLAIN = re.compile(r"[^\x00-\x1f\x7f\\/:*?\"<>|\[\]]+")

Content = Path | bytes


def is_document(name: str) -> bool:
    """Return whether a file name is documentation, which a repository may hold in addition to the manifest's files."""
    return DOCUMENTS.fullmatch(name) is not None


def check_name(name: object) -> str:
    """Check a file name of a manifest, and return it: inside its folder on every system, with a known suffix.

    Raises:
        RunFolderError: the name is not valid; the message does not name the folder.
    """
    if not isinstance(name, str) or len(name) > 200:
        raise RunFolderError(
            f"its {MANIFEST} lists {str(name)[:60]!r}, which is too long for a file name, or is no text"
        )
    parts = name.split("/")
    plain = all(_PLAIN.fullmatch(part) and part[0] not in ". " and part[-1] not in ". " for part in parts)
    problem = ""
    if not plain or len(parts) > PARTS:
        problem = "which is not a plain name inside the folder; upload the folder again"
    elif name == MANIFEST or Path(name).suffix not in _CHECKS:
        problem = f"a file type that is never shared; datasets and runs consist of {', '.join(_CHECKS)}"
    if problem:
        raise RunFolderError(f"its {MANIFEST} lists {name!r}, {problem}")
    return name


def check_content(path: Path, name: str) -> None:
    """Check that the file at `path` has the format of the suffix of `name`; nothing is run or unpickled.

    Raises:
        RunFolderError: the file has another format; the message names the file by `name`, without its folder.
    """
    try:
        with path.open("rb") as file:
            good = _CHECKS[Path(name).suffix](file)
    except (ValueError, EOFError, OSError):
        good = False
    if not good:
        raise RunFolderError(f"{name} does not contain what its suffix says, or it is an array of pickled objects")


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
    ".parquet": lambda file: file.read(4) == b"PAR1",
    ".npy": _is_array,
    ".safetensors": _is_safetensors,
    ".json": _is_text,
    ".jsonl": _is_text,
    ".csv": _is_text,
    ".png": lambda file: file.read(8) == b"\x89PNG\r\n\x1a\n",
}


@dataclass(frozen=True)
class Shared:
    """A prepared dataset or a run, ready to be uploaded.

    Attributes:
        manifest: the manifest to upload.
        contents: name → path of the file, or its bytes if they differ from those on disk; includes the manifest.
        info: metadata on how it was made, scrubbed.
        data_info: for a run, the metadata of its training dataset, if found.
        license: the license it is shared under.
    """

    manifest: dict[str, Any]
    contents: dict[str, Content]
    info: dict[str, Any]
    data_info: dict[str, Any] = field(default_factory=dict)
    license: License = UNKNOWN

    @property
    def type(self) -> str:
        """The hub's repository type: "dataset", or "model" for a run."""
        return "dataset" if self.manifest["format"] == DATASET else "model"

    def json(self, name: str) -> Any:
        """Return the parsed content of a JSON file to upload, or None if there is no such file."""
        content = self.contents.get(name)
        if content is None:
            return None
        return json.loads(content if isinstance(content, bytes) else content.read_bytes())


def gather(folder: str | Path, license: str | None = None, features: bool = True) -> Shared:
    """Verify a prepared dataset or a run, and return what to upload, without private metadata. Nothing is written.

    Args:
        folder: a prepared dataset or a finished run.
        license: license given by the user (see `find_license`).
        features: for a run, also upload the features that it refers to, which are needed to add items.

    Raises:
        RunFolderError: the folder is no dataset or run, is damaged, or contains a file type that is never shared.
        ConfigError: there is no such folder, or the license is invalid or missing.
        DataError: the item table contains paths of this machine.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; give the path of a prepared dataset or a run")
    if is_run(folder):
        local = _read_run(folder, features)
    else:
        manifest = read_manifest(folder)
        check_files(folder, manifest, verify=True)
        local = Shared(manifest, _paths(folder, manifest), dict(manifest["info"]))
    terms = find_license(license, {**local.data_info, **local.info}, str(folder))
    folders = [str(Path.home()), str(Path.cwd()), str(folder.resolve().parent)]
    folders += folders_in(local.info) + folders_in(local.data_info)
    info = scrub(local.info, folders) | {"licence": terms.text}
    contents = {name: _clean(folder, name, content, folders) for name, content in local.contents.items()}
    if ITEMS in contents:
        check_table(folder / ITEMS)
    manifest = local.manifest
    if local.type == "dataset":
        manifest = scrub(manifest, folders) | {"info": info}
    else:
        contents[CONFIG] = as_bytes(replace(local, contents=contents).json(CONFIG) | {"info": info})
    recorded = local.manifest["files"]
    files = {name: _entry(content, recorded.get(name)) for name, content in contents.items()}
    manifest = manifest | {"files": files}
    contents[MANIFEST] = as_bytes(manifest)
    return Shared(manifest, contents, info, scrub(local.data_info, folders), terms)


def _read_run(folder: Path, features: bool) -> Shared:
    """Read a run to upload, whose features may be files of a dataset elsewhere on this machine.

    With `features` these files are uploaded, too; otherwise the path of the dataset is replaced by its last part.
    """
    manifest = open_run(folder, verify=True)
    contents = _paths(folder, manifest)
    if CONFIG not in contents:
        raise RunFolderError(f"{folder / MANIFEST} is damaged: it does not list {CONFIG}; train again")
    data_info: dict[str, Any] = {}
    description = read_json(folder / FEATURES) if FEATURES in contents else {}
    if "dataset" in description:
        store = FeatureStore.read(folder, verify=True)
        if store.folder is not None and (store.folder / MANIFEST).is_file():
            data_info = dict(read_manifest(store.folder)["info"])
        if features:
            if store.folder is None or store.trained is None:
                raise RunFolderError(f"{store.missing}; or share the run without its features (--no-features)")
            for name in store.names():
                for part, ending in (("values", ".npy"), ("mask", ".mask.npy")):
                    contents[f"features/{name}{ending}"] = store.folder / store.files[f"{name}.{part}"]["file"]
            del description["dataset"]
        else:
            dataset_name = Path(description["dataset"]["folder"]).name
            description["dataset"] |= {"folder": dataset_name, "relative": dataset_name}
        contents[FEATURES] = as_bytes(description)
    return Shared(manifest, contents, read_json(folder / CONFIG).get("info", {}), data_info)


def _paths(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Content]:
    return {name: resolve_path(folder, manifest, name) for name in manifest["files"]}


def _clean(folder: Path, name: str, content: Content, folders: list[str]) -> Content:
    """Check a file's name and content, and return its path, or its bytes if private metadata had to be removed."""
    try:
        check_name(name)
        if isinstance(content, bytes):
            return content
        check_content(content, name)
        scrubbed = scrub_file(content, folders) if content.suffix in TEXTS else None
    except (RunFolderError, DataError) as error:
        raise RunFolderError(f"{folder}: {error}; it is not shared") from None
    except (ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{folder / name}: cannot be read ({type(error).__name__}); restore this file from a copy"
        ) from None
    return content if scrubbed is None else scrubbed


def _entry(content: Content, recorded: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if recorded is None:
        return file_entry(content)
    return {"bytes": recorded["bytes"], "sha256": recorded["sha256"]}  # was verified before
