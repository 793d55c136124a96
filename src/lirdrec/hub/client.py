"""Use the client library of the Hugging Face hub, and turn its errors into one-line messages that never show tokens.

The library is imported at its first use.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lirdrec._version import __version__
from lirdrec.errors import ConfigError, LirdrecError
from lirdrec.files.atomic import DISK_FULL
from lirdrec.hub.metadata_redaction import without_secrets

MISSING = 'sharing needs the client of the Hugging Face hub: pip install "lirdrec[hub]"'
DATASETS = "datasets/"
LOG_IN = "log in with `hf auth login`, or put a token into the variable HF_TOKEN"
CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # modules that send requests to the hub


class HubError(LirdrecError, RuntimeError):
    """A request to the hub failed, or its content is not usable."""

    exit_code = 1


@dataclass(frozen=True)
class Repository:
    """A repository on a hub.

    Attributes:
        name: "OWNER/NAME".
        type: "model" (a run), "dataset", or None if it is not given.
        revision: branch, tag or commit, or None for the main branch.
        endpoint: address of the hub, or None for the client's default (the variable HF_ENDPOINT).
        token: token for this hub, or None for the token that the client has stored.
    """

    name: str
    type: str | None
    revision: str | None = None
    endpoint: str | None = None
    token: str | None = None

    def __repr__(self) -> str:  # so that printing it does not show the token
        return f"Repository({str(self)!r})"

    def __str__(self) -> str:
        return f"{DATASETS if self.type == 'dataset' else ''}{self.name}"

    def api(self) -> Any:
        """Return a client of this repository's hub, with its token; raise a ConfigError if none is installed."""
        try:
            from huggingface_hub import HfApi
        except ImportError:
            raise ConfigError(MISSING) from None
        return HfApi(endpoint=self.endpoint, token=self.token, library_name="lirdrec", library_version=__version__)


def repository(name: str, revision: str | None, endpoint: str | None, token: str | None) -> Repository:
    """Return the repository of a name: "OWNER/NAME", or "datasets/OWNER/NAME" for a dataset. Nothing is sent.

    Raises:
        ConfigError: the name, the revision, the address or the token is invalid; or the client is not installed.
    """
    text = str(name)
    plain = text.removeprefix(DATASETS)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", plain, re.ASCII) or ".." in plain or "--" in plain:
        raise ConfigError(f"{text!r} is not a repository name; write OWNER/NAME, or datasets/OWNER/NAME for a dataset")
    if revision is not None and not re.fullmatch(r"[\w][\w./-]*", revision, re.ASCII):
        raise ConfigError(f"revision {revision!r}: write the name of a branch or a tag, or a commit")
    if endpoint is not None and not re.fullmatch(r"https?://[^\s@]+", endpoint):
        raise ConfigError("endpoint: write the address of a hub, such as https://huggingface.co")
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ConfigError("the token is empty or has invalid characters (a blank, a line end); copy it again")
    repo = Repository(plain, "dataset" if plain != text else None, revision, endpoint, token)
    with hub_errors(repo):
        repo.api()
    return repo


@contextlib.contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Hide the client's progress bars inside the block, unless `shown`; bars that the user has disabled stay hidden."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def hub_errors(repo: Repository) -> Iterator[None]:
    """Convert all exceptions inside the block, except lirdrec's own, to a HubError: why it failed, and what to do."""
    try:
        yield
    except LirdrecError:
        raise
    except Exception as error:
        # not "from error": the client's messages may contain signed URLs
        raise HubError(_sentence(error, repo)) from None


def is_absent(error: BaseException) -> bool:
    """Return whether an error of the client means that the hub or the cache has no such repository.

    A private repository counts as missing if the request had no token; a missing revision does not count.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError | RevisionNotFoundError):
        return False
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status == 404 or (status == 401 and not _had_token(error))
    refused = any(isinstance(cause, HfHubHTTPError) for cause in _chain(error))
    return isinstance(error, LocalEntryNotFoundError) and not refused


def _sentence(error: BaseException, repo: Repository) -> str:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    hub = repo.endpoint or "the hub"
    for cause in _chain(error):
        name = type(cause).__name__
        if isinstance(cause, HfHubHTTPError):
            return _refusal(cause, repo, hub)
        if isinstance(cause, OfflineModeIsEnabled):
            return (
                f"{repo}: the client is set to work offline (HF_HUB_OFFLINE), and the repository is not in its cache;"
                " unset the variable"
            )
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return f"{repo}: the disk is full; free some space, or move the hub's cache with the variable HF_HOME"
        if type(cause).__module__.split(".")[0] in CLIENTS:
            if name in ("ConnectError", "ConnectTimeout", "ProxyError", "ConnectionError"):
                return f"{hub} cannot be reached; check the connection and the address, and try again"
            return f"the connection to {hub} was cut or too slow; try again: complete files are not sent again"
    reason = without_secrets((str(error).strip().splitlines() or [""])[0])
    if repo.token:
        reason = reason.replace(repo.token, "")
    reason = re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", reason)
    return f"{repo}: {hub} sent an unexpected response ({type(error).__name__}: {reason[:200]})"


def _refusal(error: Any, repo: Repository, hub: str) -> str:
    """Return the message for a response of the hub with an error status (400 or more)."""
    from huggingface_hub.errors import DisabledRepoError, EntryNotFoundError, GatedRepoError, RevisionNotFoundError

    status, headers = error.response.status_code, error.response.headers
    wait = headers.get("Retry-After", "")
    changed = f"{repo} was changed by someone else in the meantime; try again"
    private = f"{repo}: there is no such repository, or it is private; {LOG_IN}"
    messages: dict[Any, str] = {
        GatedRepoError: f"{repo} is gated: ask for access on its page, then {LOG_IN}",
        RevisionNotFoundError: f"{repo} has no revision {repo.revision or 'main'!r}",
        EntryNotFoundError: f"{repo} lacks a file; it was not made by lirdrec push, or was changed since",
        DisabledRepoError: f"{repo} was disabled by {hub}",
        401: f"{hub} does not accept the token; {LOG_IN}" if _had_token(error) else private,
        403: f"{repo}: the token does not allow this; use a token with write access, or another name",
        404: f"{repo}: there is no such repository, or the token has no access to it",
        409: changed,
        412: changed,
        429: f"{hub} limits requests; try again in {f'{wait} seconds' if wait.isdigit() else 'a few minutes'}",
    }
    for cause, message in messages.items():
        if status == cause if isinstance(cause, int) else isinstance(error, cause):
            return message
    if status >= 500:
        return f"{hub} has a problem (status {status}); try again later"
    reason = without_secrets(str(headers.get("X-Error-Message", "")))[:200]
    return f"{repo}: {hub} refused this (status {status}{f': {reason}' if reason else ''})"


def _had_token(error: Any) -> bool:
    request = error.response.request
    return request is not None and "authorization" in request.headers


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and its causes."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain
