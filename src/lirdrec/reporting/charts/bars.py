"""Grouped bar charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    series: str | None = None,
    *,
    panel: str | None = None,
    accent: Any = ACCENT,
    order: Sequence[Any] = (),
    x_order: Sequence[Any] = (),
    x_label: str = "",
    y_label: str | None = None,
    digits: int = 3,
    from_zero: bool = True,
    labels: Callable[[Any], str] = label,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """Grouped bar chart with error bars of ± one sd; values are written above the bars where there is room.

    Args:
        frame, name, panel, accent, order, labels, caption, alt: as in `lines`.
        x: column of the groups; x_order: their order; digits: decimals of the values above the bars.
        series: column of the bars in a group; None: one bar per group, colored by `x`.
        from_zero: start the axis at 0, since bars are compared by length; use False only for signed differences.
    """
    data = summarize(frame, [panel, x, series], y)
    with style():
        groups = names_of(data, x, x_order)
        names = names_of(data, series, order) if series else groups
        bar_styles = styles(names, accent)
        panels = Panels(data, panel, labels, columns=2 if len(groups) > 4 else 3)
        count = len(names) if series else 1
        width = 0.8 / count
        written_digits = digits if len(groups) * count <= 12 / len(panels) + 4 else None
        for axes, part in panels:
            for index, bar in enumerate(names):
                rows = part.filter(equals(series or x, bar))
                shift = (index - (count - 1) / 2) * width * bool(series)
                positions = [groups.index(group) + shift for group in rows[x]]
                axes.bar(
                    positions,
                    rows[MEAN].to_list(),
                    width * 0.92,
                    color=bar_styles[bar].color,
                    zorder=3,
                    label=labels(bar),
                )
                _draw_spread(axes, positions, rows, written_digits)
            _name_groups(axes, [labels(group) for group in groups], 60 / min(len(panels), 2))
            axes.margins(y=0.12)
            if from_zero and min(part[MEAN], default=0) >= 0:
                axes.set_ylim(bottom=0)
            else:
                axes.axhline(0, color=GRAY, linewidth=0.8, zorder=2)
        panels.name_axes(x, x_label, y, y_label)
        if series is not None and len(names) > 1:
            panels.legend(len(names))
    return Figure(name, panels.drawing, data, caption, alt)


def _draw_spread(axes: Axes, positions: Sequence[float], rows: pl.DataFrame, digits: int | None) -> None:
    """Draw error bars of ± one sd, and write the means beyond them; None: no text."""
    for position, mean, sd in zip(positions, rows[MEAN].to_list(), rows[SD].to_list(), strict=True):
        if sd:
            axes.plot([position] * 2, [mean - sd, mean + sd], color=INK, linewidth=1, zorder=5, solid_capstyle="butt")
        if digits is not None:
            axes.annotate(
                f"{mean:.{digits}f}",
                (position, mean + (sd or 0) if mean >= 0 else mean - (sd or 0)),
                (0, 3 if mean >= 0 else -3),
                textcoords="offset points",
                ha="center",
                va="bottom" if mean >= 0 else "top",
                fontsize=7.5,
                color=GRAY,
            )


def _name_groups(axes: Axes, texts: Sequence[str], room: float) -> None:
    """Write the groups' names below the axis, rotated where they need more than `room` letters."""
    axes.set_xticks(range(len(texts)), texts)
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    if max(map(len, texts)) * len(texts) > room:
        axes.tick_params(axis="x", rotation=35)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")
    axes.set_xlim(-0.6, len(texts) - 0.4)
