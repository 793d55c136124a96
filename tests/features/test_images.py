"""Whatever a file holds, it becomes the image it shows or one sentence; nothing crashes, hangs or fills memory."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from lirdrec.features.images import ImageError, open_image, thumbnail

from ..helpers import assert_error, assert_mentions
from .broken_images import COLORS, GRAYS, SIZE, Case, encoded, make, noise, scene

CHILD = """
import json, resource, sys
from pathlib import Path
from lirdrec.features.images import ImageError, open_image

folder, names = Path(sys.argv[1]), json.loads(sys.argv[2])
open_image(folder / "jpeg.png"), open_image(folder / "gif_animated.gif")
before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for name in names:
    try:
        image = open_image(folder / name)
        width, height = image.size
        assert image.mode == "RGB"
        found[name] = [image.getpixel((width * x // 4, height * y // 4)) for y in (1, 3) for x in (1, 3)]
    except ImageError as error:
        found[name] = str(error)
growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"growth": growth * (1 if sys.platform == "darwin" else 1024), "found": found}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    path = tmp_path_factory.mktemp("broken")
    return path, make(path)


def test_sixty_broken_images(folder):
    path, cases = folder
    assert len(cases) == len({case.name for case in cases}) == 60
    assert sorted(case.name for case in cases) == sorted(file.name for file in path.iterdir())
    names = json.dumps([case.name for case in cases])
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), names], capture_output=True, text=True, timeout=600, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    reported = json.loads(child.stdout)
    assert reported["growth"] < 300 * 2**20
    for case in cases:
        found = reported["found"][case.name]
        if case.refused:
            assert isinstance(found, str), f"{case.name} must be refused"
            assert_mentions(found, [path / case.name, *case.mentions])
            assert "\n" not in found
        else:
            assert not isinstance(found, str), found
            assert np.abs(np.array(found) - np.array(case.quarters)).max() <= 12, case.name


def heic(brands: bytes = b"heic\0\0\0\0mif1heic") -> bytes:
    """The first box of a HEIC file, and nothing that could be decoded."""
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(100)


def test_heic_without_its_reader_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    path = tmp_path / "i1.heic"
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"msf1\0\0\0\0"):
        path.write_bytes(heic(brands))
        with assert_error(ImageError, mentions=[path, "HEIC", "lirdrec[heif]"]):
            open_image(path)


def test_avif_is_distinguished_from_heic_by_all_its_brands():
    content = encoded(noise(), "AVIF")
    renamed = content[:8] + b"mif1" + content[12:]
    np.testing.assert_array_equal(np.asarray(open_image(renamed)), np.asarray(open_image(content)))


def test_heic_images_open():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(scene()).save(file, format="HEIF", quality=95)
    found = open_image(file.getvalue())
    assert found.mode == "RGB" and found.size == scene().size
    assert np.abs(np.asarray(found, int) - np.asarray(scene().convert("RGB"), int)).mean() < 12
    with pytest.raises(ImageError):
        open_image(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises(ImageError):
        open_image(heic())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "ICO", "AVIF"])
def test_cut_anywhere_it_opens_whole_or_is_refused(kind):
    """Nothing half decoded: an image that opens despite the cut has every pixel of the whole one."""
    content = encoded(noise(), kind)
    whole = np.asarray(open_image(content))
    opened = 0
    for cut in np.linspace(0, len(content) - 1, 60).astype(int):
        try:
            found = open_image(content[:cut])
        except ImageError:
            continue
        opened += 1
        np.testing.assert_array_equal(np.asarray(found), whole)
    assert opened <= 2  # only marks of the end were lost


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "ICO", "AVIF"])
def test_bytes_turned_over_never_crash(kind):
    content = encoded(noise(), kind)
    draw = np.random.default_rng(7)
    for _ in range(40):
        damaged = bytearray(content)
        for place in draw.integers(0, min(len(content), 400), 3):  # headers are where it hurts
            damaged[place] = draw.integers(256)
        try:
            assert open_image(bytes(damaged)).mode == "RGB"
        except ImageError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(kind, orientation):
    undone = [None, 0, 3, 1, 5, 2, 6, 4][orientation - 1]  # the inverse of what each orientation asks for
    stored = scene() if undone is None else scene().transpose(Image.Transpose(undone))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    found = open_image(encoded(stored, kind, exif=exif, **options))
    assert found.size == SIZE
    assert np.abs(np.asarray(found).astype(int) - np.asarray(scene()).astype(int)).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_modes_of_png(mode):
    """Gray, two tones, palettes, deep and clear images show what they show in RGB."""
    expected = np.asarray(scene("L").convert("RGB")).astype(int)
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(scene("L")).astype(np.uint16) * 257)
    elif mode == "1":
        stored = scene("L").point(lambda value: 255 * (value > 100)).convert("1")
        expected = 255 * (expected > 100)
    else:
        stored = scene("L").convert(mode)
    assert stored.mode == mode
    np.testing.assert_array_equal(np.asarray(open_image(encoded(stored, "PNG"))), expected)


