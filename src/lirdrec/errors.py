"""The errors that a user can cause. Each carries one clear sentence: what is wrong, where, what to do.

The command line prints the sentence and exits with `exit_code`; it never shows a traceback for these.
"""

from __future__ import annotations


class LirdrecError(Exception):
    """Base of every error that is the user's to mend. `exit_code` is what the command line returns."""

    exit_code = 2


class DataError(LirdrecError, ValueError):
    """Something is wrong with a file, a frame or a feature matrix."""


class ConfigError(LirdrecError, ValueError):
    """An option has an unknown name or a value out of range."""


class UnknownIdError(LirdrecError, KeyError):
    """A user or item id that the data does not hold."""

    def __str__(self) -> str:  # KeyError would print the sentence in quotes
        return str(self.args[0]) if self.args else ""


class RunFolderError(LirdrecError, RuntimeError):
    """A run folder or a prepared dataset is incomplete, damaged, in use, or from a newer version."""


class CapabilityError(LirdrecError, RuntimeError):
    """The model, or a slim run, cannot do what was asked."""


class TrainingError(LirdrecError, RuntimeError):
    """Training cannot go on: for instance the loss is not a number any more."""

    exit_code = 1


def reason(error: BaseException) -> str:
    """The first line of what an exception says; of the operating system's, without number and path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()
    return text[0] if text else type(error).__name__


def unreadable(error: BaseException) -> str:
    """Why a file cannot be read, as words that follow its path: "may not be read by this user"."""
    if isinstance(error, PermissionError):
        return "may not be read by this user"
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"cannot be read: {reason(error)}"
