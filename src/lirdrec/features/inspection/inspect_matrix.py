"""Inspect a feature matrix: items without a vector, lengths of vectors, constant columns, copies, nearest neighbors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lirdrec.config import suggest_name
from lirdrec.data.column_names import ITEM
from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.storage import read_manifest, resolve_path
from lirdrec.data.titles import titles
from lirdrec.errors import ConfigError, RunFolderError, describe_error
from lirdrec.features.dataset_writer import MISSING, PROBLEMS, file_name
from lirdrec.features.inspection import statistics
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from rich.console import Console


def inspect_matrix(
    dataset_folder: str | Path,
    modality: str,
    page: str | Path | None = None,
    seed: int = 0,
    n_items: int = 3,
    n_neighbors: int = 6,
) -> dict[str, Any]:
    """Compute statistics of a feature matrix, and the nearest neighbors of a few random items.

    Args:
        dataset_folder, modality: a prepared dataset, and the name of one of its matrices.
        page: also write an HTML report with titles and images to this file.
        n_items, n_neighbors: number of random items (by `seed`) to show, and number of neighbors of each.

    Returns:
        JSON-able: `dataset`, `modality`, `dims`, `dtype`, `encoder` (its manifest entry, or None), `coverage` (how many
        items have a vector), `norms`, `constant_columns`, `spread`, `duplicates`, `hubs`, `agreement` (see
        `statistics`), `neighbors` of the random items, `remarks` (sentences on unusual findings) and `page`.

    Raises:
        ConfigError: there is no such matrix, or a number is too small.
        RunFolderError: not a prepared dataset, a file is damaged, or the page cannot be written.
    """
    if n_items < 0 or n_neighbors < 1:
        raise ConfigError(f"n_items={n_items} must be 0 or more, and n_neighbors={n_neighbors} must be 1 or more")
    folder, data = Path(dataset_folder), Dataset.load(dataset_folder)
    if modality not in data.features:
        has = f"it has {', '.join(data.features)}" if data.features else "it has none; make one with lirdrec features"
        raise ConfigError(f"{folder}: there are no features '{modality}'; {suggest_name(modality, data.features, has)}")
    matrix = data.features[modality]
    describe = partial(_describe, data.item_table[ITEM], titles(data.item_table))
    generators = [np.random.default_rng([seed, stream]) for stream in range(4)]
    duplicates, hubs = _duplicates_and_hubs(matrix, generators[1], describe)
    neighbor_rows = _sample_neighbors(matrix, generators[3], n_items, n_neighbors)
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
        "hubs": hubs,
        "agreement": statistics.agreement(data.features, generators[2]),
        "neighbors": [
            describe(query) | {"neighbors": [describe(row) | {"cosine": cosine} for row, cosine in neighbors]}
            for query, neighbors in neighbor_rows
        ],
        "page": None if page is None else str(page),
    }
    facts["remarks"] = remarks(facts)
    if page is not None:
        from lirdrec.features.inspection.report import report  # loads matplotlib

        report(facts, neighbor_rows, folder, seed).write_page(page)
    return facts


def _describe(ids: pl.Series, names: pl.Series | None, row: int) -> dict[str, Any]:
    """Return `item` and `title` (the id and the title) of the item in a row; without a title, the id is used for it."""
    title = None if names is None else " ".join((names[row] or "").split())
    return {"item": ids[row], "title": title or str(ids[row])}


def _duplicates_and_hubs(
    matrix: FeatureMatrix, generator: np.random.Generator, describe: Callable[[int], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `statistics.duplicates_and_hubs` with the ids and titles of items in place of their rows."""
    duplicates, hubs = statistics.duplicates_and_hubs(matrix, generator)
    duplicates["examples"] = [[describe(row) for row in rows] for rows in duplicates["examples"]]
    for example in duplicates["near"]["examples"]:
        example["items"] = [describe(row) for row in example.pop("rows")]
    row = hubs.pop("row")
    return duplicates, hubs | {"item": None if row is None else describe(row)}


