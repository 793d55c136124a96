"""Encoders that learn from the texts or pictures first: fitted once, to a sample, and the same after every kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lirdrec.errors import DataError
from lirdrec.features.encoder import Encoder, Input
from lirdrec.features.shards import Shards
from lirdrec.features.sources import Source

SAMPLE = 50_000  # inputs at most that an encoder is fitted to
SEED = 0
FITTED = "fitted"  # entry of an identity: the hash of what was learned

State = dict[str, np.ndarray]


def fit(
    encoder: Encoder,
    source: Source,
    folder: Path,
    plan: Mapping[str, Any],
    before: Callable[[], State | None],
    dear: bool = True,
) -> None:
    """Give the encoder its state: the one sealed in `folder`, or else that of `before`, or else fit it to a sample.

    Args:
        encoder: with `needs_fit`.
        source: of its inputs.
        folder: where the state is sealed before anything is encoded with it.
        plan: what decides the state.
        before: the state that made the matrix which is there already, if there is one.
        dear: whether a state of another plan is refused, since shards were encoded with it, or forgotten.

    Raises:
        ConfigError: the folder holds a state of another plan, and it is dear.
        DataError: no item of the sample has an input.
    """
    sealed = Shards(folder, {**plan, "sample": SAMPLE, "seed": SEED}, 1, 1, dear)
    if sealed.pending():
        state = before()
        if state is None:
            inputs = sample(source)
            if not inputs:
                raise DataError(f"{folder.parent}: no item has a {source.kind} to fit the encoder to")
            encoder.fit(inputs)
            state = encoder.state()
        sealed.seal(0, state, {})
    encoder.load_state(sealed.read(0).arrays)  # read back, so that a resumed run has the same bits


def sample(source: Source, step: int = 4096) -> list[Input]:
    """Inputs of at most `SAMPLE` items, drawn with a fixed seed, in the order of the items."""
    n = len(source)
    rows = np.arange(n)
    if n > SAMPLE:
        rows = np.sort(np.random.default_rng(SEED).choice(n, SAMPLE, replace=False))
    inputs = []
    for start in range(0, n, step):
        chosen = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + step)] - start
        if len(chosen):
            items = source.read(start, min(n, start + step))
            inputs += [value for at in chosen if (value := items[at].value) is not None]
    return inputs


def identity(encoder: Encoder) -> dict[str, Any]:
    """The encoder's identity as JSON gives it back, with a hash of what it was fitted to."""
    told = json_like(encoder.identity)
    if encoder.needs_fit:
        told[FITTED] = hashlib.sha256(save(dict(sorted(encoder.state().items())))).hexdigest()
    return told


def json_like(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(dict(identity)))


def bare(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without what the encoder was fitted to."""
    return {key: value for key, value in identity.items() if key != FITTED}
