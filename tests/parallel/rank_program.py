"""Train models on planted data as one of several ranks; run by the tests of this folder in processes of its own.

    python rank_program.py FOLDER RANK

Reads FOLDER/phases.json, a list of {"size", "jobs"}: in each phase `size` ranks train the jobs, and the processes above
wait. A job is {"model", "options", "training"} and, to continue from a checkpoint and write one, "checkpoint". Rank 0
writes the results of phase n to FOLDER/found-n.pt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.models.registry import config_type, model_type
from lirdrec.parallel.ranks_and_shards import Ranks
from lirdrec.recommender.feature_pca import fit_projections
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.training_job import validation
from lirdrec.training.config import TrainConfig
from lirdrec.training.loop import sum_gradients, train
from lirdrec.training.sampling import TripleSampler
from lirdrec.training.sharded_checkpoint import ShardedCheckpointStore


def planted() -> Dataset:
    """61 users and 47 items: no number of ranks divides them; some items lack the image, some occur in no pair."""
    return make_synthetic_dataset(61, 47, 700, {"image": 7, "text": 5}, groups=4, seed=5, missing={"image": 0.2})


def whole(model: Any, name: str, tensor: torch.Tensor) -> torch.Tensor | None:
    shard = model.shard_of(name)
    if shard is None:
        return tensor.detach().clone()
    table = shard.whole(tensor)
    return None if table is None else table.clone()


def results(job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Initial parameters, the first step's gradients, and losses, metrics and parameters of a training."""
    config = make_config(config_type(job["model"]), job["options"])
    options = {"epochs": 3, "batch_size": 256, "learning_rate": 5e-3, "metric": "recall@5", "seed": 3} | job["training"]
    training = TrainConfig(**options)
    data = planted()

    projections = fit_projections(data, config, ranks)

    def built() -> Any:
        inputs = make_model_inputs(data, cache=False, seed=3, ranks=ranks, projections=projections)
        return model_type(job["model"])(inputs, config)

    model = built()
    found: dict[str, Any] = {"start": {n: whole(model, n, p) for n, p in model.state_dict().items()}}
    inputs = model.inputs
    triples = [column[:100] for column in TripleSampler(inputs.users, inputs.items, inputs.n_items, 3).epoch(1)]
    model.start_epoch(1)
    model.loss(*triples)["loss"].backward()
    sum_gradients(model)
    found["gradients"] = {n: whole(model, n, p.grad) for n, p in model.named_parameters() if p.grad is not None}
    model = built()
    store = None
    if "checkpoint" in job:
        store = ShardedCheckpointStore(Path(job["checkpoint"]), {}, ranks, model.shard_of)
    history = train(model, training, validation(data, training.metric), store=store, resume=True).history
    found["history"] = [{k: v for k, v in line.items() if "seconds" not in k} for line in history]
    found["end"] = {n: whole(model, n, p) for n, p in model.state_dict().items()}
    return found


def run_phase(folder: Path, number: int, phase: dict[str, Any], rank: int) -> None:
    size, address = phase["size"], f"file://{folder}/rendezvous-{number}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    found = [results(job, Ranks(rank, size)) for job in phase["jobs"]]
    if rank == 0:
        torch.save(found, folder / f"found-{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    of_tests, own_rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    for n, one_phase in enumerate(json.loads((of_tests / "phases.json").read_text())):
        if own_rank < one_phase["size"]:
            run_phase(of_tests, n, one_phase, own_rank)
