"""Base class of sound encoders, which cut a sound into windows; and an encoder by the spectrum, without weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from lirdrec.errors import ConfigError
from lirdrec.features.audio_video_decoding import MediaError, audio_seconds, import_av, read_audio
from lirdrec.features.encoder import Encoded, Encoder, Input, Kind, Prepared
from lirdrec.option_names import option_name

SECONDS = 120.0  # seconds of a sound that are used by default
WINDOW = 30.0  # seconds of a window if the model does not define its length
_SHORTEST_END = 1.0  # seconds: a shorter last window is left out


class SoundEncoder(Encoder):
    """Base class of sound encoders: a sound is mixed to one channel and cut into windows, parts of equal length.

    The vector of a sound is the mean of the vectors of its windows, weighted by their lengths.

    Windows of the same length share a batch, so that nothing is padded and vectors do not depend on other sounds.

    Args:
        max_seconds: seconds of each sound that are used; longer sounds are cut, and counted as truncated.

    Raises:
        ConfigError: `max_seconds` is not above zero, or PyAV is not installed.
    """

    kind: ClassVar[Kind] = "audio"
    shard_rows: ClassVar[int] = 256
    batch_size = 8

    def __init__(self, max_seconds: float = SECONDS):
        if not 0 < max_seconds < float("inf"):
            name = option_name("max_seconds")
            raise ConfigError(f"{name} is {max_seconds:g}; it must be above 0 and not infinite")
        import_av()
        self.seconds = float(max_seconds)

    @property
    @abstractmethod
    def rate(self) -> int:
        """Number of samples per second that the model takes."""

    @property
    def window(self) -> float:
        """Length of a window in seconds."""
        return WINDOW

    @abstractmethod
    def vectors(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vectors `(n, d)` of n windows: arrays `(samples,)` float32, all of the same length."""

    def prepare(self, inputs: Sequence[Input]) -> list[Prepared]:
        """Return the sounds unchanged (`encode` opens them); `cut` is set if the header says that one is too long."""
        return [Prepared(value, cut=self._is_longer(value)) for value in inputs]

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors `(B, d)` of B sounds; a sound that cannot be opened is listed in `problems`."""
        windows: dict[int, list[tuple[int, np.ndarray]]] = {}
        problems: dict[int, str] = {}
        for index, prepared in enumerate(batch):
            try:
                samples, _ = read_audio(prepared.value, self.rate, self.seconds)
            except MediaError as error:
                problems[index] = str(error)
                continue
            for window in split(samples, self.rate, self.window):
                windows.setdefault(len(window), []).append((index, window))
        sums, lengths = np.zeros((len(batch), self.dims)), np.zeros((len(batch), 1))
        for length, pairs in windows.items():
            for start in range(0, len(pairs), len(batch)):
                some = pairs[start : start + len(batch)]
                rows = [index for index, _ in some]
                np.add.at(sums, rows, length * self.vectors([window for _, window in some]).astype(np.float64))
                np.add.at(lengths, rows, length)
        return Encoded((sums / np.maximum(lengths, 1)).astype(np.float32), problems)

    def _is_longer(self, source: Any) -> bool:
        try:
            return audio_seconds(source) > self.seconds
        except MediaError:
            return False  # `encode` reports it


def split(samples: np.ndarray, rate: int, seconds: float) -> list[np.ndarray]:
    """Cut a sound into windows of `seconds`; a last window of less than a second is left out if there are others."""
    length = max(1, int(seconds * rate))
    windows = [samples[start : start + length] for start in range(0, len(samples), length)]
    return windows[:-1] if len(windows) > 1 and len(windows[-1]) < min(length, _SHORTEST_END * rate) else windows


class SpectrumEncoder(SoundEncoder):
    """Encoder of sounds by statistics of the loudness in 64 mel bands, 256 columns: no weights, no download.

    The sound is resampled to 16 kHz. Each window is divided into frames of 32 ms, one every 16 ms. The loudness of a
    band in a frame is the logarithm of its energy, scaled so that the highest of the window is 1, and 60 dB below it
    is 0. Each band gives four columns: the mean and the standard deviation of its loudness over time, and the mean and
    the standard deviation of its absolute change from frame to frame. The vector of a window has length 1; that of a
    sound is their mean. Vectors distinguish high sounds from low ones and steady sounds from changing ones, but not
    what is said.
    """

    @property
    def identity(self) -> Mapping[str, Any]:
        """The encoder's name, the version of its method, and the seconds that are used."""
        return {"encoder": "spectrum", "version": 1, "seconds": self.seconds}

    @property
    def dims(self) -> int:
        """Number of columns of the vectors: 256."""
        return 4 * _BANDS

    @property
    def rate(self) -> int:
        """Number of samples per second that the encoder takes: 16,000."""
        return 16_000

    def vectors(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vectors `(n, 256)` of windows."""
        return np.stack([_statistics(window) for window in windows])


_BANDS, _FRAME, _HOP = 64, 512, 256
_DEPTH = 6  # powers of ten that loudness spans: 60 dB


def _statistics(samples: np.ndarray) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FRAME), axis=1)) ** 2
    loudness = np.log10(power @ _mel_bands() + 1e-9)
    loudness = np.clip((loudness - loudness.max()) / _DEPTH + 1, 0, 1)
    change = np.abs(np.diff(loudness, axis=0, prepend=loudness[:1]))
    blocks = [loudness.mean(axis=0), loudness.std(axis=0), change.mean(axis=0), change.std(axis=0)]
    vector = np.concatenate(blocks)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@cache
def _mel_bands() -> np.ndarray:
    """Return the weights `(frequencies, bands)` of mel bands: triangles with centers at equal distances in mel.

    The mel of a frequency f in Hz is

        2595 log10(1 + f / 700)
    """
    top = 2595 * np.log10(1 + 8000 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, _BANDS + 2) / 2595) - 1)
    frequencies = np.linspace(0, 8000, _FRAME // 2 + 1)[:, None]
    low, center, high = edges[:-2], np.maximum(edges[1:-1], edges[:-2] + 32), np.maximum(edges[2:], edges[:-2] + 64)
    rising, falling = (frequencies - low) / (center - low), (high - frequencies) / (high - center)
    return np.clip(np.minimum(rising, falling), 0, None)
