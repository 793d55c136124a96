"""What the public code of each baseline computed, and how it is compared with ours (test_parity_baselines.py).

A model's entry says its config, which of its parameters is which array of the fixture, and what the fixture's terms of
the loss are called here. Fixtures and where they come from: parity/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lirdrec.graphs.item_item import nearest_items
from lirdrec.models.base import Features, Model, ModelInputs
from lirdrec.models.registry import build, config_type

PARITY = Path(__file__).parent / "parity"
NEWER = ("l3ae", "mgcn", "smore", "cohesion")  # models whose numbers are in newer.npz
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One model's fixture.

    Attributes:
        options: of our config, as the fixture was made.
        parameters: our parameter → its value, made of arrays called by the reference's names (no prefix).
        terms: our term of the loss → its value, made of the fixture's unweighted terms; "loss" is compared anyway.
        tolerance: largest difference allowed, relative to the largest value.
        left_out: what the public code adds to the loss and we do not, from the model and the batch's users.
        scores: the fixture's scores as ours are defined.
        prepare: sets what the fixture recorded besides parameters, from the model and the fixture.
    """

    options: Mapping[str, Any]
    parameters: Mapping[str, Callable[[Arrays], np.ndarray]]
    terms: Mapping[str, Callable[[Arrays], np.ndarray]] = field(default_factory=dict)
    tolerance: float = 1e-7
    left_out: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    scores: Callable[[Arrays], np.ndarray] = lambda fixture: fixture["scores"]
    prepare: Callable[[Any, Arrays], None] | None = None


def named(name: str) -> Callable[[Arrays], np.ndarray]:
    return lambda theirs: theirs[name]


TABLES = {"user_embedding": named("user_embedding.weight"), "item_embedding": named("item_id_embedding.weight")}
WEIGHTS = {"projection_weight.0": named("image_trs.weight"), "projection_weight.1": named("text_trs.weight")}
PROJECTIONS = {**WEIGHTS, "projection_bias.0": named("image_trs.bias"), "projection_bias.1": named("text_trs.bias")}

