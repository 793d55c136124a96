"""Takes paths of this machine out of what is answered; the log gets the whole sentence."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

log = logging.getLogger(__name__)

# an absolute path of two parts or more, also behind the scheme of a URL; what a request may name begins otherwise
_PATH = re.compile(
    r"""(?<![\w.~-])(?:[A-Za-z]:[\\/]|~?[\\/])(?:[^\s'":;,()<>|\\/]*[\\/])+(?P<name>[^\s'":;,()<>|\\/]*)"""
)
_PLAIN = "/-/"  # stands for a folder with letters that the pattern does not expect
_hidden: dict[str, str] = {}  # path → what stands for it


def hide(*paths: str | Path | None) -> None:
    """Never answer with these paths, nor with the folders that they lie in, whatever letters they have."""
    for path in paths:
        if path is None:
            continue
        given = Path(os.path.abspath(path))
        for one in (given, Path(os.path.realpath(given))):
            _hidden[str(one)] = one.name
            _hidden[f"{one}{os.sep}"] = _PLAIN
            if one.parent != one.parent.parent:  # not the root
                _hidden[f"{one.parent}{os.sep}"] = _PLAIN


def scrubbed(sentence: str) -> str:
    """The sentence with the last part of each path only."""
    found = sentence
    for path in sorted(_hidden, key=len, reverse=True):
        found = found.replace(path, _hidden[path])
    found = _PATH.sub(lambda match: match["name"] or "a folder", found)
    if found != sentence:
        log.warning("answered without the path: %s", sentence)
    return found