def test_half_clear_lies_on_white():
    half = Image.new("RGBA", (4, 4), (200, 0, 100, 128))
    color = open_image(encoded(half, "PNG")).getpixel((1, 1))
    assert np.abs(np.array(color) - (np.array([200, 0, 100]) * 128 + 255 * 127) / 255).max() <= 1


@pytest.mark.parametrize("values", [np.uint16([0, 256, 32768, 65535]), np.float32([0, 0.25, 0.5, 1]), np.int32(GRAYS)])
def test_deep_images_are_scaled_not_clipped(values):
    stored = Image.fromarray(np.repeat(np.repeat(values.reshape(2, 2), 4, axis=0), 4, axis=1))
    top = {"u": 65535, "f": 1, "i": 255}[values.dtype.kind]
    found = np.asarray(open_image(encoded(stored, "TIFF")))[::4, ::4, 0].reshape(-1)
    np.testing.assert_allclose(found, values / top * 255, atol=1)


def test_large_images_keep_enough():
    """A quarter of a large JPEG and of a large PNG are the same image; a long one keeps its short side."""
    large = scene(size=(4400, 6000))
    for kind in ("JPEG", "PNG", "TIFF"):
        found = open_image(encoded(large, kind), enough=1000)
        assert found.size == (1100, 1500), kind
        reference = np.asarray(large.resize(found.size, Image.Resampling.BOX)).astype(int)
        assert np.abs(np.asarray(found).astype(int) - reference).mean() < 3
    assert open_image(encoded(scene(size=(9000, 3)), "PNG")).size == (9000, 3)


def test_the_limit_is_on_what_is_decoded():
    content = encoded(scene(size=(2000, 2000)), "PNG")
    assert open_image(content, max_pixels=4_000_000).size == (2000, 2000)
    with assert_error(ImageError, mentions=["2,000 × 2,000", "3,999,999"]):
        open_image(content, max_pixels=3_999_999)
    assert open_image(encoded(scene(size=(2000, 2000)), "JPEG"), max_pixels=300_000, enough=400).size == (500, 500)


def test_thumbnail_is_a_small_upright_jpeg(folder):
    for name in ("jpeg_turned.jpg", "png_16_bit.png", "jpeg_large.jpg"):
        small = Image.open(io.BytesIO(thumbnail(folder[0] / name, size=32)))
        assert (small.format, max(small.size)) == ("JPEG", 32)
    narrow = Image.open(io.BytesIO(thumbnail(encoded(scene(size=(5000, 2)), "PNG"), size=64)))
    assert narrow.size == (64, 1)
    with assert_error(ImageError, mentions=[folder[0] / "empty.jpg"]):
        thumbnail(folder[0] / "empty.jpg")


def test_names_that_are_no_files(tmp_path):
    for path in (tmp_path / "missing.jpg", tmp_path / "missing" / "one.jpg", tmp_path / ("x" * 5000)):
        with assert_error(ImageError, mentions=[path]):
            open_image(path)
    with assert_error(ImageError, mentions=[repr("a\0b")]):
        open_image(Path("a\0b"))


def test_threads_leave_warnings_and_pillow_as_they_were(folder):
    """Pillow warns of damaged EXIF: the warning is not shown, and the filters stay the same objects."""
    content = encoded(scene(), "TIFF")
    damaged = content[: content.index(b"II*\0") + 8] + content[8:-20] + b"\xff" * 20
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        inside = list(warnings.filters)

        def attempt(source: Path | bytes) -> None:
            with contextlib.suppress(ImageError):
                open_image(source)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(attempt, [damaged, folder[0] / "tiff_cut.tif", folder[0] / "jpeg_bad_exif.jpg"] * 40))
        assert warnings.filters == inside
    assert heard == []
    assert warnings.filters == filters
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_real_posters_are_as_pillow_opens_them(real_data):
    files = sorted((real_data / "posters").glob("*.jpg"))[:20]
    assert files
    for file in files:
        np.testing.assert_array_equal(np.asarray(open_image(file)), np.asarray(Image.open(file).convert("RGB")))


def test_quarters_are_where_the_scene_has_them():
    """The probe itself: it would notice a mirrored or turned scene."""
    assert [scene().getpixel(place) for place in ((12, 16), (36, 16), (12, 48), (36, 48))] == list(COLORS)