CASES = {
    "mf": Case(
        {"embedding_size": 16, "regularization": 2.0},
        {"user_embedding": named("user_embedding.weight"), "item_embedding": named("item_embedding.weight")},
        {"ranking": lambda terms: terms["bpr"], "regularization": lambda terms: 2.0 * terms["reg"]},
    ),
    "lightgcn": Case(
        {"embedding_size": 16, "n_layers": 2, "regularization": 0.01},
        {
            "user_embedding": named("embedding_dict.user_emb"),
            "item_embedding": named("embedding_dict.item_emb"),
        },
        {"ranking": lambda terms: terms["bpr"], "regularization": lambda terms: 0.01 * terms["reg"]},
    ),
    "vbpr": Case(
        {"embedding_size": 16, "regularization": 2.0},
        {
            "user_embedding": named("u_embedding"),
            "item_embedding": named("i_embedding"),
            "projection.0": lambda theirs: theirs["item_linear.weight"][:, 8:],  # the reference has the text first
            "projection.1": lambda theirs: theirs["item_linear.weight"][:, :8],
            "bias": named("item_linear.bias"),
        },
        {"ranking": lambda terms: terms["bpr"], "regularization": lambda terms: 2.0 * terms["reg"]},
    ),
    "grcn": Case(
        {"embedding_size": 16, "regularization": 0.1, "n_routings": 0},
        {
            "user_embedding": lambda theirs: theirs["id_gcn.id_embedding"][:50],
            "item_embedding": lambda theirs: theirs["id_gcn.id_embedding"][50:],
            "preference.0": named("v_gcn.preference"),
            "preference.1": named("t_gcn.preference"),
            "feature_weight.0": named("v_gcn.MLP.weight"),
            "feature_weight.1": named("t_gcn.MLP.weight"),
            "feature_bias": lambda theirs: np.stack([theirs[f"{m}_gcn.MLP.bias"] for m in "vt"]),
            "user_confidence": lambda theirs: theirs["model_specific_conf"][:50],
            "item_confidence": lambda theirs: theirs["model_specific_conf"][50:],
        },
        {"ranking": lambda terms: terms["bpr"]},
        left_out=lambda model, users: 0.1 * model.preference[0].square().mean(),  # of images, all users
    ),
    "lgmrec": Case(
        {"embedding_size": 16, "hyper_dropout": 0.0},
        {
            "user_embedding": named("user_embedding.weight"),
            "item_embedding": named("item_id_embedding.weight"),
            "feature_weight.0": named("item_image_trs"),
            "feature_weight.1": named("item_text_trs"),
            "hyper_weight.0": named("v_hyper"),
            "hyper_weight.1": named("t_hyper"),
        },
        {
            "ranking": lambda terms: terms["bpr"],
            "regularization": lambda terms: 1e-6 * terms["reg"],
            "contrast": lambda terms: 1e-4 * (terms["contrastive_users"] + terms["contrastive_items"]),
        },
        scores=lambda fixture: fixture["zero_noise/user_vectors"] @ fixture["zero_noise/item_vectors"].T,
        prepare=lambda model, fixture: record_noise(model, fixture),
    ),
    # left out: the biases of its projections, which cancel in its loss
    "freedom": Case(
        {"embedding_size": 16, "n_neighbors": 5, "edge_dropout": 0.0, "regularization": 1e-3},
        TABLES | WEIGHTS,
        {"ranking": lambda terms: terms["bpr"], "content": lambda terms: 1e-3 * (terms["text"] + terms["image"])},
    ),
    "lattice": Case(
        {"embedding_size": 16, "n_neighbors": 5, "regularization": 1e-3},
        {**TABLES, **PROJECTIONS, "modality_logits": named("modal_weight")},
        {"ranking": lambda terms: terms["bpr"], "regularization": lambda terms: 1e-3 * terms["reg"]},
    ),
    "micro": Case(
        {"embedding_size": 16, "n_neighbors": 5, "regularization": 1e-5},
        {
            **TABLES,
            **PROJECTIONS,
            "attention_weight": named("query.0.weight"),
            "attention_bias": named("query.0.bias"),
            "attention_vector": lambda theirs: theirs["query.2.weight"][0],
        },
        {
            "ranking": lambda terms: terms["bpr"],
            "regularization": lambda terms: 1e-5 * terms["reg"],
            "contrast": lambda terms: 0.03 * (terms["contrastive_image"] + terms["contrastive_text"]),
        },
    ),
    "bm3": Case(
        {"embedding_size": 16, "n_layers": 2, "dropout": 0.0, "contrast_weight": 2.0, "regularization": 0.1},
        {
            **TABLES,
            **PROJECTIONS,
            "predictor_weight": named("predictor.weight"),
            "predictor_bias": named("predictor.bias"),
        },
        {
            "pairs": lambda terms: terms["user_item"] + terms["item_user"],
            "contrast": lambda terms: 2 * sum(terms[f"{m}_{to}"] for m in ("text", "image") for to in (m, "item")),
            "regularization": lambda terms: 0.1 * terms["reg"],
        },
    ),
}


def fused_view(modality: str) -> dict[str, Callable[[Arrays], np.ndarray]]:
    """The gate and the preference of a view, which the public codes call by their modality."""
    short = {"image": "v", "text": "t", "fusion": "f"}[modality]
    row = ("image", "text", "fusion").index(modality)
    return {
        f"{ours}_{part}.{row}": named(f"{theirs}.0.{part}")
        for part in ("weight", "bias")
        for ours, theirs in (("gate", f"gate_{short}"), ("preference", f"gate_{modality}_prefer"))
    }


