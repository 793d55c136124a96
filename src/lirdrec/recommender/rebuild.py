"""Build the model of a saved run again, from its inputs, its config and its saved weights."""

from __future__ import annotations

import numpy as np

from lirdrec.config import make
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.ids import IdMap
from lirdrec.models.base import Model
from lirdrec.models.registry import build, config_type, model_type
from lirdrec.recommender.inputs import make_model_inputs
from lirdrec.recommender.state import RunState

_NO_PAIRS = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))


def rebuild(state: RunState) -> Model:
    """The trained model of a run, on the run's device, in evaluation mode."""
    assert state.train is not None and state.features is not None and state.weights is not None
    n, name = state.n_trained_items, state.info["model"]
    dataset = Dataset(
        name=state.info.get("dataset", "run"),
        users=state.users,
        items=IdMap(state.items.series.head(n), state.items.entity),
        train=state.train,
        valid=_NO_PAIRS,
        test=_NO_PAIRS,
        features=state.features.blocks()[0] if model_type(name).capabilities.needs_features else {},
        item_table=state.item_table.head(n),
    )
    inputs = make_model_inputs(dataset, state.device)
    model = build(name, inputs, make(config_type(name), state.info["model_config"], f"the run of {name}"))
    model.load_state_dict(dict(state.weights))
    return model.to(state.device).eval()
