"""The baselines against numbers of their public code: scores, vectors, loss and every gradient, in float64.

The cases and where their numbers come from: parity_cases.py and parity/README.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lirdrec.models.registry import build, config_type
from lirdrec.nn import normalize_and_dropout

from .parity_cases import CASES, Case, close, inputs, load, model, named, record_noise, under


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
        return normalize_and_dropout.normalize(x)

    monkeypatch.setattr("lirdrec.models.lgmrec.normalize", normalize)
    found = ours.loss(*torch.from_numpy(load("inputs")["batches"][0]))["loss"]
    short = sum(int(((n > 0) & (n < normalize_and_dropout.EPSILON)).sum()) for n in lengths)
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
