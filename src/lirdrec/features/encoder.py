"""The `Encoder` interface, and batched encoding of its inputs by length, with smaller batches when memory runs out."""

from __future__ import annotations

import gc
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from lirdrec.errors import DataError, TrainingError

logger = logging.getLogger(__name__)

Kind = Literal["text", "image", "audio", "video", "joint"]


@dataclass(frozen=True)
class TextAndImage:
    """The input of a joint encoder: a text, an image (its file or content), or both."""

    text: str | None = None
    image: Path | bytes | None = None


Input = str | Path | bytes | TextAndImage  # a text; or an image, a sound, a video: its file, or the content of one


@dataclass(frozen=True)
class Prepared:
    """An input of `encode`, preprocessed on the CPU: token ids, a path …

    Inputs of similar `length` share a batch; `cut` tells if it was truncated to the encoder's limit.
    """

    value: Any
    length: int = 1
    cut: bool = False


@dataclass(frozen=True)
class Encoded:
    """Vectors `(n, d)` float32 of a batch, and `problems`: index of a row of zeros → why it has no vector."""

    vectors: np.ndarray
    problems: Mapping[int, str] = field(default_factory=dict)


class Encoder(ABC):
    """Base class of encoders, which turn inputs of one kind into vectors.

    An encoder is cheap to construct and loads its weights at the first use. The same identity, state and inputs in the
    same batches give the same bits on the same machine.

    Attributes:
        kind: of its inputs: "text", "image", "audio", "video", or "joint" (a text and an image).
        shard_rows: items of a shard, the unit of work that is written at once: some seconds.
        batch_size: default number of inputs of a batch; halved when memory runs out.
        needs_fit: whether `fit` must be called first, with a sample of the inputs.
    """

    kind: ClassVar[Kind]
    shard_rows: ClassVar[int] = 2048
    batch_size: int = 32
    needs_fit: ClassVar[bool] = False

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Settings that determine the vectors, JSON-able: encoder, model, revision, pooling, prompt, precision …

        After a change all items are encoded again. A model in a folder is identified by its content, not its path.
        """

    @property
    @abstractmethod
    def dims(self) -> int:
        """Columns of the vectors, d."""

    def fit(self, inputs: Sequence[Input]) -> None:  # noqa: B027  (most encoders are fitted to nothing)
        """Fit the encoder to a sample of the inputs; it is called only if `needs_fit`."""

    def state(self) -> dict[str, np.ndarray]:
        """The fitted state, stored beside the vectors; empty if the encoder needs no fitting."""
        return {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a state returned by `state`.

        Raises:
            DataError: the encoder needs no fitting, so no state can be its own.
        """
        if state:
            raise DataError(
                f"the stored features have a fitted state, and {type(self).__name__} has none; make them again"
            )

    def prepare(self, inputs: Sequence[Input]) -> list[Prepared]:
        """Preprocess inputs for `encode`, in their order: tokenize texts; images are opened by `encode`."""
        return [Prepared(value) for value in inputs]

    @abstractmethod
    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors of a batch.

        Raises:
            MemoryError, torch.OutOfMemoryError: the batch is too large; the caller halves it.
        """

    def release(self) -> None:  # noqa: B027  (many encoders have nothing to free)
        """Free large memory, such as weights; the next use loads them again."""


@dataclass(frozen=True)
class Rows:
    """Vectors `(n, d)` float32 of some inputs, zero where there is a problem (index → one sentence).

    `cut` are indices of truncated inputs; `batch_size` is the largest that fitted into memory.
    """

    vectors: np.ndarray
    problems: dict[int, str]
    cut: list[int]
    batch_size: int


def encode_rows(
    encoder: Encoder, inputs: Sequence[Input], batch_size: int, advance: Callable[[int], None] = lambda n: None
) -> Rows:
    """Encode inputs in batches, longest first, so that a batch that is too large fails at once.

    `advance` is called with the number of inputs of each finished batch. Raises a TrainingError if not even one input
    fits into memory.
    """
    prepared = encoder.prepare(inputs)
    order = sorted(range(len(inputs)), key=lambda index: -prepared[index].length)  # stable: ties keep their order
    vectors = np.zeros((len(inputs), encoder.dims), dtype=np.float32)
    problems: dict[int, str] = {}
    done = 0
    while done < len(order):
        indices = order[done : done + batch_size]
        try:
            encoded = encoder.encode([prepared[index] for index in indices])
        except Exception as error:
            if not out_of_memory(error):
                raise
            if len(indices) == 1:
                raise TrainingError(
                    f"one input of length {prepared[indices[0]].length} does not fit into memory;"
                    " set a lower length limit, or use a smaller encoder"
                ) from error
            batch_size = max(1, len(indices) // 2)
            logger.warning("out of memory with a batch of %d; continuing with %d", len(indices), batch_size)
            give_memory_back()
            continue
        vectors[indices] = encoded.vectors
        for position, problem in encoded.problems.items():
            problems[indices[position]] = problem
            vectors[indices[position]] = 0
        done += len(indices)
        advance(len(indices))
    cut = [index for index, item in enumerate(prepared) if item.cut]
    return Rows(vectors, problems, cut, batch_size)


def out_of_memory(error: Exception) -> bool:
    """Whether an error means that the machine or a device is out of memory."""
    import torch

    # the CPU allocator and some CUDA libraries raise plain RuntimeErrors
    signs = ("can't allocate memory", "out of memory") if isinstance(error, RuntimeError) else ()
    message = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in message for sign in signs)


def give_memory_back() -> None:
    """Free memory after a failed batch."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
