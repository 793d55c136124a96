"""What a training step costs: operators counted by hand, and operations for which the host waits for a GPU."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError
from lirdrec.models.base import Model
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.models.registry import build, config_type
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.training.config import TrainConfig
from lirdrec.training.loop import train
from lirdrec.training.sampling import TripleSampler
from lirdrec.training.step_cost import ProductCounter, measure_step

from ..helpers import assert_error

DATA = make_synthetic_dataset(30, 40, 400, {"image": 6, "text": 5}, groups=4, seed=1, missing={"image": 0.2})
CONFIG = TrainConfig(batch_size=50, epochs=2, seed=3)
PAIRS, USERS, ITEMS = len(DATA.train), DATA.n_users, DATA.n_items


def made(name: str, **options) -> Model:
    return build(name, make_model_inputs(DATA, cache=False, seed=1), config_type(name)(**options))


def counted(run) -> dict[tuple[str, str], int]:
    counter = ProductCounter()
    with counter:
        loss = run()
    counter.phase = "backward"
    with counter:
        loss.backward()
    found: dict[tuple[str, str], int] = {}
    for product, times in counter.products.items():
        key = product.kind, product.phase
        found[key] = found.get(key, 0) + product.operations * times
    return found


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


@pytest.mark.parametrize(
    "run, forward, backward",
    [
        (lambda: (weight(3, 4) @ weight(4, 5)).sum(), 60, 120),
        (lambda: (weight(3, 4) @ torch.randn(4, 5)).sum(), 60, 60),
        (lambda: F.linear(torch.randn(3, 4), weight(5, 4), weight(5)).sum(), 60, 60),
        (lambda: F.linear(torch.randn(2, 3, 4), weight(5, 4), weight(5)).sum(), 120, 120),
        (lambda: torch.bmm(weight(2, 3, 4), weight(2, 4, 5)).sum(), 120, 240),
        (lambda: torch.einsum("ni,nij->nj", weight(2, 3), weight(2, 3, 5)).sum(), 30, 60),
        (lambda: (weight(3, 4) @ weight(4)).sum(), 12, 0),  # an outer product and a sum: element-wise
        (lambda: (weight(3, 4) * 2 + 1).cos().sum(), 0, 0),
    ],
)
def test_dense_products_by_hand(run, forward, backward):
    found = counted(run)
    assert found.get(("dense", "forward"), 0) == forward
    if backward:
        assert found[("dense", "backward")] == backward
    assert not any(kind == "sparse" for kind, _ in found)


def test_sparse_products_by_hand():
    matrix = (torch.rand(6, 7, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    entries = int(matrix.sum())
    csr, coo, x = matrix.to_sparse_csr(), matrix.to_sparse_coo(), torch.randn(7, 5)
    for product in (
        lambda: csr @ x,
        lambda: coo @ x,
        lambda: torch.addmm(torch.zeros(6, 5), csr, x),
        lambda: torch.sparse.mm(coo, x),
    ):
        counter = ProductCounter()
        with counter:
            product()
        assert [(one.kind, one.operations, n) for one, n in counter.products.items()] == [("sparse", entries * 5, 1)]
    counter = ProductCounter()
    with counter:
        torch.sparse.sampled_addmm(csr, torch.randn(6, 9), torch.randn(9, 7))
    assert [(one.kind, one.operations, n) for one, n in counter.products.items()] == [("sparse", entries * 9, 1)]


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("dct", ["features", None])
@pytest.mark.parametrize("pwc", ["released", None])
def test_lirdrec_costs_what_the_formula_says(pwc, dct, loss):
    """Section III-E of the paper, exactly: dense products of all items with each branch, sparse ones of both graphs."""
    e, layers, item_layers = 8, 3, 2
    model = made(
        "lirdrec", embedding_size=e, n_layers=layers, n_item_layers=item_layers, n_neighbors=4,
        pwc=pwc, dct=dct, loss=loss,
    )  # fmt: skip
    found = measure_step(model, CONFIG, repeats=1)
    h, branches = 4 * e, 3 if dct else 2
    features = sum(ITEMS * d * h * (2 if dct else 1) for d in (6, 5))
    outputs = branches * ITEMS * h * e
    weights = branches * USERS * e * (e // 4) if pwc else 0
    columns = branches * e
    occurring = len(set(DATA.train.items.tolist()))
    i = model.inputs
    asking = len(TripleSampler(i.users, i.items, i.n_items, CONFIG.seed).epoch(1)[0][: CONFIG.batch_size].unique())
    assert asking < CONFIG.batch_size  # some user comes twice, and asks once
    logits = asking * occurring * columns if loss == "softmax" else 0  # with both gradients at once
    assert found.operations("dense", "forward") == features + outputs + weights + 3 * logits
    assert found.operations("dense", "backward") == features + 2 * outputs + 2 * weights
    graph = 2 * layers * PAIRS + item_layers * model.item_item.csr._nnz()
    assert found.operations("sparse", "forward") == found.operations("sparse", "backward") == graph * columns
    assert model.item_item.csr._nnz() <= 2 * 4 * ITEMS
    assert found.operations() == found.operations("dense") + found.operations("sparse")
    assert found.batch_size == CONFIG.batch_size
    assert found.seconds > 0


def test_models_of_graphs_alone():
    lightgcn = measure_step(made("lightgcn", embedding_size=4, n_layers=3), CONFIG, repeats=1)
    assert lightgcn.operations("sparse", "forward") == lightgcn.operations("sparse", "backward") == 6 * PAIRS * 4
    assert lightgcn.operations("dense") == 0
    # per modality and routing a dot and a product; then a dot and two products; two ID convolutions of two products
    grcn = measure_step(made("grcn", embedding_size=4, n_routings=3), CONFIG, repeats=1)
    assert grcn.operations("sparse", "forward") == (2 * (2 * 3 + 3) + 4) * PAIRS * 4


@pytest.mark.parametrize("name", ["lirdrec", "lgmrec"])
def test_measuring_leaves_the_model_as_it_was(name):
    """All state, PWC's schedule too; a training afterwards has the bits of one without."""
    measured, other = made(name), made(name)
    measured.eval()
    measure_step(measured, CONFIG, repeats=2)
    assert not measured.training
    for (key, ours), theirs in zip(measured.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key
    assert all(parameter.grad is None for parameter in measured.parameters())
    for model in (measured, other):
        train(model, CONFIG, None)
    for (key, ours), theirs in zip(measured.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key


def test_a_closed_form_has_no_steps():
    with assert_error(CapabilityError, mentions=["item_knn"]):
        measure_step(made("item_knn"), CONFIG)


WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "bincount", "masked_select", "equal", "item"}
WAITED = make_synthetic_dataset(40, 30, 300, {"image": 6, "text": 5}, groups=4, seed=1, missing={"image": 0.2})


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
    inputs = make_model_inputs(WAITED, cache=False)
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
