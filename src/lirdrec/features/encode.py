"""Encode one shard (a range of items), and define what a loop over all shards of a matrix must do.

`make_features(…, loop=…)` takes a callable that runs `encode_shard` for each shard: `local` does so in this process,
another one may distribute the shards over machines. It is called once for each matrix:

    loop(encoder, tasks, batch_size, advance) -> iterator of (index, arrays, facts)

- `encoder` has not loaded its weights yet; if it needs fitting, it has its fitted state. It can be pickled.
- `tasks` is an iterator of `(index, items)`: the number of a shard, and its inputs to encode (`list[Item]`). It reads
  the sources lazily, so take only as many tasks in advance as can be worked on. It is not thread-safe.
- `advance(n)` reports progress: call it, from the thread that iterates, when `n` more items are finished; with
  `idle=True` for items that needed no encoding.
- `batch_size` is the number of inputs that are encoded at once.
- The loop yields `index` and the result of `encode_shard(encoder, items, …)` for each task, in any order.

The shards are the same in every loop, so the vectors are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lirdrec.features.encoder import Encoder, TextAndImage, encode_rows
from lirdrec.features.sources import KEY_BYTES, Item
from lirdrec.files.progress_bars import ProgressCallback, no_progress

Arrays = dict[str, np.ndarray]
Facts = dict[str, Any]
Task = tuple[int, list[Item]]
Done = tuple[int, Arrays, Facts]
Loop = Callable[[Encoder, Iterable[Task], int, ProgressCallback], Iterator[Done]]
SHOWN = 80  # characters of a text in the list of problems


def encode_shard(
    encoder: Encoder, items: Sequence[Item], batch_size: int, advance: ProgressCallback = no_progress
) -> tuple[Arrays, Facts]:
    """Encode the items of a shard; equal inputs are encoded once.

    Returns:
        Arrays with a row for each of the n items: `vectors` (n, d) float32, zero without a vector; `present` (n,) bool,
        the items with a vector; `keys` (n, 16) uint8, the hash of each input, zero if it cannot be read; `cut` (n,)
        bool, the items whose input was truncated.
        JSON-able facts: `problems`, a list of [index, source, sentence] for items whose input cannot be used or gives
        no valid vector; `missing`, number of items without an input; `encoded`, number of inputs that were encoded;
        `batch_size`, the given one, halved each time memory ran out.

    Raises:
        TrainingError: not even one input fits into memory.
    """
    n = len(items)
    keys = np.zeros((n, KEY_BYTES), dtype=np.uint8)
    indices_of: dict[bytes, list[int]] = {}
    inputs = []
    problems: list[tuple[int, str, str]] = []
    for index, item in enumerate(items):
        if item.value is not None and item.key is not None:
            keys[index] = np.frombuffer(item.key, dtype=np.uint8)
            if item.key not in indices_of:
                inputs.append(item.value)
            indices_of.setdefault(item.key, []).append(index)
        elif item.problem is not None:
            problems.append((index, item.source, item.problem))
    missing = n - len(problems) - sum(len(same) for same in indices_of.values())
    advance(n - len(inputs), idle=True)
    vectors = np.zeros((n, encoder.dims), dtype=np.float32)
    cut = np.zeros(n, dtype=bool)
    if inputs:
        rows = encode_rows(encoder, inputs, batch_size, advance)
        batch_size = rows.batch_size
        was_cut = set(rows.cut)
        for position, same in enumerate(indices_of.values()):
            cut[same] = position in was_cut
            if problem := rows.problems.get(position) or _problem(rows.vectors[position]):
                problems += [(index, _source(items[index]), problem) for index in same]
            else:
                vectors[same] = rows.vectors[position]
    return {"vectors": vectors, "present": np.asarray(vectors.any(axis=1)), "keys": keys, "cut": cut}, {
        "problems": [list(problem) for problem in sorted(problems)],
        "missing": missing,
        "encoded": len(inputs),
        "batch_size": batch_size,
    }


def local(encoder: Encoder, tasks: Iterable[Task], batch_size: int, advance: ProgressCallback) -> Iterator[Done]:
    """Encode the shards one after the other in this process; a batch size halved for memory stays halved."""
    for index, items in tasks:
        arrays, facts = encode_shard(encoder, items, batch_size, advance)
        batch_size = facts["batch_size"]
        yield index, arrays, facts


def _problem(vector: np.ndarray) -> str | None:
    if not np.isfinite(vector).all():
        return "the encoder gave values that are not finite numbers"
    if not vector.any():
        return "the encoder knows nothing in this input: its vector is all zero"
    return None


def _source(item: Item) -> str:
    if item.source:
        return item.source
    if isinstance(item.value, bytes) or (isinstance(item.value, TextAndImage) and item.value.text is None):
        return "this file"
    text = " ".join(str(item.value.text if isinstance(item.value, TextAndImage) else item.value).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
