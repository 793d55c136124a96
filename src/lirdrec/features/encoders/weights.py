"""Model weights: their path, their hash, and the device they run on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lirdrec.errors import DataError
from lirdrec.files.atomic import sha256

if TYPE_CHECKING:
    pass

_COUNTED = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model")
_PICKLED = (".bin", ".pt", ".pth")


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weights, configurations and vocabularies of a model's folder, subfolders included.

    Neither the folder's place nor its other files (a card, pictures, exports to other formats) count, and pickled
    weights do not where the same model lies there as safetensors.

    Raises:
        DataError: there is no such file in the folder, or one cannot be read.
    """
    try:
        files = [path for path in sorted(folder.rglob("*")) if path.suffix in _COUNTED and path.is_file()]
        safe = any(path.suffix == ".safetensors" for path in files)
        whole = hashlib.sha256()
        for path in files:
            name = path.relative_to(folder).as_posix()
            if (safe and path.suffix in _PICKLED) or name.startswith((".", "onnx/", "openvino/")):
                continue
            whole.update(f"{sha256(path)} {name}\n".encode())
    except OSError as error:
        raise DataError(f"{folder}: the model cannot be read ({error.strerror or error})") from None
    if not files:
        raise DataError(f"{folder}: holds no model (no weights and no configuration)")
    return whole.hexdigest()


def model_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model: `name` itself where it is one, else its copy in the Hugging Face cache, else None.

    Nothing is downloaded. The cached folder is called by the commit that `revision` (default `main`) stands for.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # no possible name on the hub
        return None
    return Path(found).parent if isinstance(found, str) else None
