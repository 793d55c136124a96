"""Predictions against tensors that were made, operations that were counted, and exchanges that were recorded."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lirdrec.parallel.ranks_and_shards as ranks_module
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.base import Features, Model, ModelInputs
from lirdrec.models.ease import EASEConfig
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.models.registry import build
from lirdrec.parallel.ranks_and_shards import ONE, Ranks
from lirdrec.planning.device_speeds import DEVICES, Cluster
from lirdrec.planning.plan import make_plan, remedies, seconds
from lirdrec.planning.workload import Sizes, Work, workload
from lirdrec.recommender.presets import preset
from lirdrec.training.config import TrainConfig
from lirdrec.training.sampling import TripleSampler
from lirdrec.training.step_cost import ProductCounter

from ..helpers import assert_error

USERS, ITEMS = 301, 203
DATA = make_synthetic_dataset(USERS, ITEMS, 2500, {"image": 96, "text": 40}, groups=8, seed=3, split="none")
TRAINING = TrainConfig(batch_size=64)
CONFIGS = [
    LIRDRecConfig(embedding_size=8, n_layers=2),
    LIRDRecConfig(embedding_size=12, dct=None, pwc=None, layer_weights="learned"),
    LIRDRecConfig(embedding_size=8, hidden_multiplier=2, loss="softmax", scoring="cosine", n_item_layers=2),
    LightGCNConfig(embedding_size=16, n_layers=2),
    LightGCNConfig(embedding_size=16, loss="softmax"),
    LIRDRecConfig(embedding_size=8, loss="softmax", n_negatives=30),
]


def test_features_count_at_their_size():
    config = LIRDRecConfig(embedding_size=8, feature_size=40)
    smaller = workload(LIRDRecConfig(embedding_size=8), TRAINING, sizes_of(40, 40))
    reduced = workload(config, TRAINING, sizes_of(96, 40))
    assert replace(reduced, host=smaller.host) == smaller and smaller.host == 72 * len(DATA.train)
    assert reduced.host == 3 * 8 * 96**2  # PCA is on the host: three matrices of float64 at its peak
    with assert_error(ConfigError, mentions=["feature_size"]):
        workload(LIRDRecConfig(feature_size={"image": 40}), TRAINING, sizes_of(96, 40))


def sizes_of(*widths: int) -> Sizes:
    return Sizes(USERS, ITEMS, len(DATA.train), widths)


def made(config, names=("image", "text"), ranks: Ranks = ONE) -> Model:
    """A model of the first rank, with the features `names`."""
    rows = ranks.shard(ITEMS).rows
    features = {
        name: Features(torch.from_numpy(one.values)[rows], torch.from_numpy(one.present)[rows])
        for name in names
        for one in [DATA.features[name]]
    }
    pairs = torch.from_numpy(DATA.train.users), torch.from_numpy(DATA.train.items)
    neighbors = (torch.arange(ITEMS)[:, None] + torch.arange(10)) % ITEMS
    inputs = ModelInputs(USERS, ITEMS, *pairs, features, lambda name, k: neighbors[:, :k], ranks=ranks)
    return build(config.model, inputs, config)


def batch_of(model: Model) -> list[torch.Tensor]:
    sampler = TripleSampler(model.inputs.users, model.inputs.items, ITEMS, 0)
    return [part[:64] for part in sampler.epoch(1)]


def size_of(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def size_of_matrix(matrix) -> int:
    return sum(size_of(csr.crow_indices(), csr.col_indices(), csr.values()) for csr in (matrix.csr, matrix.csr_t))


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
@pytest.mark.parametrize("n_ranks", [1, 3])
def test_parameters_gradients_optimizer_and_features_to_the_byte(config, n_ranks):
    model = made(config, ranks=Ranks(0, n_ranks))  # the rank with the most rows
    memory = workload(config, TRAINING, sizes_of(96, 40), n_ranks).memory
    state = [tensor for name, tensor in model.state_dict().items() if name != "schedule"]  # 16 bytes on the host
    assert memory["parameters"] == memory["best parameters"] == size_of(*state)
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert memory["gradients"] == size_of(*(p.grad for p in model.parameters()))
    moments = [one[key] for one in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert memory["Adam"] == size_of(*moments)
    if config.model == "lirdrec":
        features = model.inputs.features.values()
        assert memory["features"] == size_of(*(one.values for one in features), *(one.present for one in features))


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[3]], ids=["lirdrec", "lightgcn"])
def test_graphs_to_the_byte(config):
    model = made(config, ["image"])
    memory = workload(config, TRAINING, sizes_of(96)).memory
    assert memory["user-item graph"] == size_of_matrix(model.user_item.matrix)
    if config.model == "lirdrec":
        assert memory["item graph"] == size_of_matrix(model.item_item)
        assert memory["neighbors"] == size_of(model.inputs.neighbors("image", 10).contiguous())


class LiveTensors(TorchDispatchMode):
    """A context manager that follows the tensors made inside; `peak` is the most bytes of them that existed at once.

    Strided tensors only, and not what an operation frees before it returns. Independent of the allocator and of other
    programs, but slow: for small models.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if _is_strided(one)}
        for one in tree_leaves(result):
            if _is_strided(one) and one.untyped_storage()._cdata not in given:
                storage = one.untyped_storage()
                self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._storages = {key: pair for key, pair in self._storages.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))
        return result


