"""Vision models of the real classes with small random weights: our vectors are those of model and processor."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lirdrec.errors import ConfigError
from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoders.transformers_vision import VisionEncoder

from ..helpers import assert_error, assert_mentions
from .broken_images import encoded, make, noise, scene

t: Any = pytest.importorskip("transformers")

TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
TEXT = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4}
TEXT |= {"vocab_size": 99, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SQUARE = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
TOWERS = {"text_config": TEXT, "vision_config": {**TOWER, "intermediate_size": 40}}


def clip() -> tuple[Any, Any]:
    return t.CLIPModel(t.CLIPConfig(**TOWERS, projection_dim=24)), t.CLIPImageProcessorPil(**CROPPED)


def siglip() -> tuple[Any, Any]:
    return t.SiglipModel(t.SiglipConfig(**TOWERS)), t.SiglipImageProcessorPil(**SQUARE)


def dinov2() -> tuple[Any, Any]:
    return t.Dinov2Model(t.Dinov2Config(**TOWER)), t.BitImageProcessorPil(**CROPPED)


def vit() -> tuple[Any, Any]:
    return t.ViTModel(t.ViTConfig(**TOWER, intermediate_size=40)), t.ViTImageProcessorPil(**SQUARE)


def classifier() -> tuple[Any, Any]:
    return t.ViTForImageClassification(t.ViTConfig(**TOWER, intermediate_size=40)), t.ViTImageProcessorPil(**SQUARE)


def masked() -> tuple[Any, Any]:
    model = t.SiglipVisionModel(t.SiglipVisionConfig(**TOWERS["vision_config"], vision_use_head=False))
    return model, t.SiglipImageProcessorPil(**SQUARE)


def resnet() -> tuple[Any, Any]:
    config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return t.ResNetModel(config), t.ConvNextImageProcessorPil(size={"shortest_edge": 32})


def convnext() -> tuple[Any, Any]:
    config = t.ConvNextConfig(hidden_sizes=[8, 16, 16, 24], depths=[1] * 4)
    return t.ConvNextModel(config), t.ConvNextImageProcessorPil(size={"shortest_edge": 32})


# How to make it, the rule that must apply, columns, and the vectors from what the whole model says.
MODELS: dict[str, tuple[Any, str, int, Any]] = {
    "clip": (clip, "image_embeds", 24, None),
    "siglip": (siglip, "image_embeds", 32, None),
    "dinov2": (dinov2, "pooler", 32, lambda model, x: model.layernorm(model.encoder(model.embeddings(x))[0])[:, 0]),
    "vit": (vit, "pooler", 32, lambda model, x: model.pooler(model(x).last_hidden_state)),
    "classifier": (classifier, "cls", 32, lambda model, x: model.vit(x).last_hidden_state[:, 0]),
    "masked": (masked, "mean", 32, lambda model, x: model(x).last_hidden_state.mean(1)),
    "resnet": (resnet, "pooler", 16, lambda model, x: model(x).last_hidden_state.mean((2, 3))),
    "convnext": (convnext, "pooler", 24, lambda model, x: model.layernorm(model(x).last_hidden_state.mean((2, 3)))),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each model saved as its authors would save it."""
    place = tmp_path_factory.mktemp("models")
    for name, (build, *_) in MODELS.items():
        torch.manual_seed(3)
        for part in build():
            part.save_pretrained(place / name)
    return {name: place / name for name in MODELS}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("images")
    drawn = [scene(), noise(), scene(size=(90, 40)), scene("L", (33, 200)), Image.new("RGB", (1, 1), "red")]
    for index, image in enumerate(drawn):
        (place / f"{index}.png").write_bytes(encoded(image, "PNG"))
    return sorted(place.iterdir())


