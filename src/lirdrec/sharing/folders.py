"""What of a folder is shared: the files of its manifest, whole, and scrubbed of what is nobody's business."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lirdrec.atomic import sha256
from lirdrec.data.storage import FORMAT as DATASET
from lirdrec.data.storage import check_files, placed, read_manifest
from lirdrec.errors import ConfigError, DataError, RunFolderError
from lirdrec.recommender.feature_store import FeatureStore
from lirdrec.recommender.run_folder import is_run, open_run, read_json
from lirdrec.sharing.files import MANIFEST, check_content, check_name
from lirdrec.sharing.licences import Licence, find_licence
from lirdrec.sharing.scrubbing import as_bytes, check_table, folders_in, scrub, scrub_file

TEXTS = (".json", ".jsonl", ".csv")
CONFIG = "config.json"
FEATURES = "features.json"
ITEMS = "items.parquet"

Content = Path | bytes


@dataclass
class Shared:
    """A prepared dataset or a run, ready to be sent.

    Attributes:
        folder: where it lies here.
        format: "lirdrec-dataset" or "lirdrec-run".
        manifest: as it is sent.
        contents: name → where the file lies, or its bytes where they are not those on disk; the manifest included.
        info: what is known of how it was made, scrubbed.
        data_info: of a run: the same of the dataset that it was trained on, as far as that was found.
        licence: under which it is shared.
    """

    folder: Path
    format: str
    manifest: dict[str, Any]
    contents: dict[str, Content]
    info: dict[str, Any]
    licence: Licence
    data_info: dict[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The hub's word for it."""
        return "dataset" if self.format == DATASET else "model"

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def open(self, name: str) -> Path:
        """Where a file that is sent as it is lies.

        Raises:
            KeyError: there is none.
        """
        content = self.contents[name]
        if not isinstance(content, Path):
            raise KeyError(name)
        return content

    def json(self, name: str) -> Any:
        """A JSON file as it is sent, or None."""
        content = self.contents.get(name)
        if content is None:
            return None
        return json.loads(content if isinstance(content, bytes) else content.read_bytes())


@dataclass
class _Found:
    """A verified folder, as it lies on disk."""

    manifest: dict[str, Any]
    contents: dict[str, Content]
    info: dict[str, Any]
    data_info: dict[str, Any] = field(default_factory=dict)


def gather(folder: str | Path, licence: str | None = None, features: bool = True) -> Shared:
    """Read a folder, verify it, and take out what identifies the machine. Nothing is written.

    Args:
        folder: a prepared dataset or a finished run.
        licence: what the person names (see `find_licence`).
        features: of a run: send the features that it refers to with it, so that it can take new items.

    Raises:
        RunFolderError: it is neither, is damaged, or holds a file that is never shared.
        ConfigError: the licence.
        DataError: the item table names files of this machine.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; name a prepared dataset or a run")
    found = _run(folder, features) if is_run(folder) else _dataset(folder)
    terms = find_licence(licence, {**found.data_info, **found.info}, str(folder))
    places = [str(Path.home()), str(Path.cwd()), str(folder.resolve().parent)]
    known = places + folders_in(found.info) + folders_in(found.data_info)
    info = scrub(found.info, known) | {"licence": terms.text}
    contents = {name: _clean(folder, name, content, known) for name, content in found.contents.items()}
    if ITEMS in contents:
        check_table(folder / ITEMS)
    manifest = found.manifest
    if manifest["format"] == DATASET:
        manifest = scrub(manifest, known) | {"info": info}
    else:
        contents[CONFIG] = as_bytes(json.loads(_read(contents[CONFIG])) | {"info": info})
    recorded = found.manifest["files"]
    manifest = manifest | {"files": {name: _entry(one, recorded.get(name)) for name, one in contents.items()}}
    contents[MANIFEST] = as_bytes(manifest)
    return Shared(folder, manifest["format"], manifest, contents, info, terms, scrub(found.data_info, known))


def _dataset(folder: Path) -> _Found:
    manifest = read_manifest(folder)
    check_files(folder, manifest, verify=True)
    contents: dict[str, Content] = {name: placed(folder, manifest, name) for name in manifest["files"]}
    return _Found(manifest, contents, dict(manifest["info"]))


def _run(folder: Path, features: bool) -> _Found:
    manifest = open_run(folder, verify=True)
    contents: dict[str, Content] = {name: placed(folder, manifest, name) for name in manifest["files"]}
    if CONFIG not in contents:
        raise RunFolderError(f"{folder / MANIFEST}: is damaged: it does not list {CONFIG}; train again")
    found = _Found(manifest, contents, read_json(folder / CONFIG).get("info", {}))
    description = read_json(folder / FEATURES) if FEATURES in contents else {}
    if "dataset" in description:
        _settle_reference(folder, found, description, features)
    return found


def _settle_reference(folder: Path, found: _Found, description: dict[str, Any], features: bool) -> None:
    """A run may refer to the features of a dataset elsewhere: take them in, or leave only the dataset's name."""
    store = FeatureStore.read(folder, verify=True)
    if store.folder is not None and (store.folder / MANIFEST).is_file():
        found.data_info = dict(read_manifest(store.folder)["info"])
    if features:
        if store.folder is None or store.trained is None:
            raise RunFolderError(f"{store.missing}; or share the run without them (--without-features)")
        for name in store.names():
            for part, ending in (("values", ".npy"), ("mask", ".mask.npy")):
                found.contents[f"features/{name}{ending}"] = store.folder / store.files[f"{name}.{part}"]["file"]
        del description["dataset"]
    else:
        place = Path(description["dataset"]["folder"]).name
        description["dataset"] |= {"folder": place, "relative": place}
    found.contents[FEATURES] = as_bytes(description)


def _clean(folder: Path, name: str, content: Content, known: list[str]) -> Content:
    """The file as it is sent, after a look at its name and at what it holds."""
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
