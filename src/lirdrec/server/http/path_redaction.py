"""Remove local paths from responses; the log keeps the complete message."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

log = logging.getLogger(__name__)

# an absolute path of two parts or more, also after the scheme of a URL
_PATH = re.compile(
    r"""(?<![\w.~-])(?:[A-Za-z]:[\\/]|~?[\\/])(?:[^\s'":;,()<>|\\/]*[\\/])+(?P<name>[^\s'":;,()<>|\\/]*)"""
)
_PLAIN = "/-/"  # replaces a folder whose characters the pattern may not match
_hidden: dict[str, str] = {}  # path → replacement


def hide_paths(*paths: str | Path | None) -> None:
    """Register paths that responses must not contain, nor their folders, whatever characters they have."""
    for path in paths:
        if path is None:
            continue
        absolute = Path(os.path.abspath(path))
        for variant in (absolute, Path(os.path.realpath(absolute))):
            _hidden[str(variant)] = variant.name
            _hidden[f"{variant}{os.sep}"] = _PLAIN
            if variant.parent != variant.parent.parent:  # not the root
                _hidden[f"{variant.parent}{os.sep}"] = _PLAIN


def redact(message: str) -> str:
    """The message with only the last part of each path."""
    result = message
    for path in sorted(_hidden, key=len, reverse=True):
        result = result.replace(path, _hidden[path])
    result = _PATH.sub(lambda match: match["name"] or "a folder", result)
    if result != message:
        log.warning("answered without the path: %s", message)
    return result
