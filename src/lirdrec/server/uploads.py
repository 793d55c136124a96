"""Pictures from strangers: told by their content, bounded, and kept only as a JPEG of our own."""

from __future__ import annotations

from lirdrec.errors import DataError
from lirdrec.features.pictures.opening import open_picture, thumbnail

KEPT_SIDE = 1024
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def checked_picture(content: bytes, max_pixels: int) -> bytes:
    """A small JPEG of an uploaded picture, without whatever else the file carried (place, camera, other formats).

    Raises:
        DataError: it is no JPEG, PNG or WebP, is damaged, or has more than `max_pixels` pixels.
    """
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if not content.startswith(_SIGNATURES) and not is_webp:
        raise DataError("the picture must be a JPEG, PNG or WebP; its content is something else")
    open_picture(content, max_pixels=max_pixels, enough=KEPT_SIDE)
    return thumbnail(content, KEPT_SIDE)
