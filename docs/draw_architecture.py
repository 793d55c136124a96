"""Draws `architecture.svg`: python docs/draw_architecture.py."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 920, 866
INK, GRAY, LINE = "#1f2933", "#52606d", "#7b8794"
# folder: x, y, width, height, fill, edge, what it holds
BOXES = {
    "cli": (300, 168, 320, 58, "#eef1f4", "#9aa5b1", "the lirdrec command: parsing and tables"),
    "experiments": (80, 264, 250, 58, "#e3f4f4", "#2f8f93", "trials, tuning, locked test"),
    "server": (350, 264, 190, 58, "#e3f4f4", "#2f8f93", "HTTP, live items, page"),
    "export": (560, 264, 130, 58, "#e3f4f4", "#2f8f93", "files for others"),
    "hub": (710, 264, 130, 58, "#e3f4f4", "#2f8f93", "a model hub"),
    "recommender": (
        80,
        358,
        760,
        62,
        "#fdeee2",
        "#dd8544",
        "fit · Recommender · run folders · new items and users · explanations",
    ),
    "training": (80, 460, 240, 62, "#e8f0fc", "#4a7fcb", "sampling · the loop · checkpoints"),
    "evaluation": (345, 460, 230, 62, "#fbe9f0", "#c9588a", "all-ranking metrics"),
    "features": (600, 460, 240, 62, "#eaf6e0", "#6a9a35", "encoders · jobs · captions"),
    "models": (80, 562, 205, 62, "#efeafb", "#7c5cc4", "one model a file, its config"),
    "graphs": (80, 660, 160, 58, "#efeafb", "#7c5cc4", "sparse products"),
    "ranking": (260, 754, 200, 58, "#fdf6dc", "#c9a227", "Scorer · top-K ranker"),
    "data": (480, 754, 170, 58, "#e5f5ec", "#3f9b6b", "Dataset · readers"),
    "reporting": (670, 754, 170, 58, "#e5f5ec", "#3f9b6b", "tables · charts · pages"),
}
# from, to, x of a straight arrow downwards
IMPORTS = [
    ("cli", "experiments", 315),
    ("cli", "server", 445),
    ("cli", "export", 600),
    ("experiments", "recommender", 205),
    ("server", "recommender", 445),
    ("export", "recommender", 625),
    ("hub", "recommender", 775),
    ("recommender", "training", 200),
    ("recommender", "evaluation", 460),
    ("recommender", "features", 720),
    ("training", "models", 200),
    ("training", "ranking", 304),
    ("evaluation", "ranking", 400),
    ("evaluation", "data", 530),
    ("features", "data", 625),
    ("features", "reporting", 755),
    ("models", "graphs", 160),
    ("models", "ranking", 272),
]
# the stations of the data, with the folder that gives their color
STATIONS = [
    ("files, frames", None),
    ("Dataset", "data"),
    ("tensors", "recommender"),
    ("model", "models"),
    ("Scorer", "ranking"),
    ("metrics · top-K · reasons", "recommender"),
]


def text(x: float, y: float, words: str, size: int = 13, color: str = GRAY, extra: str = "") -> str:
    """One centered line."""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}" {extra}>{escape(words)}</text>'


def box(name: str) -> str:
    """A folder: its name and what it holds."""
    x, y, width, height, fill, edge, words = BOXES[name]
    middle = x + width / 2
    return "\n".join(
        [
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="9" fill="{fill}" stroke="{edge}"/>',
            text(middle, y + height / 2 - 5, f"{name}/", 16, INK, 'font-weight="600"'),
            text(middle, y + height / 2 + 15, words),
        ]
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight arrow."""
    return f'<path d="M{x1} {y1}L{x2} {y2}" stroke="{LINE}" stroke-width="1.6" marker-end="url(#tip)"/>'


def stations() -> list[str]:
    """The row of stations at the top: what the data become on their way."""
    parts, x, y, height, gap = [], 80.0, 62, 40, 28
    widths = [len(words) + 3.2 for words, _ in STATIONS]
    unit = (760 - gap * (len(STATIONS) - 1)) / sum(widths)
    for number, ((words, folder), share) in enumerate(zip(STATIONS, widths, strict=True)):
        width = share * unit
        fill, edge = (BOXES[folder][4], BOXES[folder][5]) if folder else ("#ffffff", "#9aa5b1")
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" rx="20" fill="{fill}" stroke="{edge}"/>'
        )
        parts.append(text(round(x + width / 2, 1), y + 25, words, 14, INK))
        x += width
        if number + 1 < len(STATIONS):
            parts.append(arrow(round(x + 4, 1), y + 20, round(x + gap - 5, 1), y + 20))
        x += gap
    return parts


def draw() -> str:
    """The drawing as SVG text."""
    arrows = [arrow(x, BOXES[above][1] + BOXES[above][3] + 2, x, BOXES[below][1] - 3) for above, below, x in IMPORTS]
    left = 'font-weight="600" text-anchor="start"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            ' font-family="Inter, Helvetica, Arial, DejaVu Sans, sans-serif" text-anchor="middle" role="img">',
            "<title>lirdrec: what the data become, and which folder imports which</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="14" fill="#ffffff"/>',
            text(80, 42, "What the data become", 14, GRAY, left),
            *stations(),
            text(80, 150, "Which folder imports which", 14, GRAY, left),
            *map(box, BOXES),
            *arrows,
            text(
                460,
                844,
                "a folder may import those below it; every folder may import errors, config, files and devices",
                13,
                GRAY,
            ),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    Path(__file__).with_name("architecture.svg").write_text(draw(), encoding="utf-8", newline="\n")
