"""Push datasets and recommenders in memory to a hub, and load them from it."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.data import storage
from lirdrec.data.dataset import Dataset
from lirdrec.errors import ConfigError
from lirdrec.hub.client import HubError, repository
from lirdrec.hub.pull import fetch
from lirdrec.hub.push import push

if TYPE_CHECKING:
    import torch

    from lirdrec.recommender.recommender import Recommender


def push_to_hub(what: Recommender | Dataset | str | Path, repo: str, **options: Any) -> str:
    """Upload a recommender, a dataset, a run folder or a prepared dataset to the Hugging Face hub.

    Args:
        what: a recommender or a dataset, which is first written to a temporary folder; or the path of a folder.
        repo: "OWNER/NAME"; created if it does not exist.
        **options: private, token, revision, message, license, metrics, features, endpoint, progress: as in
            `lirdrec.hub.push`, which also describes the errors.

    Returns:
        The address of the repository.
    """
    if isinstance(what, str | Path):
        return push(what, repo, **options)
    with tempfile.TemporaryDirectory(prefix="lirdrec-") as temporary:
        folder = Path(temporary) / repo.rsplit("/", 1)[-1]
        if isinstance(what, Dataset):
            what.save(folder)
        else:
            original = what.folder
            try:
                (what.slim if what.is_slim else what.save)(folder)
            finally:
                what.folder = original
        return push(folder, repo, **options)


def from_hub(
    repo: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Recommender | Dataset:
    """Load the recommender or the dataset in a repository of the Hugging Face hub.

    It is downloaded to the hub's cache, checked like `lirdrec.hub.pull` does, and read from there. A second call
    downloads nothing.

    Args:
        repo, revision, token, endpoint, progress: see `lirdrec.hub.pull`, also for the errors raised.
        device: where to put the vectors of a recommender.
    """
    folder, manifest = fetch(repository(repo, revision, endpoint, token), progress)
    # without its folder: the cache must not be changed
    if manifest["format"] == storage.FORMAT:
        return dataclasses.replace(Dataset.load(folder), folder=None)
    from lirdrec.recommender.recommender import Recommender

    recommender = Recommender.load(folder, device=device)
    recommender.folder = None
    return recommender


def recommender_from_hub(repo: str, **options: Any) -> Recommender:
    """Load the recommender in a repository; arguments and errors are those of `from_hub`.

    Raises:
        HubError: the repository contains a dataset.
    """
    result = from_hub(repo, **options)
    if isinstance(result, Dataset):
        raise HubError(f"{repo} contains a dataset, not a run: use dataset_from_hub")
    return result


def dataset_from_hub(repo: str, **options: Any) -> Dataset:
    """Load the dataset in a repository; arguments and errors are those of `from_hub`.

    Raises:
        HubError: the repository contains a run.
        ConfigError: `device` is given.
    """
    if "device" in options:
        raise ConfigError("a dataset has no device: leave device out")
    result = from_hub(repo if repo.startswith("datasets/") else f"datasets/{repo}", **options)
    if not isinstance(result, Dataset):
        raise HubError(f"{repo} contains a run, not a dataset: use recommender_from_hub")
    return result
