"""A report as one HTML file that needs nothing else: style and drawings are inside, no script, no font, no network.

Cards of a page: items with their pictures, titles and texts, in a grid that fits every window.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.reporting import figure as style
from lirdrec.reporting.figure import Figure
from lirdrec.reporting.tables import Table

LONG = 160  # letters: with longer texts the picture stands beside the text


@dataclass(frozen=True)
class Card:
    """One item.

    Attributes:
        title: what it is called.
        text: shown as it is, its line breaks too.
        picture: a JPEG, PNG or WebP file; None: a drawn placeholder, unless no card beside it has one either.
        badges: short remarks, such as "0.93" or "no text".
        lines: (name, value) pairs.

    Raises:
        ConfigError: the picture is of another kind.
    """

    title: str
    text: str = ""
    picture: bytes | None = None
    badges: Sequence[str] = ()
    lines: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if self.picture is not None and not _kind(self.picture):
            raise ConfigError(f"the picture of '{self.title}' is no JPEG, PNG or WebP file; convert it first")

    def to_html(self, pictured: bool = True) -> str:
        """The inside of the card, with room for a picture or without; whatever the texts hold stays text."""
        badges = "".join(f"<li>{html.escape(one)}</li>" for one in self.badges)
        lines = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in self.lines)
        parts = [
            f"<h4>{html.escape(self.title)}</h4>",
            f'<ul class="badges">{badges}</ul>' if badges else "",
            f'<p class="text">{html.escape(self.text)}</p>' if self.text else "",
            f"<dl>{lines}</dl>" if lines else "",
        ]
        picture = f'<div class="picture">{self._picture()}</div>' if pictured else ""
        return f'{picture}<div class="words">{"".join(parts)}</div>'

    def _picture(self) -> str:
        if self.picture is None:
            return _PLACEHOLDER
        said = html.escape(f"Picture of {self.title}", quote=True)
        content = base64.b64encode(self.picture).decode()
        return f'<img src="data:image/{_kind(self.picture)};base64,{content}" alt="{said}" loading="lazy">'


@dataclass(frozen=True)
class Cards:
    """Cards beside each other; in the page only, no file is written of them.

    Attributes:
        cards: in order.
        caption: one or two sentences below them, in the page's markup.
        name: an anchor of the page, `cards-NAME`; may be left out.
        lead: a card set apart before the others, which belong to it: a question and its answers.
    """

    cards: Sequence[Card]
    caption: str = ""
    name: str = ""
    lead: Card | None = None

    def to_html(self) -> str:
        """The grid, without its caption."""
        everything = [*self.cards, *([self.lead] if self.lead else [])]
        kind = "cards wide" if any(len(card.text) > LONG for card in everything) else "cards"
        pictured = any(card.picture is not None for card in everything)
        grid = "".join(f'<li class="card">{card.to_html(pictured)}</li>' for card in self.cards)
        grid = f'<ul class="{kind}">{grid}</ul>' if grid else ""
        if self.lead is None:
            return grid
        lead = f'<div class="{kind} lead"><div class="card">{self.lead.to_html(pictured)}</div></div>'
        return f'<div class="led">{lead}{grid}</div>'


def _kind(picture: bytes) -> str:
    """`jpeg`, `png`, `webp`, or "" for anything else: a browser is told what the bytes are, not what a name says."""
    if picture.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    return "webp" if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP" else ""


_PLACEHOLDER = (
    '<svg viewBox="0 0 48 48" role="img" aria-label="No picture" fill="none" stroke="currentColor"'
    ' stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round">'
    '<rect x="9" y="12" width="30" height="24" rx="2.5"/><circle cx="17.5" cy="20" r="2.5"/>'
    '<path d="m9 32 8.500-7 6 5 6.500-7.500 9 8.500"/></svg>'
)

SHEET = """
.cards{list-style:none;margin:0;padding:0;display:grid;gap:.9rem;
  grid-template-columns:repeat(auto-fill,minmax(min(9.5rem,calc(50% - .45rem)),1fr))}
.cards.wide{grid-template-columns:repeat(auto-fill,minmax(min(24rem,100%),1fr))}
.card{display:flex;flex-direction:column;min-width:0;overflow:hidden;background:var(--ground);
  border:1px solid var(--rule);border-radius:.5rem}
.card .picture{aspect-ratio:4/5;background:var(--soft);border-bottom:1px solid var(--rule);display:flex;
  align-items:center;justify-content:center;overflow:hidden}
