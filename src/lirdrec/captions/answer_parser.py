"""Parse the answers of a captioning model into attributes and a caption."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lirdrec.captions.prompt_attributes import NOTHING, plain_name

LONGEST = 20_000  # characters of an answer that are parsed
JOINERS = "\u200c\u200d"  # needed by some scripts and by emoji
SILENT = {plain_name(word) for word in (NOTHING, "", "n/a", "na", "none", "null", "not visible", "not applicable")}
MAX_OBJECTS = 50  # candidates for JSON objects in an answer


def read_answer(text: str, names: Sequence[str]) -> dict[str, str]:
    """Return name → value for the requested attributes in a model's answer, in the order of `names`.

    Attributes that are missing, or whose value says nothing ("unknown", "n/a" …), are left out.

    Three formats are read: each JSON object anywhere in the answer; the pairs `"name": "value"` of a truncated object;
    lines such as `**Color:** red`. The result that has the most attributes is returned. Names are compared without case
    and punctuation. Text before `</think>` (the reasoning of the model) is ignored.

    Args:
        text: the raw answer, possibly with Markdown fences and other text.
        names: the requested attributes.
    """
    text = clean(text.rpartition("</think>")[2][:LONGEST], keep_lines=True)
    requested = {plain_name(name): name for name in names}
    pairs = re.findall(r'"([^"\\]{1,100})"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    truncated = {name: value.replace('\\"', '"') for name, value in pairs}
    best: dict[str, str] = {}
    for candidate in (*_objects(text), truncated, _lines(text, requested)):
        values = {requested[key]: _words(v) for name, v in candidate.items() if (key := plain_name(name)) in requested}
        values = {name: words for name, words in values.items() if plain_name(words) not in SILENT}
        if len(values) > len(best):
            best = values
    return {name: best[name] for name in names if name in best}


def caption_of(attributes: Mapping[str, str]) -> str:
    """Write the attributes as a line for people and text encoders: `Category: summer dress. Color: red, white.`"""
    return " ".join(f"{name[:1].upper()}{name[1:]}: {value.rstrip(' .;,')}." for name, value in attributes.items())


def clean(text: str, keep_lines: bool = False) -> str:
    """Return a text on one line: each character that cannot be printed, and each run of spaces, becomes one space.

    With `keep_lines`, the line breaks stay.
    """
    lines = ("".join(c if c.isprintable() or c in JOINERS else " " for c in line) for line in text.splitlines())
    return ("\n" if keep_lines else " ").join(" ".join(line.split()) for line in lines).strip()


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in a text, and after each of them the objects that are its values.

    Python dicts, which some models write, are read too.
    """
    decoder, start = json.JSONDecoder(), text.find("{")
    for _ in range(MAX_OBJECTS):
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
            value = _literal(text[start : text.rfind("}") + 1])
        if isinstance(value, dict):
            for candidate in (value, *value.values()):  # {"product": {…}}
                if isinstance(candidate, dict):
                    yield {str(key): inner for key, inner in candidate.items()}
        start = text.find("{", end)


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _lines(text: str, requested: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = re.sub(r"[*`#|]", "", line).partition(":")
        name = re.sub(r"^\s*(?:[-•·]|\d+[.)])?\s*", "", name)
        if colon and "{" not in line and plain_name(name) in requested:
            values.setdefault(name, value.strip().strip('",'))
    return values


def _words(value: Any, depth: int = 0) -> str:
    """Return a JSON value as text; the values of a list, or the names and values of an object, are joined by commas."""
    if depth > 3 or value is None:
        return ""
    if isinstance(value, Mapping):
        pairs = [(f"{clean(str(key))} ", inner) for key, inner in value.items()]
    elif isinstance(value, (list, tuple, set)):
        pairs = [("", inner) for inner in value]
    else:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else clean(str(value))
    return ", ".join(name + words for name, inner in pairs if (words := _words(inner, depth + 1)))
