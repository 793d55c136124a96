"""The `Encoder` interface, and encoding in batches of similar length, which are halved when memory runs out."""

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
from lirdrec.option_names import option_name

logger = logging.getLogger(__name__)

Kind = Literal["text", "image", "audio", "video", "joint"]


@dataclass(frozen=True)
class TextAndImage:
    """The input of a joint encoder: a text, an image (its file or content), or both."""

    text: str | None = None
    image: Path | bytes | None = None


Input = str | Path | bytes | TextAndImage  # a text; or the path or content of an image, a sound or a video; or both


@dataclass(frozen=True)
class Prepared:
    """An input that is ready for `Encoder.encode`.

    Attributes:
        value: the preprocessed input, such as the token ids of a text or the path of an image.
        length: its length, such as its number of tokens; inputs of similar length share a batch.
        cut: whether the input was truncated to the encoder's limit.
    """

    value: Any
    length: int = 1
    cut: bool = False


@dataclass(frozen=True)
class Encoded:
    """The vectors `(n, d)` float32 of a batch; an input without a vector has a row of zeros.

    `problems` maps the index of such a row to one sentence that says why there is no vector.
    """

    vectors: np.ndarray
    problems: Mapping[int, str] = field(default_factory=dict)


class Encoder(ABC):
    """Base class of encoders, which turn inputs of one kind into vectors.

    An encoder is cheap to construct and loads its weights at the first use. On one machine, an encoder of the same
    identity and the same fitted state gives the same bits for the same batches of inputs.

    Attributes:
        kind: what its inputs are: "text", "image", "audio", "video", or "joint" (a text and an image).
        shard_rows: number of items in a shard. The vectors of a shard are stored together as soon as they are made;
            to encode a shard takes some seconds.
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

        If they change, all items are encoded again. A model in a folder is identified by its content, not its path.
        """

    @property
    @abstractmethod
    def dims(self) -> int:
        """Number of columns of the vectors, d."""

    def fit(self, inputs: Sequence[Input]) -> None:  # noqa: B027  (most encoders are fitted to nothing)
        """Fit the encoder to a sample of the inputs; it is called only if `needs_fit`."""

    def state(self) -> dict[str, np.ndarray]:
        """Return the fitted state, stored beside the vectors; empty if the encoder needs no fitting."""
        return {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a fitted state that `state` returned.

        Raises:
            DataError: it is not a state of this encoder; for instance, this encoder needs no fitting and has no state.
        """
        if state:
            raise DataError(
                f"the stored features have the fitted state of an encoder, but {type(self).__name__} has none; make the"
                " features again (lirdrec features)"
            )

    def prepare(self, inputs: Sequence[Input]) -> list[Prepared]:
        """Preprocess inputs for `encode`, and return them in their order.

        Texts are tokenized, for example; images, sounds and videos are only opened by `encode`.
        """
        return [Prepared(value) for value in inputs]

    @abstractmethod
    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors of a batch.

        Raises:
            MemoryError, torch.OutOfMemoryError: the batch is too large; the caller halves it.
        """

    def release(self) -> None:  # noqa: B027  (many encoders have nothing to free)
        """Free large memory, such as weights; the next use loads them again."""


@dataclass(frozen=True)
class Rows:
    """The result of `encode_rows`.

    Attributes:
        vectors: `(n, d)` float32; the row of an input with a problem is zero.
        problems: index of an input → one sentence that says why it has no vector.
        cut: indices of the truncated inputs.
        batch_size: the batch size at the end: the given one, halved each time memory ran out.
    """

    vectors: np.ndarray
    problems: dict[int, str]
    cut: list[int]
    batch_size: int


def encode_rows(
    encoder: Encoder, inputs: Sequence[Input], batch_size: int, advance: Callable[[int], None] = lambda n: None
) -> Rows:
    """Encode inputs in batches, and return the vectors in the order of the inputs.

    When memory runs out, the batch size is halved. The longest inputs are encoded first, so that this happens early.
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
                    f" for texts, set a lower limit of tokens ({option_name('max_length')}); or use a smaller encoder"
                ) from error
            batch_size = max(1, len(indices) // 2)
            logger.warning(
                "out of memory with a batch of %d inputs; continuing with batches of %d", len(indices), batch_size
            )
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
    """Return whether an error means that the machine or a device is out of memory."""
    import torch

    # the CPU allocator and some CUDA libraries raise plain RuntimeErrors
    signs = ("can't allocate memory", "out of memory") if isinstance(error, RuntimeError) else ()
    message = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in message for sign in signs)


def give_memory_back() -> None:
    """Free memory that nothing uses any more, on the GPU too; called after a batch failed or weights were freed."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
