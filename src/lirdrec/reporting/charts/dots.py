"""Dot plots: one row per name, with error bars and the value at the right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.reporting.charts.panels import MEAN, SD, Panels, equals, names_of, rank_in, summarize, write_right
from lirdrec.reporting.figure import ACCENT, GRAY, INK, RED, RULE, Figure, style, styles
from lirdrec.reporting.formatting import label
from lirdrec.reporting.statistics import Measure

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

SIZES = {"o": 6}  # marker → size; others are a little smaller


def dots(
    frame: pl.DataFrame,
    name: str,
    rows: str,
    value: str = "value",
    series: str | None = None,
    *,
    panel: str | None = None,
    accent: Any = ACCENT,
    order: Sequence[Any] = (),
    row_order: Sequence[Any] = (),
    sort: bool = True,
    low: str | None = None,
    high: str | None = None,
    reference: float | None = None,
    x_label: str | None = None,
    digits: int = 4,
    labels: Callable[[Any], str] = label,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """Dot plot: one row per name, a dot at the mean, an error bar of ± one sd, the value at the right.

    Args:
        frame, name, panel, accent, order, labels, caption, alt: as in `lines`; accent may be a row.
        rows: column of the rows' names; value: of the values; series: of the dots in a row, each in its own color.
        row_order: names from the top; sort: order the rows that it does not list by descending mean.
        low, high: columns with the ends of the error bars (a confidence interval) instead of ± sd; one row per dot.
        reference: vertical line, such as 0; x_label: default: the column's name; digits: of the written values.
    """
    if (low is None) != (high is None):
        raise ConfigError("dots needs both ends of the error bars, low and high, or neither")
    data = summarize(frame, [panel, rows, series], value, also=[column for column in (low, high) if column])
    with style():
        names = _ordered_rows(data, rows, row_order, sort)
        kinds = names_of(data, series, order) if series else []
        dot_styles = styles(kinds if series else names, accent)
        height = len(names) * (0.27 if len(kinds) < 3 else 0.15 * len(kinds)) + 0.75
        panels = Panels(data, panel, labels, row_height=max(1.4, height), names_left=True)
        apart = min(0.26, 0.7 / len(kinds)) if kinds else 0.0
        for axes, part in panels:
            for record in part.iter_rows(named=True):
                row, kind, mean = record[rows], record[series] if series else None, record[MEAN]
                sd, height = record[SD] or 0.0, names.index(row)
                if series:
                    height += (kinds.index(kind) - (len(kinds) - 1) / 2) * apart
                ends = (record[low], record[high]) if low and high else (mean - sd, mean + sd)
                dot = dot_styles[kind if series else row]
                axes.plot(ends, [height] * 2, color=dot.color, linewidth=1.8, alpha=0.55, zorder=3)
                axes.plot(mean, height, dot.marker, color=dot.color, markersize=SIZES.get(dot.marker, 5.2), zorder=4)
                if not series:
                    text = f"{mean:.{digits}f}".replace("-", "−")
                    write_right(axes, height, text, 4, dot.color if row == accent else GRAY, row == accent)
            for kind in kinds:
                axes.plot([], [], "o", color=dot_styles[kind].color, markersize=6, label=labels(kind))
            _name_rows(axes, names, labels if axes in panels.left else None, accent, reference)
        panels.name_axes(value, x_label)
        if len(kinds) > 1:
            panels.legend(len(kinds))
    return Figure(name, panels.drawing, data, caption, alt)


def _ordered_rows(data: pl.DataFrame, rows: str, row_order: Sequence[Any], sort: bool) -> list[Any]:
    measures = {row: Measure.of(data.filter(equals(rows, row))[MEAN]) for row in names_of(data, rows, row_order)}
    means = {row: measure.mean if measure else -math.inf for row, measure in measures.items()}
    return sorted(means, key=lambda row: (rank_in(row, row_order), -means[row] if sort else 0))


def _name_rows(
    axes: Axes, names: Sequence[Any], labels: Callable[[Any], str] | None, accent: Any, reference: float | None
) -> None:
    """Format a panel of `len(names)` rows, and write their names at the left; labels None: no names."""
    if reference is not None:
        axes.axvline(reference, color=GRAY, linewidth=0.9, zorder=2)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [labels(row) for row in names] if labels else [])
    for tick, row in zip(axes.get_yticklabels(), names, strict=False):
        if row == accent:
            tick.set_color(RED)
            tick.set_fontweight("bold")
        else:
            tick.set_color(INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="y", color=RULE, linewidth=0.6, linestyle=(0, (1, 2)))
    axes.grid(True, axis="x", color=RULE, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)
