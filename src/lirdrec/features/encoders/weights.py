"""Model weights: the folder of a model, and the hash of its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lirdrec.errors import DataError
from lirdrec.files.atomic import sha256

_HASHED = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model")
_PICKLED = (".bin", ".pt", ".pth")


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weights, configurations and vocabularies of a model's folder, subfolders included.

    The path of the folder and its other files (a card, images, exports to other formats) do not count, nor do pickled
    weights beside safetensors.

    Raises:
        DataError: the folder has no such file, or one cannot be read.
    """
    try:
        files = [path for path in sorted(folder.rglob("*")) if path.suffix in _HASHED and path.is_file()]
        safe = any(path.suffix == ".safetensors" for path in files)
        total = hashlib.sha256()
        for path in files:
            name = path.relative_to(folder).as_posix()
            if not (safe and path.suffix in _PICKLED) and not name.startswith((".", "onnx/", "openvino/")):
                total.update(f"{sha256(path)} {name}\n".encode())
    except OSError as error:
        raise DataError(f"{folder}: the model cannot be read ({error.strerror or error})") from None
    if not files:
        raise DataError(f"{folder}: holds no model (no weights and no configuration)")
    return total.hexdigest()


def model_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model: `name` if it is one, else its copy in the Hugging Face cache, else None; no download.

    The cached folder has the name of the commit of `revision` (default `main`).
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        path = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # no possible name on the hub
        return None
    return Path(path).parent if isinstance(path, str) else None
