"""The prompt of captioning models, which asks for one short answer per attribute, and the parser of their answers."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lirdrec.config import check_minimum, make_config, option, read_toml, validated
from lirdrec.errors import ConfigError

NOTHING = "unknown"  # the answer for attributes that the image does not show

DEFAULT = {
    "category": "what kind of product it is, as a shop would file it",
    "colour": "the main colours, the strongest first",
    "material": "what it is made of, as far as it can be seen",
    "pattern": "plain, striped, floral, a photograph, a drawing …",
    "style": "how it looks: modern, classic, playful, sporty …",
    "use": "what it is for, and where or when",
    "audience": "whom it is made for",
    "printed": "words, names, logos and figures that are printed on it, as they stand there",
}
LONGEST = 20_000  # characters of an answer that are parsed
JOINERS = "\u200c\u200d"  # needed by some scripts and by emoji
MAX_OBJECTS = 50  # candidates for JSON objects in an answer


@dataclass(frozen=True)
@validated
class Attributes:
    """The requested attributes and the other parts of the prompt.

    Attributes:
        attributes: name → description; the names become keys of the answer, in this order.

    Raises:
        ConfigError: no attribute, an empty or repeated name, or `max_words` below 1.
    """

    intro: str = option(
        "You see the picture of one product from the catalogue of a shop. Describe it for people who cannot see it.",
        "the first sentences of the prompt",
    )
    language: str = option("English", "the language of the answers")
    max_words: int = option(15, "maximum words per attribute")
    attributes: Mapping[str, str] = option(DEFAULT, "name → description")

    def __post_init__(self) -> None:
        check_minimum(self, 1, "max_words")
        if not self.attributes:
            raise ConfigError('the prompt needs at least one attribute: a line such as colour = "the main colours"')
        seen: dict[str, str] = {}
        for name, meaning in self.attributes.items():
            if not (plain := plain_name(name)) or not meaning.strip():
                raise ConfigError(
                    f"the attribute '{name}' needs a name of letters or digits, and a text that says what it is"
                )
            if plain in seen:
                raise ConfigError(f"the attributes '{seen[plain]}' and '{name}' have the same name")
            seen[plain] = name


def read_attributes(path: str | Path) -> Attributes:
    """Read `intro`, `language`, `max_words` and the table `[attributes]` of a TOML file; all are optional.

    Raises:
        ConfigError: the file is missing, not TOML, or has an unknown key or a value of the wrong type.
    """
    values = read_toml(path)
    try:
        return make_config(Attributes, values, str(path))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def render(attributes: Attributes) -> str:
    """The prompt sent with every image."""
    listed = "\n".join(f'- "{name}": {meaning}' for name, meaning in attributes.attributes.items())
    words = "one word" if attributes.max_words == 1 else f"at most {attributes.max_words} words"
    return (
        f"{attributes.intro.strip()}\n\n"
        f"Answer with one JSON object and nothing else. Its keys are:\n{listed}\n\n"
        f"Each value is a short text in {attributes.language} of {words}. Say only what the picture shows;"
        f' where it shows nothing of the kind, the value is "{NOTHING}".'
    )


def to_toml(attributes: Attributes) -> str:
    """The attributes as a TOML file for `read_attributes`, to be edited."""

    def quote(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    lines = [f"{key} = {quote(getattr(attributes, key))}" for key in ("intro", "language")]
    lines += [f"max_words = {attributes.max_words}", "", "[attributes]"]
    lines += [f"{quote(name)} = {quote(meaning)}" for name, meaning in attributes.attributes.items()]
    return "\n".join(lines) + "\n"


def plain_name(name: str) -> str:
    """A name for comparisons: only letters and digits, case-folded; `Printed_On ` becomes `printed on`."""
    return " ".join("".join(c if c.isalnum() else " " for c in name.casefold()).split())


SILENT = {plain_name(word) for word in (NOTHING, "", "n/a", "na", "none", "null", "not visible", "not applicable")}


def read_answer(text: str, names: Sequence[str]) -> dict[str, str]:
    """The attributes in an answer, in the order of `names`; missing ones and those without information are left out.

    The formats are tried in this order, and the one with the most attributes is used: JSON objects anywhere in the
    answer; pairs `"name": "value"` of a truncated object; lines such as `**Color:** red`. Names are compared without
    case and punctuation; thoughts before `</think>` are ignored.

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
    """The attributes as a line for people and text encoders: `Category: summer dress. Color: red, white.`"""
    return " ".join(f"{name[:1].upper()}{name[1:]}: {value.rstrip(' .;,')}." for name, value in attributes.items())


def clean(text: str, keep_lines: bool = False) -> str:
    """The text without control codes and half surrogates, with single spaces."""
    lines = ("".join(c if c.isprintable() or c in JOINERS else " " for c in line) for line in text.splitlines())
    return ("\n" if keep_lines else " ").join(" ".join(line.split()) for line in lines).strip()


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects (or Python dicts, as some models write), and the objects directly inside them."""
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
    """A JSON value in words: lists and objects joined by commas."""
    if depth > 3 or value is None:
        return ""
    if isinstance(value, Mapping):
        pairs = [(f"{clean(str(key))} ", inner) for key, inner in value.items()]
    elif isinstance(value, (list, tuple, set)):
        pairs = [("", inner) for inner in value]
    else:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else clean(str(value))
    return ", ".join(name + words for name, inner in pairs if (words := _words(inner, depth + 1)))
