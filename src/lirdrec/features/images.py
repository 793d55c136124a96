"""Open untrusted image files safely: each becomes an RGB image, or raises an `ImageError` of one sentence.

The images of a batch are opened by a few threads at once, since Pillow decodes without holding Python's global lock.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from lirdrec.errors import DataError, describe_error
from lirdrec.features.encoder import Encoded, Prepared
from lirdrec.wording import with_article

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 2**20
ENOUGH = 1024  # pixels of the shorter side; no encoder needs more
_MAX_SCANS = 500  # a progressive JPEG has about ten scans; thousands of empty scans would take hours
_LARGE = 8_000_000  # pixels; larger images are decoded one at a time

# Pillow's module → the first bytes of its files. File names are ignored: shops name WebP files .jpg.
_SIGNATURES: dict[str, bytes | tuple[bytes, ...]] = {
    "Jpeg": b"\xff\xd8\xff",
    "Png": b"\x89PNG\r\n\x1a\n",
    "Gif": (b"GIF87a", b"GIF89a"),
    "Bmp": b"BM",
    "Tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "Ico": b"\0\0\1\0",
}
HEAD_BYTES = 64  # first bytes of a file, from which its type is detected
_SUFFIX = {"Jpeg": ".jpg"}
_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_OTHERS: dict[str, bytes | tuple[bytes, ...]] = {
    "a web page": (b"<!doctype html", b"<html"),
    "an SVG drawing": b"<svg",
    "an XML text": b"<?xml",
    "a PDF document": b"%pdf",
    "a PostScript document": b"%!ps",
    "a Photoshop document": b"8bps",
    "a ZIP archive": b"pk\3\4",
    "gzipped data": b"\x1f\x8b",
}
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # orientation in EXIF → Pillow's Transpose that undoes it

_OPEN_ERRORS = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file",
    errno.ELOOP: "its symbolic links lead in a circle",
}

_one_large = threading.Lock()  # only one large image is decoded at a time: threads must not multiply the memory


class ImageError(DataError):
    """A file that cannot be used as an image."""


class _PillowWarningsOff:
    """Context that suppresses warnings of Pillow, which users cannot act on, while any thread is inside.

    The filters of `warnings` belong to the process: the first thread sets them, the last one restores them.
    """

    def __init__(self) -> None:
        self._lock, self._threads = threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._filters.__exit__(None, None, None)


_warnings_off = _PillowWarningsOff()


def open_image(source: Path | bytes, max_pixels: int = MAX_PIXELS, enough: int = ENOUGH) -> Image:
    """Open the first frame of an image, upright and RGB; transparency becomes white, color profiles are ignored.

    The type is detected from the content. The size in the header is checked before anything is decoded. A large image
    is returned smaller, but both sides keep at least `enough` pixels: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size,
    in other formats blocks of pixels are averaged. Safe to call from several threads.

    Args:
        source: the path of the file, or its content.
        max_pixels: limit for the decoded image, which needs about four bytes for each pixel.
        enough: number of pixels that each side keeps, if it has so many.

    Raises:
        ImageError: the file is missing, no image, damaged, cut off or too large; one sentence that names the file.
    """
    try:
        with _open_content(source) as file, _warnings_off:
            return _decode(file, max_pixels, enough)
    except ImageError as error:
        where = str(source) if isinstance(source, Path) else "this image"
        raise ImageError(f"{where if where.isprintable() else repr(where)}: {error}") from error.__cause__


def _decode(file: BinaryIO, max_pixels: int, enough: int) -> Image:
    """Decode an image as described in `open_image`; the error messages do not name the file."""
    with _image_errors("its header cannot be read"):
        image = _read_header(file, max_pixels)
        claimed = image.size
        if image.format == "JPEG" and not _has_many_passes(image, file):
            image.draft(None, (enough, enough))
        _check_size(claimed, max_pixels, decoded=image.size)
    with _image_errors("it cannot be decoded"):
        with _one_large if claimed[0] * claimed[1] > _LARGE else contextlib.nullcontext():
            image.load()
            _check_size(image.size, max_pixels)
            small = _shrink(image, max(1, min(image.size) // enough))
        return _upright(small, image)


def thumbnail(source: Path | bytes, size: int = 256) -> bytes:
    """Return a small JPEG of an image, at most `size` pixels on each side; raises the errors of `open_image`."""
    image = open_image(source, enough=size)
    image.thumbnail((size, size))
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=85)
    return content.getvalue()


def _open_content(source: Path | bytes) -> BinaryIO:
    if isinstance(source, Path):
        return open_file(source)
    check_bytes(len(source))
    return io.BytesIO(source)


def open_file(path: Path, noun: str = "image", max_bytes: int = MAX_BYTES) -> io.BufferedReader:
    """Open a regular file for reading; anything else is rejected before it is opened, since a pipe can block forever.

    Raises:
        ImageError: the file is missing, empty, too large, or not a regular file; the message does not name the file.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"this is a folder, not {with_article(noun)}")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is not a regular file")
        check_bytes(status.st_size, noun, max_bytes)
        return path.open("rb")
    except ImageError:
        raise
    except OSError as error:
        unreadable = f"cannot be read ({error.strerror or error})"
        raise ImageError(_OPEN_ERRORS.get(error.errno or 0, unreadable)) from None
    except ValueError:  # a NUL in the name
        raise ImageError("is not a valid file name") from None


