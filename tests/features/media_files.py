"""Sounds and videos with known content, written on the spot, and broken ones."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 30), (30, 30, 220)


def tone(hertz: float, seconds: float, rate: int = 16_000) -> np.ndarray:
    """`(n,)` float32: a sine of half the full loudness."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def stored(samples: np.ndarray) -> np.ndarray:
    """The samples as a WAV file holds them."""
    return (_stored(samples) / 32768).astype(np.float32)


def _stored(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32767).astype("<i2")


def wav(samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> bytes:
    """A WAV file of 16 bits; the samples are repeated in all channels."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(_stored(samples), channels).tobytes())
    return content.getvalue()


def video(
    colors: list[tuple[int, int, int]],
    frames_each: int = 10,
    form: str = "mp4",
    size: tuple[int, int] = (96, 64),
    codec: str = "mpeg4",
) -> bytes:
    """A video of ten frames a second that shows each color for `frames_each` frames."""
    import av

    content = io.BytesIO()
    with av.open(content, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for color in colors:
            image = np.full((size[1], size[0], 3), color, dtype=np.uint8)
            for _ in range(frames_each):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def broken(place: Path) -> dict[str, list[Path]]:
    """Files that must be refused, by what reads them: "audio" or "video"."""
    place.mkdir(parents=True, exist_ok=True)
    sound, moving = wav(tone(440, 2)), video([RED, BLUE])
    secret = place / "secret.wav"
    secret.write_bytes(sound)
    contents = {
        "empty": b"",
        "noise": np.random.default_rng(0).bytes(4000),
        "web": b"<!doctype html><html><body>Not found</body></html>",
        "playlist.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode(),
        "list.ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n".encode(),
    }
    audio = {**contents, "cut.wav": sound[: len(sound) // 2], "short.wav": wav(tone(440, 0.02))}
    audio["mute.mp4"] = moving
    videos = {**contents, "cut.mp4": moving[: len(moving) // 2], "sound.wav": sound}
    files = {}
    for kind, named in (("audio", audio), ("video", videos)):
        (place / kind).mkdir(exist_ok=True)
        for name, content in named.items():
            (place / kind / name).write_bytes(content)
        files[kind] = [place / kind / name for name in named] + [place / kind / "absent", place / kind]
    return files
