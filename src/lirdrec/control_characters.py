"""Escape control characters and changes of the writing direction in texts from data, such as titles and ids."""

from __future__ import annotations

import re

# C0, DEL and C1; marks, overrides and isolates of the writing direction; line separators; surrogates
_UNSEEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_UNSEEN}]")
_IN_LINE = re.compile(f"[{_UNSEEN}\t\n]")


def escape_text(text: str, line: bool = True) -> str:
    r"""Escape control characters and changes of the writing direction, for instance as `\x1b` or `\u202e`.

    With `line`, tabs and line ends are escaped, too.
    """
    return (_IN_LINE if line else _IN_TEXT).sub(lambda match: ascii(match[0])[1:-1], text)


def escape_json(text: str) -> str:
    r"""Escape in a JSON document what `escape_text` escapes, except tabs and line ends, for instance as `\u001b`.

    The meaning of the document does not change.
    """
    return _IN_TEXT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
