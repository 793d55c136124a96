"""HTML case study of captions: images of items beside their captions, attribute statistics, and the prompt."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.captions.captioner import ATTRIBUTES, CAPTION, captioned, edited, read_columns
from lirdrec.captions.item_columns import INFO
from lirdrec.data.ids import pluralize
from lirdrec.data.schema import ITEM
from lirdrec.errors import DataError
from lirdrec.features.images import thumbnail
from lirdrec.features.sources import IMAGE, ImageSource, ItemRows, default_texts
from lirdrec.reporting import Card, Cards, Column, Report, Row, Section, Table

SHOWN, BESIDE = 12, 6  # items without a text, and with one
NOT_SETTINGS = ("prompt", "attributes", "captions", "edited", "problems")
SIZE = 360  # pixels of an image's longer side
MAX_TITLE = 90  # characters of an item's text


def write_case_study(
    folder: str | Path, path: str | Path, images: str | Path | None = None, column: str = IMAGE, seed: int = 0
) -> Path:
    """Write the case study as one self-contained HTML page.

    Args:
        folder: a prepared dataset with captions.
        path: of the page.
        images: the image folder; by default the one recorded by `lirdrec prepare`.
        column: of the item table, with the image path of each item.
        seed: of the random items.

    Raises:
        DataError: there are no captions yet, or the image folder is missing.
        RunFolderError: the page cannot be written.
    """
    source = ImageSource(folder, column, images)
    rows = source.rows
    table = read_columns(rows)
    if not captioned(table).any():
        raise DataError(f"{folder}: has no captions yet; make them with lirdrec caption {folder}")
    texts = _texts(rows)
    table = table.with_columns(
        pl.Series("text", texts, dtype=pl.String), edited(table), captioned(table)
    ).with_row_index("row")
    entry = rows.manifest["info"].get(INFO)
    info: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    sections = [*_item_sections(table, _thumbnails(source), seed), _attribute_section(table, info)]
    if info.get("prompt"):
        sections.append(_prompt_section(str(info["prompt"])))
    name = str(rows.manifest["name"])
    report = Report(
        title=f"{name}: image captions",
        question="How does a multimodal language model describe items that have only an image?",
        answer=_answer(table, info),
        sections=sections,
        settings={key: value for key, value in info.items() if key not in NOT_SETTINGS},
        commands=[f"lirdrec caption {name}", f"lirdrec caption {name} --report {Path(path).name}"],
        name="captions",
    )
    return report.write_page(path)


def _item_sections(table: pl.DataFrame, image: Callable[[int], bytes | None], seed: int) -> list[Section]:
    """Random items with a caption: those without a text first, then some with one for comparison."""
    without_text, with_text = table.filter(pl.col("text").is_null()), table.filter(pl.col("text").is_not_null())
    sections = []
    if without_text["captioned"].any():
        cards = [_card(row, image) for row in _sample(without_text, SHOWN, seed)]
        among = f"{without_text['captioned'].sum():,} that have a caption and no text of their own"
        lead = f"{pluralize(len(cards), 'item')} of the {among}, drawn at random."
        sections.append(Section("Items without any text", [Cards(cards, lead)]))
    if with_text["captioned"].any():
        cards = [_card(row, image) for row in _sample(with_text, BESIDE if sections else SHOWN, seed)]
        lead = "The title is the item's own text. The model saw only the image."
        sections.append(Section("Items with a text, for comparison", [Cards(cards, lead)]))
    return sections


def _attribute_section(table: pl.DataFrame, info: Mapping[str, Any]) -> Section:
    names = info.get("attributes")
    return Section("Contents of the captions", [_attributes(table, list(names) if isinstance(names, Mapping) else [])])


def _prompt_section(prompt: str) -> Section:
    lead = (
        "All images get the same prompt. Change it with `--attributes FILE`; `--show-attributes` prints a file to"
        " start from."
    )
    return Section("The prompt", [Cards([Card("Prompt of every image", prompt)], lead)])


def _texts(rows: ItemRows) -> list[str | None]:
    """The text of each item, without captions; None if it has none."""
    template = default_texts(rows)
    if template is None:
        return [None] * len(rows)
    return template.render(rows.read(0, len(rows), tuple(template.columns)))


def _thumbnails(source: ImageSource) -> Callable[[int], bytes | None]:
    def image(row: int) -> bytes | None:
        value = source.read(row, row + 1)[0].value
        try:
            return thumbnail(value, SIZE) if isinstance(value, Path) else None
        except DataError:
            return None

    return image


def _sample(table: pl.DataFrame, n: int, seed: int) -> Iterable[dict[str, Any]]:
    """Up to `n` random items with a caption, in table order."""
    has = table.filter("captioned")
    indices = sorted(random.Random(seed).sample(range(has.height), min(n, has.height)))
    return has[indices].iter_rows(named=True)


def _card(row: Mapping[str, Any], image: Callable[[int], bytes | None]) -> Card:
    """An item's image and caption, one attribute per line; edited captions are shown unchanged."""
    title = " ".join(str(row["text"] or "").split())
    attributes = {} if row["edited"] else _parse(row[ATTRIBUTES])
    text = "\n".join(f"{name[:1].upper()}{name[1:]}: {value}" for name, value in attributes.items()) or str(
        row[CAPTION]
    )
    badges = [badge for badge, applies in (("no text", not title), ("edited by a person", row["edited"])) if applies]
    if not title:
        return Card(str(row[ITEM]), text, image(row["row"]), badges)
    title = title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1] + "…"
    return Card(title, text, image(row["row"]), badges, [("item", str(row[ITEM]))])


