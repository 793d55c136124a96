"""Lines over a number or over steps, each named at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lirdrec.reporting.charts.chart_data import MEAN, SD, names_of, summarised, where
from lirdrec.reporting.charts.panels import Panels, write_right
from lirdrec.reporting.figure import ACCENT, GROUND, RED, Figure, Style, style, styles
from lirdrec.reporting.formatting import label

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes


class _End(NamedTuple):
    """Where a line ends, and what to write there."""

    x: float
    y: float
    text: str
    colour: str
    bold: bool


def lines(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str = "value",
    series: str | None = None,
    *,
    panel: str | None = None,
    accent: Any = ACCENT,
    order: Sequence[Any] = (),
    x_label: str | None = None,
    y_label: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    points: bool | None = None,
    share_y: bool = False,
    labels: Callable[[Any], str] = label,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """Lines over a number, each with its name at its end and a band of ± one sd over the runs.

    Args:
        frame: tidy rows; None and NaN are left out.
        name: stem of the figure's files.
        x, y: columns of the axes. A text column x is drawn as equal steps in order of appearance.
        series: column whose values are the lines.
        panel: column whose values get a panel each.
        accent: the series that has the accent colour and lies on top.
        order: of the series.
        x_label, y_label: default the columns' names.
        log_x, log_y: logarithmic axes.
        points: mark each value; default: where a line has 12 or fewer.
        share_y: the same y-axis in all panels.
        labels: how to print names.
        caption, alt: see Figure.
    """
    data = summarised(frame, [panel, series, x], y)
    names = names_of(data, series, order)
    with style():
        panels = Panels.of(data, panel, labels, share_y=share_y, names_right=len(names) if series else 0)
        looks = styles(names, accent)
        for axes, part in panels:
            ends = []
            ticks = _steps(part, x)
            for one in names_of(part, series, order):
                rows = part if series is None else part.filter(where(series, one))
                rows = rows if ticks else rows.sort(x)
                across = [ticks.index(v) for v in rows[x]] if ticks else rows[x].to_list()
                means, spread = rows[MEAN].to_list(), rows[SD].to_list()
                look = looks[one] if series else Style(RED)
                top = one == accent
                marked = points if points is not None else len(across) <= 12
                axes.plot(
                    across,
                    means,
                    color=look.colour,
                    linestyle=look.dash,
                    linewidth=2.2 if top else 1.5,
                    marker=look.marker if marked else "",
                    markersize=4.5,
                    markeredgecolor=GROUND,
                    markeredgewidth=0.6,
                    clip_on=False,
                    zorder=4 if top else 3,
                )
                if any(sd is not None for sd in spread):
                    low = [m - (sd or 0) for m, sd in zip(means, spread, strict=True)]
                    high = [m + (sd or 0) for m, sd in zip(means, spread, strict=True)]
                    axes.fill_between(across, low, high, color=look.colour, alpha=0.13, linewidth=0, zorder=2)
                if across:
                    ends.append(_End(across[-1], means[-1], labels(one), look.colour, top))
            if log_x:
                axes.set_xscale("log")
            if log_y:
                axes.set_yscale("log")
            if ticks:
                axes.set_xticks(range(len(ticks)), [labels(tick) for tick in ticks])
            elif not log_x and part[x].dtype.is_integer():
                from matplotlib.ticker import MaxNLocator

                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if series:
                _end_labels(axes, ends, log_y)
        panels.name_x(x, x_label)
        panels.name_y(y, y_label)
    return Figure(name, panels.drawing, data, caption, alt)


def _end_labels(axes: Axes, ends: Sequence[_End], log: bool) -> None:
    """Names at the right ends of the lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    if log:
        low, high = math.log10(low), math.log10(high)
    from matplotlib.figure import Figure as Drawing

    place, drawing = axes.get_subplotspec(), axes.figure
    assert place is not None and isinstance(drawing, Drawing)  # every panel is a subplot of a whole figure
    inches = drawing.get_size_inches()[1] / place.get_gridspec().nrows
    step = (high - low) * 0.135 / max(0.5, inches - 0.85)  # one line of small type
    ordered = sorted(ends, key=lambda end: end.y)
    wanted = [math.log10(end.y) if log and end.y > 0 else end.y for end in ordered]
    for end, height in zip(ordered, apart(wanted, step), strict=True):
        write_right(axes, 10**height if log else height, end.text, 5, end.colour, end.bold)
    axes.set_ylim(*((10**low, 10**high) if log else (low, high)))
    left, right = axes.get_xlim()
    axes.set_xlim(left, max((end.x for end in ends), default=right) if axes.get_xscale() == "linear" else right)


def apart(wanted: Sequence[float], step: float) -> list[float]:
    """Rising places as near as possible to the wanted ones (rising), at least `step` apart (least squares)."""
    groups: list[tuple[float, int]] = []  # (middle, members), members `step` apart around the middle
    for place in wanted:
        middle, members = place, 1
        while groups and middle - (members - 1) / 2 * step - (groups[-1][0] + (groups[-1][1] - 1) / 2 * step) < step:
            before, count = groups.pop()
            middle, members = (before * count + middle * members) / (count + members), count + members
        groups.append((middle, members))
    return [middle + (at - (members - 1) / 2) * step for middle, members in groups for at in range(members)]


def _steps(part: pl.DataFrame, x: str) -> list[Any]:
    """The places of a text axis; none for numbers."""
    return [] if part[x].dtype.is_numeric() else part[x].unique(maintain_order=True).to_list()
