"""Upload a prepared dataset or a run to a hub such as Hugging Face's, in one commit, with its card (README.md)."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.hub.card import card
from lirdrec.hub.client import HubError, Repository, bars, hub_errors, repository
from lirdrec.hub.contents import CARD, MANIFEST, Shared, check_name, gather, is_document
from lirdrec.wording import pluralize

log = logging.getLogger(__name__)

MAIN = "main"


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    metrics: bool = True,
    features: bool = True,
    endpoint: str | None = None,
    progress: bool = False,
) -> str:
    """Upload a prepared dataset or a finished run to the Hugging Face hub, with a card that describes it.

    The files of the manifest and the card (README.md) are uploaded in one commit; files of an earlier push that are not
    in this one are deleted. Checkpoints, logs and locks are not uploaded. Local paths, host name and keys are removed
    from texts, and the uploaded manifest has the new checksums. The folder itself is not changed.

    Args:
        folder: the folder to upload; its checksums are verified first.
        repo: "OWNER/NAME"; created if it does not exist.
        private: make the repository visible to its owner only. If it exists and is public, True raises a HubError.
        token: token of the hub; None for the token of `hf auth login` or of the variable HF_TOKEN.
        revision: the branch, created if it does not exist; None for the main branch.
        message: message of the commit.
        license: an identifier of the hub ("mit", "cc-by-4.0", "other") or a sentence; needed if none is recorded.
        metrics: include the metrics of a run in its card.
        features: for a run, also upload the features of its dataset, which are needed to add items.
        endpoint: the address of another hub; None for the client's default (the variable HF_ENDPOINT).
        progress: draw the client's progress bars on the error stream.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: the folder, the name, the license or an option is wrong; or the hub's client is not installed.
        RunFolderError: the folder is damaged, or contains a file type that is never shared.
        DataError: the item table contains paths of this machine.
        HubError: the upload was refused or failed; then no file of the repository has changed. A repository or branch
            that this call has created stays, and the message names it.
    """
    target = repository(repo, revision, endpoint, token)
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ConfigError(f"revision {revision!r} is a commit; give the name of the branch to push to")
    shared = gather(folder, license, features)
    if target.type == "dataset" and shared.type != "dataset":
        raise ConfigError(f"{folder} is a run, which the hub calls a model: write {target.name} without datasets/")
    target = replace(target, type=shared.type)
    return _send(shared, target, card(shared, target, metrics), private, message, progress)


def _send(shared: Shared, repo: Repository, text: str, private: bool, message: str | None, progress: bool) -> str:
    """Create the repository if it is missing, upload the files and the card, and return the address.

    Raises:
        HubError: the repository is public although `private`, has other files, or the upload failed; the message names
            what was created.
    """
    size = sum(entry["bytes"] for entry in shared.manifest["files"].values())
    log.info("%s: %s, %.1f MB", repo, pluralize(len(shared.contents), "file"), size / 1e6)
    created: list[str] = []
    try:
        with hub_errors(repo), bars(progress), warnings.catch_warnings():
            # the client warns about the tables of a run
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            address, existing = _open(repo, private, created)
            _commit(shared, repo, text, message, existing)
    except HubError as error:
        if not created:
            raise
        raise HubError(
            f"{error}; this push has created {' and '.join(created)}, without the files: push again, or delete it there"
        ) from None
    return address


def _open(repo: Repository, private: bool, created: list[str]) -> tuple[str, Any]:
    """Create the repository and the branch if they are missing; return the address, and the client's information.

    What is created is appended to `created`, in words.
    """
    api = repo.api()
    is_new = not api.repo_exists(repo.name, repo_type=repo.type)
    address = str(api.create_repo(repo.name, repo_type=repo.type, private=private, exist_ok=True))
    if is_new:
        created.append(f"the repository {repo}")
    existing = api.repo_info(repo.name, repo_type=repo.type)
    if private and existing.private is False:
        raise HubError(f"{repo} is public already; to publish this folder, confirm it (private=False, --public)")
    if repo.revision in (None, MAIN):
        return address, existing
    if not api.revision_exists(repo.name, repo.revision, repo_type=repo.type):
        api.create_branch(repo.name, branch=repo.revision, repo_type=repo.type, exist_ok=True)
        created.append(f"the branch {repo.revision!r} of {repo}")
    return f"{address}/tree/{repo.revision}", api.repo_info(repo.name, repo_type=repo.type, revision=repo.revision)


def _commit(shared: Shared, repo: Repository, text: str, message: str | None, existing: Any) -> None:
    """Upload the files and the card in one commit; files of an earlier push that are not in this one are deleted."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    removed = _superseded(repo, [file.rfilename for file in existing.siblings or []], shared)
    operations: list[Any] = [CommitOperationDelete(name) for name in removed]
    operations += [CommitOperationAdd(name, content) for name, content in shared.contents.items()]
    operations.append(CommitOperationAdd(CARD, text.encode()))
    repo.api().create_commit(
        repo.name,
        operations,
        commit_message=message or f"{'Dataset' if shared.type == 'dataset' else 'Run'} pushed by lirdrec",
        repo_type=repo.type,
        revision=repo.revision,
        parent_commit=existing.sha,
    )


def _superseded(repo: Repository, existing: list[str], shared: Shared) -> list[str]:
    """Return the files of an earlier push that are not in this push; they will be deleted.

    Raises:
        HubError: the repository has a file that is not from a push.
    """
    superseded = [name for name in existing if not is_document(name) and name not in shared.contents]
    for name in superseded:
        try:
            foreign = MANIFEST not in existing or not check_name(name)
        except RunFolderError:
            foreign = True
        if foreign:
            raise HubError(
                f"{repo} contains a file already that lirdrec did not push ({name}); choose another name, or empty the"
                " repository first"
            )
    return superseded