def check_bytes(size: int, noun: str = "image", max_bytes: int = MAX_BYTES) -> None:
    """Raise an ImageError if a file of `size` bytes is empty or too large; `noun` says what it is, for the message."""
    if size == 0:
        raise ImageError("the file is empty")
    if size > max_bytes:
        limit = f"the limit is {max_bytes / 2**20:,.0f} MB"
        raise ImageError(f"{size / 2**20:,.0f} MB are too much for {with_article(noun)} ({limit})")


def _check_size(claimed: tuple[int, int], max_pixels: int, decoded: tuple[int, int] | None = None) -> None:
    width, height = decoded or claimed
    if width < 1 or height < 1:
        raise ImageError(f"the image has no pixels ({width} × {height})")
    if width * height > max_pixels:
        raise ImageError(f"{claimed[0]:,} × {claimed[1]:,} pixels are too many (the limit is {max_pixels:,})")


@contextlib.contextmanager
def _image_errors(problem: str) -> Iterator[None]:
    """Convert exceptions inside the block to an `ImageError`: Pillow raises nearly any exception on damaged files.

    `problem` is the start of its message.
    """
    from PIL.Image import DecompressionBombError

    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("needs more memory than this machine has free") from None
    except DecompressionBombError:  # a part of the file is larger than the header says
        raise ImageError("claims a part with more pixels than any image has; it is damaged") from None
    except Exception as error:
        reason = describe_error(error).rstrip(".")
        if "truncated" in reason.lower():
            raise ImageError("the image is cut off") from None
        detail = "" if isinstance(error, (struct.error, SyntaxError, IndexError)) else f" ({reason})"
        raise ImageError(f"{problem}{detail}; it is damaged") from error


def _read_header(file: BinaryIO, max_pixels: int) -> ImageFile:
    """Return Pillow's image of a file, of which only the header is read; the type is detected from the first bytes.

    Of an ICO file, this is the largest icon.
    """
    name = _kind_of(file.read(HEAD_BYTES))
    from PIL import features

    file.seek(0)
    if name == "Ico" and (inside := _largest_icon(file, max_pixels)) is not None:
        return _read_header(io.BytesIO(inside), max_pixels)
    if name == "Avif" and not features.check("avif"):
        raise ImageError("is an AVIF image, which this build of Pillow cannot read; install Pillow from PyPI")
    # Not Image.open: it has limits of its own, and refuses or warns before a JPEG can be asked for a smaller size.
    try:
        module = importlib.import_module("pillow_heif.as_plugin" if name == "Heif" else f"PIL.{name}ImagePlugin")
    except ImportError:
        raise ImageError(
            "is a HEIC image, which needs pillow-heif: install it (pip install 'lirdrec[heif]'), or save it as JPEG"
        ) from None
    image: ImageFile = getattr(module, f"{name}ImageFile")(file)
    return image


def image_suffix(start: bytes) -> str:
    """Return the suffix of an image file, such as ".jpg"; `start` has its first `HEAD_BYTES` bytes.

    Raises an ImageError if they do not belong to an image.
    """
    return _SUFFIX.get(name := _kind_of(start), f".{name.lower()}")


def _kind_of(start: bytes) -> str:
    """Return the name of the image type of a file, such as "Jpeg", from its first bytes.

    Raises an ImageError if it is no image.
    """
    name = next((name for name, signature in _SIGNATURES.items() if start.startswith(signature)), None)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        name = "WebP"
    elif start[4:8] == b"ftyp":  # an ISO base media file, with its brands in the first box
        length = min(int.from_bytes(start[:4], "big"), len(start))
        brands = {start[8:12], *(start[index : index + 4] for index in range(16, length - 3, 4))}
        name = "Avif" if brands & _AVIF else "Heif" if brands & _HEIF else None
    if name is None:
        text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        other = next((kind for kind, signature in _OTHERS.items() if text.startswith(signature)), "something else")
        raise ImageError(f"holds {other}, not a JPEG, PNG, GIF, WebP, AVIF, HEIC, BMP, TIFF or ICO image")
    return name


