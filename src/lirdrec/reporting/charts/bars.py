"""Grouped bar charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.reporting.charts.panels import MEAN, SD, Panels, equals, names_of, summarize
from lirdrec.reporting.figure import ACCENT, GRAY, INK, Figure, style, styles
from lirdrec.reporting.formatting import label

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes


def bars(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str = "value",
    *,
    series: str,
    panel: str | None = None,
    accent: Any = ACCENT,
    y_label: str | None = None,
    caption: str = "",
) -> Figure:
    """Return a grouped bar chart of means over the runs, with error bars of ± one standard deviation (sd).

    The means are written above the bars where there is room.

    Args:
        frame, name, panel, accent, y_label, caption: as in `lines`.
        x: column with a group of bars for each value.
        y: column of the values.
        series: column with a bar in each group for each value.
    """
    data = summarize(frame, [panel, x, series], y)
    with style():
        groups, names = names_of(data, x), names_of(data, series)
        bar_styles = styles(names, accent)
        panels = Panels(data, panel, columns=2 if len(groups) > 4 else 3)
        width = 0.8 / len(names)
        are_written = len(groups) * len(names) <= 12 / len(panels) + 4
        for axes, part in panels:
            for index, bar in enumerate(names):
                rows = part.filter(equals(series, bar))
                shift = (index - (len(names) - 1) / 2) * width
                positions = [groups.index(group) + shift for group in rows[x]]
                axes.bar(
                    positions,
                    rows[MEAN].to_list(),
                    width * 0.92,
                    color=bar_styles[bar].color,
                    zorder=3,
                    label=label(bar),
                )
                _draw_spread(axes, positions, rows, are_written)
            _name_groups(axes, [label(group) for group in groups], 60 / min(len(panels), 2))
            axes.margins(y=0.12)
            if min(part[MEAN], default=0) >= 0:
                axes.set_ylim(bottom=0)
            else:
                axes.axhline(0, color=GRAY, linewidth=0.8, zorder=2)
        panels.name_axes(x, "", y, y_label)
        if len(names) > 1:
            panels.legend(len(names))
    return Figure(name, panels.drawing, data, caption)


def _draw_spread(axes: Axes, positions: Sequence[float], rows: pl.DataFrame, are_written: bool) -> None:
    """Draw error bars of ± one sd; if `are_written`, write the means beyond the ends of the error bars."""
    for position, mean, sd in zip(positions, rows[MEAN].to_list(), rows[SD].to_list(), strict=True):
        if sd:
            axes.plot([position] * 2, [mean - sd, mean + sd], color=INK, linewidth=1, zorder=5, solid_capstyle="butt")
        if are_written:
            axes.annotate(
                f"{mean:.3f}",
                (position, mean + (sd or 0) if mean >= 0 else mean - (sd or 0)),
                (0, 3 if mean >= 0 else -3),
                textcoords="offset points",
                ha="center",
                va="bottom" if mean >= 0 else "top",
                fontsize=7.5,
                color=GRAY,
            )


def _name_groups(axes: Axes, texts: Sequence[str], room: float) -> None:
    """Write the groups' names below the axis; rotate all of them if they need more room than `room` letters."""
    axes.set_xticks(range(len(texts)), texts)
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    if max(map(len, texts)) * len(texts) > room:
        axes.tick_params(axis="x", rotation=35)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")
    axes.set_xlim(-0.6, len(texts) - 0.4)
