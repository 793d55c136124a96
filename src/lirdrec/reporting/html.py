"""HTML page of a report: one self-contained file with style and drawings inside; no scripts, fonts or network access.

The page is the template `templates/report.html.j2`; this module has its cards, filters and colors.
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
LONG = 160  # characters: with longer texts, the image is beside the text


@dataclass(frozen=True)
class Card:
    """One item.

    Attributes:
        title: name of the item.
        text: shown unchanged, with its line breaks.
        image: a JPEG, PNG or WebP file; None: a placeholder, or nothing if no card of the grid has an image.
        badges: short texts, such as "0.93" or "no text".
        lines: (name, value) pairs.

    Raises:
        ConfigError: the image has another format.
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
        """The image as the address of an `<img>` element."""
        assert self.image is not None
        return f"data:image/{_image_format(self.image)};base64,{base64.b64encode(self.image).decode()}"


@dataclass(frozen=True)
class Cards:
    """A grid of cards; on the page only, not written as a file.

    Attributes:
        cards: the items in order.
        caption: one or two sentences below the grid, with markup as in `inline`.
        name: the grid's anchor is `cards-NAME`; "": no anchor.
        lead: a card shown before the others, such as the query of search results.
    """

    cards: Sequence[Card]
    caption: str = ""
    name: str = ""
    lead: Card | None = None

    def has_long_texts(self) -> bool:
        """Whether any card has a text longer than `LONG`."""
        return any(len(card.text) > LONG for card in (*self.cards, self.lead) if card)

    def has_images(self) -> bool:
        """Whether any card has an image."""
        return any(card.image is not None for card in (*self.cards, self.lead) if card)


def _image_format(content: bytes) -> str:
    """`jpeg`, `png` or `webp` by the first bytes; "" for other formats."""
    starts = {"jpeg": rb"\xff\xd8\xff", "png": rb"\x89PNG\r\n\x1a\n", "webp": rb"RIFF....WEBP"}
    return next((kind for kind, start in starts.items() if re.match(start, content, re.DOTALL)), "")


# colors of drawings → CSS variables of the page, which has a light and a dark set of values
_VARIABLES = {INK: "ink", GRAY: "gray", RULE: "rule", RED: "accent", **{c: f"c{n}" for n, c in enumerate(COLORS)}}
_DARK_VALUES = "#e6eaee #9aa6b2 #333d48 #ff8055 #5fb0ea #35c79c #dd8fc6 #e0aa3e #8fd0f5 #aa9df0 #a9b4be"
_DARK = dict(zip(_VARIABLES, _DARK_VALUES.split(), strict=True))


def render(**variables: Any) -> str:
    """The page of a report: the template with `report`, `environment`, `version` and `alone` (no other files)."""
    light = "".join(f"--{name}:{color};" for color, name in _VARIABLES.items())
    dark = "".join(f"--{_VARIABLES[color]}:{value};" for color, value in _DARK.items())
    light += "--ground:#ffffff;--soft:#f5f7f9;--tint:#fdf1ec;--shade:#0c18242e;"
    dark += "--ground:#14191f;--soft:#1c232b;--tint:#2b201c;--shade:#000000b0;"
    return template(PAGE).render(light=light, dark=dark, **variables)


@cache
def template(name: str) -> Template:
    """A template of this package."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("lirdrec.reporting"), autoescape=True)
    environment.keep_trailing_newline = name == PAGE
    environment.trim_blocks = environment.lstrip_blocks = name != PAGE
    environment.filters.update(inline=inline, prose=prose, drawing=drawing, plain=_plain)
    return environment.get_template(name)


def drawing(figure: Figure) -> Markup:
    """The SVG of a figure for the page: with unique ids and the page's colors, without namespaces and metadata."""
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
    """Text as HTML: paragraphs are separated by blank lines, lines starting with "- " are a list; see `inline`."""
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
    """Text with `code`, **bold**, *italic* and [words](address) as HTML; everything else is escaped."""
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
    """The value of a setting as text."""
    if isinstance(value, Mapping):
        if any(isinstance(inner, (list, tuple)) for inner in value.values()):
            return "; ".join(f"{key}: {_plain(inner)}" for key, inner in value.items())
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return "–" if value is None else str(value)
