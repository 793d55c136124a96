"""Heat maps: values over a grid of two settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.reporting.charts.panels import MEAN, Panels, names_of, summarize
from lirdrec.reporting.figure import RED, Figure, style
from lirdrec.reporting.formatting import label

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes


def heatmap(
    frame: pl.DataFrame,
    name: str,
    x: str,
    y: str,
    value: str = "value",
    *,
    panel: str | None = None,
    x_order: Sequence[Any] = (),
    y_order: Sequence[Any] = (),
    x_label: str | None = None,
    y_label: str | None = None,
    digits: int = 4,
    better: str | None = "higher",
    labels: Callable[[Any], str] = label,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """Heat map over a grid of two settings: each cell shows its mean; the best cell of a panel is framed.

    Args:
        frame, name, panel, labels, caption, alt: as in `lines`.
        x, y: columns of the grid's columns and rows; value: column of the values.
        x_order, y_order: default: numbers ascending, texts in order of appearance; y from the top.
        better: "higher", "lower" or None: which values are best, and darkest.
    """
    from matplotlib.colors import LinearSegmentedColormap

    data = summarize(frame, [panel, y, x], value)
    with style():
        shades = LinearSegmentedColormap.from_list("shades", ["#f3f7fa", "#a9cbe4", "#4c93c7", "#0b5a96", "#083a63"])
        across, down = _grid(data, x, x_order), _grid(data, y, y_order)
        height = 0.36 * len(down) + 0.85
        panels = Panels(data, panel, labels, row_height=height, columns=1 if len(across) > 6 else 2, grid=False)
        for axes, part in panels:
            cells = {
                (down.index(record[y]), across.index(record[x])): record[MEAN] for record in part.iter_rows(named=True)
            }
            _draw_cells(axes, cells, shades, better, digits)
            axes.set_xlim(-0.5, len(across) - 0.5)
            axes.set_ylim(len(down) - 0.5, -0.5)
            axes.set_xticks(range(len(across)), [_short(name, labels) for name in across])
            axes.set_yticks(range(len(down)), [_short(name, labels) for name in down])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        panels.name_axes(x, x_label, y, y_label)
    return Figure(name, panels.drawing, data, caption, alt)


def _draw_cells(
    axes: Axes, cells: Mapping[tuple[int, int], float], shades: Callable[[float], Any], better: str | None, digits: int
) -> None:
    """Shade and label the cells of a panel, (row, column) → value; frame the best."""
    from matplotlib.patches import Rectangle

    least, most = min(cells.values()), max(cells.values())
    best = {"higher": most, "lower": least}.get(better or "")
    for (row, column), value in sorted(cells.items()):
        share = (value - least) / (most - least) if most > least else 0.5
        share = 1 - share if better == "lower" else share
        corner = (column - 0.48, row - 0.48)
        axes.add_patch(Rectangle(corner, 0.96, 0.96, facecolor=shades(share), edgecolor="none", linewidth=0, zorder=1))
        axes.text(
            column,
            row,
            f"{value:.{digits}f}",
            ha="center",
            va="center",
            fontsize=8,
            color="#fefefe" if share > 0.5 else "#10202e",
            fontweight="bold" if value == best else "normal",
        )
    for (row, column), value in cells.items():
        if value == best and len(cells) > 1:
            corner = (column - 0.465, row - 0.465)
            axes.add_patch(Rectangle(corner, 0.93, 0.93, facecolor="none", edgecolor=RED, linewidth=1.8, zorder=2))


def _grid(data: pl.DataFrame, column: str, order: Sequence[Any]) -> list[Any]:
    names = names_of(data, column, order)
    return sorted(names) if not order and data[column].dtype.is_numeric() else names


def _short(value: Any, labels: Callable[[Any], str]) -> str:
    if not isinstance(value, float):
        return labels(value)
    return f"{value:g}" if value == 0 or abs(value) >= 0.01 else f"{value:.0e}".replace("e-0", "e-")
