"""How one figure of a table is printed: digits, spread, units, and what stands where there is none.

How models, metrics and data sets are called in tables and figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lirdrec.escaping import visible
from lirdrec.reporting.statistics import Measure

Value = Measure | float | int | str | None
Better = Literal["higher", "lower"]
Format = Literal["number", "percent", "count", "duration", "memory", "p", "text"]
MISSING = "–"
NARROW = "\N{NARROW NO-BREAK SPACE}"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: of the rows' cells.
        title: heading.
        group: heading over neighbouring columns of the same group.
        better: ranks the figures: the best bold, the second underlined; None: nothing is ranked.
        format: "number" has `digits` decimals, "percent" too, with a sign; "count" 12 345; "duration" takes seconds;
            "memory" takes bytes; "p" is a p-value; "text" is set left.
        digits: decimals.
    """

    key: str
    title: str
    group: str = ""
    better: Better | None = None
    format: Format = "number"
    digits: int = 4


def printed(value: Value, column: Column) -> tuple[str, str, str]:
    """A cell in words: the figure, its spread ("" without one), its marks."""
    if isinstance(value, Measure):
        spread = ""
        if value.sd is not None and column.format in ("number", "percent"):
            spread = f"{value.sd:.{column.digits}f}"
        return text_of(value.mean, column), spread, value.marks
    return (MISSING if value is None else text_of(value, column)), "", ""


def duration(seconds: float) -> str:
    """48 s, 3.2 min, 1.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def memory(count: float) -> str:
    """Bytes as 310 MB or 1.5 GB (powers of 1000)."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def text_of(value: Measure | float | int | str, column: Column) -> str:
    """A value in the column's format, without its spread; a text as it is, but for what a terminal would obey."""
    if isinstance(value, Measure):
        value = value.mean
    if isinstance(value, str):
        return visible(value, line=False)
    if math.isnan(value):
        return MISSING
    if column.format == "duration":
        return duration(value).replace(" ", NARROW)
    if column.format == "memory":
        return memory(value).replace(" ", NARROW)
    if column.format == "count":
        return f"{value:,.0f}".replace(",", NARROW)
    if column.format == "p":
        return f"{value:.4f}" if value >= 1e-4 else f"<{NARROW}0.0001"
    if column.format == "percent":
        return f"{value:+.{column.digits}f}".replace("-", "−") + f"{NARROW}%"
    if column.format == "text":
        return f"{value:g}" if isinstance(value, float) else str(value)
    return f"{value:.{column.digits}f}".replace("-", "−")


# in the order of tables: without learning, closed forms, learned, the newest last
MODELS = {
    "random": "Random",
    "popularity": "Popularity",
    "item_knn": "Item kNN",
    "content_knn": "Content kNN",
    "ease": "EASE",
    "cease": "CEASE",
    "add_ease": "Add-EASE",
    "mf": "MF",
    "lightgcn": "LightGCN",
    "vbpr": "VBPR",
    "mmgcn": "MMGCN",
    "grcn": "GRCN",
    "lattice": "LATTICE",
    "slmrec": "SLMRec",
    "micro": "MICRO",
    "bm3": "BM3",
    "freedom": "FREEDOM",
    "lgmrec": "LGMRec",
    "diffmm": "DiffMM",
    "lirdrec": "LIRDRec",
}
DATASETS = {
    "baby": "Baby",
    "sports": "Sports",
    "clothing": "Clothing",
    "elec": "Elec",
    "electronics": "Elec",
    "microlens": "MicroLens",
    "tiktok": "TikTok",
    "movielens": "MovieLens",
    "movielens-small": "MovieLens small",
}
METRICS = {"recall": "R", "ndcg": "N", "precision": "P", "map": "MAP", "mrr": "MRR", "hit_rate": "HR"}
COLUMNS = {
    "model": "Model",
    "dataset": "Data",
    "variant": "Variant",
    "feature_set": "Features",
    "loss": "Loss",
    "metric": "Metric",
    "seed": "Seed",
    "epoch": "Epoch",
}


def label(name: object) -> str:
    """What to print for a model, data set, metric or column; anything else is printed as it is."""
    text = str(name)
    for known in (MODELS, DATASETS, COLUMNS):
        if text in known:
            return known[text]
    kind, at, k = text.partition("@")
    return f"{METRICS[kind]}@{k}" if at and kind in METRICS else text


def model_order(model: str) -> tuple[int, str]:
    """Sort key: known models in the order of `MODELS`, others by name just before the last."""
    known = list(MODELS)
    return (2 * known.index(model) if model in known else 2 * len(known) - 3, model)
