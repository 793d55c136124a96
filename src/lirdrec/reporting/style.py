"""The one look of all figures: white ground, few lines, one colour a model everywhere.

Colours belong to names, not to places: FREEDOM is the same blue in every figure of every report, and what the report is
about (`accent`, LIRDRec unless said otherwise) has the one warm red. More names than colours: lines get dashes, too.
The colours are near Okabe and Ito's, distinguishable with any colour vision; `html` swaps them for lighter ones on a
dark page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ACCENT = "lirdrec"
INK, GREY, RULE, GROUND = "#1c2530", "#5d6875", "#d9dee4", "#ffffff"
RED = "#c8401a"
COLOURS = ("#0b6bb0", "#00805f", "#a3508a", "#b07400", "#3d9bd1", "#6c5bb5", "#7a8794")
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.6)), (0, (1.2, 1.4)))
MARKERS = ("o", "s", "D")
# place of known models among colours × dashes, the ones most often shown together first
PLACES = (
    *("freedom", "lattice", "bm3", "vbpr", "lightgcn", "lgmrec", "popularity"),
    *("slmrec", "micro", "grcn", "ease", "mf", "item_knn", "random", "content_knn", "cease", "add_ease"),
)
WIDTH = 7.2  # inches, of a whole figure


@dataclass(frozen=True)
class Style:
    """How a name is drawn."""

    colour: str
    dash: Any = "solid"
    marker: str = "o"


def styles(names: Sequence[Any], accent: Any = ACCENT) -> dict[Any, Style]:
    """A style for each name: `accent` red, known models their own, others what is left, in order."""
    free = [Style(c, d, m) for d, m in zip(DASHES, MARKERS, strict=True) for c in COLOURS]
    known = {name: free[place] for place, name in enumerate(PLACES)}
    made = {name: Style(RED) if name == accent else known[name] for name in names if name == accent or name in known}
    left = [one for one in free if one not in made.values()]
    for name in names:
        if name not in made:
            made[name] = left.pop(0) if left else Style(GREY, "dotted")
    return made


@contextmanager
def style() -> Iterator[None]:
    """The one look of all figures, for code that draws with matplotlib directly."""
    import matplotlib

    settings: dict[str, Any] = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": GREY,
        "axes.labelsize": 8.5,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.edgecolor": GREY,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "axes.facecolor": "none",
        "axes.formatter.useoffset": False,
        "figure.facecolor": GROUND,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "legend.fontsize": 8.5,
        "svg.fonttype": "none",  # letters stay letters: searchable, in the page's colours
        "svg.hashsalt": "lirdrec",
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own style is
        matplotlib.rcParams.update(settings)  # type: ignore[arg-type]  # its stubs know only literal names
        yield
