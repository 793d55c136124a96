"""Registry of models by name; their modules are imported at first use. To add a model, add a file and a line here."""

from __future__ import annotations

import importlib
from typing import Any

from lirdrec.config import suggest_name
from lirdrec.errors import ConfigError
from lirdrec.models.base import Model, ModelInputs

_MODELS = {
    "lirdrec": ("lirdrec.models.lirdrec", "LIRDRec"),
    "popularity": ("lirdrec.models.popularity", "Popularity"),
    "freedom": ("lirdrec.models.freedom", "FREEDOM"),
    "lattice": ("lirdrec.models.lattice", "LATTICE"),
    "micro": ("lirdrec.models.micro", "MICRO"),
    "bm3": ("lirdrec.models.bm3", "BM3"),
    "item_knn": ("lirdrec.models.item_knn", "ItemKNN"),
    "content_knn": ("lirdrec.models.content_knn", "ContentKNN"),
    "ease": ("lirdrec.models.ease", "EASE"),
    "cease": ("lirdrec.models.ease", "CEASE"),
    "add_ease": ("lirdrec.models.ease", "AddEASE"),
    "l3ae": ("lirdrec.models.l3ae", "L3AE"),
    "mf": ("lirdrec.models.mf", "MF"),
    "lightgcn": ("lirdrec.models.lightgcn", "LightGCN"),
    "vbpr": ("lirdrec.models.vbpr", "VBPR"),
    "grcn": ("lirdrec.models.grcn", "GRCN"),
    "lgmrec": ("lirdrec.models.lgmrec", "LGMRec"),
    "slmrec": ("lirdrec.models.slmrec", "SLMRec"),
    "lirdrec_seq": ("lirdrec.models.lirdrec_seq", "LIRDRecSeq"),
    "sasrec": ("lirdrec.models.sasrec", "SASRec"),
    "gru4rec": ("lirdrec.models.gru4rec", "GRU4Rec"),
    "bsarec": ("lirdrec.models.bsarec", "BSARec"),
    "hstu": ("lirdrec.models.hstu", "HSTU"),
    "sasrec_features": ("lirdrec.models.sasrec_features", "SASRecFeatures"),
    "unisrec": ("lirdrec.models.unisrec", "UniSRec"),
    "whitenrec": ("lirdrec.models.whitenrec", "WhitenRec"),
    "whitenrec_plus": ("lirdrec.models.whitenrec", "WhitenRecPlus"),
    "last_item_knn": ("lirdrec.models.last_item_knn", "LastItemKNN"),
    "last_content_knn": ("lirdrec.models.last_content_knn", "LastContentKNN"),
    "mgcn": ("lirdrec.models.mgcn", "MGCN"),
    "smore": ("lirdrec.models.smore", "SMORE"),
    "cohesion": ("lirdrec.models.cohesion", "COHESION"),
}


def model_names() -> list[str]:
    """Return the names of all models."""
    return list(_MODELS)


def model_type(name: str) -> type[Model]:
    """Return the model class called `name`.

    Raises:
        ConfigError: no model has this name; the message suggests a similar name, or lists all names.
    """
    if name not in _MODELS:
        name = str(name)
        hint = suggest_name(name.lower(), _MODELS, f"known models: {', '.join(_MODELS)}")
        raise ConfigError(f"unknown model '{name}'; {hint}")
    module, attribute = _MODELS[name]
    model_class: type[Model] = getattr(importlib.import_module(module), attribute)
    return model_class


def config_type(name: str) -> type:
    """Return the config dataclass of the model called `name`.

    Raises:
        ConfigError: no model has this name.
    """
    return model_type(name).Config


def model_for_config(config: Any) -> type[Model]:
    """Return the model class that `config`, an instance of a model's `Config`, belongs to.

    Raises:
        ConfigError: `config` is not the config of a model.
    """
    name = getattr(type(config), "model", None)
    if name in _MODELS and type(config) is config_type(name):
        return model_type(name)
    given = config.__name__ if isinstance(config, type) else type(config).__name__
    raise ConfigError(
        f'{given} is not the configuration of a model; give a model\'s name, such as "ease", or its configuration,'
        " such as lirdrec.EASEConfig()"
    )


def build(name: str, inputs: ModelInputs, config: Any) -> Model:
    """Build the model `name` from `inputs` and `config`.

    Raises:
        ConfigError: no model has this name, or options of `config` do not fit the inputs.
        CapabilityError: the model needs something that the inputs lack, or cannot be trained on several devices.
    """
    return model_type(name)(inputs, config)
