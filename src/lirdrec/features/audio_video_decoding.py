"""Decode untrusted sound and video files with PyAV: each gives samples or frames, or raises a `MediaError`.

PyAV (the extra `media`) contains FFmpeg's libraries. Only common containers are opened, and never a playlist or a list
of other files, so that a file cannot make this machine read another file or address.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lirdrec.errors import ConfigError, describe_error
from lirdrec.features.images import ENOUGH, MAX_PIXELS, ImageError, check_bytes, open_file

if TYPE_CHECKING:
    from PIL.Image import Image

EXTRA = 'pip install "lirdrec[media]"'
MAX_MEDIA_BYTES = 4 * 2**30
SHORTEST = 0.1  # seconds of sound
# FFmpeg's names; files may have any suffix
FORMATS = "wav,w64,aiff,caf,mp3,flac,ogg,aac,amr,mov,matroska,avi,mpegts,mpeg,mpegvideo,h264,asf,flv,gif"
_SEEK_FRAMES = 600  # frames decoded after a key frame to reach a time, at most
_MAX_FRAMES = 50_000  # frames decoded of a video of unknown length, at most
_CUT_OFF = 0.9  # a file is cut off if it gives less than this share of the length in its header


class MediaError(ImageError):
    """A file that cannot be used as sound or as video."""


def read_audio(source: Path | bytes, rate: int, seconds: float) -> tuple[np.ndarray, bool]:
    """Read the first `seconds` of a sound file, or of the sound of a video.

    Returns:
        The samples `(n,)` float32 in [-1, 1], mixed to one channel, `rate` samples a second; and whether the sound is
        longer than `seconds`.

    Raises:
        MediaError: the file is missing, without sound, damaged, cut off or shorter than 0.1 seconds; one sentence that
            names the file.
        ConfigError: PyAV is not installed.
    """
    with _opened(source, "audio file") as container:
        import av

        if not container.streams.audio:
            raise MediaError("holds no sound")
        stream, limit = container.streams.audio[0], round(seconds * rate)
        resampler = av.AudioResampler(format="fltp", rate=rate)  # its own mix of channels is louder
        parts, n = [], 0
        for frame in _frames(container, stream):
            for part in resampler.resample(frame):
                parts.append(part.to_ndarray().mean(axis=0))
                n += len(parts[-1])
            if n > limit or frame is None:
                break
        samples = np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, dtype=np.float32)
        if n <= limit:
            _check_length(container, n / rate)
        if n < SHORTEST * rate:
            raise MediaError(f"holds {n / rate:.2f} seconds of sound; {SHORTEST} are needed")
        if not np.isfinite(samples).all():
            raise MediaError("holds samples that are not finite numbers; it is damaged")
        return samples[:limit].clip(-1, 1), n > limit


def audio_seconds(source: Path | bytes) -> float:
    """Return the length of a sound in seconds by its header, 0 if the header has none.

    Raises a MediaError if the file cannot be opened, and a ConfigError if PyAV is not installed.
    """
    with _opened(source, "audio file") as container:
        return float((container.duration or 0) / 1_000_000)


def read_frames(source: Path | bytes, n: int, enough: int = ENOUGH, max_pixels: int = MAX_PIXELS) -> list[Image]:
    """Return `n` frames of a video as upright RGB images.

    The video is divided into `n` equal parts, and the frame in the middle of each part is taken. If the video has fewer
    frames, some are returned more than once. Large frames are returned smaller, but both sides keep at least `enough`
    pixels.

    Raises:
        MediaError: the file is missing, without images, damaged, cut off, or has frames of more than `max_pixels`; one
            sentence that names the file.
        ConfigError: PyAV is not installed.
    """
    with _opened(source, "video") as container:
        if not container.streams.video:
            raise MediaError("holds no video")
        stream = container.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > max_pixels:
            raise MediaError(f"{width:,} × {height:,} pixels are too many (the limit is {max_pixels:,})")
        length = (container.duration or 0) / 1_000_000
        frames = _at_times(container, stream, n, length) if length > 0 else _evenly(container, stream, n)
        if not frames:
            raise MediaError("holds no frame that can be decoded")
        return [_image(frame, enough, max_pixels) for frame in frames]


def _at_times(container: Any, stream: Any, n: int, length: float) -> list[Any]:
    """Return the frames in the middle of `n` equal parts of a video of `length` seconds.

    For each, decoding starts at the key frame before this time, and ends after at most `_SEEK_FRAMES` frames.
    """
    start = (container.start_time or 0) / 1_000_000
    found = []
    for index in range(n):
        time = start + length * (index + 0.5) / n
        container.seek(round(time * 1_000_000), backward=True)
        last = None
        for tried, frame in enumerate(container.decode(stream)):
            last = frame
            if tried >= _SEEK_FRAMES or (frame.time is not None and frame.time >= time - 1e-6):
                break
        if last is None:  # the time is after the last frame: the header claims too much
            raise MediaError("the file is cut off")
        found.append(last)
    return found


def _evenly(container: Any, stream: Any, n: int) -> list[Any]:
    """Return `n` frames at about equal distances of a video whose header has no length; empty if it has no frame.

    The whole video is decoded, up to `_MAX_FRAMES` frames, but memory holds only a few of them.
    """
    kept: list[Any] = []
    step = 1
    for index, frame in enumerate(container.decode(stream)):
        if index >= _MAX_FRAMES:
            break
        if index % step == 0:
            kept.append(frame)
            if len(kept) >= 4 * n:
                kept, step = kept[::2], 2 * step
    return [kept[int((index + 0.5) * len(kept) / n)] for index in range(n)] if kept else []


def _image(frame: Any, enough: int, max_pixels: int) -> Image:
    if frame.width * frame.height > max_pixels:
        raise MediaError(f"a frame of {frame.width:,} × {frame.height:,} pixels is too large")
    image: Image = frame.to_image()
    factor = max(1, min(image.size) // enough)
    image = image.reduce(factor) if factor > 1 else image
    rotation = getattr(frame, "rotation", 0) or 0  # degrees counterclockwise, as phones record it
    return image.rotate(rotation, expand=True) if rotation else image


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of a stream, and then None, which makes a resampler return its last samples."""
    yield from container.decode(stream)
    yield None


