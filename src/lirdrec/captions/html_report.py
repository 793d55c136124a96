"""Write an HTML page about the captions of a dataset: images with captions, attribute statistics, and the prompt."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.captions.captioner import ATTRIBUTES, CAPTION, INFO, captioned, edited, read_columns
from lirdrec.data.column_names import ITEM
from lirdrec.errors import DataError
from lirdrec.features.images import thumbnail
from lirdrec.features.sources import IMAGE, ImageSource, default_texts
from lirdrec.reporting import Card, Cards, Column, Report, Row, Section, Table
from lirdrec.wording import pluralize

SHOWN, COMPARED = 12, 6  # number of items of the first section, and of the section for comparison
NOT_SETTINGS = ("prompt", "attributes", "captions", "edited", "problems")
SIZE = 360  # pixels of an image's longer side
MAX_TITLE = 90  # characters of an item's text


def write_caption_report(folder: str | Path, path: str | Path, images: str | Path | None = None) -> Path:
    """Write an HTML page about the captions of a dataset, and return its path.

    The page shows random items with image and caption, statistics of the attributes, and the prompt. It is one file
    that includes the images.

    Args:
        folder: a prepared dataset with captions.
        path: the HTML file to write.
        images: the image folder; by default the folder recorded by `lirdrec prepare`.

    Raises:
        DataError: there are no captions yet, or the image column or the image folder is missing.
        RunFolderError: the folder is not a prepared dataset, or the page cannot be written.
    """
    source = ImageSource(folder, IMAGE, images)
    rows = source.rows
    table = read_columns(rows)
    table = table.with_columns(edited(table), captioned(table)).with_row_index("row")
    if not table["captioned"].any():
        raise DataError(f"{folder} has no captions yet; make them with lirdrec caption {folder}")
    template = default_texts(rows)
    texts = template.render(rows.read(0, len(rows), tuple(template.columns))) if template else [None] * len(rows)
    table = table.with_columns(pl.Series("text", texts, dtype=pl.String))
    entry = rows.manifest["info"].get(INFO)
    info: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    names = list(info["attributes"]) if isinstance(info.get("attributes"), Mapping) else []
    captions = [_parse(text) for text in table[ATTRIBUTES].to_list() if text]
    sections = _item_sections(table, source)
    sections.append(Section("Contents of the captions", [_attributes(captions, names)]))
    if info.get("prompt"):
        lead = "All images get the same prompt. Change it with `--attributes FILE`; start from `--show-attributes`."
        sections.append(Section("The prompt", [Cards([Card("Prompt of every image", str(info["prompt"]))], lead)]))
    name = str(rows.manifest["name"])
    report = Report(
        title=f"{name}: image captions",
        question="How does a multimodal language model describe items that have only an image?",
        answer=_answer(table, info, captions, names),
        sections=sections,
        settings={key: value for key, value in info.items() if key not in NOT_SETTINGS},
        commands=[f"lirdrec caption {name}", f"lirdrec caption {name} --report {Path(path).name}"],
        name="captions",
    )
    return report.write_page(path)


def _item_sections(table: pl.DataFrame, source: ImageSource) -> list[Section]:
    """Return sections with random items that have a caption: items without a text, and items with one to compare."""
    table = table.filter("captioned")
    without_text, with_text = table.filter(pl.col("text").is_null()), table.filter(pl.col("text").is_not_null())
    sections = []
    if without_text.height:
        cards = _cards(without_text, SHOWN, source)
        among = f"{without_text.height:,} that have a caption and no text of their own"
        lead = f"{pluralize(len(cards), 'item')} of the {among}, drawn at random."
        sections.append(Section("Items without any text", [Cards(cards, lead)]))
    if with_text.height:
        cards = _cards(with_text, COMPARED if sections else SHOWN, source)
        lead = "The title is the item's own text. The model saw only the image."
        sections.append(Section("Items with a text, for comparison", [Cards(cards, lead)]))
    return sections


def _cards(table: pl.DataFrame, n: int, source: ImageSource) -> list[Card]:
    """Return cards (image and caption) of up to `n` random items of `table`.

    A generated caption has one attribute per line; a caption that a person edited is shown unchanged.
    """
    cards = []
    rows = random.Random(0).sample(range(table.height), min(n, table.height))
    for row in table[sorted(rows)].iter_rows(named=True):
        title = " ".join(str(row["text"] or "").split())
        attributes = {} if row["edited"] else _parse(row[ATTRIBUTES])
        text = "\n".join(f"{name[:1].upper()}{name[1:]}: {value}" for name, value in attributes.items())
        badges = ["no text"] if not title else []
        badges += ["edited by a person"] if row["edited"] else []
        facts = [("item", str(row[ITEM]))] if title else []
        title = title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1] + "…"
        image = _thumbnail(source, row["row"])
        cards.append(Card(title or str(row[ITEM]), text or str(row[CAPTION]), image, badges, facts))
    return cards


def _thumbnail(source: ImageSource, row: int) -> bytes | None:
    value = source.read(row, row + 1)[0].value
    try:
        return thumbnail(value, SIZE) if isinstance(value, Path) else None
    except DataError:
        return None


def _parse(text: str | None) -> dict[str, str]:
    try:
        attributes = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in attributes.items()} if isinstance(attributes, dict) else {}


def _attributes(captions: Sequence[Mapping[str, str]], names: Sequence[str]) -> Table:
    """Return a table of the attributes: how many captions have each, how many values differ, the most common values."""
    rows = []
    for name in dict.fromkeys([*names, *(name for caption in captions for name in caption)]):
        values = Counter(caption[name].casefold() for caption in captions if name in caption)
        common = "; ".join(value if n == 1 else f"{value} ({n})" for value, n in values.most_common(3))
        rows.append(Row({"name": name, "captions": sum(values.values()), "distinct": len(values), "common": common}))
    counts = {"captions": "captions", "distinct": "different answers"}
    columns = [Column("name", "attribute", format="text")]
    columns += [Column(key, title, format="count") for key, title in counts.items()]
    columns.append(Column("common", "most often", format="text"))
    title = f"Attributes of {pluralize(len(captions), 'caption')} as the model gave them."
    return Table("attributes", columns, rows, title, ["Attributes that the image does not show are left out."])


def _answer(
    table: pl.DataFrame, info: Mapping[str, Any], captions: Sequence[Mapping[str, str]], names: Sequence[str]
) -> str:
    without_text = table.filter(pl.col("text").is_null())
    by = f" by **{info['model']}**" if info.get("model") else ""
    sentences = [f"{table['captioned'].sum():,} of {pluralize(table.height, 'item')} have a caption{by}."]
    if without_text.height:
        n_items = pluralize(without_text.height, "item")
        sentences.append(f"{n_items} without any text: {without_text['captioned'].sum():,} of them have a caption.")
    else:
        sentences.append("Every item has its own text, which the model did not see.")
    if captions and names:
        mean = sum(map(len, captions)) / len(captions)
        sentences.append(f"A caption has {mean:.1f} of {len(names)} attributes on average.")
    if by_person := int(table["edited"].sum()):
        sentences.append(f"People wrote or changed {by_person:,}.")
    if info.get("problems"):
        sentences.append(f"{pluralize(int(info['problems']), 'image')} gave none.")
    return " ".join(sentences)
