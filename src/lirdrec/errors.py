"""The errors that a user can cause. Each has a one-sentence message: what is wrong, where, what to do.

The command line prints the message without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import errno

WORDS = {  # number of an error of the operating system → why a path cannot be read; the text follows the path
    errno.EACCES: "may not be read by this user; change its permissions, or the user",
    errno.EPERM: "may not be read by this user; change its permissions, or the user",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ELOOP: "is a symbolic link that leads back to itself",
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file (a part of the path is a file, not a folder)",
}


class LirdrecError(Exception):
    """Base of all errors that the user can correct. `exit_code` is the exit status of the command line.

    >>> try:
    ...     fit(dataset, "no_such_model")
    ... except LirdrecError as error:
    ...     print(type(error).__name__)
    ConfigError
    """

    exit_code = 2


class DataError(LirdrecError, ValueError):
    """A file, a frame or a feature matrix is invalid."""


class ConfigError(LirdrecError, ValueError):
    """An option is wrong: an unknown name, a wrong value, or a contradiction to another option."""


class UnknownIdError(LirdrecError, KeyError):
    """A user or item id is not in the data."""

    def __str__(self) -> str:  # KeyError would print the sentence in quotes
        return str(self.args[0]) if self.args else ""


class RunFolderError(LirdrecError, RuntimeError):
    """A run folder or a prepared dataset is missing, incomplete, damaged, in use, or from a newer version."""


class CapabilityError(LirdrecError, RuntimeError):
    """The model, or a slim run (one saved with vectors and ids only), does not support the requested operation."""


class TrainingError(LirdrecError, RuntimeError):
    """Training cannot continue, for instance because the loss became NaN."""

    exit_code = 1


def describe_error(error: BaseException) -> str:
    """Return the first line of an exception's message. For an OSError this is the reason, without number and path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()
    return text[0] if text else type(error).__name__


def describe_read_error(error: BaseException, remedy: str = "") -> str:
    """Return the reason why a file cannot be read, as the part of a message that follows the file's path.

    `remedy`, which says what the user can do, is appended. It is left out if a permission is missing: that reason
    already says what to do.
    """
    if isinstance(error, PermissionError):
        return WORDS[errno.EACCES]
    number = error.errno if isinstance(error, OSError) else None
    words = WORDS.get(number or 0) or f"cannot be read: {describe_error(error)}"
    return f"{words}; {remedy}" if remedy else words