def _check_length(container: Any, seconds: float) -> None:
    claimed = (container.duration or 0) / 1_000_000
    exact = container.format.name.split(",")[0] in ("mov", "flac", "matroska", "aiff")  # others estimate it
    if exact and seconds < _CUT_OFF * claimed - 0.5:
        raise MediaError(f"the file is cut off: it holds {seconds:.1f} of {claimed:.1f} seconds")


@contextlib.contextmanager
def _opened(source: Path | bytes, noun: str) -> Iterator[Any]:
    """Open a media file, and yield PyAV's container of its streams; errors become a MediaError that names the file."""
    av = import_av()
    where = str(source) if isinstance(source, Path) else f"this {noun}"
    try:
        with _content(source, noun) as file, _media_errors(noun):
            _check_riff(file)
            with av.open(file, options={"format_whitelist": FORMATS, "protocol_whitelist": "none"}) as container:
                yield container
    except ImageError as error:
        raise MediaError(f"{where if where.isprintable() else repr(where)}: {error}") from error.__cause__


def _content(source: Path | bytes, noun: str) -> BinaryIO:
    if isinstance(source, Path):
        return open_file(source, noun, MAX_MEDIA_BYTES)
    check_bytes(len(source), noun, MAX_MEDIA_BYTES)
    return io.BytesIO(source)


@contextlib.contextmanager
def _media_errors(noun: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise MediaError("needs more memory than this machine has free") from None
    except Exception as error:  # PyAV raises many errors of its own, and errors of the operating system
        reason = describe_error(error).rstrip(".")
        raise MediaError(f"cannot be decoded as {noun} ({reason}); it is damaged or cut off") from error


def _check_riff(file: BinaryIO) -> None:
    """Raise a MediaError if a WAV or AVI file is shorter than its header says; FFmpeg would accept it as complete."""
    head = file.read(8)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    claimed = int.from_bytes(head[4:8], "little")
    # a program that writes to a pipe cannot know the size, and leaves the largest number in the header
    if head[:4] == b"RIFF" and claimed < 2**32 - 64 and claimed + 8 > size + 1:
        raise MediaError(f"the file is cut off: it holds {size:,} of {claimed + 8:,} bytes")


def import_av() -> Any:
    """Import PyAV, switch off its messages on the error stream, and return it.

    Raises a ConfigError if it is not installed.
    """
    try:
        import av
    except ImportError:
        raise ConfigError(f"decoding sound and video needs PyAV; install it with {EXTRA}") from None
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    av.logging.set_level(None)
    return av