# degrees of the public codes have nothing added, ours 1e-7
VIEW_TERMS = {
    "ranking": lambda terms: terms["bpr"],
    "regularization": lambda terms: 0.01 * terms["reg"],
    "contrast": lambda terms: 0.1 * (terms["contrastive_items"] + terms["contrastive_users"]),
}
VIEW_OPTIONS = {"embedding_size": 16, "n_neighbors": 5, "regularization": 0.01, "contrast_weight": 0.1}
CASES["mgcn"] = Case(
    VIEW_OPTIONS,
    {
        **TABLES,
        **PROJECTIONS,
        **fused_view("image"),
        **fused_view("text"),
        "attention_weight": named("query_common.0.weight"),
        "attention_bias": named("query_common.0.bias"),
        "attention_vector": lambda theirs: theirs["query_common.2.weight"][0],
    },
    VIEW_TERMS,
)
CASES["smore"] = Case(
    {**VIEW_OPTIONS, "n_layers": 3, "n_item_layers": 2, "modality_neighbors": {"text": 4}},
    {
        **TABLES,
        **PROJECTIONS,
        **{key: value for view in ("image", "text", "fusion") for key, value in fused_view(view).items()},
        **{
            f"{ours}.{row}": named(f"query_{short}.{theirs}")
            for row, short in enumerate("vt")
            for ours, theirs in (("query_weight", "0.weight"), ("query_bias", "0.bias"), ("column_weight", "2.weight"))
        },
        **{
            f"spectrum.{row}": lambda theirs, view=view: theirs[f"{view}_complex_weight"][0]
            for row, view in enumerate(("image", "text", "fusion"))
        },
    },
    VIEW_TERMS,
)
CHANNELS = {0: "id", 1: "v", 2: "t"}
CASES["cohesion"] = Case(
    {
        "embedding_size": 16,
        "n_layers": 3,
        "n_item_layers": 2,
        "n_neighbors": 5,
        "n_user_neighbors": 5,
        "regularization": 0.1,
    },
    {
        "item_embedding": named("id_feat"),
        "preference.0": named("id_gcn.preference"),
        "preference.1": named("v_preference"),
        "preference.2": named("t_preference"),
        **{
            f"{ours}_{part}.{row}": named(f"{short}_gcn.{theirs}.{part}")
            for row, short in CHANNELS.items()
            for part in ("weight", "bias")
            for ours, theirs in (("first", "MLP"), ("second", "MLP_1"))
        },
    },
    {"ranking": lambda terms: terms["bpr"], "regularization": lambda terms: 0.1 * terms["reg"]},
    # the penalty of a table that occurs nowhere else
    left_out=lambda model, users: 0.1 * torch.from_numpy(load("cohesion")["term/weight_u"]),
)


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(PARITY / ("newer.npz" if name in NEWER else "arrays.npz"), allow_pickle=False) as arrays:
        return {key.removeprefix(f"{name}/"): arrays[key] for key in arrays.files if key.startswith(f"{name}/")}


def under(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def close(ours: Any, theirs: Any, tolerance: float, what: str) -> None:
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape, what
    scale = max(np.abs(theirs).max(), 1e-6)  # what is zero but for rounding is compared absolutely
    difference = np.abs(ours - theirs).max() / scale
    assert difference < tolerance, f"{what}: off by {difference:.2e}"


def inputs() -> ModelInputs:
    data = load("inputs")
    edges = torch.from_numpy(data["train_edges"])
    features = {
        name: Features(torch.from_numpy(data[key]).double(), torch.ones(40, dtype=torch.bool))
        for name, key in (("image", "v_feat"), ("text", "t_feat"))
    }

    def neighbors(name: str, k: int) -> torch.Tensor:
        return nearest_items(features[name].values, features[name].present, k)

    return ModelInputs(50, 40, edges[:, 0], edges[:, 1], features, neighbors)


def model(name: str, case: Case, fixture: Arrays) -> Model:
    ours = build(name, inputs(), config_type(name)(**case.options)).double()
    theirs = under(fixture, "param/")
    with torch.no_grad():
        parameters = dict(ours.named_parameters())
        for key, value in case.parameters.items():
            value = torch.from_numpy(np.ascontiguousarray(value(theirs)))
            assert parameters[key].shape == value.shape, key
            parameters.pop(key).copy_(value)
    assert not parameters, f"parameters that the public code lacks: {list(parameters)}"
    return ours


def record_noise(lgmrec: Any, fixture: Arrays) -> None:
    recorded = {key: torch.from_numpy(value) for key, value in under(fixture, "noise/").items()}
    lgmrec.draw_noise = lambda: [(recorded[f"item_{m}"], recorded[f"user_{m}"]) for m in ("image", "text")]
