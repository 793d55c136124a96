"""A figure: a drawing with the numbers in it, written as SVG, PNG or PDF and as CSV, and figures drawn by hand.

Figures of a usual kind are drawn by `chart_lines`, `chart_bars`, `chart_dots`, `chart_points` and `chart_heatmap`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lirdrec.reporting.style import WIDTH, style

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True, eq=False)
class Figure:
    """A drawing with the numbers in it.

    Attributes:
        name: stem of its files.
        drawing: the matplotlib figure.
        data: what is drawn, means and spreads; None: not written.
        caption: one or two sentences below it.
        alt: what it shows, for those who cannot see it; default the caption.
    """

    name: str
    drawing: Drawing
    data: pl.DataFrame | None = None
    caption: str = ""
    alt: str = ""

    def image(self, kind: str = "svg") -> bytes:
        """The drawing as "svg", "png" or "pdf"; the same drawing gives the same bytes."""
        buffer = io.BytesIO()
        nothing: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with style():
            if self.drawing.get_layout_engine() is not None:
                # laid out once: every further draw would move things a little
                self.drawing.draw_without_rendering()
                self.drawing.set_layout_engine(None)
            self.drawing.savefig(buffer, format=kind, metadata=nothing, dpi=200)
        return buffer.getvalue()


def drawn(
    name: str,
    draw: Callable[[Drawing], None],
    *,
    size: tuple[float, float] = (WIDTH, 3.0),
    data: pl.DataFrame | None = None,
    caption: str = "",
    alt: str = "",
) -> Figure:
    """A figure of your own in the style of the others: `draw` gets an empty matplotlib figure of `size` inches.

    Use `styles`, `INK`, `GREY` and `RULE` of `style` for colours, and no pyplot.
    """
    with style():
        drawing = empty(*size)
        draw(drawing)
    return Figure(name, drawing, data, caption, alt)


def empty(width: float, height: float) -> Drawing:
    """A matplotlib figure of so many inches with nothing in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    gaps = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.04, hspace=0.06)
    drawing = Drawing(figsize=(width, height), layout=gaps)
    FigureCanvasAgg(drawing)
    return drawing
