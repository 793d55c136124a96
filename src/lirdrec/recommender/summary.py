"""Summarize a run folder: model size, cost of a training step, and training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lirdrec.config import make_config
from lirdrec.devices import resolve_device
from lirdrec.recommender.new_item_encoder import NEW_ITEMS
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig
from lirdrec.training.step_cost import measure_step


def summarize_run(folder: str | Path, device: str = "cpu", verify: bool = False, repeats: int = 5) -> dict[str, Any]:
    """Return JSON-able facts of a run.

    Args:
        folder: the folder of a finished run that is not slim.
        device: where a step is measured.
        verify: compare the checksums of all files.
        repeats: number of timed steps.

    Returns:
        "model", "dataset", "users", "items", "pairs", "metrics", "parameters", "parameters_by_name"; "added_items"
        and "added_likes": how many of the items and pairs came after the training; "step": what
        `Complexity.to_dict` gives, or None for a closed form, which is not trained in steps; and "new_items": the
        fields of the `NewItemEncoder`, or None if the run has no such encoder.

    Raises:
        RunFolderError: no such run, or a damaged one.
        CapabilityError: a slim run has no model.
    """
    recommender = Recommender.load(folder, verify=verify, device=resolve_device(device))
    model = recommender.model("tell what a training step costs")
    train, n_trained = recommender.train, recommender.n_trained_pairs
    assert train is not None
    step = None
    if model.capabilities.training == "gradient":
        training = make_config(TrainConfig, recommender.info.get("training", {}), f"the training options of {folder}")
        step = measure_step(model, training, repeats).to_dict()
    sizes = {name: tensor.numel() for name, tensor in model.named_parameters()}
    sizes = sizes or {name: tensor.numel() for name, tensor in model.named_buffers()}
    return {
        "model": model.name,
        "dataset": recommender.info.get("dataset"),
        "users": recommender.n_users,
        "items": recommender.n_items,
        "pairs": len(train),
        "added_items": recommender.n_items - recommender.n_trained_items,
        "added_likes": 0 if n_trained is None else len(train) - n_trained,
        "metrics": recommender.info.get("metrics", {}),
        "parameters": sum(sizes.values()),
        "parameters_by_name": sizes,
        "step": step,
        "new_items": recommender.info.get(NEW_ITEMS),
    }