def _is_strided(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_the_peak_of_a_step(config):
    model = made(config)
    batch = batch_of(model)
    model.start_epoch(1)
    model.loss(*batch)["loss"].backward()  # builds the graphs
    model.zero_grad(set_to_none=True)
    with LiveTensors() as live:
        for _ in range(2):  # as the training loop does it: the gradients of a step live until the next loss is there
            loss = model.loss(*batch)["loss"]
            model.zero_grad(set_to_none=True)
            loss.backward()
            del loss
    memory = workload(config, TRAINING, sizes_of(96, 40), on_cpu=True).memory
    predicted = memory["activations"] + memory["gradients"]
    assert 0.8 < predicted / live.peak < 1.25, (predicted, live.peak)


@pytest.mark.parametrize("config", CONFIGS[:3], ids=range(3))
def test_operations_of_dense_products(config):
    model = made(config)
    batch = batch_of(model)
    model.start_epoch(1)
    counter = ProductCounter()
    with counter:
        model.loss(*batch)["loss"].backward()
    counted = 2 * sum(p.operations * times for p, times in counter.products.items() if p.kind == "dense")
    planned = workload(config, TRAINING, sizes_of(96, 40))
    assert sum(work.flop for work in planned.step.values()) == pytest.approx(counted, rel=0.03)


def test_bytes_of_an_exchange(monkeypatch):
    numbers = []
    monkeypatch.setattr(
        ranks_module, "_exchanged", lambda sent, received: numbers.extend(x.numel() for _, _, x in sent)
    )
    shards = ranks_module.Shards.of(Ranks(0, 4), 400, 200)
    shards.to_columns(torch.ones(100, 16), torch.ones(50, 16))
    sent = workload(LightGCNConfig(embedding_size=16), TRAINING, Sizes(400, 200, 5000), 4).sent
    assert sent["rows and columns"] == (4 * 4 * sum(numbers), 4)  # four times in a step, four bytes a number


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[2], CONFIGS[4]], ids=["bpr", "softmax", "lightgcn"])
def test_more_devices_need_less_each(config):
    sizes = Sizes(10**7, 10**6, 10**8, (4096, 384))
    plans = [make_plan(config, TRAINING, sizes, Cluster(n, DEVICES["H100"])) for n in (1, 2, 4, 8)]
    memory = [plan.memory for plan in plans]
    work = [plan.step_seconds - plan.step.get("communication", 0) for plan in plans]
    assert memory == sorted(memory, reverse=True) and len(set(memory)) == 4
    assert work == sorted(work, reverse=True)
    assert plans[0].sent == 0 and all(plan.sent > 0 for plan in plans[1:])
    assert memory[3] > memory[0] / 8  # the graphs are on every device


