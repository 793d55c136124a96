"""The baselines against numbers of their public code: scores, vectors, loss and every gradient, in float64.

A model's entry says its config, which of its parameters is which array of the fixture, and what the fixture's terms of
the loss are called here. Fixtures and where they come from: parity/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lirdrec.graphs.item_item import nearest_items
from lirdrec.models.base import Features, Model, ModelInputs
from lirdrec.models.registry import build, config_type
from lirdrec.nn import functional

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


@pytest.mark.parametrize("name", CASES)
def test_scores_loss_and_gradients(name):
    case, fixture = CASES[name], load(name)
    ours = model(name, case, fixture)
    scorer = ours.scorer()
    close(scorer.scores(scorer.queries(torch.arange(50))), case.scores(fixture), case.tolerance, "scores")
    ours.start_epoch(1)
    if case.prepare is not None:
        case.prepare(ours, fixture)
    batch = torch.from_numpy(load("inputs")["batches"][0])
    found = ours.loss(*batch)
    if case.left_out is not None:
        found["loss"] = found["loss"] + case.left_out(ours, batch[0])
    close(found["loss"].detach(), fixture["loss"], case.tolerance, "loss")
    for term, value in case.terms.items():
        close(found[term], value(under(fixture, "term/")), case.tolerance, term)
    found["loss"].backward()
    gradients = under(fixture, "grad/")
    for key, parameter in ours.named_parameters():
        close(parameter.grad, case.parameters[key](gradients), case.tolerance, f"gradient of {key}")


def test_lgmrec_with_recorded_noise():
    """The public code scores with noise; with its noise our forward gives its vectors."""
    fixture = load("lgmrec")
    ours = model("lgmrec", CASES["lgmrec"], fixture)
    record_noise(ours, fixture)
    users, items, _ = ours(ours.draw_noise())
    close(users.detach(), fixture["user_vectors"], 1e-7, "users")
    close(items.detach(), fixture["item_vectors"], 1e-7, "items")


def test_lgmrec_with_recorded_dropout_of_its_hypergraph(monkeypatch):
    """`hyper_dropout` 0.8 leaves rows that are shorter than the smallest divisor of `normalize`."""
    fixture = load("lgmrec_dropout")
    case = CASES["lgmrec"]
    ours = model("lgmrec", replace(case, options={**case.options, "hyper_dropout": 0.8}), load("lgmrec"))
    record_noise(ours, fixture)
    kept = iter([f"{side}_{m}" for m in ("image", "text") for side in ("item", "user")])

    def dropout(x, p, generator):
        assert p == 0.8
        return x * torch.from_numpy(fixture[f"kept/{next(kept)}"]) / (1 - p)

    monkeypatch.setattr("lirdrec.models.lgmrec.dropout", dropout)
    lengths = []

    def normalize(x):
        lengths.append(torch.linalg.vector_norm(x.detach(), dim=1))
        return functional.normalize(x)

    monkeypatch.setattr("lirdrec.models.lgmrec.normalize", normalize)
    found = ours.loss(*torch.from_numpy(load("inputs")["batches"][0]))["loss"]
    short = sum(int(((n > 0) & (n < functional.EPSILON)).sum()) for n in lengths)
    assert short == fixture["short_rows"] > 0
    close(found.detach(), fixture["loss"], 1e-7, "loss")
    found.backward()
    for key, parameter in ours.named_parameters():
        close(parameter.grad, case.parameters[key](under(fixture, "grad/")), 1e-7, f"gradient of {key}")


SLMREC = Case(
    {"embedding_size": 16, "contrast_weight": 0.01, "contrast_temperature": 0.1, "regularization": 0.0},
    {
        "user_embedding": named("embedding_user.weight"),
        "item_embedding": named("embedding_item.weight"),
        "user_weight": named("embedding_user_after_GCN.weight"),
        "user_bias": named("embedding_user_after_GCN.bias"),
        "item_weight": named("embedding_item_after_GCN.weight"),
        "item_bias": named("embedding_item_after_GCN.bias"),
        **{
            f"{ours}_{part}.{row}": named(f"{theirs}.{part}")
            for part in ("weight", "bias")
            for ours, row, theirs in (
                ("feature", 0, "v_dense"),
                ("feature", 1, "t_dense"),
                ("step", 0, "g_i_iv"),
                ("aligned", 0, "g_v_iv"),
                ("aligned", 1, "g_t_ivat"),
            )
        },
        # two linear layers in a row are one
        "step_weight.1": lambda theirs: theirs["g_iva_ivat.weight"] @ theirs["g_iv_iva.weight"],
        "step_bias.1": lambda theirs: theirs["g_iva_ivat.weight"] @ theirs["g_iv_iva.bias"] + theirs["g_iva_ivat.bias"],
    },
    {"ranking": named("main"), "contrast": lambda terms: 0.01 * (terms["id_image"] + terms["idimage_text"])},
    scores=lambda fixture: fixture["user_vectors"] @ fixture["item_vectors"].T,  # the public code adds a sigmoid
)


def test_slmrec_whose_two_layers_are_one():
    fixture = load("slmrec")
    ours = model("slmrec", SLMREC, fixture)
    scorer = ours.scorer()
    close(scorer.scores(scorer.queries(torch.arange(50))), SLMREC.scores(fixture), 1e-7, "scores")
    found = ours.loss(*torch.from_numpy(load("inputs")["batches"][0]))
    close(found["loss"].detach(), fixture["loss"], 1e-7, "loss")
    for term, value in SLMREC.terms.items():
        close(found[term], value(under(fixture, "term/")), 1e-7, term)
    found["loss"].backward()
    theirs, gradients = under(fixture, "param/"), under(fixture, "grad/")
    parameters = dict(ours.named_parameters())
    weight, bias = (parameters.pop(f"step_{part}.1").grad.numpy() for part in ("weight", "bias"))
    for key, parameter in parameters.items():
        close(parameter.grad, SLMREC.parameters[key](gradients), 1e-7, f"gradient of {key}")
    # W = W2 W1 and b = W2 b1 + b2, so the chain rule gives the gradients of their layers from ours
    outer = np.outer(bias, theirs["g_iv_iva.bias"])
    close(weight @ theirs["g_iv_iva.weight"].T + outer, gradients["g_iva_ivat.weight"], 1e-7, "g_iva_ivat.weight")
    close(bias, gradients["g_iva_ivat.bias"], 1e-7, "g_iva_ivat.bias")
    close(theirs["g_iva_ivat.weight"].T @ weight, gradients["g_iv_iva.weight"], 1e-7, "g_iv_iva.weight")
    close(theirs["g_iva_ivat.weight"].T @ bias, gradients["g_iv_iva.bias"], 1e-7, "g_iv_iva.bias")


@pytest.mark.parametrize("name", ["lattice", "micro"])
def test_a_graph_learned_in_the_first_batch_of_an_epoch_and_kept(name):
    """Later batches give no gradient to what the graph is made of, and after a step still use the graph from before."""
    fixture, (first, second) = load(name), torch.from_numpy(load("inputs")["batches"][:2])
    ours = model(name, CASES[name], fixture)
    ours.start_epoch(1)
    ours.loss(*first)
    found = ours.loss(*second)
    close(found["loss"].detach(), fixture["loss2"], 1e-7, "loss2")
    found["loss"].backward()
    gradients = under(fixture, "grad2/")
    for key, parameter in ours.named_parameters():
        if key.startswith(("projection", "modality")):
            assert parameter.grad is None, key
        else:
            close(parameter.grad, CASES[name].parameters[key](gradients), 1e-7, f"second gradient of {key}")

    stepped = model(name, CASES[name], {f"param/{k}": v for k, v in under(fixture, "stepped/param/").items()})
    ours = model(name, CASES[name], fixture)
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.01)
    ours.start_epoch(1)
    ours.loss(*first)["loss"].backward()
    optimizer.step()
    for (key, mine), theirs in zip(ours.named_parameters(), stepped.parameters(), strict=True):
        close(mine.detach(), theirs.detach(), 1e-6, f"{key} after a step")  # Adam divides by tiny roots
    close(ours.loss(*second)["loss"].detach(), fixture["stepped/loss2"], 1e-7, "loss2 after a step")
    ours.start_epoch(2)
    rebuilt = ours.loss(*second)["loss"].item()
    # not the public code's loss2_if_rebuilt: there the step has changed the features too
    assert abs(rebuilt - fixture["stepped/loss2"]) > 1e-6


@pytest.mark.parametrize("name", ["freedom", "lattice", "micro", "bm3", "mgcn", "smore"])
def test_the_gradient_that_reaches_the_features(name):
    """The public codes train copies of the features; ours are fixed, but they would get the same gradient."""
    case, fixture = CASES[name], load(name)
    ours = model(name, case, fixture)
    for feature in ours.features:
        feature.values.requires_grad_()
    ours.start_epoch(1)
    ours.loss(*torch.from_numpy(load("inputs")["batches"][0]))["loss"].backward()
    for feature, key in zip(ours.features, ("image", "text"), strict=True):
        close(feature.values.grad, fixture[f"grad/{key}_embedding.weight"], case.tolerance, key)


def test_freedom_under_the_edges_that_the_public_code_kept(monkeypatch):
    case, fixture = CASES["freedom"], load("freedom")
    pruned = under(fixture, "pruned/")
    kept = torch.from_numpy(pruned["kept_edge_idx"])
    monkeypatch.setattr("lirdrec.models.freedom.drop_edges", lambda *_: kept)
    options = {**case.options, "edge_dropout": 0.8}
    ours = model("freedom", replace(case, options=options), fixture)
    ours.start_epoch(1)
    found = ours.loss(*torch.from_numpy(load("inputs")["batches"][0]))["loss"]
    close(found.detach(), pruned["loss"], 1e-7, "loss")
    found.backward()
    for key, parameter in ours.named_parameters():
        close(parameter.grad, case.parameters[key](under(pruned, "grad/")), 1e-7, f"gradient of {key}")
    scorer = ours.scorer()  # of all edges
    close(scorer.scores(scorer.queries(torch.arange(50))), fixture["scores"], 1e-7, "scores")


@pytest.mark.parametrize("label", ["", "negative_"], ids=["positive", "negative"])
def test_l3ae_has_the_weights_of_the_public_code(label):
    """`negative`: the published settings have a negative λ_X, which only its sum with λ_E must make up for."""
    fixture = load("l3ae")
    ridge, features, distillation = (float(fixture[f"{label}config/reg_{key}"]) for key in "XFE")
    options = {
        "regularization": ridge + distillation,
        "distillation": distillation,
        "feature_regularization": features,
        "modalities": ("text",),
    }
    for rank, tolerance in ((None, 1e-12), (40, 1e-9)):
        ours = build("l3ae", inputs(), config_type("l3ae")(**options, rank=rank)).double()
        ours.solve()
        if rank is None:
            close(ours.weights, fixture[f"{label}weights"], tolerance, "weights")
            history = ours._history().to_dense().double()
            close(history @ ours.weights, fixture[f"{label}scores"], tolerance, "scores")
        else:  # an item counts for its own score where it is in the history
            off = ours.sources @ ours.targets.T
            off.fill_diagonal_(0)
            close(off, fixture[f"{label}weights"], tolerance, "weights of the low-rank form")


def test_cohesion_without_the_gradient_that_the_public_code_cuts(monkeypatch):
    """The one difference in the gradients is that cut: the channel of IDs, whose vectors are constants there."""
    fixture = load("cohesion")
    ours = model("cohesion", CASES["cohesion"], fixture)
    layers = ours.layers

    def cut() -> Any:
        whole, cosines = layers()
        constant = lambda x: torch.cat([x[:, :1].detach(), x[:, 1:]], 1)
        return [(constant(users), constant(items)) for users, items in whole], cosines

    monkeypatch.setattr(ours, "layers", cut)
    ours.loss(*torch.from_numpy(load("inputs")["batches"][0]))["loss"].backward()
    gradients = under(fixture, "cut_grad/")
    cut_off = {"preference.0", *(f"{one}_{part}.0" for one in ("first", "second") for part in ("weight", "bias"))}
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None
        if key in cut_off:
            assert not parameter.grad.any(), key
        else:
            close(parameter.grad, CASES["cohesion"].parameters[key](gradients), 1e-7, f"gradient of {key}")
