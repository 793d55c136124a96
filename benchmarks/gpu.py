"""Step, evaluation, epoch with validation and peak memory of LIRDRec on one GPU, in under eight minutes.

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --small --device cpu

Needs torch, NumPy, polars and pyarrow, and `src/` on PYTHONPATH: nothing is installed. Data of the shapes in shapes.py
are planted on the device. Every part has a share of the time (`--seconds`); what did not fit is listed as skipped.
`--small` divides the shapes, so that the same code runs in seconds on a CPU, where seconds are processor seconds.

`limit` is the time of a step if all its products ran at the maker's rate, and all its other bytes at the maker's
bandwidth, counted by `lirdrec.planning`; `planned` is what `lirdrec plan` expects.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from device_data import Planted, planted, with_columns
from gpu_report import PRECISIONS, Report, environment, table
from lirdrec.devices import resolve_device
from lirdrec.errors import ConfigError
from lirdrec.evaluation.scorer_evaluation import GroundTruth, evaluate_scorer
from lirdrec.graphs.item_item import nearest_items
from lirdrec.models.base import Features, Model, ModelInputs
from lirdrec.models.lirdrec import LIRDRec
from lirdrec.planning.device_speeds import DEVICES, Device
from lirdrec.planning.plan import seconds as seconds_of_work
from lirdrec.planning.workload import Sizes, workload
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.top_k import rank_users
from lirdrec.recommender.presets import preset
from lirdrec.training.config import TrainConfig
from lirdrec.training.loop import train
from lirdrec.training.memory_allocator import keep_freed_memory
from lirdrec.training.sampling import make_sampler
from lirdrec.training.step_cost import ProductCounter
from shapes import DIMS, SHAPES

# shape, what it is divided by with --small, share of the time
CASES = (("baby", 60, 1.5), ("electronics", 300, 3.0), ("microlens", 150, 2.0), ("million", 3000, 4.0))
SMALL_DIMS = {"image": 48, "text": 16}
METRICS, CUTOFFS = ("recall", "ndcg"), (20,)
MOST_SCORES, SMALL_SCORES = 5e10, 1e5  # an evaluation of more is measured on a part of the users and multiplied
KINDS = {  # of kernels, by parts of their names; the first that fits
    "sparse products": ("csrmm", "spmm", "cusparse", "csr2", "sparse"),
    "dense products": ("gemm", "cutlass", "nvjet", "xmma", "splitk", "aten::mm", "aten::addmm", "aten::bmm", "linear"),
    "Adam": ("adam", "multi_tensor"),
    "selection and sorting": ("sort", "topk", "radix", "unique", "scan", "bitonic", "gathertopk", "index", "scatter"),
    "copies": ("memcpy", "memset", "copy", "aten::fill_", "aten::zero_"),
}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Mean seconds of a call; on a CPU, processor seconds."""
    wait(device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    for _ in range(times):
        work()
    wait(device)
    return (clock() - started) / times


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def precision(name: str) -> Iterator[None]:
    """TF32 in float32 products or not; bfloat16 is an option of the training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass
class Case:
    """A model with its settings on planted data, and one batch."""

    shape: str
    settings: str
    precision: str
    data: Planted
    model: Model
    training: TrainConfig
    batch: tuple[torch.Tensor, ...]
    n_steps: int
    sampling_s: float

    @property
    def device(self) -> torch.device:
        return self.data.inputs.device

    def stepper(self) -> Callable[[], torch.Tensor]:
        """A training step, as the loop takes it."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.training.learning_rate, fused=True)
        low = self.training.precision == "bfloat16"

        def step() -> torch.Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                loss = self.model.loss(*self.batch)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return loss.detach()

        self.model.train()
        return step


def make_case(shape: str, settings: str, kind: str, data: Planted, batches: dict[str, Any]) -> Case:
    """The model of a preset; the batch, which takes long to sample at the largest shape, is kept for all precisions."""
    config, training = preset("lirdrec", settings)
    training = replace(training, epochs=2, precision="bfloat16" if kind == "bfloat16" else "float32")
    training = training.resolved(len(data.inputs.users))
    data = with_columns(data, config.feature_size)
    model = LIRDRec(data.inputs, config)
    if settings not in batches:
        started = time.perf_counter()
        sampler = make_sampler(model, training)
        size = training.pairs_per_step(len(sampler))
        _, batch = next(iter(sampler.batches(1, size, data.inputs.device)))
        batches[settings] = (batch, sampler.n_steps(size), time.perf_counter() - started)
    model.start_epoch(1)
    return Case(shape, settings, kind, data, model, training, *batches[settings])


def measure(case: Case, report: Report, allotted: float) -> dict[str, Any]:
    """A row of the table: step, evaluation, epoch with validation, peak memory, limit."""
    device = case.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    deadline = time.monotonic() + allotted
    row: dict[str, Any] = {"shape": case.shape, "settings": case.settings, "precision": case.precision}
    step = case.stepper()
    row["first_step_s"] = seconds_of(step, device)  # builds the graphs
    once = seconds_of(step, device)
    times = 1 if report.small else max(1, min(20, int(0.2 * allotted / max(once, 1e-4))))
    row["step_s"] = seconds_of(step, device, times)
    row |= limits(case)
    row["pairs"], row["steps"], row["sampling_s"] = len(case.batch[0]), case.n_steps, case.sampling_s
    row["step_peak_bytes"] = peak_bytes(device)
    most = SMALL_SCORES if report.small else MOST_SCORES
    truth, factor = sampled_truth(case.data.truth, int(most / case.data.inputs.n_items))
    scorer = case.model.eval().validation_scorer()
    row["forward_s"] = seconds_of(case.model.validation_scorer, device)
    row["evaluation_s"] = factor * seconds_of(lambda: validation(scorer, truth), device)
    row["evaluation_measured_on"] = len(truth.users)
    row["peak_bytes"] = peak_bytes(device)
    expected = case.n_steps * row["step_s"] + case.sampling_s + row["forward_s"] + row["evaluation_s"]
    row["expected_epoch_s"] = expected
    if 2.5 * expected < min(deadline - time.monotonic(), report.left() - 20) and factor == 1:
        history = train(case.model, case.training, lambda found: validation(found, case.data.truth)).history
        row["epoch_s"] = history[-1]["seconds_with_validation"]
    return row


def limits(case: Case) -> dict[str, float]:
    """The least time of a step on this card, and the time and the memory that `lirdrec plan` expects; {} if unknown."""
    name = case.device.type if case.device.type == "cpu" else torch.cuda.get_device_name(case.device)
    words = {"cpu-core"} if name == "cpu" else set(re.split(r"[\s-]", name))  # "NVIDIA A100-SXM4-80GB"
    card = next((one for one in DEVICES.values() if one.name in words), None)
    if card is None:
        return {}
    inputs = case.data.inputs
    widths = tuple(one.values.shape[1] for one in inputs.features.values())
    sizes = Sizes(inputs.n_users, inputs.n_items, len(inputs.users), widths)
    work = workload(case.model.config, case.training, sizes, 1, name == "cpu")
    ideal: Device = replace(card, efficiency=1.0, kernel_seconds=0.0)
    limit, planned = (
        sum(seconds_of_work(part, one, case.precision) for part in work.step.values()) for one in (ideal, card)
    )
    return {"limit_s": limit, "planned_step_s": planned, "planned_bytes": sum(work.memory.values())}


def sampled_truth(truth: GroundTruth, n: int) -> tuple[GroundTruth, float]:
    """The truth of at most `n` users, and the number of all users divided by theirs."""
    if n >= len(truth.users):
        return truth, 1.0
    return replace(truth, users=truth.users[:n]), len(truth.users) / n


def validation(scorer: Scorer, truth: GroundTruth) -> dict[str, float]:
    return evaluate_scorer(scorer, truth, METRICS, CUTOFFS).values


def synchronizations(step: Callable[[], Any], device: torch.device) -> list[str] | None:
    """Where a step makes the host wait for the device; None where there is no separate device."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchroniz" in str(one.message).lower()]


def kind_of(kernel: str) -> str:
    """The kind of work of a kernel, or of an operation on the CPU.

    >>> kind_of("void cusparse::csrmm_alg2_kernel<...>"), kind_of("sm90_xmma_gemm_f32f32"), kind_of("vectorized_add")
    ('sparse products', 'dense products', 'element-wise and reductions')
    """
    name = kernel.lower()
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return "element-wise and reductions"


def profile(case: Case, steps: int = 2) -> dict[str, Any]:
    """Share of the time of a step in each kind of kernel, and the longest kernels."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    device, step = case.device, case.stepper()
    on_card = device.type == "cuda"
    step()
    found = synchronizations(step, device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profiled(activities=activities) as recorded:
        for _ in range(steps):
            step()
        wait(device)
    times: dict[str, float] = {}
    for event in recorded.key_averages():
        if not on_card:
            times[event.key] = times.get(event.key, 0.0) + event.self_cpu_time_total
        elif event.device_type == DeviceType.CUDA:
            times[event.key] = times.get(event.key, 0.0) + event.self_device_time_total
    total = sum(times.values()) or 1.0
    shares: dict[str, float] = {}
    for name, spent in times.items():
        shares[kind_of(name)] = shares.get(kind_of(name), 0.0) + spent / total
    longest = sorted(times.items(), key=lambda pair: -pair[1])[:12]
    kernels = {name[:100]: round(spent / total, 4) for name, spent in longest}
    return {
        "part": "profile",
        **{"shape": case.shape, "settings": case.settings, "precision": case.precision},
        "busy_s": total / steps / 1e6,
        "shares": {kind: round(share, 4) for kind, share in sorted(shares.items(), key=lambda pair: -pair[1])},
        "kernels": kernels,
        "host_waits": found,
        **counted(case),
    }


def counted(case: Case) -> dict[str, float]:
    """Floating-point operations of a step's products, of which two make a multiply-add."""
    counter = ProductCounter()
    with counter:
        loss = case.model.loss(*case.batch)["loss"]
        loss.backward()
    case.model.zero_grad(set_to_none=True)
    sums = {"dense": 0.0, "sparse": 0.0}
    for product, times in counter.products.items():
        sums[product.kind] += 2.0 * product.operations * times
    return {f"{kind}_flop": value for kind, value in sums.items()}


def agreement(device: torch.device, shape: tuple[int, int, int], dims: Mapping[str, int]) -> dict[str, Any]:
    """One step and one evaluation on the device and on the CPU, both against the CPU in float64.

    `loss`, `gradient` and `metrics` are the largest relative differences, of the gradient by the norm of each
    parameter's; `lists` is the share of places of the top 20 with another item.
    """
    config, training = preset("lirdrec", "fast")
    made = with_columns(planted(shape, dims, torch.device("cpu"), seed=1), config.feature_size)
    base = LIRDRec(made.inputs, config)
    state = copy.deepcopy(base.state_dict())
    batch = list(next(make_sampler(base, training).batches(1, training.pairs_per_step(1), torch.device("cpu")))[1])
    exact = one_step(made, torch.device("cpu"), torch.float64, state, batch)
    row: dict[str, Any] = {"part": "agreement", "users": shape[0], "items": shape[1]}
    for name, where in (("device", device), ("cpu", torch.device("cpu"))):
        found = one_step(made, where, torch.float32, state, batch)
        row[f"{name}_loss"] = abs(found["loss"] / exact["loss"] - 1)
        gradients = [(found["gradients"][key] - one).norm() / one.norm() for key, one in exact["gradients"].items()]
        row[f"{name}_gradient"] = float(max(gradients))
        row[f"{name}_lists"] = float((found["lists"] != exact["lists"]).double().mean())
        row[f"{name}_metrics"] = max(abs(found["metrics"][key] - one) for key, one in exact["metrics"].items())
    return row


def one_step(
    made: Planted,
    device: torch.device,
    dtype: torch.dtype,
    state: Mapping[str, torch.Tensor],
    batch: list[torch.Tensor],
) -> dict[str, Any]:
    """Loss, gradients, lists of all users and metrics, in float64 on the CPU, from the given parameters."""
    inputs = made.inputs
    features = {
        name: Features(one.values.to(device, dtype), one.present.to(device)) for name, one in inputs.features.items()
    }
    moved = ModelInputs(
        *(inputs.n_users, inputs.n_items, inputs.users.to(device), inputs.items.to(device), features),
        lambda name, k: inputs.neighbors(name, k).to(device),
    )
    model = LIRDRec(moved, preset("lirdrec", "fast")[0])
    model.load_state_dict(state)
    model.start_epoch(1)
    loss = model.loss(*(part.to(device) for part in batch))["loss"]
    loss.backward()
    gradients = {name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None}
    torch.optim.Adam(model.parameters(), lr=1e-3, fused=True).step()
    scorer, truth = model.validation_scorer(), made.truth.to(device)
    lists = torch.cat([items for _, _, items in rank_users(scorer, truth.users, 20, seen=truth.seen)]).cpu()
    return {
        "loss": float(loss.detach()),
        "gradients": gradients,
        "lists": lists,
        "metrics": evaluate_scorer(scorer, truth, METRICS, CUTOFFS).values,
    }


def graph(data: Planted, shape: str, device: torch.device) -> dict[str, Any]:
    """Seconds of finding the nearest items, which a training does once."""
    feature = data.inputs.features["image"]
    spent = seconds_of(lambda: nearest_items(feature.values, feature.present, 10), device)
    return {"part": "item graph", "shape": shape, "columns": feature.values.shape[1], "graph_s": spent}


def sizes_of(shape: str, divisor: int) -> tuple[int, int, int]:
    """Users, items and interactions of a shape, each divided."""
    users, items, interactions = SHAPES[shape]
    return users // divisor, items // divisor, interactions // divisor


def run_shape(report: Report, shape: str, divisor: int, until: float) -> None:
    """All parts of one shape, until the time left is `until`."""
    sizes = sizes_of(shape, divisor if report.small else 1)
    dims = SMALL_DIMS if report.small else DIMS
    data = planted(sizes, dims, report.device)
    batches: dict[str, Any] = {}
    parts = [(settings, kind) for settings in ("fast", "paper") for kind in report.precisions]
    need = 0.0  # of the first part nothing is known
    for number, (settings, kind) in enumerate(parts):
        share = max(1.0, (report.left() - until) / (len(parts) - number + 1))

        def work(settings: str = settings, kind: str = kind, share: float = share) -> None:
            with precision(kind):
                report.add(measure(make_case(shape, settings, kind, data, batches), report, share))
                if settings == "fast" and kind != "tf32":
                    report.add(profile(make_case(shape, settings, kind, data, batches)))

        started = time.monotonic()
        report.attempt(f"{shape}, {settings}, {kind}", need, work, until)
        need = 0.7 * (time.monotonic() - started)
    if sizes[1] <= 100_000:
        report.attempt(f"{shape}, item graph", 5.0, lambda: report.add(graph(data, shape, report.device)), until)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=450, help="all parts together")
    parser.add_argument("--small", action="store_true", help="small shapes, for a CPU")
    parser.add_argument("--shapes", nargs="+", choices=[case[0] for case in CASES], default=[case[0] for case in CASES])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--output", type=Path, help="write the results to this JSON file, after every part")
    arguments = parser.parse_args()
    if not 0 <= arguments.seconds < float("inf"):
        parser.error(f"--seconds is {arguments.seconds}; give 0 or more")
    output = arguments.output
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        parser.error(f"--output {output}: give a file in a folder that exists")
    try:
        device = resolve_device(arguments.device)
    except ConfigError as error:
        parser.error(f"--device: {error}")
    keep_freed_memory()
    chosen_precisions = tuple(arguments.precisions)
    facts = environment(device)
    report = Report(device, arguments.small, arguments.seconds, arguments.output, chosen_precisions, facts=facts)
    print(report.facts, flush=True)
    sizes = sizes_of("baby", 60 if report.small else 1)
    dims = SMALL_DIMS if report.small else DIMS
    report.attempt("agreement", 0, lambda: report.add(agreement(device, sizes, dims)))
    chosen = [case for case in CASES if case[0] in arguments.shapes]
    for number, (shape, divisor, weight) in enumerate(chosen):
        later = sum(case[2] for case in chosen[number + 1 :])
        until = report.left() * later / (later + weight)
        report.attempt(shape, 5.0, lambda: run_shape(report, shape, divisor, until))  # noqa: B023 – called at once
    print(table(report))
    print(json.dumps({"seconds": report.to_dict()["seconds"], "skipped": report.skipped}))
    report.write()


if __name__ == "__main__":
    main()
