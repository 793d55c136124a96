"""Text template of an item, filled from its columns: "{title}. {brand}. {category}"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from lirdrec.config import suggest_name
from lirdrec.data.titles import is_title, named_title
from lirdrec.errors import ConfigError, DataError

# Columns that are taken after the title when nobody says which; of each line the first that the table has.
KNOWN = (
    ("brand", "store", "manufacturer", "author", "artist"),
    ("category", "categories", "main_category"),
    ("genres", "genre"),
    ("tags", "keywords"),
    ("features",),
    ("description", "summary", "overview", "plot", "abstract"),
    ("text",),
)
# What goes with the field on the left: a unit or a closing quote right behind it, then punctuation and spaces. What
# begins with a word, an opening bracket, a quote or a sign of currency introduces the field on the right.
_CLOSING = re.compile(r"""\w*["'”’»]?[^\w(\[{<"'“‘„«#$€£¥@]*""")
_JOINING = " \t\r\n,;:/|\\-–—&+·•"  # says that something follows
_STOPS = ".,;:!?"


@dataclass(frozen=True)
class _Field:
    """A column, with the literal text that appears and disappears with it."""

    column: str
    opening: str
    closing: str
    last: bool


class Template:
    """A text with columns in braces; `{{` and `}}` are braces. A name in braces is a column and nothing else.

    Where an item lacks a field, the literal text around it goes too, so that no punctuation is left over:

    - The text between two fields is parted. A unit, a closing quote, punctuation and spaces right behind a field belong
      to it; words, an opening bracket or quote belong to the field that they introduce. In `"{title} ({year}), by
      {brand}"` the year brings its brackets and its comma, the brand its "by".
    - The text before the first field belongs to that field, the text behind the last to the last.
    - Where nothing follows any more, a comma, dash or slash that joins is dropped; a full stop stays.
    - A stop is not doubled: "Acme Inc." followed by ". " is "Acme Inc. ".

    A field is missing when it is null, NaN, infinite, blank, or a list without anything in it. Lists are joined with
    ", " (lists of lists too), whole floats lose their ".0", runs of white space become one space.

    Args:
        text: the template.

    Attributes:
        text: the same.
        columns: the columns that it names, each once, in their order.

    Raises:
        ConfigError: a brace without its partner, an empty name, or no field at all; with the position.
    """

    def __init__(self, text: str):
        self.text = text
        literals, names = _parse(text)
        self.columns: list[str] = list(dict.fromkeys(names))
        opening = literals[0]
        self._fields: list[_Field] = []
        for at, name in enumerate(names):
            literal, last = literals[at + 1], at + 1 == len(names)
            parted = len(literal) if last else _length_of_closing(literal)
            self._fields.append(_Field(name, opening, literal[:parted], last))
            opening = literal[parted:]

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def check(self, columns: Iterable[str]) -> None:
        """Whether a table with these columns can be rendered.

        Raises:
            ConfigError: the template names a column that is not there; the nearest is offered.
        """
        known = list(columns)
        for name in self.columns:
            if name not in known:
                hint = suggest_name(name, known, f"the table has {', '.join(known) or 'no column'}")
                raise ConfigError(f"template {self.text!r}: the item table has no column '{name}'; {hint}")

    def render(self, frame: pl.DataFrame) -> list[str | None]:
        """The text of each row; None where all fields are missing.

        Raises:
            ConfigError: a column is not in the frame.
            DataError: a column holds something that is no text: records, bytes, objects.
        """
        self.check(frame.columns)
        values = frame.select(_as_text(frame[name]).alias(name) for name in self.columns)
        pieces: list[pl.Expr] = []
        follows = pl.lit(False)  # whether a field further on is present
        for one in reversed(self._fields):
            value = pl.col(one.column)
            closing = pl.lit(one.closing)
            if not one.last and (ending := one.closing.rstrip(_JOINING)) != one.closing:
                closing = pl.when(follows).then(closing).otherwise(pl.lit(ending))
            if one.closing[:1] and one.closing[0] in _STOPS:
                doubled = value.str.ends_with(one.closing[0])
                value = pl.when(doubled).then(value.str.head(-1)).otherwise(value)
            piece = pl.concat_str(pl.lit(one.opening), value, closing)
            pieces.append(pl.when(value.is_not_null()).then(piece).otherwise(pl.lit("")))
            follows = follows | pl.col(one.column).is_not_null()
        whole = pl.concat_str(reversed(pieces)).str.replace_all(r"\s+", " ").str.strip_chars()
        texts = values.select(pl.when(follows).then(whole).otherwise(None).alias("text"))["text"]
        return texts.to_list()


def default_template(columns: Iterable[str]) -> Template:
    """A template of the columns whose names tell that they describe an item: title, brand, category, description …

    Raises:
        ConfigError: none of the columns has such a name.
    """
    found = {name.lower(): name for name in reversed(list(columns)) if not re.search("[{}]", name)}
    names = [named_title(found[name] for name in reversed(found))]
    names += [next((found[one] for one in group if one in found), None) for group in KNOWN]
    text = ". ".join(f"{{{name}}}" for name in names if name is not None)
    if not text:
        known = ", ".join(sorted(found.values())) or "none"
        raise ConfigError(
            "no column of the item table has a name that tells of texts (title, brand, category, description …; there"
            f" are: {known}); say which to take with a template such as '{{title}}. {{brand}}'"
        )
    return Template(text)


def _parse(text: str) -> tuple[list[str], list[str]]:
    """Literals and names in turn: one literal more than names."""

    def wrong(at: int, what: str) -> ConfigError:
        return ConfigError(f"template {text!r}, character {at + 1}: {what}; write columns as {{name}}")

    literals, names, at = [""], [], 0
    while at < len(text):
        if text[at : at + 2] in ("{{", "}}"):
            literals[-1] += text[at]
            at += 2
        elif text[at] == "}":
            raise wrong(at, "a '}' that nothing opened (a brace itself is '}}')")
        elif text[at] == "{":
            end = text.find("}", at)
            if end < 0:
                raise wrong(at, "a '{' that is never closed (a brace itself is '{{')")
            name = text[at + 1 : end].strip()
            if not name:
                raise wrong(at, "braces without a name")
            if "{" in name:
                raise wrong(at, "a '{' within braces")
            names.append(name)
            literals.append("")
            at = end + 1
        else:
            literals[-1] += text[at]
            at += 1
    if not names:
        raise ConfigError(f"template {text!r}: names no column; write one as {{name}}, for instance '{{title}}'")
    return literals, names


def _length_of_closing(literal: str) -> int:
    match = _CLOSING.match(literal)
    return match.end() if match else 0


def _as_text(values: pl.Series) -> pl.Series:
    """A column as strings, null where there is nothing to say."""
    dtype = values.dtype
    if dtype.is_nested() and not isinstance(dtype, pl.Struct):
        if isinstance(dtype, pl.Array):
            values = values.arr.to_list()
        rows = pl.int_range(len(values), eager=True)
        pairs = pl.DataFrame({"row": rows, "value": values}).explode("value")
        parts = pairs.select("row", _as_text(pairs["value"].alias(values.name)).alias("value")).drop_nulls("value")
        between = " " if is_title(values.name) else ", "  # a title is a sentence that was cut into words
        joined = parts.group_by("row", maintain_order=True).agg(pl.col("value").str.join(between))
        return pl.DataFrame({"row": rows}).join(joined, on="row", how="left", maintain_order="left")["value"]
    if isinstance(dtype, (pl.Struct, pl.Binary, pl.Object)):
        kind = {"Struct": "records", "Binary": "bytes"}.get(dtype.base_type().__name__, "objects")
        raise DataError(
            f"the item table, column '{values.name}': holds {kind}, which have no one text; name another column"
        )
    if dtype.is_float():
        values = values.set(~values.is_finite().fill_null(False), None)
        texts = values.cast(pl.String).str.strip_suffix(".0")
    else:
        texts = values.cast(pl.String)
    texts = texts.str.strip_chars()
    return texts.set(texts == "", None)
