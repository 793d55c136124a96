"""Make features with an encoder that counts, and that kills its own process; run by test_resuming.py.

    python killed_features.py DATASET LOG [KILL]

LOG gets a line for each input that was encoded. After KILL lines the process gets SIGKILL.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lirdrec.features.encoder import Encoded, Encoder, Prepared
from lirdrec.features.pipeline import FeatureJob, make_features
from lirdrec.features.sources import TextSource

SHARD_ROWS = 16


class Counting(Encoder):
    """A vector drawn from the text, and a trace of the longest text in the batch: other batches give other bits.

    Without a log it stops with KeyboardInterrupt after `kill` calls.
    """

    kind = "text"
    shard_rows = SHARD_ROWS
    batch_size = 4

    def __init__(self, log: Path | None = None, kill: int = -1, model: str = "a", dims: int = 3, memory: int = 1 << 30):
        self.log, self.kill, self.model, self.columns, self.memory = log, kill, model, dims, memory
        self.calls: list[str] = []
        self.batches: list[int] = []

    @property
    def identity(self) -> dict:
        return {"encoder": "counting", "model": self.model, "dims": (self.columns,)}

    @property
    def dims(self) -> int:
        return self.columns

    def prepare(self, inputs: Sequence) -> list[Prepared]:
        return [Prepared(one, len(one), cut=len(one) > 30) for one in inputs]

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        self.batches.append(len(batch))
        if len(batch) > self.memory:
            raise MemoryError
        texts = [one.value for one in batch]
        longest = max(len(text) for text in texts)
        vectors = np.stack([self.vector(text) + longest / 1000 for text in texts]).astype(np.float32)
        problems = {index: "it says bad" for index, text in enumerate(texts) if "bad" in text}
        vectors[list(problems)] = 0
        for text in texts:
            self.calls.append(text)
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(f"{self.model} {text}\n")
                self.kill -= 1
                if self.kill == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            elif len(self.calls) == self.kill:
                raise KeyboardInterrupt
        return Encoded(vectors, problems)

    def vector(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        return np.random.default_rng(seed).standard_normal(self.columns)


class Fitted(Counting):
    """The same, moved by the mean length of what it was fitted to."""

    needs_fit = True
    mean: np.ndarray | None = None
    fits = 0

    def fit(self, inputs: Sequence) -> None:
        self.fits += 1
        self.mean = np.array([np.mean([len(one) for one in inputs])], dtype=np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {} if self.mean is None else {"mean": self.mean}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.mean = state["mean"]

    def vector(self, text: str) -> np.ndarray:
        assert self.mean is not None
        return super().vector(text) + self.mean


def jobs(folder: Path, log: Path, kill: int) -> list[FeatureJob]:
    first = Counting(log, kill)
    second = Fitted(log, kill, "b", dims=5)
    return [
        FeatureJob("text", first, TextSource(folder, "{title}")),
        FeatureJob("brand", second, TextSource(folder, column="brand")),
    ]


if __name__ == "__main__":
    dataset, log, *rest = sys.argv[1:]
    make_features(dataset, jobs(Path(dataset), Path(log), int(rest[0]) if rest else -1), progress=False)
