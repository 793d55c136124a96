"""The model of a loaded run, built again when new items or new users need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lirdrec.config import make
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.ids import IdMap
from lirdrec.models.base import Model
from lirdrec.models.registry import build, config_type, model_type
from lirdrec.recommender.inputs import make_model_inputs

if TYPE_CHECKING:
    from lirdrec.recommender.recommender import Recommender

_NO_PAIRS = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))


def rebuild(recommender: Recommender) -> Model:
    """The model of a loaded run: its inputs and config again, and the saved weights."""
    assert recommender.train is not None and recommender.features is not None
    n = recommender.n_trained_items
    name = recommender.info["model"]
    dataset = Dataset(
        name=recommender.info.get("dataset", "run"),
        users=recommender.users,
        items=IdMap(recommender.items.series.head(n), recommender.items.entity),
        train=recommender.train,
        valid=_NO_PAIRS,
        test=_NO_PAIRS,
        features=recommender.features.blocks()[0] if model_type(name).capabilities.needs_features else {},
        item_table=recommender.item_table.head(n),
    )
    inputs = make_model_inputs(dataset, recommender.device)
    model = build(name, inputs, make(config_type(name), recommender.info["model_config"], f"the run of {name}"))
    model.load_state_dict(recommender.weights())
    return model.to(recommender.device).eval()
