"""Item vectors of UniSRec and WhitenRec against numbers of public code: vectors, loss and gradients, in float64.

What `parity/text_items.npz` holds: parity/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lirdrec.models.base import Features, ModelInputs
from lirdrec.models.registry import build, config_type
from lirdrec.models.whitenrec import ZCA

ARRAYS = Path(__file__).parent / "parity" / "text_items.npz"
TOLERANCE = 1e-10  # of the largest value; everything is float64
SHAPE = {"embedding_size": 4, "n_layers": 1, "n_heads": 1, "feature_dropout": 0.0, "dropout": 0.0}
Arrays = Mapping[str, np.ndarray]


def load() -> Arrays:
    with np.load(ARRAYS, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def close(ours: Any, theirs: Any, what: str) -> None:
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape, what
    difference = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-6)
    assert difference < TOLERANCE, f"{what}: off by {difference:.2e}"


def model(name: str, features: np.ndarray, **options: Any) -> Any:
    """The model for items with the features `(n, d)`, each of which occurs in training."""
    n = len(features)
    items = torch.arange(n)
    own = Features(torch.from_numpy(features), torch.ones(n, dtype=torch.bool))
    inputs = ModelInputs(n, n, items, items, {"text": own}, lambda *_: items[:, None], timestamps=items)
    return build(name, inputs, config_type(name)(**SHAPE, **options)).double()


def experts(part: str) -> Callable[[Arrays, str], np.ndarray]:
    return lambda theirs, prefix: np.stack([theirs[f"{prefix}/experts.{k}.{part}"] for k in range(3)])


def named(name: str, transposed: bool = False) -> Callable[[Arrays, str], np.ndarray]:
    return lambda theirs, prefix: theirs[f"{prefix}/{name}"].T if transposed else theirs[f"{prefix}/{name}"]


ADAPTOR = {
    "expert_weight": experts("lin.weight"),
    "expert_bias": experts("bias"),
    "gate_weight": named("w_gate", transposed=True),
    "noise_weight": named("w_noise", transposed=True),
}
HEAD = {
    f"projection_{part}.{layer}": named(f"mlp_layers.{1 + 3 * layer}.{part}")
    for layer in (0, 1)
    for part in ("weight", "bias")
}


def set_parameters(ours: Any, values: Mapping[str, Any], theirs: Arrays, prefix: str) -> None:
    parameters = dict(ours.named_parameters())
    with torch.no_grad():
        for key, value in values.items():
            given = torch.from_numpy(np.ascontiguousarray(value(theirs, prefix)))
            assert parameters[key].shape == given.shape, key
            parameters.pop(key).copy_(given)
    assert all(key.startswith("network.") for key in parameters)


@pytest.mark.parametrize("item_ids", [False, True])
def test_unisrec(item_ids):
    """Row 0 of the public code's table is its padding: one of the candidates, here an item without features."""
    arrays, case = load(), "unisrec_ids" if item_ids else "unisrec"
    ours = model("unisrec", arrays["features"], n_experts=3, temperature=0.07, item_ids=item_ids)
    values = ADAPTOR | ({"item_embedding": named("item_embedding")} if item_ids else {})
    set_parameters(ours, values, arrays, f"{case}/param")
    ours.draw_noise = lambda n: torch.from_numpy(arrays[f"{case}/noise"])
    states = torch.from_numpy(arrays["states"])
    loss = ours._softmax(states, ours.item_table(), torch.from_numpy(arrays["targets"]), None)
    close(loss.detach(), arrays[f"{case}/loss"], "loss")
    loss.backward()
    parameters = dict(ours.named_parameters())
    for key, value in values.items():
        close(parameters[key].grad, value(arrays, f"{case}/grad"), f"gradient of {key}")
    ours.eval()
    with torch.no_grad():
        table = ours.item_table()
        close(table, arrays[f"{case}/table"], "item vectors")
        close(ours.comparable(states) @ ours.comparable(table).T, arrays[f"{case}/scores"], "scores")


@pytest.mark.parametrize(
    ("name", "options"),
    [("sasrec_features", {}), ("whitenrec", {"n_groups": 4}), ("whitenrec_plus", {"n_groups": 4})],
)
def test_whitened_and_projected_items(name, options):
    arrays = load()
    ours = model(name, arrays["features"][1:], **options)
    set_parameters(ours, HEAD, arrays, "head/param")
    table = ours.item_table()
    close(table.detach(), arrays[f"{name}/table"], "item vectors")
    (table * torch.from_numpy(arrays["probe"])).sum().backward()
    parameters = dict(ours.named_parameters())
    for key, value in HEAD.items():
        close(parameters[key].grad, value(arrays, f"{name}/grad"), f"gradient of {key}")


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_group_whitening(groups):
    arrays = load()
    ours = model("whitenrec", arrays["features"][1:], n_groups=groups)
    (whitened,) = ours.projection_inputs(ours.features)
    close(whitened, arrays[f"whitened/{groups}"], "whitened features")
    for block in whitened.tensor_split(groups, dim=1):
        close(block.T @ block / len(block), np.eye(block.shape[1]), "covariance within a group")


def test_directions_without_variance_become_zero():
    """12 columns of rank 5: the public code divides by the root of rounding errors."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 5, generator=generator).double() @ torch.randn(5, 12, generator=generator).double()
    own = Features(values, torch.ones(20, dtype=torch.bool))
    zca = ZCA(12, torch.float64)
    zca.fit(own)
    whitened = zca(own).values
    close(torch.linalg.eigvalsh(whitened.T @ whitened / 20), [0] * 7 + [1] * 5, "variances")
