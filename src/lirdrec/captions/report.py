"""The paper's case study: items without any text, their pictures beside what was said of them, and the prompt."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.captions.captioner import ATTRIBUTES, CAPTION, captioned, edited, read_columns
from lirdrec.captions.results import INFO
from lirdrec.data.ids import count
from lirdrec.data.schema import ITEM
from lirdrec.errors import DataError
from lirdrec.features.images import thumbnail
from lirdrec.features.sources import IMAGE, ItemRows, PictureSource, default_texts
from lirdrec.reporting import Card, Cards, Column, Report, Row, Section, Table

SHOWN, BESIDE = 12, 6  # items without a text, and with one
NOT_SETTINGS = ("prompt", "attributes", "captions", "edited", "problems")
SIZE = 360  # pixels of a picture's longer side
LONG = 90  # letters of an item's own text that are shown


def write_case_study(
    folder: str | Path, path: str | Path, images: str | Path | None = None, column: str = IMAGE, seed: int = 0
) -> Path:
    """Write one page that needs no other file.

    Args:
        folder: a prepared dataset with captions.
        path: of the page.
        images: the folder of the pictures, if it is not the one that `lirdrec prepare` noted.
        column: of the item table, with the path of each item's picture.
        seed: which items are shown.

    Raises:
        DataError: there are no captions yet, or the pictures are not there.
        RunFolderError: the page cannot be written.
    """
    source = PictureSource(folder, column, images)
    rows = source.rows
    table = read_columns(rows)
    if not captioned(table).any():
        raise DataError(f"{folder}: has no captions yet; make them with lirdrec caption {folder}")
    texts = _texts(rows)
    table = table.with_columns(
        pl.Series("text", texts, dtype=pl.String), edited(table), captioned(table)
    ).with_row_index("row")
    made = rows.manifest["info"].get(INFO)
    info: Mapping[str, Any] = made if isinstance(made, Mapping) else {}
    picture = _pictures(source)
    silent, told = table.filter(pl.col("text").is_null()), table.filter(pl.col("text").is_not_null())
    sections = []
    if silent["captioned"].any():
        cards = [_card(one, picture) for one in _some(silent, SHOWN, seed)]
        among = f"{silent['captioned'].sum():,} that have a caption and no text of their own"
        words = f"{count(len(cards), 'item')} of the {among}, drawn at random."
        sections.append(Section("Items without any text", [Cards(cards, words)]))
    if told["captioned"].any():
        n = SHOWN if not sections else BESIDE
        cards = [_card(one, picture) for one in _some(told, n, seed)]
        words = "The title is the item's own text. The model saw the picture only."
        sections.append(Section("Items with a text, to compare", [Cards(cards, words)]))
    names = info.get("attributes")
    sections.append(
        Section("What the captions say", [_attributes(table, list(names) if isinstance(names, Mapping) else [])])
    )
    if info.get("prompt"):
        asked = (
            "The same words go with every picture. Change them with `--attributes FILE`; `--show-attributes` prints a"
        )
        sections.append(
            Section(
                "The prompt",
                [Cards([Card("Asked of every picture", str(info["prompt"]))], f"{asked} file to begin with.")],
            )
        )
    name = str(rows.manifest["name"])
    report = Report(
        title=f"{name}: pictures in words",
        question="What does a multimodal language model say of items whose pictures are all there is?",
        answer=_answer(table, info),
        sections=sections,
        settings={key: value for key, value in info.items() if key not in NOT_SETTINGS},
        commands=[f"lirdrec caption {name}", f"lirdrec caption {name} --report {Path(path).name}"],
        name="captions",
    )
    return report.write_page(path)


def _texts(rows: ItemRows) -> list[str | None]:
    """The own text of each item, None where it has none."""
    template = default_texts(rows)
    if template is None:
        return [None] * len(rows)
    return template.render(rows.read(0, len(rows), tuple(template.columns)))


def _pictures(source: PictureSource) -> Callable[[int], bytes | None]:
    def picture(row: int) -> bytes | None:
        value = source.read(row, row + 1)[0].value
        try:
            return thumbnail(value, SIZE) if isinstance(value, Path) else None
        except DataError:
            return None

    return picture


def _some(table: pl.DataFrame, n: int, seed: int) -> Iterable[dict[str, Any]]:
    """Some of the items with a caption, drawn at random, in their order."""
    has = table.filter("captioned")
    places = sorted(random.Random(seed).sample(range(has.height), min(n, has.height)))
    return has[places].iter_rows(named=True)


def _card(one: Mapping[str, Any], picture: Callable[[int], bytes | None]) -> Card:
    """Picture beside caption, an attribute a line; what a person wrote stands as it was written."""
    own = " ".join(str(one["text"] or "").split())
    said = {} if one["edited"] else _said(one[ATTRIBUTES])
    text = "\n".join(f"{name[:1].upper()}{name[1:]}: {value}" for name, value in said.items()) or str(one[CAPTION])
    badges = [words for words, is_so in (("no text", not own), ("edited by a person", one["edited"])) if is_so]
    if not own:
        return Card(str(one[ITEM]), text, picture(one["row"]), badges)
    title = own if len(own) <= LONG else own[: LONG - 1] + "…"
    return Card(title, text, picture(one["row"]), badges, [("item", str(one[ITEM]))])


def _said(text: str | None) -> dict[str, str]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _attributes(table: pl.DataFrame, names: Sequence[str]) -> Table:
    """How many captions speak of each attribute, and what they say most often."""
    said = [_said(text) for text in table[ATTRIBUTES].to_list() if text]
    rows = []
    for name in dict.fromkeys([*names, *(name for one in said for name in one)]):
        values = Counter(one[name].casefold() for one in said if name in one)
        common = "; ".join(value if n == 1 else f"{value} ({n})" for value, n in values.most_common(3))
        rows.append(Row({"name": name, "captions": sum(values.values()), "distinct": len(values), "common": common}))
    columns = [
        Column("name", "attribute", format="text"),
        Column("captions", "captions", format="count"),
        Column("distinct", "different answers", format="count"),
        Column("common", "most often", format="text"),
    ]
    caption = f"Attributes of {count(len(said), 'caption')} as the model gave them."
    return Table("attributes", columns, rows, caption, ["An attribute that the picture does not show is left out."])


def _answer(table: pl.DataFrame, info: Mapping[str, Any]) -> str:
    n, silent = int(table["captioned"].sum()), table.filter(pl.col("text").is_null())
    by = f" by **{info['model']}**" if info.get("model") else ""
    sentences = [f"{n:,} of {count(table.height, 'item')} have a caption{by}."]
    if silent.height:
        helped = int(silent["captioned"].sum())
        sentences.append(f"{count(silent.height, 'item')} without any text: {helped:,} of them can now be read.")
    else:
        sentences.append("Every item has a text of its own, which the model did not see.")
    said = [len(_said(text)) for text in table[ATTRIBUTES].to_list() if text]
    if said and isinstance(info.get("attributes"), Mapping):
        mean = sum(said) / len(said)
        sentences.append(f"A caption speaks of {mean:.1f} of {len(info['attributes'])} attributes on the average.")
    if by_person := int(table["edited"].sum()):
        sentences.append(f"People wrote or changed {by_person:,}.")
    if info.get("problems"):
        sentences.append(f"{count(int(info['problems']), 'picture')} gave none.")
    return " ".join(sentences)
