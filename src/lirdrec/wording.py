"""Numbers and nouns in messages: `1 row`, `an image`. Imports nothing, so that the command line starts fast."""

from __future__ import annotations


def pluralize(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun; `plural` is needed if the plural is not the noun with an s.

    >>> pluralize(1, "row"), pluralize(1000, "row"), pluralize(2, "matrix", "matrices")
    ('1 row', '1,000 rows', '2 matrices')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def with_article(noun: str) -> str:
    """Return a noun with its article.

    >>> with_article("image"), with_article("video")
    ('an image', 'a video')
    """
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
