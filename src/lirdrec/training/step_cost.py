r"""The cost of a training step: its multiply-adds, counted, and its time, measured.

Only products are counted; they are nearly all of a step's arithmetic (as in §III-E of the paper):

    dense    (m×k)(k×n): m·k·n           every product of matrices, batched ones included
    sparse   entries × columns           a sparse matrix times a dense one, or a dense product at some entries only

For LIRDRec's forward these are `Σ_m I·d_m·2h + K·I·h·e` for the branches of all items, `K·U·e·g` for the users' weights
(g = e/4), and `(2L·|E| + Lm·|S|) × K·e` for the two graphs (a pair is an edge in both directions, `|S| ≤ M·k·I`). The
letters are as in planning/workload.py; `S` is the item graph with `k` neighbors in each modality and `Lm` layers. Fast
Fourier transforms and element-wise work are not counted. Products are counted while they run, for any model.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lirdrec.errors import CapabilityError
from lirdrec.models.base import Model
from lirdrec.training.config import TrainConfig
from lirdrec.training.sampling import make_sampler

Phase = Literal["forward", "backward"]


@dataclass(frozen=True)
class Product:
    """The shape of a product: `rows × inner` times `inner × columns`; the first factor has `entries` stored entries."""

    kind: Literal["dense", "sparse"]
    phase: Phase
    rows: int
    inner: int
    columns: int
    entries: int

    @property
    def operations(self) -> int:
        """The number of multiply-adds."""
        return self.entries * self.columns


@dataclass(frozen=True)
class Complexity:
    """The cost of one training step of a model.

    Attributes:
        batch_size: training pairs of the step.
        products: shape of a product → number of such products in a step.
        seconds: median time of a step, including the optimizer.
    """

    batch_size: int
    products: dict[Product, int]
    seconds: float

    def operations(self, kind: str | None = None, phase: str | None = None) -> int:
        """Return multiply-adds of a step, or only of a kind ("dense", "sparse") or phase ("forward", "backward")."""
        return sum(
            product.operations * times
            for product, times in self.products.items()
            if kind in (None, product.kind) and phase in (None, product.phase)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as JSON-able values; among the products, the most expensive one is first."""
        products = sorted(self.products.items(), key=lambda item: -item[0].operations * item[1])
        return {
            "batch_size": self.batch_size,
            "operations": {
                kind: {phase: self.operations(kind, phase) for phase in ("forward", "backward")}
                for kind in ("dense", "sparse")
            },
            "seconds": self.seconds,
            "products": [
                {**asdict(product), "times": times, "operations": product.operations * times}
                for product, times in products
            ],
        }


def measure_step(model: Model, config: TrainConfig, repeats: int = 5) -> Complexity:
    """Count and time a training step of `model`; its parameters and buffers are restored afterwards.

    The step is not the first of its epoch, so what a model builds once per epoch is not included.

    Args:
        model: built from its inputs.
        config: batch size, order, learning rate, gradient clip, seed and precision are used.
        repeats: number of timed steps, at least 1.

    Raises:
        CapabilityError: the model is not trained in steps.
        TrainingError: there is no training pair.
    """
    if model.capabilities.training == "closed_form":
        raise CapabilityError(
            f"{model.name} has a closed form: it is not trained in steps, so there is no step to measure"
        )
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    was_training, device = model.training, model.inputs.device
    sampler = make_sampler(model, config)
    config = config.resolved(len(model.inputs.users))
    n_pairs, batch = next(sampler.batches(1, config.pairs_per_step(len(sampler)), device))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=device.type in ("cpu", "cuda"))
    counter = ProductCounter()

    def step(counting: bool = False) -> float:
        _wait(device)
        started = time.perf_counter()
        if counting:
            counter.phase = "forward"
            with counter:
                loss = _loss(model, batch, config)
            counter.phase = "backward"
            optimizer.zero_grad(set_to_none=True)
            with counter:
                loss.backward()
        else:
            loss = _loss(model, batch, config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        if config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        _wait(device)
        return time.perf_counter() - started

    try:
        model.train()
        model.start_epoch(1)
        step()  # builds the graphs
        step(counting=True)
        seconds = statistics.median(step() for _ in range(repeats))
    finally:
        model.zero_grad(set_to_none=True)
        model.load_state_dict(state)
        model.train(was_training)
    return Complexity(n_pairs, dict(counter.products), seconds)


class ProductCounter(TorchDispatchMode):
    """Context manager that counts the matrix products in its block; `products[shape]` is the number with a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()
        self.phase: Phase = "forward"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")  # addmm_ too
        if name in _FACTORS:
            first = _FACTORS[name]
            self._count(args[first], args[first + 1])
        elif name == "sparse_sampled_addmm":  # a dense product at the entries of a sparse matrix
            rows, inner = args[0].shape
            self.products[Product("sparse", self.phase, rows, inner, args[1].shape[1], _entries(args[0]))] += 1
        return result

    def _count(self, a: Tensor, b: Tensor) -> None:
        if b.layout != torch.strided:  # dense times sparse: the transposed product
            a, b = b.transpose(-1, -2), a.transpose(-1, -2)
        rows, inner = a.shape[-2:]
        columns = b.shape[-1] if b.dim() == a.dim() else 1
        times = a.shape[0] if a.dim() == 3 else 1
        kind: Literal["dense", "sparse"] = "dense" if a.layout == torch.strided else "sparse"
        entries = rows * inner if kind == "dense" else _entries(a)
        self.products[Product(kind, self.phase, rows, inner, columns, entries)] += times


# index of the first factor among the arguments of each product; higher-level products call these
_FACTORS = {
    "mm": 0,
    "bmm": 0,
    "mv": 0,
    "addmm": 1,
    "addmv": 1,
    "baddbmm": 1,
    "addbmm": 1,
    "linear": 0,
    "_sparse_mm": 0,
    "_sparse_addmm": 1,
}


def _entries(matrix: Tensor) -> int:
    return int(matrix._nnz())


def _loss(model: Model, batch: tuple[Tensor, ...], config: TrainConfig) -> Tensor:
    device = model.inputs.device
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        return model.loss(*batch)["loss"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
