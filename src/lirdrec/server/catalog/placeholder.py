"""Placeholder image of an item: an SVG with shapes derived from its id and initials of its title."""

from __future__ import annotations

import hashlib
import math
from html import escape

from lirdrec.reporting.figure import COLORS, RED

WIDTH, HEIGHT = 320, 400
_HUES = (*COLORS[:4], COLORS[5], RED)
_SKIPPED = {"a", "an", "and", "by", "for", "in", "of", "on", "or", "the", "to", "with"}


def placeholder(item: int | str, title: str | None = None) -> bytes:
    """An SVG of 320 × 400, always the same for an item and title, without scripts, fonts and styles."""
    digits = hashlib.blake2b(f"{type(item).__name__}:{item}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    hue = _HUES[digits[0] % len(_HUES)]
    accent = _HUES[(digits[0] + 1 + digits[1] % (len(_HUES) - 1)) % len(_HUES)]
    letters = initials(title if title and title.strip() else str(item))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{_mixed(hue, 0.86)}"/>'
        f"{_shapes(digits, hue, accent)}"
        f'<text x="24" y="{HEIGHT - 28}" font-family="system-ui, sans-serif" font-size="76" font-weight="700"'
        f' letter-spacing="-2" fill="#ffffff">{escape(letters)}</text></svg>'
    ).encode("utf-8", "replace")


def initials(title: str) -> str:
    """One or two initials of a title, of words such as articles only if there are no others; "·" without any."""
    words = [word.strip("\"'([{.,:;!?-–…“”‘’") for word in title.split()]
    words = [word for word in words if word and word[0].isalnum()]
    significant = [word for word in words if word.lower() not in _SKIPPED and not word[0].isdigit()] or words
    return "".join(word[0] for word in significant[:2]).upper()[:2] or "·"


def _shapes(digits: bytes, hue: str, accent: str) -> str:
    """A sun behind two hills, with positions and slopes from the hash of the id."""
    sun_x, sun_y, sun = 60 + digits[2] % 200, 90 + digits[3] % 80, 42 + digits[4] % 38
    far = _hill(215 + digits[5] % 40, 14 + digits[6] % 26, digits[7])
    near = _hill(275 + digits[8] % 30, 10 + digits[9] % 22, digits[10])
    return (
        f'<circle cx="{sun_x}" cy="{sun_y}" r="{sun}" fill="{_mixed(accent, 0.45)}"/>'
        f'<path d="{far}" fill="{_mixed(hue, 0.55)}"/><path d="{near}" fill="{_mixed(hue, 0.12)}"/>'
    )


def _hill(height: float, swing: float, phase: int) -> str:
    """The area below a sine wave, as an SVG path."""
    xs = range(0, WIDTH + 1, 20)
    ys = [height + swing * math.sin(phase / 256 * math.tau + x / WIDTH * 5) for x in xs]
    line = " ".join(f"L{x} {y:.0f}" for x, y in zip(xs, ys, strict=True))
    return f"M0 {HEIGHT} {line} L{WIDTH} {HEIGHT}Z"


def _mixed(color: str, white: float) -> str:
    """A color mixed with a share of white."""
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * white):02x}" for channel in channels)
