"""Sixty image files as the world makes them: damaged, disguised, malicious, or sound but unusual.

Sound ones show the same scene: four quarters, red and green above blue and yellow (grays where there is no color).
"""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = ((230, 20, 20), (20, 200, 20), (20, 20, 230), (230, 230, 20))
GRAYS = (0, 80, 160, 255)
SIZE = (48, 64)


@dataclass(frozen=True)
class Case:
    """A file of the folder.

    Attributes:
        name: of the file.
        refused: why it must be refused, for whoever reads the test; "" where it must open.
        mentions: facts that stand in the sentence that refuses it.
        quarters: colors of the four quarters where it must open.
    """

    name: str
    refused: str = ""
    mentions: tuple[str, ...] = ()
    quarters: tuple[tuple[int, int, int], ...] = COLORS


def scene(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """Four quarters in the colors above, or in the grays for a mode without colors."""
    values = np.array(COLORS if mode == "RGB" else GRAYS, dtype=np.uint8)
    return Image.fromarray(values.reshape(2, 2, *values.shape[1:])).resize(size, Image.Resampling.NEAREST)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image's file."""
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


def png(width: int, height: int, raw: bytes, depth: int = 8, color: int = 0, before: bytes = b"") -> bytes:
    """A PNG written by hand; `raw` is what its IDAT unpacks to."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + before + _chunk(b"IDAT", zlib.compress(raw, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def make(folder: Path) -> list[Case]:
    """Write the files; the same bytes at each call."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, content, refused, *mentions in _refused():
        (folder / name).write_bytes(content)
        cases.append(Case(name, refused, tuple(mentions)))
    for name, write, refused, *mentions in _no_files():
        write(folder / name)
        cases.append(Case(name, refused, tuple(mentions)))
    for name, content, quarters in _sound():
        (folder / name).write_bytes(content)
        cases.append(Case(name, quarters=quarters))
    return cases


def _refused() -> list[tuple[str | bytes, ...]]:
    """Name, content, why it is refused, and the facts that the refusal mentions."""
    jpeg, progressive = encoded(noise(), "JPEG"), encoded(noise(), "JPEG", progressive=True)
    whole = {kind: encoded(noise(), kind) for kind in ("PNG", "GIF", "WEBP", "BMP", "TIFF", "ICO", "AVIF")}
    zeros = b"\0" * 4096
    cut, header, damaged = "the image is cut off", "its header cannot be read", "it cannot be decoded"
    claims = "more pixels"
    large = "pixels are too many"
    limit, n_scans = "50,000,000", 2000 + progressive.count(b"\xff\xda") - 1
    icon = png(60_000, 60_000, zeros)
    return [
        ("empty.jpg", b"", "the file is empty"),
        ("page.jpg", b"\n<!DOCTYPE html><html><h1>404</h1></html>", "holds a web page"),
        ("words.png", b"there is no image here", "holds something else"),
        ("drawing.jpg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "holds an SVG drawing", "SVG"),
        ("paper.jpg", b"%PDF-1.7\n%%EOF", "holds a PDF document", "PDF"),
        ("archive.png", b"PK\3\4" + zeros, "holds a ZIP archive", "ZIP"),
        ("chance.jpg", random.Random(1).randbytes(5000), "holds something else"),
        ("zeros.jpg", zeros, "holds something else"),
        ("jpeg_cut_tables.jpg", jpeg[:120], cut),
        ("jpeg_cut_scan.jpg", jpeg[: jpeg.index(b"\xff\xda") + 8], cut),
        ("jpeg_cut_half.jpg", jpeg[: len(jpeg) // 2], cut),
        ("jpeg_cut_progressive.jpg", progressive[: len(progressive) // 2], cut),
        ("jpeg_huge.jpg", resized_jpeg(jpeg, 65_500, 65_500), large, "65,500 × 65,500", limit),
        ("jpeg_huge_progressive.jpg", resized_jpeg(progressive, 20_000, 20_000), large, "20,000 × 20,000", limit),
        ("jpeg_many_scans.jpg", many_scans(progressive, 2000), "scans are too many", f"{n_scans:,}"),
        ("png_cut_start.png", whole["PNG"][:6], "holds something else"),
        ("png_cut_header.png", whole["PNG"][:20], cut),
        ("png_cut_half.png", whole["PNG"][: len(whole["PNG"]) // 2], cut),
        ("png_wrong_sum.png", flipped(whole["PNG"], [29]), header),
        ("png_flipped.png", flipped(whole["PNG"], random.Random(2).sample(range(60, 2000), 5)), damaged),
        ("png_no_width.png", png(0, 10, zeros), header),
        ("png_huge.png", png(100_000, 100_000, zeros), large, "100,000 × 100,000", limit),
        ("png_short_rows.png", png(3000, 3000, zeros), cut),
        ("png_text_bomb.png", png(8, 8, b"\0" * 72, before=_packed_text(100_000_000)), header),
        ("png_cut_name.png", whole["PNG"][:12], header),
        ("gif_cut_header.gif", whole["GIF"][:9], header),
        ("gif_cut_half.gif", whole["GIF"][: len(whole["GIF"]) // 2], cut),
        ("gif_huge_frame.gif", gif_with_frame(60_000, 60_000), claims),
        ("webp_cut.webp", whole["WEBP"][: len(whole["WEBP"]) // 2], header),
        ("webp_huge.webp", webp_with_canvas(16_000, 16_000), claims),
        ("bmp_cut.bmp", whole["BMP"][: len(whole["BMP"]) // 2], cut),
        (
            "bmp_huge.bmp",
            patched(whole["BMP"], 18, struct.pack("<ii", 100_000, 100_000)),
            large,
            "100,000 × 100,000",
            limit,
        ),
        ("tiff_cut.tif", encoded(noise(), "TIFF", compression="tiff_lzw")[:2000], header),
        ("tiff_astray.tif", patched(whole["TIFF"], 4, struct.pack("<I", 0x7FFFFFFF)), header),
        ("tiff_huge.tif", tiff_of_size(70_000, 70_000), large, "70,000 × 70,000", limit),
        ("ico_cut.ico", whole["ICO"][:100], header),
        ("ico_none.ico", b"\0\0\1\0\0\0" + zeros, "holds no icon"),
        (
            "ico_huge.ico",
            struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(icon), 22) + icon,
            large,
            "60,000 × 60,000",
            limit,
        ),
        ("avif_cut.avif", whole["AVIF"][: len(whole["AVIF"]) // 2], header),
    ]


def _no_files() -> list[tuple[str | Callable[[Path], object], ...]]:
    return [
        ("folder.jpg", Path.mkdir, "is a folder"),
        ("pipe.jpg", os.mkfifo, "is not a regular file"),
        ("socket.jpg", _socket, "is not a regular file"),
        ("device.jpg", lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        ("circle.jpg", lambda path: path.symlink_to(path.name), "links lead in a circle"),
        ("nowhere.jpg", lambda path: path.symlink_to("gone.jpg"), "there is no such file"),
        ("heavy.webp", _sparse, "MB are too much", "512 MB", "256 MB"),
    ]


def _sound() -> list[tuple[str, bytes, tuple[tuple[int, int, int], ...]]]:
    image, gray = scene(), scene("L")
    grays = tuple((value,) * 3 for value in GRAYS)
    jpeg = encoded(image, "JPEG", quality=95)
    deep = np.asarray(gray).astype(np.uint16) * 257
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.asarray(gray) == 255, 0, 255).astype(np.uint8)))
    on_white = (*COLORS[:3], (255, 255, 255))
    frames = [image.rotate(90 * turn) for turn in range(3)]
    turned = Image.Exif()
    turned[0x0112] = 6
    on_its_side = image.transpose(Image.Transpose.ROTATE_90)
    animated = {"save_all": True, "append_images": frames[1:], "duration": 40}
    return [
        ("jpeg.png", jpeg, COLORS),
        ("jpeg_without_extension", jpeg, COLORS),
        ("jpeg_cmyk.jpg", encoded(image.convert("CMYK"), "JPEG", quality=95), COLORS),
        ("jpeg_turned.jpg", encoded(on_its_side, "JPEG", quality=95, exif=turned), COLORS),
        ("jpeg_bad_exif.jpg", encoded(image, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff"), COLORS),
        ("jpeg_large.jpg", encoded(scene("L", (8000, 8000)), "JPEG"), grays),
        ("png_large.png", encoded(scene(size=(7000, 7000)), "PNG", compress_level=1), COLORS),
        ("png_16_bit.png", encoded(Image.fromarray(deep), "PNG"), grays),
        ("png_palette_clear.png", encoded(clear.quantize(8), "PNG"), on_white),
        ("png_animated.png", encoded(frames[0], "PNG", **animated), COLORS),
        ("gif_animated.gif", encoded(frames[0], "GIF", **animated), COLORS),
        ("webp_animated.jpg", encoded(frames[0], "WEBP", lossless=True, **animated), COLORS),
        ("tiff_float.tif", encoded(Image.fromarray(np.asarray(gray) / np.float32(255)), "TIFF"), grays),
        ("one_pixel.png", encoded(Image.new("RGB", (1, 1), COLORS[0]), "PNG"), COLORS[:1] * 4),
    ]


def noise() -> Image.Image:
    """An image that packs badly, so that its file is cut where the pixels are."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))


def flipped(content: bytes, places: list[int]) -> bytes:
    """All bits of some bytes turned over."""
    damaged = bytearray(content)
    for place in places:
        damaged[place] ^= 0xFF
    return bytes(damaged)


def patched(content: bytes, place: int, new: bytes) -> bytes:
    """Bytes written over others."""
    return content[:place] + new + content[place + len(new) :]


def resized_jpeg(content: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header claims another size."""
    frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    return patched(content, frame + 5, struct.pack(">HH", height, width))


def many_scans(content: bytes, n: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * n + b"\xff\xd9"


def gif_with_frame(width: int, height: int) -> bytes:
    """A GIF of 10 × 10 pixels whose first frame is larger."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2L\1\0;"


def webp_with_canvas(width: int, height: int) -> bytes:
    """An extended WebP whose canvas is far larger than its only, tiny frame."""
    small = encoded(Image.new("RGB", (4, 4)), "WEBP")[12:]
    canvas = struct.pack("<I", 2) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    place = bytes(6) + (3).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0"
    frame = b"ANMF" + struct.pack("<I", len(place + small)) + place + small
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<IIH", 6, 0, 0) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_of_size(width: int, height: int) -> bytes:
    """A gray TIFF in one strip that claims a size and holds nothing of it."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _packed_text(n_bytes: int) -> bytes:
    return _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(n_bytes), 9))


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket may have some hundred bytes only
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"RIFF\0\0\0\x10WEBPVP8 ")
        file.truncate(2**29)
