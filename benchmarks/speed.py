"""One training step and one evaluation against their matrix products alone, in the same process (docs/performance.md).

    python benchmarks/speed.py baby
    python benchmarks/speed.py electronics --steps 3

Data are planted with the shape of the paper's data sets. "Products alone" are the step's own matrix products, each run
as plain float32 `torch.mm` into a buffer that is already there, the sparse ones as CSR, forward and backward. They
run in the same process under the same allocator settings, alternating with the steps; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import lirdrec
from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.evaluation.scorer_evaluation import GroundTruth, evaluate_scorer
from lirdrec.graphs.item_item import nearest_among, nearest_items
from lirdrec.models.lirdrec import LIRDRec
from lirdrec.ranking.top_k import MEMORY_LIMIT, block_rows
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.training.memory_allocator import keep_freed_memory
from lirdrec.training.sampling import TripleSampler
from shapes import DIMS, SHAPES

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=tuple(SHAPES))
    parser.add_argument("--steps", type=int, default=12, help="steps timed, after two that are not")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--no-graph", action="store_true", help="random neighbors: only the step and the evaluation")
    parser.add_argument(
        "--graph-rows", type=int, help="only the graph, and only this many of its rows: memory, seconds"
    )
    arguments = parser.parse_args()
    users, items, pairs = SHAPES[arguments.shape]
    with tempfile.TemporaryDirectory() as folder:
        run_in_child(
            arguments.shape,
            lambda: make_synthetic_dataset(users, items, pairs, DIMS, seed=0, folder=folder).save(f"{folder}/data"),
        )
        data = Dataset.load(f"{folder}/data")
        report(arguments, data)


def run_in_child(what: str, work: Callable[[], object]) -> None:
    """Make the data in another process, so that its peak of memory is not counted here."""
    import os

    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit(f"making the {what} data failed")


def report(arguments: argparse.Namespace, data: Dataset) -> None:
    keep_freed_memory()
    figures: dict[str, object] = {
        "shape": arguments.shape,
        "threads": torch.get_num_threads(),
        "layers": arguments.layers,
    }
    figures["training_pairs"] = len(data.train.users)
    inputs = make_model_inputs(data, cache=False)
    if arguments.graph_rows:
        return report_graph(arguments, inputs, figures)
    if arguments.no_graph:
        generator = torch.Generator().manual_seed(0)
        tables = {m: torch.randint(data.n_items, (data.n_items, 10), generator=generator) for m in DIMS}
        object.__setattr__(inputs, "neighbors", lambda name, k: tables[name])
    else:
        started = time.perf_counter()
        tables = {m: nearest_items(f.values, f.present, 10) for m, f in inputs.features.items()}
        object.__setattr__(inputs, "neighbors", lambda name, k: tables[name])
        figures["graph_seconds"] = round(time.perf_counter() - started, 2)
        figures["graph_peak_gb"] = peak_gb()
    config = lirdrec.LIRDRecConfig(n_layers=arguments.layers)
    model = LIRDRec(inputs, config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    sampler = TripleSampler(inputs.users, inputs.items, inputs.n_items, 0)
    triples = [part[:2048] for part in sampler.epoch(1)]
    model.start_epoch(1)

    def step() -> None:
        loss = model.loss(*triples)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(2):
        step()
    scorer = model.scorer()
    pairs = ((torch.from_numpy(p.users), torch.from_numpy(p.items)) for p in (data.train, data.test))
    truth = GroundTruth.from_pairs(*pairs, data.n_users)
    evaluate_scorer(scorer, truth, ("recall", "ndcg"), (20,))
    figures["training_and_evaluation_peak_gb"] = peak_gb()  # before the yardsticks take memory of their own
    products, listed = step_products(model, scorer)
    ours, alone = alternate(step, products, arguments.steps)
    figures |= {"step_ms": 1e3 * ours, "products_ms": 1e3 * alone, "step_ratio": ours / alone, "products": listed}
    ours, alone = alternate(
        lambda: evaluate_scorer(scorer, truth, ("recall", "ndcg"), (20,)),
        lambda: bare_ranking(scorer, truth),
        max(1, arguments.steps // 4),
    )
    figures |= {
        "evaluation_s": ours,
        "bare_ranking_s": alone,
        "evaluation_ratio": ours / alone,
        "users": len(truth.users),
    }
    started = time.perf_counter()
    model.scorer()
    figures["forward_for_evaluation_s"] = time.perf_counter() - started
    figures["peak_gb"] = peak_gb()
    print(json.dumps(figures, indent=2, default=str))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"speed-{arguments.shape}.json").write_text(json.dumps(figures, indent=2, default=str) + "\n")


def report_graph(arguments: argparse.Namespace, inputs, figures: dict[str, object]) -> None:
    """Peak memory of building the graph, reached in the first blocks, and seconds for all rows by proportion."""
    rows = arguments.graph_rows
    started = time.perf_counter()
    for feature in inputs.features.values():
        nearest_among(feature.values[-rows:], feature.present[-rows:], [(feature.values, feature.present)], 10)
    seconds = time.perf_counter() - started
    figures |= {
        "graph_rows": rows,
        "graph_peak_gb": peak_gb(),
        "graph_seconds_for_all": seconds * inputs.n_items / rows,
    }
    print(json.dumps(figures, indent=2))
    (RESULTS / f"graph-{arguments.shape}.json").write_text(json.dumps(figures, indent=2) + "\n")


def step_products(model: LIRDRec, scorer) -> tuple[Callable[[], None], list[str]]:
    """All matrix products of one training step, by shape, into ready buffers."""
    n_users, k, e = model.user_embedding.shape
    n_items, h = model.inputs.n_items, model.hidden_bias.shape[1]
    calls: list[tuple[str, Callable[[], object]]] = []

    def dense(name: str, a: torch.Tensor, b: torch.Tensor) -> None:
        out = torch.empty(a.shape[0], b.shape[1])
        calls.append((f"{name}: {tuple(a.shape)} x {tuple(b.shape)}", lambda: torch.mm(a, b, out=out)))

    def sparse(name: str, a: torch.Tensor, b: torch.Tensor) -> None:
        out = torch.zeros(a.shape[0], b.shape[1])
        label = f"{name}: CSR {tuple(a.shape)}, {a.values().numel()} entries, x {tuple(b.shape)}"
        calls.append((label, lambda: torch.addmm(out, a, b, beta=0, out=out)))

    for feature in model.features:
        d = feature.values.shape[1]
        dense("both branches forward", feature.values, torch.randn(d, 2 * h))
        dense("both branches backward", torch.randn(2 * h, n_items), feature.values)
    for _ in range(k):
        dense("output forward", torch.randn(n_items, h), torch.randn(h, e))
        dense("output backward, input", torch.randn(n_items, e), torch.randn(e, h))
        dense("output backward, weight", torch.randn(e, n_items), torch.randn(n_items, h))
        dense("attention forward", torch.randn(n_users, e), torch.randn(e, e // 4))
        dense("attention backward, input", torch.randn(n_users, e // 4), torch.randn(e // 4, e))
        dense("attention backward, weight", torch.randn(e // 4, n_users), torch.randn(n_users, e))
    users, items = scorer.user_vectors, scorer.item_vectors
    for direction in ("forward", "backward"):
        for _ in range(model.config.n_layers):
            sparse(f"propagation {direction}", model.user_item.matrix.csr, items)
            sparse(f"propagation {direction}", model.user_item.matrix.csr_t, users)
    sparse("item graph forward", model.item_item.csr, items)
    sparse("item graph backward", model.item_item.csr_t, items)

    def run() -> None:
        for _, call in calls:
            call()

    names = [name for name, _ in calls]
    return run, [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def bare_ranking(scorer, truth: GroundTruth) -> None:
    """Score products and top-k alone, in the same blocks, into a ready buffer."""
    items = scorer.item_vectors.T
    rows = block_rows(scorer.n_items, 4, MEMORY_LIMIT)
    buffer = torch.empty(min(rows, len(truth.users)), scorer.n_items)
    for block in truth.users.split(rows):
        out = buffer[: len(block)]
        torch.mm(scorer.user_vectors[block], items, out=out)
        out.topk(20, dim=1)


def alternate(ours: Callable[[], object], alone: Callable[[], object], times: int) -> tuple[float, float]:
    """Median seconds of each, measured in turn so that a drift of the machine's speed meets both."""
    spent: tuple[list[float], list[float]] = ([], [])
    alone()
    for _ in range(times):
        for work, seconds in zip((ours, alone), spent, strict=True):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
    return statistics.median(spent[0]), statistics.median(spent[1])


def peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


if __name__ == "__main__":
    main()
