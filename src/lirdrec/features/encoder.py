"""The contract of an encoder: texts or pictures in, one vector each out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

Kind = Literal["text", "image"]
Input = str | Path  # a text, or the file of a picture


@dataclass(frozen=True)
class Prepared:
    """An input made ready on the CPU, before batches are formed.

    Attributes:
        value: what `encode` takes: token ids, a path …
        length: inputs of like length share a batch.
        cut: whether the encoder's limit made it shorter than it was.
    """

    value: Any
    length: int = 1
    cut: bool = False


@dataclass(frozen=True)
class Encoded:
    """The vectors of a batch.

    Attributes:
        vectors: `(n, d)` float32; the rows that `problems` names are zero.
        problems: place in the batch → what is wrong with this input, as one sentence; it gets no vector.
    """

    vectors: np.ndarray
    problems: Mapping[int, str] = field(default_factory=dict)


class Encoder(ABC):
    """Makes vectors of inputs of one kind.

    An encoder is cheap to construct and loads its weights at the first use, so that a finished run needs none. The same
    identity, state and inputs in the same batches give the same bits on the same machine.

    Attributes:
        kind: what it takes.
        shard_rows: items whose vectors are written, and can be lost, together: some seconds of work.
        batch_size: inputs of a batch unless the user says otherwise; halved when memory runs out.
        needs_fit: whether `fit` must have seen a sample of the inputs first.
    """

    kind: ClassVar[Kind]
    shard_rows: ClassVar[int] = 2048
    batch_size: int = 32
    needs_fit: ClassVar[bool] = False

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """All that decides the vectors, JSON-able: encoder, model, revision, pooling, prompt, limit, precision …

        Vectors of equal identity are interchangeable; whatever changes it makes all items be encoded anew. No path of
        a machine belongs here: a model in a folder is known by its content.
        """

    @property
    @abstractmethod
    def dims(self) -> int:
        """Columns of the vectors, d."""

    def fit(self, inputs: Sequence[Input]) -> None:
        """Learn what the encoder needs from a sample of the inputs (only where `needs_fit`)."""
        raise NotImplementedError(f"{type(self).__name__} needs no fitting")

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learned, to be stored beside the vectors; empty where nothing is learned."""
        return {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` gave."""
        if state:
            raise NotImplementedError(f"{type(self).__name__} has no state")

    def prepare(self, inputs: Sequence[Input]) -> list[Prepared]:
        """The inputs in their order, ready for `encode`: tokenised, measured. Pictures wait for `encode`."""
        return [Prepared(one) for one in inputs]

    @abstractmethod
    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors of a batch.

        Raises:
            MemoryError, torch.OutOfMemoryError: the batch is too large; the caller halves it.
        """

    def release(self) -> None:  # noqa: B027  (many have nothing to let go of)
        """Let go of what takes much memory, such as weights; the next use loads it again."""
