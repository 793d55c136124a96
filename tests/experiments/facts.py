"""What the sentence of a report says, read without its wording: which facts, in which order."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path


def _found(text: str, fact: object, start: int) -> int:
    """Where a fact ends that stands whole in the text after `start`; -1 where it does not."""
    word = str(fact)
    sign = r"(?<![+−-])" if word[:1].isdigit() else ""  # 0.5 is not in −0.5
    found = re.compile(rf"(?<!\w)(?<!\d\.){sign}{re.escape(word)}(?!\w|\.\d)").search(text, start)
    return found.end() if found else -1


def assert_facts(text: str, facts: Iterable[object]) -> None:
    """Check that names and numbers stand in the text in this order; those of a set may be in any order."""
    at = 0
    for group in facts:
        ends = {fact: _found(text, fact, at) for fact in (group if isinstance(group, set) else {group})}
        missing = [str(fact) for fact, end in ends.items() if end < 0]
        assert not missing, f"{missing} not mentioned, or not after the facts before them: {text}"
        at = max(ends.values())


def between(text: str, first: object, second: object) -> str:
    """What stands between a fact and another that follows it."""
    assert_facts(text, [first, second])
    start = _found(text, first, 0)
    return text[start : _found(text, second, start)]


def after_numbers(text: str) -> str:
    """What stands after the last number."""
    return re.split(r"\d", text)[-1]


def emphasized(page: Path) -> list[str]:
    """What the answer of a report prints in bold: its results."""
    found = re.search(r'<div class="answer">(.*?)</div>', page.read_text(encoding="utf-8"), flags=re.S)
    assert found is not None
    bold = re.findall(r"<strong>(.*?)</strong>", found[1], flags=re.S)
    return [re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", one))) for one in bold]
