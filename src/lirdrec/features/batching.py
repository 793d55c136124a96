"""Inputs of like length in one batch, and half of the batch where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lirdrec.errors import TrainingError
from lirdrec.features.encoder import Encoder, Input, Prepared

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
