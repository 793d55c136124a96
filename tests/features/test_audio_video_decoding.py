"""Samples and frames of known sounds and videos; broken files become problems; no file opens another one."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lirdrec.errors import ConfigError
from lirdrec.features import audio_video_decoding
from lirdrec.features.audio_video_decoding import MediaError, audio_seconds, read_audio, read_frames

from ..helpers import assert_error
from .media_files import BLUE, GREEN, RED, broken, tone, video, wav

pytest.importorskip("av")


def test_samples_are_those_of_the_file():
    samples = tone(440, 1.5)
    found, longer = read_audio(wav(samples), 16_000, 60)
    assert (found.dtype, longer) == (np.float32, False)
    np.testing.assert_allclose(found, samples, atol=1e-4)
    first, longer = read_audio(wav(samples), 16_000, 0.5)
    assert longer
    np.testing.assert_allclose(first, samples[:8000], atol=1e-4)
    assert audio_seconds(wav(samples)) == pytest.approx(1.5)


def test_channels_are_mixed_and_rates_converted():
    stereo, _ = read_audio(wav(tone(440, 1, 44_100), 44_100, channels=2), 16_000, 60)
    assert abs(len(stereo) - 16_000) <= 32
    middle = slice(2000, 14_000)  # resampling needs some samples at the ends
    loudest = np.abs(np.fft.rfft(stereo[middle])).argmax() * 16_000 / 12_000
    assert loudest == pytest.approx(440, abs=2)
    assert np.abs(stereo[middle]).max() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi", "webm-without-length"])
def test_frames_are_at_equal_distances(form, monkeypatch):
    content = video([RED, GREEN, BLUE], form="matroska" if "webm" in form else form)
    if "webm" in form:  # the path of videos that do not say their length
        monkeypatch.setattr(
            audio_video_decoding,
            "_at_times",
            lambda container, stream, n, length: audio_video_decoding._evenly(container, stream, n),
        )
    frames = read_frames(content, 3)
    assert [frame.size for frame in frames] == [(96, 64)] * 3
    for frame, color in zip(frames, [RED, GREEN, BLUE], strict=True):
        np.testing.assert_allclose(np.asarray(frame).reshape(-1, 3).mean(axis=0), color, atol=25)
    assert len(read_frames(content, 64)) == 64  # more than it has
    one = np.asarray(read_frames(content, 1)[0]).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(one, GREEN, atol=25)


def test_large_frames_are_reduced_or_refused():
    content = video([RED], size=(640, 480))
    assert read_frames(content, 1, enough=100)[0].size == (160, 120)
    with assert_error(MediaError, mentions=["640", "480"]):
        read_frames(content, 1, max_pixels=640 * 480 - 1)


def test_broken_files(tmp_path):
    for kind, files in broken(tmp_path).items():
        for path in files:
            with assert_error(MediaError, mentions=[path]) as caught:
                _ = read_audio(path, 16_000, 60) if kind == "audio" else read_frames(path, 2)
            assert "\n" not in str(caught.value)


def test_without_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with assert_error(ConfigError, mentions=['pip install "lirdrec[media]"']):
        read_audio(wav(tone(440, 1)), 16_000, 60)
