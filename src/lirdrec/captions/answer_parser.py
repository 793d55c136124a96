"""Parses answers of a captioning model into attributes and a caption."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lirdrec.captions.prompt import NOTHING, plain_name

LONGEST = 20_000  # characters of an answer that are looked at
JOINERS = "\u200c\u200d"  # spelling needs them in some scripts, and emoji
SILENT = {plain_name(one) for one in (NOTHING, "", "n/a", "na", "none", "null", "not visible", "not applicable")}


def read_answer(text: str, names: Sequence[str]) -> dict[str, str]:
    """The attributes of an answer, in the order of `names`; those that it lacks, or that say nothing, are left out.

    A JSON object is looked for, wherever it stands in the answer; then pairs `"name": "value"` of an object that was
    cut short; then lines such as `**Color:** red`. What holds the most attributes is taken. Names are compared without
    regard to case and punctuation; a model's thoughts before `</think>` do not count.

    Args:
        text: what the model said: with or without Markdown fences and chatter.
        names: the attributes that were asked for.
    """
    text = clean(text.rpartition("</think>")[2][:LONGEST], keep_lines=True)
    known = {plain_name(name): name for name in names}
    best: dict[str, str] = {}
    for pairs in (*_objects(text), _cut_object(text), _lines(text, known)):
        said = {known[plain]: _words(value) for name, value in pairs.items() if (plain := plain_name(name)) in known}
        said = {name: words for name, words in said.items() if plain_name(words) not in SILENT}
        if len(said) > len(best):
            best = said
    return {name: best[name] for name in names if name in best}


def caption_of(attributes: Mapping[str, str]) -> str:
    """The attributes as a line for people and text encoders: `Category: summer dress. Color: red, white.`"""
    return " ".join(f"{name[:1].upper()}{name[1:]}: {value.rstrip(' .;,')}." for name, value in attributes.items())


def clean(text: str, keep_lines: bool = False) -> str:
    """The text without what no file or table should hold (control codes, half surrogates), its spaces single."""
    lines = ("".join(one if one.isprintable() or one in JOINERS else " " for one in line) for line in text.splitlines())
    joined = ("\n" if keep_lines else " ").join(" ".join(line.split()) for line in lines)
    return joined.strip()


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object (or Python dict, as some models write) of the text that is not inside another one."""
    decoder, start = json.JSONDecoder(), text.find("{")
    tried = 0
    while start >= 0 and tried < 50:
        tried += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
            value = _literal(text[start : text.rfind("}") + 1])
        if isinstance(value, dict):
            yield from _unwrapped(value)
        start = text.find("{", end)


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's odd backslashes
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _unwrapped(value: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    """The object, and the objects right inside it: `{"product": {…}}`."""
    named = {str(key): one for key, one in value.items()}
    yield named
    for one in named.values():
        if isinstance(one, dict):
            yield {str(key): inner for key, inner in one.items()}


def _cut_object(text: str) -> dict[str, str]:
    pairs = re.findall(r'"([^"\\]{1,100})"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    return {name: value.replace('\\"', '"') for name, value in pairs}


def _lines(text: str, known: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = re.sub(r"[*`#|]", "", line).partition(":")
        name = re.sub(r"^\s*(?:[-•·]|\d+[.)])?\s*", "", name)
        if colon and "{" not in line and plain_name(name) in known:
            found.setdefault(name, value.strip().strip('",'))
    return found


def _words(value: Any, depth: int = 0) -> str:
    if depth > 3 or value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{clean(str(key))} {words}" for key, one in value.items() if (words := _words(one, depth + 1))
        )
    if isinstance(value, (list, tuple, set)):
        return ", ".join(words for one in value if (words := _words(one, depth + 1)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value))
