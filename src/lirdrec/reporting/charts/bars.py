"""Grouped bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.reporting.charts.chart_data import MEAN, SD, names_of, summarised, where
from lirdrec.reporting.charts.panels import Panels
from lirdrec.reporting.figure import ACCENT, GREY, INK, Figure, style, styles
from lirdrec.reporting.formatting import label

if TYPE_CHECKING:
    import polars as pl


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
    """Grouped bars with whiskers of ± one sd; values are written above where there is room.

    Args:
        frame, name, panel, accent, order, labels, caption, alt: as in `chart_lines.lines`.
        x: column of the groups; series: column of the bars in a group. Without series a bar a group, coloured by x.
        x_order: of the groups.
        digits: of the values above the bars.
        from_zero: the axis begins at 0 (bars are compared by length); False only for differences of either sign.
    """
    data = summarised(frame, [panel, x, series], y)
    with style():
        groups = names_of(data, x, x_order)
        names = names_of(data, series, order) if series else groups
        looks = styles(names, accent)
        legend = series is not None and len(names) > 1
        panels = Panels.of(data, panel, labels, columns=2 if len(groups) > 4 else 3)
        for axes, part in panels:
            count = len(names) if series else 1
            width = 0.8 / count
            for place, one in enumerate(names):
                rows = part.filter(where(series or x, one))
                at = [groups.index(g) + (place - (count - 1) / 2) * width * bool(series) for g in rows[x]]
                means, spread = rows[MEAN].to_list(), rows[SD].to_list()
                axes.bar(at, means, width * 0.92, color=looks[one].colour, zorder=3, label=labels(one))
                for a, m, sd in zip(at, means, spread, strict=True):
                    if sd:
                        axes.plot([a, a], [m - sd, m + sd], color=INK, linewidth=1, zorder=5, solid_capstyle="butt")
                    if len(groups) * count <= 12 / len(panels) + 4:
                        tip = (m + (sd or 0)) if m >= 0 else (m - (sd or 0))
                        axes.annotate(
                            f"{m:.{digits}f}",
                            (a, tip),
                            (0, 3 if m >= 0 else -3),
                            textcoords="offset points",
                            ha="center",
                            va="bottom" if m >= 0 else "top",
                            fontsize=7.5,
                            color=GREY,
                        )
            axes.set_xticks(range(len(groups)), [labels(group) for group in groups])
            axes.tick_params(axis="x", length=0, labelcolor=INK)
            if max(len(labels(group)) for group in groups) * len(groups) > 60 / min(len(panels), 2):
                axes.tick_params(axis="x", rotation=35)
                for tick in axes.get_xticklabels():
                    tick.set_horizontalalignment("right")
                    tick.set_rotation_mode("anchor")
            axes.set_xlim(-0.6, len(groups) - 0.4)
            axes.margins(y=0.12)
            if from_zero and min(part[MEAN], default=0) >= 0:
                axes.set_ylim(bottom=0)
            else:
                axes.axhline(0, color=GREY, linewidth=0.8, zorder=2)
        panels.name_x(x, x_label)
        panels.name_y(y, y_label)
        if legend:
            panels.legend(len(names))
    return Figure(name, panels.drawing, data, caption, alt)
