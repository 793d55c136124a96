r"""Count what one rank of a training holds, computes and sends in a step, from the shapes of the tensors.

A rank is the process of one device. The letters (docs/distributed.md):

    U, I, E     numbers of users, items and training interactions
    M, d_m      number of feature matrices, and the columns of matrix m
    K, e, D     branches (parts of a vector, one for each feature source), columns of each, and D = K·e
    h, g        hidden columns of the projection, and of the weights of branches
    L, R        numbers of layers and of ranks
    u, i, c     a rank has u = ⌈U/R⌉ rows of users and i = ⌈I/R⌉ rows of items, or all rows of c = ⌈D/R⌉ columns
    B, Q        pairs of a batch, and their number of different users

A number has 4 bytes. The costs of a step:

    products       (a, b) by (b, c) matrices: 2·a·b·c operations. Projection Σ 2·i·d_m·2h, output 2·K·i·h·e, weights of
                   branches 2·K·u·e·g, softmax 2·Q·i·D; with gradients twice (projection) or three times as many
    sparse         a layer reads a row of c numbers and 8 bytes for each of 2·E entries, forward and backward; a row
                   read at random costs as much as two read in order
    element-wise   passes over tables of u·D, i·D and K·i·h numbers, counted in the code of the models
    Adam           reads and writes seven numbers for each parameter
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.nn.losses import BLOCK_BYTES, DEVICE_BLOCK_BYTES
from lirdrec.option_names import option_name, option_text
from lirdrec.training.config import TrainConfig
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset

FLOAT = 4  # bytes
KEY = 8  # bytes of an int64
PROGRAM_BYTES = 490 * 10**6  # that Python, torch and the other libraries need on a CPU: `lirdrec train` with 60 items
PCA_BYTES = 24  # for each entry of the covariance of the widest matrix: three matrices of float64 at the peak
CONTEXT_BYTES = 600 * 10**6  # that CUDA and its libraries need on a GPU; an assumption
WITHOUT_FORWARD = ("softmax, products", "softmax, passes", "batch", "Adam")  # parts of a step that a validation lacks


@dataclass(frozen=True)
class Sizes:
    """The numbers of users, items and training interactions, and the columns of each feature matrix."""

    users: int
    items: int
    interactions: int
    features: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("users", "items", "interactions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if any(width < 1 for width in self.features):
            raise ConfigError(f"features are {', '.join(map(str, self.features))}; each must have 1 column or more")

    @classmethod
    def of(cls, dataset: Dataset) -> Sizes:
        """Return the sizes of a dataset; raise a ConfigError if it has no training interactions."""
        columns = tuple(matrix.dims for matrix in dataset.features.values())
        return cls(dataset.n_users, dataset.n_items, len(dataset.train), columns)

    def reduced(self, columns: int) -> Sizes:
        """Return the sizes with at most `columns` columns in each feature matrix."""
        return replace(self, features=tuple(min(width, columns) for width in self.features))


@dataclass(frozen=True)
class Work:
    """What a part of a step costs: arithmetic of dense products, bytes read and written, kernels started."""

    flop: float = 0.0
    bytes: float = 0.0
    kernels: float = 0.0


@dataclass(frozen=True)
class Workload:
    """What one rank of a training holds, computes and sends.

    Attributes:
        memory: what is held → bytes on the device.
        host: further bytes in the memory of the host (0 if the device is a CPU).
        step: part of a step → `Work`.
        validation: part of the validation after an epoch → `Work`.
        sent: what is exchanged in a step → bytes that the rank sends, and the number of exchanges.
        n_steps: number of steps of an epoch.
        sampled: number of interactions that the host samples in an epoch.
    """

    memory: dict[str, int]
    host: int
    step: dict[str, Work]
    validation: dict[str, Work]
    sent: dict[str, tuple[float, float]]
    n_steps: int
    sampled: int


@dataclass(frozen=True)
class _Shape:
    """The numbers that the formulas share; the docstring of the module explains the letters."""

    sizes: Sizes
    ranks: int
    columns: int  # D
    batch: int  # B
    queries: float  # Q
    loss: str  # "bpr", "softmax" over all items, or "sampled": with negatives that the batch shares
    n_negatives: int  # of "sampled"
    n_layers: int
    block_bytes: int
    low: bool  # products in bfloat16

    @property
    def u(self) -> int:
        return -(-self.sizes.users // self.ranks)

    @property
    def i(self) -> int:
        return -(-self.sizes.items // self.ranks)

    @property
    def c(self) -> int:
        return -(-self.columns // self.ranks)

    @property
    def softmax(self) -> bool:
        return self.loss == "softmax"

    @property
    def nodes(self) -> int:
        return self.sizes.users + self.sizes.items

    @property
    def blocks(self) -> float:
        """Number of blocks in which the softmax over all items is computed; 0 for another loss."""
        return max(1.0, self.queries * self.i * FLOAT / self.block_bytes) if self.softmax else 0.0


def workload(config: Any, training: TrainConfig, sizes: Sizes, ranks: int = 1, on_cpu: bool = False) -> Workload:
    """Compute the workload of one rank.

    Args:
        config: configuration of the model, lirdrec or lightgcn.
        training: its batch size, order and precision are used.
        sizes: sizes of the data.
        ranks: number of devices.
        on_cpu: the devices are CPU cores: device and host have one memory, and the blocks of the softmax are smaller.

    Raises:
        CapabilityError: the model is another one, or is LIRDRec without features.
        ConfigError: there are more devices than columns of a vector, users or items; `config.feature_size` has one
            number for each name; or `config.modalities` has another length than `sizes.features`.
    """
    pca = _pca_bytes(config, sizes)
    n_branches, sizes = _branches(config, sizes)
    columns = n_branches * config.embedding_size
    _check_ranks(ranks, columns, sizes)
    training = training.resolved(sizes.interactions)
    batch = min(training.pairs_per_step(sizes.interactions), sizes.interactions)
    n_steps = math.ceil(sizes.interactions / batch)
    shape = _Shape(
        *(sizes, ranks, columns, batch, _queries(sizes, batch, n_steps, training.order)),
        loss="sampled" if config.loss == "softmax" and config.n_negatives is not None else config.loss,
        n_negatives=min(config.n_negatives or 0, batch) if config.loss == "softmax" else 0,
        n_layers=config.n_layers,
        block_bytes=BLOCK_BYTES if on_cpu else DEVICE_BLOCK_BYTES,
        low=training.precision == "bfloat16",
    )
    lirdrec = config if isinstance(config, LIRDRecConfig) else None
    parameters = _parameters(shape, lirdrec)
    memory = _memory(shape, lirdrec, parameters)
    host = 72 * sizes.interactions  # bytes of the sampler: pairs, their sorted keys, an epoch in order
    memory["program"] = PROGRAM_BYTES if on_cpu else CONTEXT_BYTES
    if on_cpu:
        memory["sampling"], host = host, 0
        if (more := pca + memory["program"] - sum(memory.values())) > 0:
            memory["PCA, more than a step"] = more
    host = max(host, 0 if on_cpu else pca)
    step = _step(shape, lirdrec, parameters)
    return Workload(memory, host, step, _validation(shape, step), _sent(shape, parameters), n_steps, sizes.interactions)


def _branches(config: Any, sizes: Sizes) -> tuple[int, Sizes]:
    """Return the number of branches of the model, and the sizes with the columns that are left after PCA."""
    if isinstance(config, LightGCNConfig):
        return 1, sizes
    if not isinstance(config, LIRDRecConfig):
        raise CapabilityError(
            f"the memory and time that {config.model} needs are not known; choose lirdrec or lightgcn"
        )
    if not sizes.features:
        raise CapabilityError(
            "lirdrec learns from features; give the number of columns of each feature matrix"
            f" ({option_text('features', '4096,384')})"
        )
    if isinstance(config.feature_size, dict):
        raise ConfigError("feature_size: a plan does not know the names of the matrices; give one number for all")
    if config.modalities is not None and len(config.modalities) != len(sizes.features):
        used = pluralize(len(config.modalities), "feature matrix", "feature matrices")
        raise ConfigError(
            f"modalities: the model uses {used}, and the plan has the columns of {len(sizes.features)}; give"
            f" only the columns of the matrices that the model uses ({option_name('features')})"
        )
    if config.feature_size is not None:
        sizes = sizes.reduced(config.feature_size)
    return len(sizes.features) + (config.dct is not None), sizes


def _pca_bytes(config: Any, sizes: Sizes) -> int:
    """Return the bytes that PCA needs for the widest matrix that it reduces; it is on the CPU, before the training."""
    size = getattr(config, "feature_size", None)
    if not isinstance(size, int):
        return 0
    return max((PCA_BYTES * width**2 for width in sizes.features if width > size), default=0)


def _check_ranks(ranks: int, columns: int, sizes: Sizes) -> None:
    """Raise a ConfigError if there are more devices than columns of a vector, users or items."""
    limits = (
        (columns, "column of a vector", "columns of a vector"),
        (sizes.users, "user", "users"),
        (sizes.items, "item", "items"),
    )
    for most, one, several in limits:
        if ranks > most:
            raise ConfigError(f"{ranks} devices are more than the {pluralize(most, one, several)}; take fewer devices")


def _queries(sizes: Sizes, batch: int, n_steps: int, order: str) -> float:
    """Return the expected number of different users in a batch."""
    if order == "users":
        return min(batch, sizes.users / n_steps)
    return sizes.users * -math.expm1(-batch / sizes.users)


def _parameters(shape: _Shape, config: LIRDRecConfig | None) -> dict[str, int]:
    """Return the number of parameters on one rank.

    "rows" are parameters of users or items, which are split over the ranks. All ranks have the parameters "common".
    "buffers" are numbers that are not trained, and "tensors" is the number of tensors.
    """
    if config is None:
        return {"rows": (shape.u + shape.i) * shape.columns, "common": 0, "buffers": 0, "tensors": 2}
    k, e = shape.columns // config.embedding_size, config.embedding_size
    h, g = e * config.hidden_multiplier, e // 4
    products = 1 + (config.dct is not None)
    common = products * h * sum(shape.sizes.features) + k * h + k * e * h
    rows = shape.u * shape.columns
    learned = config.pwc in ("released", "logits")
    if learned:
        common += k * (g * e + g + g + 1)
        rows += shape.u * k
    if config.layer_weights == "learned":
        common += config.n_layers + 1
    tensors = 3 + products * len(shape.sizes.features) + (5 if learned else 0)
    return {"rows": rows, "common": common, "buffers": shape.u * k if learned else 0, "tensors": tensors}


def _memory(shape: _Shape, config: LIRDRecConfig | None, parameters: dict[str, int]) -> dict[str, int]:
    sizes, numbers = shape.sizes, parameters["rows"] + parameters["common"]
    edges, n_items = sizes.interactions, sizes.items
    memory = {
        "parameters": FLOAT * (numbers + parameters["buffers"]),
        "gradients": FLOAT * numbers,
        "Adam": 2 * FLOAT * numbers,
        "best parameters": FLOAT * (numbers + parameters["buffers"]),
        # two orientations of CSR: an int32 column and a value for each entry, int32 row pointers
        "user-item graph": 2 * (4 + FLOAT) * edges + 4 * (shape.nodes + 2),
        "interactions": (2 + 3) * KEY * edges + KEY * n_items,  # pairs, an epoch of triples, index of items
    }
    if config is not None:
        for name in ("parameters", "best parameters"):
            memory[name] += _content_bytes(config, sizes.features)
        memory["features"] = shape.i * sum(FLOAT * width + 1 for width in sizes.features)
        entries = _item_entries(config, n_items, len(sizes.features))
        memory["item graph"] = 2 * ((4 + FLOAT) * entries + 4 * (n_items + 1))
        memory["neighbors"] = KEY * n_items * min(config.n_neighbors, n_items) * len(sizes.features)
    memory["activations"] = int(FLOAT * _activations(shape, config, numbers))
    return memory


def _content_bytes(config: LIRDRecConfig, widths: tuple[int, ...]) -> int:
    """Return the total bytes of the principal components of all feature matrices, which the scores of new items use.

    For each matrix they are a mean, directions and a flag. A model without them has 0 bytes.
    """
    if config.content_columns == 0 or config.dct == "matrix":
        return 0
    return sum(FLOAT * width * (1 + min(width, config.content_columns)) + 1 for width in widths)


def _item_entries(config: LIRDRecConfig, n_items: int, n_modalities: int) -> int:
    """Return the number of entries of the fused item graph.

    The assumption is that an item's neighbors in two modalities have only the item itself in common.
    """
    k = min(config.n_neighbors, n_items)
    return n_items * min(n_items, n_modalities * (k - 1) + 1)


def _activations(shape: _Shape, config: LIRDRecConfig | None, gradients: int) -> float:
    """Return how many numbers are in memory at the peak of a step, in addition to parameters and gradients.

    The gradients of a step exist until the next forward pass has ended. At the peak of the backward pass they are gone,
    so their memory is subtracted there. The factors say how many tables exist at once; tests/planning counts them.
    """
    u, i, d = shape.u, shape.i, shape.columns
    moved = 0 if shape.ranks == 1 else shape.nodes * shape.c  # rows turned into columns, and sent
    in_layers = 2 * (u + i) * d + 3 * moved
    logits, vectors = _ranking(shape, penalty=config is None)
    # tables of users and items: when the loss is computed, and when its gradient reaches them
    if config is None:
        # the parameters of the batch, for the penalty, come after the logits
        forward = u * d + (3 if shape.softmax else 1) * i * d + vectors - 3 * shape.batch * d + logits
        forward = max(forward, 2 * (u + i) * d)
        backward = max(4 * u * d + (5 if shape.softmax else 4) * i * d + vectors, in_layers)
        return max(forward, backward - gradients)
    h, m = config.embedding_size * config.hidden_multiplier, len(shape.sizes.features)
    k, products = d // config.embedding_size, 1 + (config.dct is not None)
    hidden = 2 * k * i * h  # before and after the non-linearity, kept for the gradient
    branches = hidden + (products * m + (m > 1 and products > 1)) * i * h + 3.2 * i * d
    forward = hidden + 3.9 * u * d + (4 if shape.softmax else 2) * i * d + vectors + logits
    backward = hidden + max(5.9 * u * d + (5 if shape.softmax else 4) * i * d + vectors, in_layers)
    return max(branches, forward, backward - gradients)


def _ranking(shape: _Shape, penalty: bool) -> tuple[float, float]:
    """Return how many numbers the loss of a batch creates: in its logits, and in the vectors of its pairs and users.

    With `penalty`, the parameters of the batch are penalized, too.
    """
    d = shape.columns
    tables = {"bpr": 4.0, "softmax": 4.2, "sampled": 6.1}[shape.loss] + (3 if penalty else 0)
    if shape.ranks > 1 and shape.loss != "softmax":
        tables += 3  # sums over the ranks are copies
    logits, vectors = 3.0 * shape.batch * shape.n_negatives, tables * shape.batch * d
    if shape.softmax:
        logits = (1 + shape.low) * min(shape.block_bytes / FLOAT, shape.queries * shape.i)
        vectors += 2 * shape.queries * d
    return logits, vectors


def _step(shape: _Shape, config: LIRDRecConfig | None, parameters: dict[str, int]) -> dict[str, Work]:
    u, i, d, n_layers = shape.u, shape.i, shape.columns, shape.n_layers
    row = FLOAT * shape.c
    # each layer: products from items to users and back, forward and backward, and one pass to add up the results
    sparse = 2 * n_layers * (2 * shape.sizes.interactions * (2 * row + 8) + 3 * shape.nodes * row)
    parts: dict[str, Work] = {}
    if config is None:
        parts["sparse products"] = Work(bytes=sparse, kernels=8 * n_layers)
        parts["element-wise"] = Work(bytes=FLOAT * d * (12 * u + (28 if shape.softmax else 16) * i), kernels=60)
    else:
        e, h, m = config.embedding_size, config.embedding_size * config.hidden_multiplier, len(shape.sizes.features)
        k, products, width = d // e, 1 + (config.dct is not None), sum(shape.sizes.features)
        n = products * h
        entries = _item_entries(config, shape.sizes.items, m)
        sparse += 2 * config.n_item_layers * (entries * (2 * row + 8) + 3 * shape.sizes.items * row)
        parts["projection"] = Work(2 * 2 * i * width * n, FLOAT * 2 * i * (width + m * n), 30 * m)
        small = 3 * 2 * (i * h * d + (u * d * (e // 4) if config.pwc in ("released", "logits") else 0))
        parts["small products"] = Work(small, FLOAT * 3 * (i * (k * h + d) + u * d), 12 * k)
        parts["sparse products"] = Work(bytes=sparse, kernels=8 * n_layers + 4 * config.n_item_layers)
        passes = 30 * u * d + (38 if shape.softmax else 26) * i * d + 12 * k * i * h
        parts["element-wise"] = Work(bytes=FLOAT * passes, kernels=120 + 20 * k)
    if shape.softmax:
        logits = shape.queries * i
        # two parts: the passes (maximum, difference, exponential, sum, quotient …) do not overlap with the products
        parts["softmax, products"] = Work(flop=3 * 2 * logits * d, kernels=3 * shape.blocks)
        parts["softmax, passes"] = Work(bytes=FLOAT * 16 * logits, kernels=40 + 11 * shape.blocks)
    sampled = 3 * 2 * shape.batch * shape.n_negatives * d
    tables = 24 if config is not None else 51  # with a penalty of the batch's parameters
    parts["batch"] = Work(sampled, FLOAT * shape.batch * (tables * d + 12 * shape.n_negatives), 30)
    numbers = parameters["rows"] + parameters["common"]
    parts["Adam"] = Work(bytes=7 * FLOAT * numbers, kernels=4 + parameters["tensors"])
    return parts


def _validation(shape: _Shape, step: dict[str, Work]) -> dict[str, Work]:
    """Return part of a validation → its work: a forward pass (a third of a step), all scores, and the best items."""
    scores = float(shape.sizes.users) * shape.i
    forward = [work for name, work in step.items() if name not in WITHOUT_FORWARD]
    blocks = scores * FLOAT / (64 * 2**20 if shape.block_bytes == BLOCK_BYTES else 2**30)
    return {
        "forward": Work(*(sum(getattr(work, key) for work in forward) / 3 for key in ("flop", "bytes", "kernels"))),
        "scores": Work(flop=2 * scores * shape.columns, kernels=2 * max(1.0, blocks)),
        "selection": Work(bytes=FLOAT * 24 * scores, kernels=40 * max(1.0, blocks)),
    }


def _sent(shape: _Shape, parameters: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Return what a rank sends in a step: name → (bytes, number of exchanges); empty with one rank."""
    ranks, d = shape.ranks, shape.columns
    if ranks == 1:
        return {}
    around = 2 * (ranks - 1) / ranks  # of a sum over the ranks in a ring
    table = (ranks - 1) / ranks**2 * shape.nodes * d * FLOAT
    gathered = shape.queries if shape.softmax else shape.batch
    sent = {
        "rows and columns": (4 * table, 4.0),
        "users of the batch": (2 * around * gathered * d * FLOAT, 2.0),
        "gradients of all ranks": (around * parameters["common"] * FLOAT, 1.0 if parameters["common"] else 0.0),
    }
    if shape.softmax:
        sent["sums of the softmax"] = ((ranks - 1) * shape.queries * FLOAT, shape.blocks)
    else:
        sent["margins"] = (2 * around * shape.batch * FLOAT, 2.0)
    return sent
