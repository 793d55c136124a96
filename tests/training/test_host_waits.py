"""Operations of a step for which the host would wait for a GPU, because it needs a value or a size of the result."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.models.registry import build
from lirdrec.recommender.inputs import make_model_inputs
from lirdrec.training.sampling import TripleSampler

WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "bincount", "masked_select", "equal", "item"}
DATA = make_synthetic_dataset(40, 30, 300, {"image": 6, "text": 5}, groups=4, seed=1, missing={"image": 0.2})


class Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        if name in WAITING or by_mask:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LIRDRecConfig(embedding_size=4), {}),
        (LIRDRecConfig(embedding_size=4, loss="softmax"), {"_unique2": 1}),  # the users of the batch, each once
        (LIRDRecConfig(embedding_size=4, loss="softmax", n_negatives=20), {}),
        (LightGCNConfig(embedding_size=4), {}),
    ],
    ids=["bpr", "softmax", "sampled", "lightgcn"],
)
def test_a_step_asks_for_nothing(config, expected):
    inputs = make_model_inputs(DATA, cache=False)
    model = build(config.model, inputs, config)
    batch = [part[:50] for part in TripleSampler(inputs.users, inputs.items, inputs.n_items, 0).epoch(1)]
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step() -> None:
        loss = model.loss(*batch)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    model.start_epoch(1)
    step()  # builds the graphs, which asks for sizes
    with Waits() as waits:
        step()
    assert dict(waits.found) == expected


def test_a_wait_would_be_found():
    with Waits() as waits:
        x = torch.arange(4)
        assert bool((x > 1).any()) and len(x[x > 1]) == 2 and x.sum().item() == 6
    assert waits.found["_local_scalar_dense"] == 2 and waits.found["index"] == 1
