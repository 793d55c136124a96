"""Templates that make the text of an item from its columns, such as "{title}. {brand}. {category}"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from lirdrec.config import suggest_name
from lirdrec.data.titles import is_title, named_title
from lirdrec.errors import ConfigError, DataError

# Columns of the default template after the title: from each line, the first column that the table has.
KNOWN = (
    ("brand", "store", "manufacturer", "author", "artist"),
    ("category", "categories", "main_category"),
    ("genres", "genre"),
    ("tags", "keywords"),
    ("features",),
    ("description", "summary", "overview", "plot", "abstract"),
    ("text",),
)
# The text that belongs to the field on its left: a unit or a closing quote, then punctuation and spaces. A word, an
# opening bracket, a quote or a currency sign starts the text of the field on the right.
_CLOSING = re.compile(r"""\w*["'”’»]?[^\w(\[{<"'“‘„«#$€£¥@]*""")
_JOINING = " \t\r\n,;:/|\\-–—&+·•"  # dropped at the end of a text
_STOPS = (".", ",", ";", ":", "!", "?")


class Template:
    """A text with the names of columns in braces; `{{` and `}}` stand for a brace itself.

    If an item lacks a field, the literal text around it is left out, too:

    - The text between two fields is divided. A unit, a closing quote, punctuation and spaces right behind a field
      belong to it; words, an opening bracket or quote belong to the next field. In `"{title} ({year}), by {brand}"`
      the year brings its brackets and its comma, the brand its "by".
    - The text before the first field belongs to that field, the text behind the last to the last.
    - A comma, dash or slash at the end is dropped; a full stop stays.
    - A punctuation mark is not doubled: "Acme Inc." followed by ". " is "Acme Inc. ".

    A field is missing if it is null, NaN, infinite, blank, or an empty list. Lists (also nested) are joined with ", ",
    whole floats lose their ".0", runs of white space become one space.

    Attributes:
        text: the template.
        last_stop: whether the full stop after a field stays if all later fields are missing.
        columns: the columns that the template names, each once, in their order.

    Raises:
        ConfigError: the template has an unmatched brace, an empty name or no field; the message has the position.
    """

    def __init__(self, text: str, last_stop: bool = True):
        self.text, self.last_stop = text, last_stop
        literals, names = _parse(text)
        self.columns: list[str] = list(dict.fromkeys(names))
        opening = literals[0]
        self._fields: list[tuple[str, str, str]] = []  # text before, column, text behind
        for name, literal in zip(names, literals[1:], strict=True):
            last = len(self._fields) + 1 == len(names)
            match = _CLOSING.match(literal)
            closing = literal if last or match is None else match[0]
            self._fields.append((opening, name, closing))
            opening = literal[len(closing) :]

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def check(self, columns: Iterable[str]) -> None:
        """Raise a ConfigError if the template names a column that is not among `columns`."""
        present = list(columns)
        for name in self.columns:
            if name not in present:
                hint = suggest_name(name, present, f"the table has {', '.join(present) or 'no column'}")
                raise ConfigError(f"template {self.text!r}: the item table has no column '{name}'; {hint}")

    def render(self, frame: pl.DataFrame) -> list[str | None]:
        """Return the text of each row; None if all fields of the row are missing.

        Raises:
            ConfigError: a column is not in the frame.
            DataError: the values of a column cannot become texts: records, bytes, objects.
        """
        self.check(frame.columns)
        values = frame.select(_as_text(frame[name]).alias(name) for name in self.columns)
        pieces: list[pl.Expr] = []
        follows = pl.lit(False)  # whether a later field is present
        dropped = _JOINING if self.last_stop else _JOINING + "."
        for opening, column, closing in reversed(self._fields):
            value, ending = pl.col(column), pl.lit(closing)
            if pieces:  # not the last field
                ending = pl.when(follows).then(ending).otherwise(pl.lit(closing.rstrip(dropped)))
            if closing.startswith(_STOPS):
                value = pl.when(value.str.ends_with(closing[0])).then(value.str.head(-1)).otherwise(value)
            piece = pl.concat_str(pl.lit(opening), value, ending)
            pieces.append(pl.when(value.is_not_null()).then(piece).otherwise(pl.lit("")))
            follows = follows | pl.col(column).is_not_null()
        joined = pl.concat_str(reversed(pieces)).str.replace_all(r"\s+", " ").str.strip_chars()
        return values.select(pl.when(follows).then(joined).alias("text"))["text"].to_list()


def recorded_template(source: Mapping[str, Any]) -> Template:
    """Return the template that made the texts of a matrix NAME.

    `source` is the description of the inputs in `info["encoders"][NAME]`. If it has a column instead of a template, the
    template consists of this column.
    """
    text = source.get("template") or "{" + str(source.get("column", "title")) + "}"
    return Template(text, bool(source.get("last_stop", True)))


def default_template(columns: Iterable[str]) -> Template:
    """Return a template of those columns that are named title, brand, category …, joined by ". ".

    Raises a ConfigError if there are none.
    """
    by_name = {name.lower(): name for name in reversed(list(columns)) if not re.search("[{}]", name)}
    names = [named_title(by_name[name] for name in reversed(by_name))]
    names += [next((by_name[name] for name in group if name in by_name), None) for group in KNOWN]
    text = ". ".join(f"{{{name}}}" for name in names if name is not None)
    if not text:
        present = ", ".join(sorted(by_name.values())) or "none"
        raise ConfigError(
            "no column of the item table has the name of a text (title, brand, category, description …; there"
            f" are: {present}); name the columns in a template such as '{{title}}. {{brand}}'"
        )
    return Template(text)


def _parse(text: str) -> tuple[list[str], list[str]]:
    """Split a template into literal texts and column names, which alternate; there is one literal more than names.

    Raises a ConfigError if the template is invalid.
    """

    def wrong(index: int, problem: str) -> ConfigError:
        return ConfigError(f"template {text!r}, character {index + 1}: {problem}; write columns as {{name}}")

    literals, names = [""], []
    for match in re.finditer(r"\{\{|\}\}|\{([^}]*)\}|[^{}]+|[{}]", text):
        token, index = match[0], match.start()
        if token in ("{{", "}}"):
            literals[-1] += token[0]
        elif token == "}":
            raise wrong(index, "a '}' without a '{' before it (a brace itself is '}}')")
        elif token == "{":
            raise wrong(index, "a '{' that is never closed (a brace itself is '{{')")
        elif match[1] is None:
            literals[-1] += token
        elif not match[1].strip():
            raise wrong(index, "braces without a name")
        elif "{" in match[1]:
            raise wrong(index, "a '{' within braces")
        else:
            names.append(match[1].strip())
            literals.append("")
    if not names:
        raise ConfigError(f"template {text!r}: names no column; write one as {{name}}, for instance '{{title}}'")
    return literals, names


def _as_text(values: pl.Series) -> pl.Series:
    """Convert a column to strings, where a missing value is null; raises a DataError if values cannot become texts."""
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
            f"the item table, column '{values.name}': it holds {kind}, which cannot become a text; name another column"
        )
    if dtype.is_float():
        values = values.set(~values.is_finite().fill_null(False), None)
    texts = values.cast(pl.String).str.strip_chars()
    if dtype.is_float():
        texts = texts.str.strip_suffix(".0")
    return texts.set(texts == "", None)
