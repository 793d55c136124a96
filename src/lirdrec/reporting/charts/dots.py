"""A row a name: dots with whiskers, the figure at the right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.reporting.charts.chart_data import MEAN, SD, names_of, place_of, summarised, where
from lirdrec.reporting.charts.panels import Panels, write_right
from lirdrec.reporting.figure import ACCENT, GREY, INK, RED, RULE, Figure, style, styles
from lirdrec.reporting.formatting import label
from lirdrec.reporting.statistics import Measure

if TYPE_CHECKING:
    import polars as pl


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
    """A row a name: a dot at its mean, a whisker of ± one sd, the figure written at the right.

    Args:
        frame, name, panel, order, labels, caption, alt: as in `chart_lines.lines`.
        rows: column of the names; value: column of the figures.
        series: column of the dots in a row (such as two sets of features); a dot each, in colours of their own.
        accent: the row (or series) in the accent colour.
        row_order: from the top; sort: where it says nothing, the rows with the greatest mean over all come first.
        low, high: columns with the ends of the whiskers (a confidence interval) instead of ± sd; give one row a dot.
        reference: a vertical line, such as 0 for differences.
        x_label: default the column's name.
        digits: of the written figures.
    """
    if (low is None) != (high is None):
        raise ConfigError("dots needs both ends of the whiskers, low and high, or neither")
    data = summarised(frame, [panel, rows, series], value, also=[one for one in (low, high) if one])
    with style():
        means = {one: Measure.of(data.filter(where(rows, one))[MEAN]) for one in names_of(data, rows, row_order)}
        tops = {one: measure.mean if measure else -math.inf for one, measure in means.items()}
        listed = list(row_order)
        names = sorted(tops, key=lambda one: (place_of(one, listed), -tops[one] if sort else 0))
        kinds = names_of(data, series, order) if series else []
        looks = styles(kinds if series else names, accent)
        height = len(names) * (0.27 if len(kinds) < 3 else 0.15 * len(kinds)) + 0.75
        panels = Panels.of(data, panel, labels, row_height=max(1.4, height), names_left=True)
        left = panels.left()
        for axes, part in panels:
            for kind in kinds or [None]:
                apart = min(0.26, 0.7 / len(kinds)) if kinds else 0.0
                shift = (kinds.index(kind) - (len(kinds) - 1) / 2) * apart if kind is not None else 0.0
                for record in (part if kind is None else part.filter(where(str(series), kind))).iter_rows(named=True):
                    mean, sd, at = record[MEAN], record[SD] or 0.0, names.index(record[rows]) + shift
                    ends = (record[low], record[high]) if low and high else (mean - sd, mean + sd)
                    look = looks[record[rows] if kind is None else kind]
                    size = 6 if look.marker == "o" else 5.2
                    axes.plot(ends, [at] * 2, color=look.colour, linewidth=1.8, alpha=0.55, zorder=3)
                    axes.plot(mean, at, look.marker, color=look.colour, markersize=size, zorder=4)
                    if kind is None:
                        main = record[rows] == accent
                        said = f"{mean:.{digits}f}".replace("-", "−")
                        write_right(axes, at, said, 4, look.colour if main else GREY, main)
                if kind is not None:
                    axes.plot([], [], "o", color=looks[kind].colour, markersize=6, label=labels(kind))
            if reference is not None:
                axes.axvline(reference, color=GREY, linewidth=0.9, zorder=2)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_yticks(range(len(names)), [labels(one) for one in names] if axes in left else [])
            for tick, one in zip(axes.get_yticklabels(), names, strict=False):
                if one == accent:
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
        panels.name_x(value, x_label)
        if len(kinds) > 1:
            panels.legend(len(kinds))
    return Figure(name, panels.drawing, data, caption, alt)
