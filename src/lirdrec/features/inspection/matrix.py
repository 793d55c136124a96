"""A look at one feature matrix of a prepared dataset: is it whole, is it sound, and whom does it call alike?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lirdrec.config import nearest as nearest_name
from lirdrec.data.dataset import Dataset
from lirdrec.data.ids import count
from lirdrec.data.schema import ITEM
from lirdrec.data.storage import read_manifest, resolve_path
from lirdrec.data.titles import titles
from lirdrec.errors import ConfigError, DataError, RunFolderError, reason
from lirdrec.features.inspection import statistics
from lirdrec.features.inspection.neighbors import nearest_rows
from lirdrec.features.sources import IMAGE, PictureSource, TextSource
from lirdrec.features.writer import MISSING, PROBLEMS, file_name

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 160  # letters of a text


def inspect_matrix(
    dataset_folder: str | Path,
    modality: str,
    page: str | Path | None = None,
    seed: int = 0,
    n_items: int = 3,
    n_neighbours: int = 6,
) -> dict[str, Any]:
    """Figures of a feature matrix, and the nearest neighbours of a few random items.

    Args:
        dataset_folder: a prepared dataset.
        modality: the matrix.
        page: write an HTML page with titles and pictures, too: one file.
        seed: of the items and samples.
        n_items: random items whose neighbours are shown.
        n_neighbours: of each.

    Returns:
        JSON-able: `dataset`, `modality`, `dims`, `dtype`, `encoder` (what the manifest says of it, or None),
        `coverage`, `norms`, `constant_columns`, `spread`, `duplicates`, `hubs`, `agreement` (see `measuring`; items
        by id and title), `neighbours`, `remarks` (sentences on what stands out) and `page`.

    Raises:
        ConfigError: there is no such matrix, or a number is too small.
        RunFolderError: not a prepared dataset, or the page cannot be written.
    """
    if n_items < 0 or n_neighbours < 1:
        raise ConfigError("at least 0 items with 1 neighbour each can be shown")
    folder = Path(dataset_folder)
    data = Dataset.load(folder)
    if modality not in data.features:
        has = f"it has {', '.join(data.features)}" if data.features else "it has none; make one with lirdrec features"
        raise ConfigError(f"{folder}: there are no features '{modality}'; {nearest_name(modality, data.features, has)}")
    matrix = data.features[modality]
    titles = Titles(data)
    generators = [np.random.default_rng([seed, at]) for at in range(4)]
    duplicates, hubs = statistics.duplicates_and_hubs(matrix, generators[1])
    duplicates["examples"] = [[titles.of(row) for row in rows] for rows in duplicates["examples"]]
    for example in duplicates["near"]["examples"]:
        example["items"] = [titles.of(row) for row in example.pop("rows")]
    row = hubs.pop("row")
    present = np.flatnonzero(matrix.present)
    chosen = generators[3].choice(present, min(n_items, len(present)), replace=False)
    rows, cosines = nearest_rows(matrix.values, matrix.present, chosen, n_neighbours)
    facts: dict[str, Any] = {
        "dataset": data.name,
        "modality": modality,
        "dims": matrix.dims,
        "dtype": str(matrix.values.dtype),
        "encoder": data.info.get("encoders", {}).get(modality),
        "coverage": _coverage(folder, modality, matrix.present, data.item_table[ITEM]),
        "norms": statistics.norms(matrix),
        "constant_columns": statistics.constant_columns(matrix).tolist(),
        "spread": statistics.spread(matrix, generators[0]),
        "duplicates": duplicates,
        "hubs": hubs | {"item": None if row is None else titles.of(row)},
        "agreement": statistics.agreement(data.features, generators[2]),
        "neighbours": [
            {
                **titles.of(int(query)),
                "neighbours": [
                    titles.of(int(item)) | {"cosine": float(cosine)}
                    for item, cosine in zip(near, near_cosines, strict=True)
                    if item >= 0
                ],
            }
            for query, near, near_cosines in zip(chosen, rows, cosines, strict=True)
        ],
        "page": None if page is None else str(page),
    }
    facts["remarks"] = remarks(facts)
    if page is not None:
        from lirdrec.features.inspection.report import report

        asked = [(int(query), [int(one) for one in near if one >= 0]) for query, near in zip(chosen, rows, strict=True)]
        report(facts, asked, InspectionViews(folder, data, facts["encoder"]), folder, seed).write_page(page)
    return facts


def show(console: Console, facts: Mapping[str, Any]) -> None:
    """Print what `look` found."""
    from rich.text import Text

    from lirdrec.features.inspection import tables as tables

    shown = [tables.provenance(facts), tables.figures(facts), tables.copies(facts), tables.agreement(facts)]
    for table in (*shown, *(tables.neighbours(one) for one in facts["neighbours"])):
        if table is not None:
            drawn = table.to_rich()
            drawn.columns[-1].no_wrap, drawn.columns[-1].overflow = False, "fold"  # sentences take several lines
            console.print(drawn)
    for sentence in facts["remarks"]:
        console.print(Text.assemble(("! ", "yellow"), sentence))
    if facts["page"]:
        console.print(Text(f"With titles and pictures: {facts['page']}"))


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """What stands out, worst first: one sentence each, with what it may mean."""
    said = []
    coverage, duplicates, hubs, spread = (facts[name] for name in ("coverage", "duplicates", "hubs", "spread"))
    n = coverage["present"]
    if coverage["problems"]:
        said.append(
            f"The input of {count(coverage['problems'], 'item')} could not be used: see {coverage['problems_file']}."
        )
    if facts["encoder"] and facts["encoder"].get("cut", 0) > 0.2 * max(1, n):
        said.append(
            f"The input of {count(facts['encoder']['cut'], 'item')} was longer than the encoder's limit and cut."
        )
    if coverage["missing"] > 0.2 * coverage["items"]:
        said.append(f"{coverage['missing'] / coverage['items']:.0%} of the items have no vector here.")
    if duplicates["items"] > max(1, 0.01 * n):
        said.append(
            f"{count(duplicates['items'], 'item')} share their vector with another: copies in the catalogue, a"
            " placeholder picture, or a text that says too little."
        )
    if duplicates["near"]["items"] > max(1, 0.02 * duplicates["near"]["asked"]):
        said.append(
            f"{duplicates['near']['items']:,} of {count(duplicates['near']['asked'], 'item')} have a neighbour of"
            f" cosine > {duplicates['near']['threshold']}: near-duplicates, or an encoder that sees no difference."
        )
    constant = len(facts["constant_columns"])
    if constant > 0.05 * facts["dims"]:
        said.append(f"{count(constant, 'column')} of {facts['dims']:,} are the same for all items and say nothing.")
    cosine = spread["cosine"]
    if cosine and cosine["mean"] > 0.6:
        said.append(
            f"Even random items are alike (mean cosine {cosine['mean']:.2f}): all vectors point in much the same"
            " direction, so cosines are to be compared with each other, not with 0."
        )
    if spread["sample"] > 50 and spread["effective_rank"] < 5:
        said.append(f"The vectors spread over only {spread['effective_rank']:.1f} directions.")
    if hubs["most"] > max(30, 10 * hubs["by_chance"]) and hubs["most"] > 0.02 * hubs["asked"]:
        said.append(
            f"{hubs['item']['title']} is among the {hubs['k']} nearest of {hubs['most']:,} of"
            f" {count(hubs['asked'], 'item')}: a hub that will be recommended to everybody."
        )
    norms = facts["norms"]
    if norms["min"] > 0 and norms["max"] > 20 * norms["median"]:
        said.append(
            f"Some vectors are much longer than the others ({norms['max']:.3g}; the median is {norms['median']:.3g})."
        )
    return said


class Titles:
    """Items by row as a person knows them: id and title."""

    def __init__(self, data: Dataset):
        self._ids = data.item_table[ITEM]
        self._titles = titles(data.item_table)

    def of(self, row: int) -> dict[str, Any]:
        """`item` and `title`, which is the id where there is no title."""
        item = self._ids[row]
        title = None if self._titles is None else " ".join((self._titles[row] or "").split())
        return {"item": item, "title": title or str(item)}


class InspectionViews:
    """What a page shows of an item beside its title: its text, as the encoder read it, and its picture."""

    def __init__(self, folder: Path, data: Dataset, encoder: Mapping[str, Any] | None):
        self.titles = Titles(data)
        self._texts = _text_source(folder, encoder or {})
        try:
            self._pictures: PictureSource | None = PictureSource(folder)
        except DataError:  # no column of pictures, or their folder is elsewhere now
            self._pictures = None

    def text(self, row: int) -> str:
        """The beginning of the text, without the title that stands above it."""
        if self._texts is None:
            return ""
        (item,) = self._texts.read(row, row + 1)
        text = "" if item.value is None else " ".join(str(item.value).split())
        text = text.removeprefix(self.titles.of(row)["title"]).lstrip(" .,;:|/-–")
        return text if len(text) <= SHOWN else text[: SHOWN - 1].rstrip() + "…"

    def picture(self, row: int, size: int = 320) -> bytes | None:
        """A small JPEG, or None where there is no picture that can be opened."""
        from lirdrec.features.images import PictureError, thumbnail

        if self._pictures is None:
            return None
        (item,) = self._pictures.read(row, row + 1)
        try:
            return thumbnail(item.value, size) if isinstance(item.value, Path) else None
        except PictureError:
            return None


def _text_source(folder: Path, encoder: Mapping[str, Any]) -> TextSource | None:
    source = encoder.get("source", {})
    column = None if source.get("column") == IMAGE else source.get("column")
    for template, one in ((source.get("template"), column), (None, None)):
        try:
            return TextSource(folder, template, one)
        except (ConfigError, DataError):  # the columns are gone, or none holds texts
            continue
    return None


def _coverage(folder: Path, modality: str, present: np.ndarray, ids: pl.Series) -> dict[str, Any]:
    manifest = read_manifest(folder)

    def listed(ending: str) -> tuple[str | None, list[dict[str, Any]]]:
        name = file_name(modality, ending)
        if name not in manifest["files"]:
            return None, []
        path = resolve_path(folder, manifest, name)
        try:
            return str(path), pl.read_csv(path, infer_schema=False).to_dicts()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise RunFolderError(f"{path}: is damaged ({reason(error)}); make the features again") from None

    (path, problems), (_, bare) = listed(PROBLEMS), listed(MISSING)
    here = set(ids.filter(pl.Series(~present)).cast(pl.String))  # others may have left the dataset
    without = [one[ITEM] for one in bare if one[ITEM] in here]
    return {
        "items": len(present),
        "present": int(present.sum()),
        "missing": int((~present).sum()),
        "problems": len(problems),
        "problems_file": path,
        "examples": problems[: statistics.EXAMPLES],
        "bare": len(without),
        "bare_examples": without[: statistics.EXAMPLES],
    }
