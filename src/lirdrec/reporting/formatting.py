"""Formatting of table values (digits, units, missing values), and display names of models, metrics and datasets."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lirdrec.control_characters import escape_text
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
        key: key of the column's cells in `Row.cells`.
        title: heading.
        group: heading over adjacent columns of the same group.
        better: which values are better: the best is printed bold, the second underlined; None: no ranking.
        format: "number" has `digits` decimals; "percent" has them too, and a sign; "count" is printed as 12 345;
            "duration" is given in seconds, "memory" in bytes; "p" is a p-value; "text" is left-aligned.
        digits: number of decimals.
    """

    key: str
    title: str
    group: str = ""
    better: Better | None = None
    format: Format = "number"
    digits: int = 4


def printed(value: Value, column: Column) -> tuple[str, str, str]:
    """Return three texts of a cell: the value, its standard deviation ("" without one) and its marks ("" without)."""
    if not isinstance(value, Measure):
        return (MISSING if value is None else text_of(value, column)), "", ""
    has_spread = value.sd is not None and column.format in ("number", "percent")
    return text_of(value.mean, column), f"{value.sd:.{column.digits}f}" if has_spread else "", value.marks


def duration(seconds: float) -> str:
    """Return seconds as text: 48 s, 3.2 min, 1.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def memory(count: float) -> str:
    """Return a number of bytes as text: 310 MB, 1.5 GB (powers of 1000)."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def text_of(value: Measure | float | int | str, column: Column) -> str:
    """Return a value as text in the format of its column, without standard deviation; NaN is a dash.

    Control characters of terminals are escaped.
    """
    if isinstance(value, Measure):
        value = value.mean
    if isinstance(value, str):
        return escape_text(value, line=False)
    if math.isnan(value):
        return MISSING
    match column.format:
        case "duration":
            return duration(value).replace(" ", NARROW)
        case "memory":
            return memory(value).replace(" ", NARROW)
        case "count":
            return f"{value:,.0f}".replace(",", NARROW)
        case "p":
            return f"{value:.4f}" if value >= 1e-4 else f"<{NARROW}0.0001"
        case "percent":
            return f"{value:+.{column.digits}f}".replace("-", "−") + f"{NARROW}%"
        case "text":
            return f"{value:g}" if isinstance(value, float) else str(value)
    return f"{value:.{column.digits}f}".replace("-", "−")


_NAMES = tomllib.loads(Path(__file__).with_name("names.toml").read_text(encoding="utf-8"))
MODELS: dict[str, str] = _NAMES["models"]  # in the order in which tables list them
METRICS: dict[str, str] = _NAMES["metrics"]


def label(name: object) -> str:
    """Return the display name of a model, dataset, metric or column; other names are returned unchanged."""
    text = str(name)
    for names in (MODELS, _NAMES["datasets"], _NAMES["columns"]):
        if text in names:
            return str(names[text])
    kind, separator, k = text.partition("@")
    return f"{METRICS[kind]}@{k}" if separator and kind in METRICS else text


def model_order(model: str) -> tuple[int, str]:
    """Return a sort key for the order of `MODELS`; unknown models come just before the last of `MODELS`, by name."""
    known = list(MODELS)
    return (2 * known.index(model) if model in known else 2 * len(known) - 3, model)