def direct(name: str, paths: list[Path]) -> np.ndarray:
    """The model built again from the same seed, without AutoModel, a folder, or a line of ours."""
    build, _, _, read = MODELS[name]
    torch.manual_seed(3)
    model, processor = build()
    images = [Image.open(path).convert("RGB") for path in paths]
    model.eval()
    rows = []
    with torch.inference_mode():
        for image in images:
            pixels = processor(images=image, return_tensors="pt")["pixel_values"]
            if read is None:
                said = model(input_ids=torch.tensor([[1, 5, 2]]), pixel_values=pixels).image_embeds
                rows.append(said / said.norm())  # the models themselves scale it to length 1
            else:
                rows.append(read(model, pixels))
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_equals_model_and_processor(name, folders, images):
    encoder = VisionEncoder(folders[name], device="cpu")
    _, pooling, dims, read = MODELS[name]
    assert (encoder.identity["pooling"], encoder.dims) == (pooling, dims)
    rows = encode_rows(encoder, images, batch_size=3)
    assert rows.problems == {}
    vectors = rows.vectors if read else rows.vectors / np.linalg.norm(rows.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, direct(name, images), atol=2e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3  # images have different vectors


@pytest.mark.parametrize("name", ["clip", "dinov2", "resnet"])
def test_vectors_do_not_depend_on_company(name, folders, images):
    encoder = VisionEncoder(folders[name], device="cpu")
    together = encode_rows(encoder, images, batch_size=5).vectors
    for index, path in enumerate(images):
        alone = encode_rows(encoder, [path], batch_size=1).vectors[0]
        np.testing.assert_allclose(alone, together[index], atol=1e-5)


def test_images_of_several_shapes_share_a_batch(folders, images, tmp_path):
    """A processor that keeps proportions: each shape is encoded by itself, in the order of the batch."""
    folder = tmp_path / "resnet"
    shutil.copytree(folders["resnet"], folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings.update(image_processor_type="BitImageProcessor", do_center_crop=False, size={"shortest_edge": 32})
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    encoder = VisionEncoder(folder, device="cpu")
    together = encode_rows(encoder, images, batch_size=5).vectors
    for index, path in enumerate(images):
        np.testing.assert_allclose(encode_rows(encoder, [path], 1).vectors[0], together[index], atol=1e-5)


def test_the_sixty_broken_images(folders, tmp_path):
    cases = make(tmp_path / "broken")
    files = [tmp_path / "broken" / case.name for case in cases]
    rows = encode_rows(VisionEncoder(folders["clip"], device="cpu"), files, batch_size=16)
    assert [bool(case.refused) for case in cases] == [index in rows.problems for index in range(len(cases))]
    for index, case in enumerate(cases):
        assert rows.vectors[index].any() != bool(case.refused)
        assert_mentions(rows.problems.get(index, ""), case.mentions)


def test_a_very_long_image_stays_small(folders, tmp_path):
    """Its shorter side scaled to 36 pixels would make the longer one 360,000; the middle is taken instead."""
    long = Image.new("RGB", (30_000, 3), "blue")
    long.paste(Image.new("RGB", (48, 3), "red"), (15_000 - 24, 0))
    for name, image in (("long.png", long), ("middle.png", Image.new("RGB", (48, 3), "red"))):
        (tmp_path / name).write_bytes(encoded(image, "PNG"))
    encoder = VisionEncoder(folders["clip"], device="cpu")
    found = encode_rows(encoder, [tmp_path / "long.png", tmp_path / "middle.png"], batch_size=2).vectors
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert max(encoder._outline.pixels(long).shape) == 32


def test_identity_is_the_content_and_needs_no_weights_in_memory(folders, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(folders["vit"], copy)
    (copy / "README.md").write_text("a card")
    one, other = VisionEncoder(folders["vit"]), VisionEncoder(str(copy))
    assert one.identity == other.identity
    assert one.dims == 32
    assert "_network" not in vars(one)
    assert str(tmp_path) not in json.dumps(dict(other.identity))
    assert VisionEncoder(copy, precision="bfloat16").identity != one.identity
    settings = copy / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("0.5", "0.25"))  # another mean
    assert VisionEncoder(copy).identity != one.identity


def test_half_precision_is_near(folders, images):
    whole = encode_rows(VisionEncoder(folders["clip"], "cpu"), images, 5).vectors
    half = encode_rows(VisionEncoder(folders["clip"], "cpu", precision="bfloat16"), images, 5).vectors
    assert half.dtype == np.float32
    cosine = (whole * half).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(half, axis=1)
    assert (cosine > 0.999).all()
    assert (whole != half).any()


def test_pickled_weights_are_read_without_running_them(folders, images, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(folders["classifier"], folder)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(3)
    torch.save(classifier()[0].state_dict(), folder / "pytorch_model.bin")
    expected = encode_rows(VisionEncoder(folders["classifier"], "cpu"), images, 5).vectors
    np.testing.assert_array_equal(encode_rows(VisionEncoder(folder, "cpu"), images, 5).vectors, expected)

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"trap": Trap()}, folder / "pytorch_model.bin")
    with assert_error(ConfigError, mentions=[folder]):
        _ = VisionEncoder(folder, "cpu").identity
    assert not (tmp_path / "sprung").exists()


def test_what_is_no_vision_model_is_refused_in_one_sentence(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    empty, cut, less = tmp_path / "empty", tmp_path / "cut", tmp_path / "less"
    empty.mkdir()
    shutil.copytree(folders["vit"], cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-1000])
    shutil.copytree(folders["vit"], less)
    from safetensors.torch import load_file, save_file

    kept = {name: value for name, value in load_file(less / "model.safetensors").items() if "layernorm." not in name}
    save_file(kept, less / "model.safetensors", metadata={"format": "pt"})
    language = tmp_path / "language"
    t.BertModel(t.BertConfig(**{**TEXT, "type_vocab_size": 2})).save_pretrained(language)
    for model in (empty, cut, language):
        with assert_error(ConfigError, mentions=[model]) as caught:
            _ = VisionEncoder(model, "cpu").identity
        assert "\n" not in str(caught.value)
    with assert_error(ConfigError, mentions=[less]):
        encode_rows(VisionEncoder(less, "cpu"), [Path("any.jpg")], 1), VisionEncoder(less, "cpu")._network
    for name in ("nobody/nothing", "no such model at all"):
        with assert_error(ConfigError, mentions=[name]):
            _ = VisionEncoder(name).dims


def test_arguments(monkeypatch, folders, images):
    with assert_error(ConfigError, mentions=["precision", "'float23'", "'float32'"]):
        VisionEncoder("any", precision="float23")
    with assert_error(ConfigError, mentions=["device", "'cuda:99'"]):
        encode_rows(VisionEncoder(folders["vit"], device="cuda:99"), images, 5)
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with assert_error(ConfigError, mentions=['pip install "lirdrec[encoders]"']):
        _ = VisionEncoder(folders["vit"]).dims