def test_remedies_make_it_fit_and_less_would_not():
    config, sizes = LIRDRecConfig(loss="softmax"), Sizes(10**6, 10**6, 10**7, (4096, 4096))
    cluster = Cluster.parse("L4")
    assert not make_plan(config, TRAINING, sizes, cluster).fits
    changes = {one["change"]: one["value"] for one in remedies(config, TRAINING, sizes, cluster)}
    n = changes["devices"]
    assert make_plan(config, TRAINING, sizes, Cluster(n, cluster.device)).fits
    assert not make_plan(config, TRAINING, sizes, Cluster(n // 2, cluster.device)).fits
    assert make_plan(config, TRAINING, sizes, Cluster.parse(changes["device"])).fits
    fitting = make_plan(config, TRAINING, Sizes(1000, 1000, 10_000, (64,)), cluster)
    assert fitting.fits and remedies(config, TRAINING, Sizes(1000, 1000, 10_000, (64,)), cluster) == []


def test_kernels_are_started_while_a_gpu_computes_and_besides_on_a_cpu():
    long, short = Work(flop=1e13, kernels=10), Work(flop=1.0, kernels=100)
    for name, besides in (("H200", 0), ("cpu-core", 1)):
        device = DEVICES[name]
        computing = long.flop / device.rate("float32")
        assert seconds(long, device, "float32") == pytest.approx(computing + besides * 10 * device.kernel_seconds)
        assert seconds(short, device, "float32") == pytest.approx(100 * device.kernel_seconds, rel=1e-3)


@pytest.mark.parametrize(
    ("users", "items", "pairs", "settings", "measured"),
    [
        (19_445, 7_050, 144_900, "fast", 0.0088),
        (19_445, 7_050, 144_900, "paper", 0.0080),
        (98_129, 17_228, 634_657, "fast", 0.0156),
        (98_129, 17_228, 634_657, "paper", 0.0111),
        (192_403, 63_001, 1_520_269, "fast", 0.065),
        (192_403, 63_001, 1_520_269, "paper", 0.0267),
        (2_000_000, 1_000_000, 27_000_000, "fast", 9.91),
    ],
)
def test_a_step_that_was_measured_on_an_h200_is_planned_within_a_factor_of_one_and_a_half(
    users, items, pairs, settings, measured
):
    config, training = preset("lirdrec", settings)
    widths = tuple(min(width, config.feature_size or width) for width in (4096, 384))
    training = replace(training, epochs=2).resolved(pairs)
    plan = make_plan(config, training, Sizes(users, items, pairs, widths), Cluster.parse("H200"))
    assert 1 / 1.5 < plan.step_seconds / measured < 1.5


def test_names_of_clusters():
    assert (Cluster.parse("h100").number, Cluster.parse("16xH100").machines) == (1, 2)
    assert Cluster.parse("2xL4", memory=5e9).device.memory == 5e9
    for text, fact in (("8xH10", "H100"), ("0xH100", "0xH100"), ("8 H100", "8xH100")):
        with assert_error(ConfigError, mentions=[text.removeprefix("8x"), fact]):
            Cluster.parse(text)


def test_this_machine_is_its_gpus_or_a_core_of_its_processor(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    core = Cluster.of_this_machine().device
    assert core.name == "cpu-core" and core.memory > 0
    assert Cluster.of_this_machine(5e9).device.memory == 5e9
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=22 * 10**9))
    for found, kind in (("NVIDIA L4", "L4"), ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA H100 80GB HBM3", "H100")):
        monkeypatch.setattr("torch.cuda.get_device_name", lambda _, found=found: found)
        cluster = Cluster.of_this_machine()
        assert (cluster.number, cluster.device.name, cluster.device.memory) == (2, kind, 22e9)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA L40S")
    with assert_error(ConfigError, mentions=["NVIDIA L40S", "L4", "cpu-core"]):
        Cluster.of_this_machine()


def test_what_cannot_be_planned():
    with assert_error(CapabilityError, mentions=["ease", "lirdrec", "lightgcn"]):
        workload(EASEConfig(), TRAINING, sizes_of(8))
    with assert_error(CapabilityError, mentions=["lirdrec", "features"]):
        workload(LIRDRecConfig(), TRAINING, sizes_of())
    with assert_error(ConfigError, mentions=[17, 16, "columns"]):
        workload(LightGCNConfig(embedding_size=16), TRAINING, sizes_of(), 17)
    with assert_error(ConfigError, mentions=["users", 0]):
        Sizes(0, 1, 1)