def _parse(text: str | None) -> dict[str, str]:
    try:
        attributes = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in attributes.items()} if isinstance(attributes, dict) else {}


def _attributes(table: pl.DataFrame, names: Sequence[str]) -> Table:
    """Number of captions, distinct values and most common values of each attribute."""
    captions = [_parse(text) for text in table[ATTRIBUTES].to_list() if text]
    rows = []
    for name in dict.fromkeys([*names, *(name for caption in captions for name in caption)]):
        values = Counter(caption[name].casefold() for caption in captions if name in caption)
        common = "; ".join(value if n == 1 else f"{value} ({n})" for value, n in values.most_common(3))
        rows.append(Row({"name": name, "captions": sum(values.values()), "distinct": len(values), "common": common}))
    columns = [
        Column("name", "attribute", format="text"),
        Column("captions", "captions", format="count"),
        Column("distinct", "different answers", format="count"),
        Column("common", "most often", format="text"),
    ]
    title = f"Attributes of {pluralize(len(captions), 'caption')} as the model gave them."
    return Table("attributes", columns, rows, title, ["Attributes that the image does not show are left out."])


def _answer(table: pl.DataFrame, info: Mapping[str, Any]) -> str:
    n, without_text = int(table["captioned"].sum()), table.filter(pl.col("text").is_null())
    by = f" by **{info['model']}**" if info.get("model") else ""
    sentences = [f"{n:,} of {pluralize(table.height, 'item')} have a caption{by}."]
    if without_text.height:
        helped = int(without_text["captioned"].sum())
        sentences.append(
            f"{pluralize(without_text.height, 'item')} without any text: {helped:,} of them have a caption."
        )
    else:
        sentences.append("Every item has its own text, which the model did not see.")
    lengths = [len(_parse(text)) for text in table[ATTRIBUTES].to_list() if text]
    if lengths and isinstance(info.get("attributes"), Mapping):
        mean = sum(lengths) / len(lengths)
        sentences.append(f"A caption has {mean:.1f} of {len(info['attributes'])} attributes on average.")
    if by_person := int(table["edited"].sum()):
        sentences.append(f"People wrote or changed {by_person:,}.")
    if info.get("problems"):
        sentences.append(f"{pluralize(int(info['problems']), 'image')} gave none.")
    return " ".join(sentences)
