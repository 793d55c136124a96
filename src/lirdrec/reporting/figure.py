"""Figures (matplotlib drawings with their data), and the style shared by all charts.

Each model has one color in all figures of all reports; the `accent` (default: LIRDRec) is red. If there are more names
than colors, lines also differ in their dashes. The colors are close to Okabe and Ito's palette for color-blind readers;
on a dark page the module `html` replaces them with lighter colors.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure as Drawing

STYLE = Path(__file__).with_name("charts.mplstyle")
ACCENT = "lirdrec"
INK, GRAY, RULE, GROUND = "#1c2530", "#5d6875", "#d9dee4", "#ffffff"
RED = "#c8401a"
COLORS = ("#0b6bb0", "#00805f", "#a3508a", "#b07400", "#3d9bd1", "#6c5bb5", "#7a8794")
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.6)), (0, (1.2, 1.4)))
MARKERS = ("o", "s", "D")
# known models, each with the color and dash at its position; models that are often shown together come first
PLACES = (
    *("freedom", "lattice", "bm3", "vbpr", "lightgcn", "lgmrec", "popularity"),
    *("slmrec", "micro", "grcn", "ease", "mf", "item_knn", "random", "content_knn", "cease", "add_ease"),
    *("l3ae", "mgcn", "smore", "cohesion"),
)
WIDTH = 7.2  # width of a figure in inches


@dataclass(frozen=True)
class Style:
    """Color, dash and marker of a series (a line, or the points or bars of one name)."""

    color: str
    dash: Any = "solid"
    marker: str = "o"


def styles(names: Sequence[Any], accent: Any = ACCENT) -> dict[Any, Style]:
    """Return a style for each name: red for `accent`, a fixed one for a known model, an unused one for other names."""
    palette = [Style(c, d, m) for d, m in zip(DASHES, MARKERS, strict=True) for c in COLORS]
    known = dict(zip(PLACES, palette, strict=False))
    chosen = {name: known[name] for name in names if name in known} | ({accent: Style(RED)} if accent in names else {})
    free = [candidate for candidate in palette if candidate not in chosen.values()]
    for name in names:
        if name not in chosen:
            chosen[name] = free.pop(0) if free else Style(GRAY, "dotted")
    return chosen


@contextmanager
def style() -> Iterator[None]:
    """Apply the style of all charts inside a `with` block, for code that draws with matplotlib directly."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore the user's own style
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(STYLE, use_default_template=False))
        yield


@dataclass(frozen=True, eq=False)
class Figure:
    """A matplotlib drawing with its data and caption.

    Attributes:
        name: name of the figure's files, without their ending.
        drawing: the matplotlib figure.
        data: the values drawn (means and sds), written as CSV; None: no CSV.
        caption: one or two sentences below the figure.
        alt: alternative text for screen readers; default: the caption.
    """

    name: str
    drawing: Drawing
    data: pl.DataFrame | None = None
    caption: str = ""
    alt: str = ""

    def image(self, kind: str = "svg") -> bytes:
        """Return the drawing as an "svg", "png" or "pdf" file; the same drawing always gives the same bytes."""
        buffer = io.BytesIO()
        no_date: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with style():
            if self.drawing.get_layout_engine() is not None:
                # the layout runs once: each further draw would shift it slightly
                self.drawing.draw_without_rendering()
                self.drawing.set_layout_engine(None)
            self.drawing.savefig(buffer, format=kind, metadata=no_date, dpi=200)
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
    """Return a custom figure in the style of all charts: `draw` draws into the empty matplotlib figure that it gets.

    `size` is the width and height in inches; the other arguments are those of `Figure`. In `draw`, take colors from
    `styles`, `INK`, `GRAY` and `RULE`, and do not use pyplot.
    """
    with style():
        drawing = empty(*size)
        draw(drawing)
    return Figure(name, drawing, data, caption, alt)


def empty(width: float, height: float) -> Drawing:
    """Return an empty matplotlib figure; `width` and `height` are in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    gaps = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.04, hspace=0.06)
    drawing = Drawing(figsize=(width, height), layout=gaps)
    FigureCanvasAgg(drawing)
    return drawing