def _sample_neighbors(
    matrix: FeatureMatrix, generator: np.random.Generator, n_items: int, n_neighbors: int
) -> list[tuple[int, list[tuple[int, float]]]]:
    """Return the rows of random items with a vector, each with the (row, cosine) of its nearest neighbors."""
    present = np.flatnonzero(matrix.present)
    queries = generator.choice(present, min(n_items, len(present)), replace=False)
    rows, cosines = statistics.nearest_rows(matrix.values, matrix.present, queries, n_neighbors)
    return [
        (int(query), [(int(row), float(cosine)) for row, cosine in zip(*lists, strict=True) if row >= 0])
        for query, *lists in zip(queries, rows, cosines, strict=True)
    ]


def show(console: Console, facts: Mapping[str, Any]) -> None:
    """Print the result of `inspect_matrix` as tables and sentences in the terminal."""
    from rich.text import Text

    from lirdrec.features.inspection import report

    tables = [make(facts) for make in (report.provenance, report.quantities, report.copies, report.agreement)]
    for table in (*tables, *map(report.neighbors, facts["neighbors"])):
        if table is not None:
            rendered = table.to_rich()
            rendered.columns[-1].no_wrap, rendered.columns[-1].overflow = False, "fold"  # long sentences
            console.print(rendered)
    for sentence in facts["remarks"]:
        console.print(Text.assemble(("! ", "yellow"), sentence))
    if facts["page"]:
        console.print(Text(f"With titles and images: {facts['page']}"))


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """Return sentences on unusual findings in the result of `inspect_matrix`, and their possible causes."""
    sentences = []
    coverage, duplicates, hubs, spread = (facts[name] for name in ("coverage", "duplicates", "hubs", "spread"))
    n, near = coverage["present"], duplicates["near"]
    n_cut = (facts["encoder"] or {}).get("cut", 0)
    if coverage["problems"]:
        sentences.append(
            f"The input of {pluralize(coverage['problems'], 'item')} was not usable: see {coverage['problems_file']}."
        )
    if n_cut > 0.2 * max(1, n):
        sentences.append(f"The input of {pluralize(n_cut, 'item')} was longer than the encoder's limit and was cut.")
    if coverage["missing"] > 0.2 * coverage["items"]:
        sentences.append(f"{coverage['missing'] / coverage['items']:.0%} of the items have no vector here.")
    if duplicates["items"] > max(1, 0.01 * n):
        sentences.append(
            f"{pluralize(duplicates['items'], 'item')} share their vector with another: copies in the catalog, a"
            " placeholder image, or texts with too little information."
        )
    if near["items"] > max(1, 0.02 * near["asked"]):
        sentences.append(
            f"{near['items']:,} of {pluralize(near['asked'], 'item')} have a neighbor of cosine > {near['threshold']}:"
            " near-duplicates, or too similar vectors."
        )
    constant = len(facts["constant_columns"])
    if constant > 0.05 * facts["dims"]:
        sentences.append(
            f"{pluralize(constant, 'column')} of {facts['dims']:,} are the same for all items and carry no information."
        )
    cosine = spread["cosine"]
    if cosine and cosine["mean"] > 0.6:
        sentences.append(
            f"Even random items are alike (mean cosine {cosine['mean']:.2f}): all vectors have a similar"
            " direction, so compare cosines with each other, not with 0."
        )
    if spread["sample"] > 50 and spread["effective_rank"] < 5:
        sentences.append(f"The vectors spread over only {spread['effective_rank']:.1f} directions.")
    if hubs["most"] > max(30, 10 * hubs["by_chance"]) and hubs["most"] > 0.02 * hubs["asked"]:
        sentences.append(
            f"{hubs['item']['title']} is among the {hubs['k']} nearest of {hubs['most']:,} of"
            f" {pluralize(hubs['asked'], 'item')}: a hub that will be recommended to many users."
        )
    norms = facts["norms"]
    if norms["min"] > 0 and norms["max"] > 20 * norms["median"]:
        sentences.append(
            f"Some vectors are much longer than the others ({norms['max']:.3g}; the median is {norms['median']:.3g})."
        )
    return sentences


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
            raise RunFolderError(f"{path} is damaged ({describe_error(error)}); make the features again") from None

    (path, problems), (_, listed_missing) = listed(PROBLEMS), listed(MISSING)
    current = set(ids.filter(pl.Series(~present)).cast(pl.String))  # others may have been removed
    without = [entry[ITEM] for entry in listed_missing if entry[ITEM] in current]
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