.card img{width:100%;height:100%;object-fit:contain;display:block}
.card svg{width:38%;max-width:4rem;color:var(--grey);opacity:.55}
.card .words{padding:.6rem .7rem .7rem;font-size:.8rem;line-height:1.45;min-width:0;overflow-wrap:anywhere}
.card h4{font-size:.875rem;line-height:1.3;margin:0;font-weight:600;hyphens:auto}
.card .text{margin:.35rem 0 0;white-space:pre-line;color:var(--grey)}
.card dl{grid-template-columns:max-content minmax(0,1fr);gap:.05rem .7rem;font-size:.75rem;margin:.45rem 0 0}
.card dd{margin:0}
.badges{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem;margin:.4rem 0 0;padding:0}
.badges li{font-size:.7rem;line-height:1.4;font-weight:600;padding:.05rem .45rem;border-radius:1rem;
  background:var(--soft);border:1px solid var(--rule);color:var(--grey);font-variant-numeric:tabular-nums}
.wide .card{flex-direction:row;align-items:stretch}
.wide .picture{flex:0 0 38%;aspect-ratio:auto;min-height:9rem;max-height:24rem;align-self:flex-start}
.wide .picture{border-bottom:0;border-right:1px solid var(--rule);align-self:stretch;align-items:flex-start}
.wide .card img{height:auto;max-height:24rem}
.wide .card svg{align-self:center}
.led{display:grid;grid-template-columns:11.5rem minmax(0,1fr);gap:1.2rem;margin:1.2rem 0 .4rem}
.led>.cards:not(.wide){grid-template-columns:repeat(auto-fill,minmax(min(8.2rem,calc(50% - .45rem)),1fr));gap:.75rem}
.led>.cards.lead{display:block}
.lead .card{border-color:var(--accent);box-shadow:0 0 0 1px var(--accent)}
.led:has(.wide){grid-template-columns:minmax(0,1fr)}
@media(max-width:40rem){
  .led{grid-template-columns:minmax(0,1fr);gap:.9rem}
  .lead .card,.wide .card{flex-direction:row}
  .lead .picture,.wide .picture{flex:0 0 34%;border-bottom:0;border-right:1px solid var(--rule)}
  .cards:not(.wide):not(.lead){gap:.7rem}
}
@media print{
  .cards{grid-template-columns:repeat(auto-fill,minmax(3.2cm,1fr));gap:.3cm}
  .cards.wide{grid-template-columns:repeat(2,1fr)}
  .led{grid-template-columns:3.6cm minmax(0,1fr);gap:.5cm}
  .card,.led{break-inside:avoid}
  .card .picture{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""


# colours of the drawings → variables of the page, which has two sets of them
_VARIABLES = {
    style.INK: "ink",
    style.GREY: "grey",
    style.RULE: "rule",
    style.RED: "accent",
    **{colour: f"c{place}" for place, colour in enumerate(style.COLOURS)},
}
_DARK = {
    style.INK: "#e6eaee",
    style.GREY: "#9aa6b2",
    style.RULE: "#333d48",
    style.RED: "#ff8055",
    **dict(
        zip(style.COLOURS, ("#5fb0ea", "#35c79c", "#dd8fc6", "#e0aa3e", "#8fd0f5", "#aa9df0", "#a9b4be"), strict=True)
    ),
}


def page(title: str, lead: str, body: str, contents: Sequence[tuple[str, str]] = (), foot: str = "") -> str:
    """A whole document.

    Args:
        title: the heading and the window's title.
        lead: HTML between heading and contents.
        body: HTML of the sections.
        contents: (anchor, title) of the sections; shown when there are three or more.
        foot: HTML of the last line.
    """
    links = "".join(f'<li><a href="#{anchor}">{html.escape(name)}</a></li>' for anchor, name in contents)
    nav = f'<nav aria-label="Contents"><ol>{links}</ol></nav>' if len(contents) > 2 else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>{_style()}</style>
</head>
<body>
<main>
<header><h1>{html.escape(title)}</h1>{lead}</header>
{nav}
{body}
<footer>{foot}</footer>
</main>
</body>
</html>
"""


def section(anchor: str, title: str, blocks: Sequence[str]) -> str:
    """A section of HTML blocks under a heading."""
    inside = "\n".join(blocks)
    return f'<section id="{anchor}"><h2>{html.escape(title)}</h2>\n{inside}\n</section>'


def table(one: Table) -> str:
    """A table that scrolls by itself where the page is too narrow, with its notes."""
    notes = "".join(f"<p>{inline(note)}</p>" for note in one.notes)
    below = f'<div class="notes">{notes}</div>' if notes else ""
    return f'<div class="table" tabindex="0">{one.to_html()}</div>{below}'


def figure(one: Figure) -> str:
    """A drawing inside the page, with its caption."""
    caption = f"<figcaption>{inline(one.caption)}</figcaption>" if one.caption else ""
    return f'<figure id="figure-{one.name}"><div class="drawing" tabindex="0">{drawing(one)}</div>{caption}</figure>'


def cards(one: Cards) -> str:
    """Cards in a grid, with their caption."""
    caption = f"<figcaption>{inline(one.caption)}</figcaption>" if one.caption else ""
    anchor = f' id="cards-{one.name}"' if one.name else ""
    return f"<figure{anchor}>{one.to_html()}{caption}</figure>"


def drawing(one: Figure) -> str:
    """The SVG to put into a page: own ids, the page's colours, no namespaces or metadata."""
    svg = one.image("svg").decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    # ids must be the page's only ones: those that are used are named after the figure, the others go
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{one.name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{one.name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{one.name}-", svg)
    # the ground is the page's
    svg = re.sub(rf'(<g>\s*<path d="[^"]*" )style="fill: {style.GROUND}"', r'\1style="fill: none"', svg, count=1)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = svg.replace(style.GROUND, "var(--ground)").replace("'DejaVu Sans', ", "")
    width = re.search(r'<svg [^>]*?width="([\d.]+)pt"', svg)
    pixels = float(width[1]) * 4 / 3 if width else 700
    said = html.escape(one.alt or one.caption or one.name, quote=True)
    svg = re.sub(
        r'(<svg [^>]*?)width="[^"]*"', r"\1", re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", svg, count=1), count=1
    )
    return svg.replace("<svg", f'<svg role="img" aria-label="{said}" style="max-width:{pixels:.0f}px"', 1)


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values, one a row."""
    rows = "".join(f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(_said(v))}</dd>" for k, v in values.items())
    return f"<dl>{rows}</dl>"


def commands(lines: Sequence[str]) -> str:
    """Commands to copy."""
    return f"<pre><code>{html.escape(chr(10).join(lines))}</code></pre>"


def prose(text: str) -> str:
    """Text as HTML: blank lines part paragraphs, lines that begin with "- " are a list; see `inline`."""
    made = []
    for part in re.split(r"\n\s*\n", text.strip()):
        rows = [row.strip() for row in part.strip().splitlines()]
        if rows and all(row.startswith("- ") for row in rows):
            made.append("<ul>" + "".join(f"<li>{inline(row[2:])}</li>" for row in rows) + "</ul>")
        elif part.strip():
            made.append(f"<p>{inline(' '.join(rows))}</p>")
    return "\n".join(made)


def inline(text: str) -> str:
    """`code`, **bold**, *italic* and [words](address) as HTML; everything else as it stands."""
    codes: list[str] = []

    def keep(match: re.Match[str]) -> str:
        codes.append(f"<code>{match[1]}</code>")
        return f"\0{len(codes) - 1}\0"

    made = re.sub(r"`([^`]+)`", keep, html.escape(text, quote=False))
    made = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", made)
    made = re.sub(r"(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?![\w*])", r"<em>\1</em>", made)
    made = re.sub(r"\[([^\]]+)\]\((https?://[^)\s\"]+|#?[\w./-]+)\)", r'<a href="\2">\1</a>', made)
    return re.sub(r"\0(\d+)\0", lambda match: codes[int(match[1])], made)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        if any(isinstance(one, (list, tuple)) for one in value.values()):
            return "; ".join(f"{k}: {_said(v)}" for k, v in value.items())
        return ", ".join(f"{k} {_said(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_said(one) for one in value)
    return "–" if value is None else str(value)


def _style() -> str:
    light = "".join(f"--{name}:{colour};" for colour, name in _VARIABLES.items())
    dark = "".join(f"--{_VARIABLES[colour]}:{value};" for colour, value in _DARK.items())
    light += "--ground:#ffffff;--soft:#f5f7f9;--tint:#fdf1ec;--shade:#0c18242e;"
    dark += "--ground:#14191f;--soft:#1c232b;--tint:#2b201c;--shade:#000000b0;"
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{_SHEET}{SHEET}"


_SHEET = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);
  font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Liberation Sans",sans-serif}
main{max-width:72rem;margin:0 auto;padding:3.5rem 1.5rem 3rem}
header,nav,pre,dl,section>p,section>ul,.notes,figcaption,footer{max-width:44rem}
h1{font-size:2.1rem;line-height:1.2;letter-spacing:-.015em;font-weight:700;margin:0 0 .6rem}
h2{font-size:1.3rem;line-height:1.3;letter-spacing:-.005em;margin:0 0 .8rem}
section{margin-top:3.2rem}
p,ul{margin:0 0 1rem}
ul{padding-left:1.2rem}
a{color:var(--c0);text-decoration-thickness:1px;text-underline-offset:.15em}
.question{font-size:1.15rem;color:var(--grey);margin-bottom:1.6rem}
.answer{border-left:3px solid var(--accent);background:var(--soft);padding:1rem 1.25rem;margin:0;
  border-radius:0 .4rem .4rem 0}
.answer p:last-child{margin:0}
.answer .word{display:block;font-size:.75rem;font-weight:700;letter-spacing:.08em;text-transform:uppercase;
  color:var(--accent);margin-bottom:.25rem}
nav{margin-top:2rem;border:solid var(--rule);border-width:1px 0;padding:.7rem 0;font-size:.9rem}
nav ol{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1.5rem}
nav a{color:var(--ink);text-decoration:none}nav a:hover{text-decoration:underline}
.table{overflow-x:auto;margin:1.4rem 0 .6rem;
  background:linear-gradient(90deg,var(--ground) 30%,transparent) 0 0/2.5rem 100% no-repeat local,
  linear-gradient(270deg,var(--ground) 30%,transparent) 100% 0/2.5rem 100% no-repeat local,
  linear-gradient(270deg,var(--shade),transparent) 100% 0/.9rem 100% no-repeat scroll}
table{border-collapse:collapse;font-size:.875rem;line-height:1.35;font-variant-numeric:tabular-nums lining-nums;
  border-top:2px solid var(--ink);border-bottom:2px solid var(--ink)}
caption{caption-side:top;text-align:left;font-weight:600;padding-bottom:.6rem;white-space:normal}
caption span{position:sticky;left:0;display:inline-block;max-width:min(44rem,calc(100vw - 2.5rem))}
th,td{padding:.34rem .8rem;text-align:left;vertical-align:baseline;white-space:nowrap;font-weight:400}
th:first-child,tr:first-child>td:first-child{padding-left:.5rem}
thead th{color:var(--grey);font-weight:600;vertical-align:bottom}
thead tr:last-child>*{border-bottom:1px solid var(--ink)}
th.group{text-align:center;color:var(--ink);padding-bottom:.1rem;box-shadow:inset 0 -1px 0 var(--rule)}
.n{text-align:right}
td.said{text-align:center;color:var(--grey);font-style:italic}
tbody tr+tr>*{border-top:1px solid var(--rule)}
tbody+tbody tr:first-child>*{border-top:1px solid var(--grey)}
tr.block th{font-weight:600;padding-top:.8rem}
td b{font-weight:700}
td u{text-decoration-thickness:1.5px;text-underline-offset:.18em}
td small{font-size:.82em;color:var(--grey);font-weight:400}
td.long{white-space:normal;min-width:16rem}
td{position:relative}
td sup{position:absolute;right:.25rem;top:.3rem;font-size:.8em;line-height:1;color:var(--grey)}
tr.accent>*{background:var(--tint)}
tr.accent th{font-weight:700;color:var(--accent)}
tr.muted>*{color:var(--grey)}
.notes{font-size:.8rem;line-height:1.5;color:var(--grey)}.notes p{margin:0 0 .25rem}
figure{margin:1.6rem 0 1.8rem}
.drawing{overflow-x:auto}
.drawing svg{display:block;width:100%;min-width:26rem;height:auto;font-family:inherit}
.drawing svg text{font-family:inherit!important}
figcaption{font-size:.875rem;color:var(--grey);margin-top:.5rem}
code{font:.88em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
  background:var(--soft);padding:.1em .3em;border-radius:.25em}
pre{background:var(--soft);padding:.9rem 1.1rem;border-radius:.4rem;overflow-x:auto;margin:0 0 1rem}
pre code{white-space:pre-wrap;overflow-wrap:anywhere;padding:0;background:none}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.5rem;font-size:.875rem;margin:0 0 1rem}
dt{color:var(--grey)}dd{margin:0;overflow-wrap:anywhere}
h3{font-size:1rem;margin:1.6rem 0 .5rem}
footer{margin-top:3.5rem;padding-top:.8rem;border-top:1px solid var(--rule);font-size:.8rem;color:var(--grey)}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
@media(max-width:40rem){
  body{font-size:15px}main{padding:1.8rem 1rem 2rem}h1{font-size:1.6rem}section{margin-top:2.4rem}
  th,td{padding:.34rem .6rem}
  table tr>th:first-child:not([colspan]){position:sticky;left:0;z-index:1;background:var(--ground)}
  table tr.accent>th:first-child{background:var(--tint)!important}
  dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}
}
@media print{
  @page{margin:18mm}
  body{font-size:10.5pt}main{max-width:none;padding:0}nav{display:none}
  section{margin-top:2rem}figure,.table,.answer,tr{break-inside:avoid}h2,caption{break-after:avoid}
  .table,.drawing{overflow:visible}table{font-size:8pt}th,td{padding:.2rem .4rem}
  .answer,tr.accent>*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
  .drawing svg{min-width:0}a{color:inherit;text-decoration:none}
}
"""
