"""Encoders of sounds, videos and texts with images: our vectors are those of the models, computed in another way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lirdrec.errors import ConfigError
from lirdrec.features.encoder import TextAndImage, encode_rows
from lirdrec.features.encoder_specs import EncoderSpec
from lirdrec.features.encoders.audio_encoder import SpectrumEncoder, split
from lirdrec.features.encoders.color_edge import ColorEdgeEncoder
from lirdrec.features.encoders.frames import FrameEncoder
from lirdrec.features.encoders.multimodal_sentence_transformers import JointEncoder, MultimodalAudio, MultimodalVideo
from lirdrec.features.encoders.transformers_audio import TransformersAudio
from lirdrec.features.encoders.transformers_vision import VisionEncoder

from ..helpers import assert_error
from .broken_images import encoded
from .media_files import BLUE, GREEN, RED, broken, tone, video, wav
from .tiny_models import AUDIO, clip, llava, save_audio

t: Any = pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")
pytest.importorskip("av")

TEXTS = ["a red car", "a blue boat on the sea", "green"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    made = {name: save_audio(name, place / name) for name in AUDIO}
    return made | {"clip": clip(place / "clip", TEXTS), "llava": llava(place / "llava", TEXTS)}


def direct(name: str, samples: np.ndarray) -> np.ndarray:
    """One window's vector from the model built again from the same seed, by the rule of its paper's library."""
    torch.manual_seed(3)
    model, extractor = AUDIO[name]()
    model.eval()
    features = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.inference_mode():
        if name == "clap":
            audio = model.audio_model(input_features=features["input_features"]).pooler_output
            vector = model.audio_projection(audio)[0].numpy()
            return vector / np.linalg.norm(vector)  # as the model itself does
        if name == "whisper":
            last = model.model.encoder(features["input_features"]).last_hidden_state[0]
            return last[: round(len(samples) / 320)].mean(dim=0).numpy()  # 50 steps a second
        if name == "ast":
            return model(features["input_values"]).pooler_output[0].numpy()
        return model(features["input_values"]).last_hidden_state[0].mean(dim=0).numpy()


@pytest.mark.parametrize("name", AUDIO)
def test_audio_equals_model_and_extractor(name, models):
    encoder = TransformersAudio(models[name], device="cpu")
    rate, window = encoder.rate, encoder.window
    assert encoder.identity["pooling"] == {"clap": "audio_embeds", "ast": "pooler"}.get(name, "mean")
    assert (rate, window) == {"clap": (48_000, 10), "ast": (16_000, 1.28)}.get(name, (16_000, 30))
    samples = np.round(tone(330, 1.0, rate) * 32767) / np.float32(32768)  # as 16 bits hold it
    rows = encode_rows(encoder, [wav(tone(330, 1.0, rate), rate), wav(tone(880, 1.0, rate), rate)], 2)
    assert (rows.problems, rows.vectors.shape) == ({}, (2, encoder.dims))
    np.testing.assert_allclose(rows.vectors[0], direct(name, samples), atol=2e-4)
    assert np.abs(rows.vectors[0] - rows.vectors[1]).max() > 1e-4  # different sounds have different vectors
    alone = encode_rows(encoder, [wav(tone(330, 1.0, rate), rate)], 1)
    np.testing.assert_allclose(alone.vectors[0], rows.vectors[0], atol=1e-5)


def test_long_sounds_are_cut_into_windows(models):
    encoder = TransformersAudio(models["ast"], device="cpu", max_seconds=3.0)
    sound = np.concatenate([tone(hertz, 1.28) for hertz in (200, 500, 1200)])
    rows = encode_rows(encoder, [wav(sound)], 1)
    assert rows.cut == [0]  # 3.84 seconds
    samples = (np.round(sound * 32767) / 32768).astype(np.float32)
    windows = split(samples[:48_000], 16_000, 1.28)
    assert [len(window) for window in windows] == [20_480, 20_480]  # the rest, 0.44 seconds, is left out
    expected = np.mean([direct("ast", window) for window in windows], axis=0)
    np.testing.assert_allclose(rows.vectors[0], expected, atol=2e-4)
    assert TransformersAudio(models["ast"]).identity != encoder.identity


def test_spectrum_distinguishes_sounds_and_ignores_loudness():
    encoder = SpectrumEncoder()
    steady = tone(440, 2)
    sounds = [wav(each) for each in (steady, steady * 0.5, tone(3000, 2), steady * (np.arange(32_000) < 16_000))]
    vectors = encode_rows(encoder, sounds, 4).vectors
    assert vectors.shape == (4, 256)
    distance = np.linalg.norm(vectors - vectors[0], axis=1)
    assert distance[1] < 0.25 * min(distance[2], distance[3])
    loudest = 2595 * np.log10(1 + 440 / 700) / (2595 * np.log10(1 + 8000 / 700)) * 65 - 1
    assert abs(int(vectors[0][:64].argmax()) - loudest) <= 1


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_broken_files_are_problems(kind, tmp_path):
    files = broken(tmp_path)[kind]
    good = tmp_path / "good"
    good.write_bytes(wav(tone(440, 1)) if kind == "audio" else video([RED]))
    encoder = SpectrumEncoder() if kind == "audio" else FrameEncoder(ColorEdgeEncoder(), 2)
    rows = encode_rows(encoder, [*files, good], 3)
    assert sorted(rows.problems) == list(range(len(files)))
    for index, path in enumerate(files):
        assert str(path) in rows.problems[index]
    assert rows.vectors.any(axis=1).tolist() == [False] * len(files) + [True]


@pytest.mark.parametrize("name", ["descriptor", "clip"])
def test_video_is_the_mean_of_its_frames(name, models):
    image = ColorEdgeEncoder() if name == "descriptor" else VisionEncoder(models["clip"], device="cpu")
    encoder = FrameEncoder(image, 3)
    assert encoder.identity["image"] == dict(image.identity)
    rows = encode_rows(encoder, [video([RED, GREEN, BLUE]), video([RED])], 2)
    flat = [encoded(Image.new("RGB", (96, 64), color), "PNG") for color in (RED, GREEN, BLUE)]
    frames = encode_rows(image, flat, 3).vectors
    expected = np.stack([frames.mean(axis=0), frames[0]])
    cosine = (rows.vectors * expected).sum(1) / np.linalg.norm(rows.vectors, axis=1) / np.linalg.norm(expected, axis=1)
    assert (cosine > 0.97).all()  # the codec changes colors a little
    assert FrameEncoder(image, 4).identity != encoder.identity


@pytest.mark.parametrize("name", ["clip", "llava"])
def test_joint_equals_the_library(name, models):
    from sentence_transformers import SentenceTransformer

    encoder = JointEncoder(models[name], device="cpu")
    assert encoder.identity["joined"] == {"clip": "mean", "llava": "model"}[name]
    red, blue = Image.new("RGB", (50, 40), "red"), Image.new("RGB", (40, 50), "blue")
    images = [encoded(color, "PNG") for color in (red, blue)]
    inputs = [
        TextAndImage(TEXTS[0], images[0]),
        TextAndImage(TEXTS[1], images[1]),
        TextAndImage(text=TEXTS[0]),
        TextAndImage(image=images[1]),
        TextAndImage(TEXTS[0], b"no image"),
    ]
    rows = encode_rows(encoder, inputs, 5)
    assert list(rows.problems) == [4]
    library = SentenceTransformer(str(models[name]), device="cpu")

    def alone(value: Any) -> np.ndarray:
        vector = library.encode([value])[0]
        return vector / np.linalg.norm(vector) if name == "clip" else vector

    def joined(text: str, image: Any) -> np.ndarray:
        return (alone(text) + alone(image)) / 2 if name == "clip" else alone({"text": text, "image": image})

    expected = [joined(TEXTS[0], red), joined(TEXTS[1], blue), alone(TEXTS[0]), alone(blue)]
    np.testing.assert_allclose(rows.vectors[:4], expected, atol=1e-4)
    assert not rows.vectors[4].any()


def test_sounds_through_sentence_transformers(models, tmp_path):
    """A saved model of the library (modules.json) is used through the library, its pooling included."""
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(models["ast"]), device="cpu")
    library.save_pretrained(str(tmp_path / "saved"))
    encoder = EncoderSpec("audio", str(tmp_path / "saved"), {"device": "cpu"}).encoder()
    assert isinstance(encoder, MultimodalAudio)
    assert isinstance(EncoderSpec("audio", str(models["ast"])).encoder(), TransformersAudio)
    samples = (np.round(tone(440, 1) * 32767) / 32768).astype(np.float32)
    rows = encode_rows(encoder, [wav(tone(440, 1))], 1)
    expected = library.encode([{"array": samples, "sampling_rate": 16_000}])
    np.testing.assert_allclose(rows.vectors, expected, atol=1e-5)
    video_model = EncoderSpec("video", str(tmp_path / "saved")).encoder()
    assert isinstance(video_model, MultimodalVideo)
    with assert_error(ConfigError, mentions=[tmp_path / "saved"]):
        _ = video_model.identity


def test_identity_is_the_content(models, tmp_path):
    shutil.copytree(models["wav2vec2"], tmp_path / "elsewhere")
    one, other = TransformersAudio(models["wav2vec2"]), TransformersAudio(tmp_path / "elsewhere")
    assert one.identity == other.identity
    assert "_network" not in vars(one)
    assert str(tmp_path) not in json.dumps(dict(other.identity))


def test_wrong_models_and_arguments(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    less = tmp_path / "less"
    shutil.copytree(models["wav2vec2"], less)
    from safetensors.torch import load_file, save_file

    kept = {name: value for name, value in load_file(less / "model.safetensors").items() if "layer_norm" not in name}
    save_file(kept, less / "model.safetensors", metadata={"format": "pt"})
    with assert_error(ConfigError, mentions=[less]):
        encode_rows(TransformersAudio(less, "cpu"), [wav(tone(440, 1))], 1)
    for model in (str(models["clip"]), str(tmp_path), "nobody/nothing"):
        with assert_error(ConfigError, mentions=[model]):
            _ = EncoderSpec("audio", model).encoder().dims
    with assert_error(ConfigError, mentions=[models["wav2vec2"]]):
        _ = JointEncoder(models["wav2vec2"]).identity
    for kind, option, value in (("audio", "max_seconds", 0), ("video", "frames", 0), ("video", "frames", 10_000)):
        model = {"audio": "spectrum", "video": "descriptor"}[kind]
        with assert_error(ConfigError, mentions=[f"{option} is"]):
            EncoderSpec(kind, model, {option: value}).encoder()
    with assert_error(ConfigError, mentions=["frames"]):
        EncoderSpec("image", "descriptor", {"frames": 3})
