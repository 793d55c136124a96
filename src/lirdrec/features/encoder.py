"""The contract of an encoder: texts or pictures in, one vector each out.

Inputs of like length in one batch, and half of the batch where memory runs out.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from lirdrec.errors import TrainingError

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


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Vectors of some inputs, in their order.

    Attributes:
        vectors: `(n, d)` float32, zero where there is a problem.
        problems: place → one sentence.
        cut: places whose input was longer than the encoder's limit.
        batch_size: what memory allowed; the next call may start from it.
    """

    vectors: np.ndarray
    problems: dict[int, str]
    cut: list[int]
    batch_size: int


def encode_rows(
    encoder: Encoder, inputs: Sequence[Input], batch_size: int, advance: Callable[[int], None] = lambda n: None
) -> Rows:
    """Encode inputs, longest first, so that a batch which is too large shows at once.

    Args:
        encoder: whose `encode` makes the vectors.
        inputs: texts or files.
        batch_size: inputs of a batch at most.
        advance: told how many inputs each batch has finished.

    Raises:
        TrainingError: not even one input fits into memory.
    """
    prepared = encoder.prepare(inputs)
    order = sorted(range(len(inputs)), key=lambda place: -prepared[place].length)  # stable: ties in their order
    vectors = np.zeros((len(inputs), encoder.dims), dtype=np.float32)
    problems: dict[int, str] = {}
    done = 0
    while done < len(order):
        places = order[done : done + batch_size]
        try:
            encoded = encoder.encode([prepared[place] for place in places])
        except Exception as error:
            if not out_of_memory(error):
                raise
            if len(places) == 1:
                raise TrainingError(
                    f"one input of length {prepared[places[0]].length} does not fit into memory;"
                    " set a lower limit of length, or take a smaller encoder"
                ) from error
            batch_size = max(1, len(places) // 2)
            logger.warning("out of memory with a batch of %d; going on with %d", len(places), batch_size)
            give_memory_back()
            continue
        vectors[places] = encoded.vectors
        for at, problem in encoded.problems.items():
            problems[places[at]] = problem
            vectors[places[at]] = 0
        done += len(places)
        advance(len(places))
    return Rows(vectors, problems, _cut(prepared), batch_size)


def _cut(prepared: Sequence[Prepared]) -> list[int]:
    return [place for place, one in enumerate(prepared) if one.cut]


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory, of the machine or of a device, does not suffice."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # the CPU allocator and some CUDA libraries raise plain RuntimeErrors
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "out of memory" in str(error).lower()
    )


def give_memory_back() -> None:
    """Free what a batch that failed has left behind."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
