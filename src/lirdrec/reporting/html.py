"""HTML page of a report: one self-contained file with style and drawings inside; no scripts, fonts or network access.

The page is made from the template `templates/report.html.j2`; this module has its parts (cards), the functions that
the template calls (filters), and the colors.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError
from lirdrec.reporting.figure import COLORS, GRAY, GROUND, INK, RED, RULE, Figure

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

PAGE = "report.html.j2"
LONG = 160  # characters; if a text of a grid is longer, images are beside the texts


@dataclass(frozen=True)
class Card:
    """The card of one item on the page of a report: its name, a text, an image and facts.

    Attributes:
        title: name of the item.
        text: shown unchanged, with its line breaks.
        image: a JPEG, PNG or WebP file; None: a placeholder, or nothing if no card of the grid has an image.
        badges: short texts, such as "0.93" or "no text".
        lines: (name, value) pairs, listed at the end of the card.

    Raises:
        ConfigError: the image has a format other than these three.
    """

    title: str
    text: str = ""
    image: bytes | None = None
    badges: Sequence[str] = ()
    lines: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if self.image is not None and not _image_format(self.image):
            raise ConfigError(f"the image of '{self.title}' is not a JPEG, PNG or WebP file; convert it first")

    def data_uri(self) -> str:
        """Return the image as a `data:` address, for an `<img>` element."""
        assert self.image is not None
        return f"data:image/{_image_format(self.image)};base64,{base64.b64encode(self.image).decode()}"


@dataclass(frozen=True)
class Cards:
    """A grid of cards; it appears only on the HTML page and has no file of its own.

    Attributes:
        cards: the items in order.
        caption: one or two sentences below the grid, with markup as in `inline`.
        name: the HTML id of the grid is `cards-NAME`; "": no id.
        lead: a card shown before the others, such as the query of search results.
    """

    cards: Sequence[Card]
    caption: str = ""
    name: str = ""
    lead: Card | None = None

    def has_long_texts(self) -> bool:
        """Return whether any card has a text of more than `LONG` characters."""
        return any(len(card.text) > LONG for card in (*self.cards, self.lead) if card)

    def has_images(self) -> bool:
        """Return whether any card has an image."""
        return any(card.image is not None for card in (*self.cards, self.lead) if card)


def _image_format(content: bytes) -> str:
    """Return the format of an image by its first bytes: "jpeg", "png" or "webp"; "" for other formats."""
    starts = {"jpeg": rb"\xff\xd8\xff", "png": rb"\x89PNG\r\n\x1a\n", "webp": rb"RIFF....WEBP"}
    return next((kind for kind, start in starts.items() if re.match(start, content, re.DOTALL)), "")


# color of drawings → CSS variable of the page; each variable has a value for light pages and one for dark pages
_VARIABLES = {INK: "ink", GRAY: "gray", RULE: "rule", RED: "accent", **{c: f"c{n}" for n, c in enumerate(COLORS)}}
_DARK_VALUES = "#e6eaee #9aa6b2 #333d48 #ff8055 #5fb0ea #35c79c #dd8fc6 #e0aa3e #8fd0f5 #aa9df0 #a9b4be"
_DARK = dict(zip(_VARIABLES, _DARK_VALUES.split(), strict=True))


def render(**variables: Any) -> str:
    """Return the HTML page of a report: the template, filled with `variables`.

    `variables` are `report`, `environment`, `version` and `alone` (true: no other files are written beside the page).
    """
    light = "".join(f"--{name}:{color};" for color, name in _VARIABLES.items())
    dark = "".join(f"--{_VARIABLES[color]}:{value};" for color, value in _DARK.items())
    light += "--ground:#ffffff;--soft:#f5f7f9;--tint:#fdf1ec;--shade:#0c18242e;"
    dark += "--ground:#14191f;--soft:#1c232b;--tint:#2b201c;--shade:#000000b0;"
    return template(PAGE).render(light=light, dark=dark, **variables)


@cache
def template(name: str) -> Template:
    """Return a template (by its file name) of this package, with the filters of this module."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("lirdrec.reporting"), autoescape=True)
    environment.keep_trailing_newline = name == PAGE
    environment.trim_blocks = environment.lstrip_blocks = name != PAGE
    environment.filters.update(inline=inline, prose=prose, drawing=drawing, plain=_plain)
    return environment.get_template(name)


def drawing(figure: Figure) -> Markup:
    """Return the SVG of a figure for the page of a report.

    Its ids become unique on the page, its colors become CSS variables; namespaces and metadata are removed.
    """
    from markupsafe import Markup, escape

    svg = figure.image("svg").decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    # ids must be unique on the page: prefix those in use with the figure's name, drop the others
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{figure.name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{figure.name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{figure.name}-", svg)
    # the page gives the background
    svg = re.sub(rf'(<g>\s*<path d="[^"]*" )style="fill: {GROUND}"', r'\1style="fill: none"', svg, count=1)
    for color, name in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{name})")
    svg = svg.replace(GROUND, "var(--ground)").replace("'DejaVu Sans', ", "")
    width = re.search(r'<svg [^>]*?width="([\d.]+)pt"', svg)
    pixels = float(width[1]) * 4 / 3 if width else 700
    for size in ("height", "width"):
        svg = re.sub(rf'(<svg [^>]*?){size}="[^"]*"', r"\1", svg, count=1)
    alt = escape(figure.alt or figure.caption or figure.name)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{alt}" style="max-width:{pixels:.0f}px"', 1))


def prose(text: str) -> Markup:
    """Convert a text to HTML: blank lines separate paragraphs, lines that start with "- " make a list; see `inline`."""
    from markupsafe import Markup

    parts = []
    for part in re.split(r"\n\s*\n", text.strip()):
        rows = [row.strip() for row in part.strip().splitlines()]
        if rows and all(row.startswith("- ") for row in rows):
            parts.append("<ul>" + "".join(f"<li>{inline(row[2:])}</li>" for row in rows) + "</ul>")
        elif part.strip():
            parts.append(f"<p>{inline(' '.join(rows))}</p>")
    return Markup("\n".join(parts))


def inline(text: str) -> Markup:
    """Convert `code`, **bold**, *italic* and [words](address) in a text to HTML; everything else is escaped."""
    from markupsafe import Markup

    codes: list[str] = []

    def keep(match: re.Match[str]) -> str:
        codes.append(f"<code>{match[1]}</code>")
        return f"\0{len(codes) - 1}\0"

    markup = re.sub(r"`([^`]+)`", keep, html.escape(text, quote=False))
    markup = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", markup)
    markup = re.sub(r"(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?![\w*])", r"<em>\1</em>", markup)
    markup = re.sub(r"\[([^\]]+)\]\((https?://[^)\s\"]+|#?[\w./-]+)\)", r'<a href="\2">\1</a>', markup)
    return Markup(re.sub(r"\0(\d+)\0", lambda match: codes[int(match[1])], markup))


def _plain(value: Any) -> str:
    """Return the value of a setting as text; a value may be a dict or a list."""
    if isinstance(value, Mapping):
        if any(isinstance(inner, (list, tuple)) for inner in value.values()):
            return "; ".join(f"{key}: {_plain(inner)}" for key, inner in value.items())
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return "–" if value is None else str(value)
