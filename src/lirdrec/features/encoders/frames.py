"""Video encoder: an image encoder turns some frames into vectors, and their mean is the vector of the video."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from lirdrec.errors import ConfigError
from lirdrec.features.audio_video_decoding import MediaError, import_av, read_frames
from lirdrec.features.encoder import Encoded, Encoder, Kind, Prepared, encode_rows
from lirdrec.option_names import option_name

FRAMES = 8
MAX_FRAMES = 256


def checked_frames(frames: int) -> int:
    """Return `frames` unchanged; raises a ConfigError if it is out of range, or PyAV is not installed."""
    if not 1 <= frames <= MAX_FRAMES:
        raise ConfigError(f"{option_name('frames')} is {frames}; it must be from 1 to {MAX_FRAMES}")
    import_av()
    return frames


class FrameEncoder(Encoder):
    """Encoder of videos by an image encoder: the mean of the vectors of frames at equal distances in time.

    Args:
        image: any encoder of images.
        frames: number of frames of each video; the video is divided into as many equal parts, and the frame in the
            middle of each part is taken.

    Raises:
        ConfigError: `frames` is out of range, or PyAV is not installed.
    """

    kind: ClassVar[Kind] = "video"
    shard_rows: ClassVar[int] = 64
    batch_size = 4

    def __init__(self, image: Encoder, frames: int = FRAMES):
        self.image, self.frames = image, checked_frames(frames)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The image encoder's identity, and the number of frames."""
        return {"encoder": "frames", "frames": self.frames, "pooling": "mean", "image": dict(self.image.identity)}

    @property
    def dims(self) -> int:
        """Number of columns of the image encoder's vectors."""
        return self.image.dims

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors `(B, d)` of B videos; a video is listed in `problems` if a frame cannot be used."""
        vectors, problems = np.zeros((len(batch), self.dims), dtype=np.float32), {}
        for index, prepared in enumerate(batch):  # one video after the other, since frames are large
            try:
                frames = [_bitmap(frame) for frame in read_frames(prepared.value, self.frames)]
            except MediaError as error:
                problems[index] = str(error)
                continue
            rows = encode_rows(self.image, frames, min(self.frames, self.image.batch_size))
            if rows.problems:
                problems[index] = f"{prepared.value}: {next(iter(rows.problems.values()))}"
            else:
                vectors[index] = rows.vectors.mean(axis=0, dtype=np.float64)
        return Encoded(vectors, problems)

    def release(self) -> None:
        """Free the weights of the image encoder."""
        self.image.release()


def _bitmap(frame: Any) -> bytes:
    """Return a frame as the content of a lossless image file, which every image encoder accepts."""
    content = io.BytesIO()
    frame.save(content, format="BMP")
    return content.getvalue()