def _largest_icon(file: BinaryIO, max_pixels: int) -> bytes | None:
    """Return the content of an ICO file's largest icon if this icon is a PNG file; otherwise check its size.

    In the second case, the icon is a bitmap, which Pillow reads from the ICO file, and None is returned. Raises an
    ImageError if the file has no icon, or the bitmap is too large.
    """
    content = file.read()
    file.seek(0)
    (n,) = struct.unpack_from("<H", content, 4)
    if n == 0:
        raise ImageError("holds no icon")
    entries = [struct.unpack_from("<BBBBHHII", content, 6 + 16 * index) for index in range(n)]
    *_, size, offset = max(entries, key=lambda entry: ((entry[0] or 256) * (entry[1] or 256), entry[5]))
    icon = content[offset : offset + size]
    if icon.startswith(b"\x89PNG"):
        return icon
    width, height = struct.unpack_from("<ii", icon, 4)
    _check_size((abs(width), abs(height) // 2), max_pixels)
    return None


def _has_many_passes(image: ImageFile, file: BinaryIO) -> bool:
    """Return whether a JPEG is progressive; such files are always decoded at full size.

    Raises an ImageError if it has more than `_MAX_SCANS` scans.
    """
    if not image.info.get("progressive"):
        return False
    position = file.tell()
    file.seek(0)
    n_scans = file.read().count(b"\xff\xda")
    file.seek(position)
    if n_scans > _MAX_SCANS:
        raise ImageError(f"{n_scans:,} scans are too many for a progressive JPEG; save it again, not progressive")
    return True


def _shrink(image: Image, factor: int) -> Image:
    """Convert an image to RGB and average each block of `factor` × `factor` pixels.

    This is done strip by strip, so that memory never holds a second copy of a large image.
    """
    from PIL import Image as Images

    highest = _highest(image) if image.mode in ("I", "F") else 0.0
    if factor == 1:
        return _rgb(image, highest)
    width, height = image.size
    small = Images.new("RGB", (-(-width // factor), -(-height // factor)))
    step = factor * max(1, 1_000_000 // (width * factor))
    for top in range(0, height, step):
        strip = image.crop((0, top, width, min(height, top + step)))
        small.paste(_rgb(strip, highest).reduce(factor), (0, top // factor))
    return small


def _rgb(image: Image, highest: float) -> Image:
    from PIL import Image as Images

    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts everything above 255 off
        return Images.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32)).clip(0, highest)
        return Images.fromarray(np.round(values * (255 / highest)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Images.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if type(image) is Images.Image and image.mode == "RGB" else image.convert("RGB")


def _highest(image: Image) -> float:
    """Return the number that means white, for pixels that are integers or floats without a fixed range.

    It is 1, 255 or 65,535, the smallest that no pixel exceeds; if a pixel exceeds all three, it is the largest pixel.
    """
    highest = float(np.max(np.asarray(image), where=np.isfinite(np.asarray(image)), initial=0))
    return next((end for end in (1.0, 255.0, 65535.0) if highest <= end), highest)


def _upright(small: Image, image: Image) -> Image:
    """Return `small`, turned upright by the orientation in the EXIF data of `image`."""
    from PIL.Image import Transpose

    try:
        orientation = int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF does not damage the image
        return small
    return small.transpose(Transpose(_UPRIGHT[orientation])) if orientation in _UPRIGHT else small


def encode_images(
    batch: Sequence[Prepared],
    convert: Callable[[Image], np.ndarray],
    encode: Callable[[list[np.ndarray]], np.ndarray],
    dims: int,
    enough: int = ENOUGH,
) -> Encoded:
    """Open, convert and encode images; an image that cannot be opened is listed in `problems` of the result.

    Args:
        batch: paths or contents of image files.
        convert: turns an upright RGB image into an array. It runs in the thread that opens the image, so that few
            images are in memory at full size.
        encode: turns the arrays into vectors `(n, dims)`.
        dims: number of columns of the vectors.
        enough: pixels of the shorter side that `convert` needs.
    """

    def open_converted(prepared: Prepared) -> np.ndarray | str:
        try:
            source = prepared.value if isinstance(prepared.value, bytes) else Path(prepared.value)
            return convert(open_image(source, enough=enough))
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = list(pool.map(open_converted, batch))
    arrays = {index: result for index, result in enumerate(results) if not isinstance(result, str)}
    vectors = np.zeros((len(batch), dims), dtype=np.float32)
    if arrays:
        vectors[list(arrays)] = encode(list(arrays.values()))
    return Encoded(vectors, {index: result for index, result in enumerate(results) if isinstance(result, str)})
