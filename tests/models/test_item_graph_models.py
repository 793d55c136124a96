"""FREEDOM, LATTICE, MICRO and BM3 where no public numbers reach: new items and users, missing modalities, graph upkeep.

Everything is compared with dense matrices written out here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.graphs.item_item import nearest_items
from lirdrec.models.base import Features, Model, ModelInputs
from lirdrec.models.registry import build, config_type

from ..helpers import assert_error

N_USERS, N_OLD, N_NEW, K, WIDTH = 8, 12, 5, 3, 4
TOTAL = N_OLD + N_NEW
TABLES = {"image": (5, [3, 13, 15]), "text": (4, [3, 7, 14])}  # columns, items that lack it; 3 has nothing
BATCH = torch.tensor([0, 1, 2, 5]), torch.tensor([2, 0, 3, 7]), torch.tensor([6, 3, 1, 0])
HISTORIES = [torch.tensor([0, 1, 5]), torch.tensor([11]), torch.tensor([4, 3])]  # nobody took 11


def features(stop: int, start: int = 0) -> dict[str, Features]:
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, (width, absent) in TABLES.items():
        # a common direction, so that few of the cosines are negative
        values = torch.randn(TOTAL, width, generator=generator, dtype=torch.float64) + 1
        present = torch.ones(TOTAL, dtype=torch.bool)
        present[absent] = False
        values[~present] = 0
        found[name] = Features(values[start:stop], present[start:stop])
    return found


def inputs(modalities: tuple[str, ...] = ("image", "text")) -> ModelInputs:
    generator = torch.Generator().manual_seed(2)
    users, items = (torch.rand(N_USERS, N_OLD - 1, generator=generator) < 0.4).nonzero(as_tuple=True)
    own = {name: features(N_OLD)[name] for name in modalities}
    neighbors = lambda name, k: nearest_items(own[name].values, own[name].present, k)
    return ModelInputs(N_USERS, N_OLD, users, items, own, neighbors, seed=5)


def made(name: str, modalities: tuple[str, ...] = ("image", "text"), **options: Any) -> Any:
    sizes = {"embedding_size": WIDTH, "n_neighbors": K} if name != "bm3" else {"embedding_size": WIDTH}
    return build(name, inputs(modalities), config_type(name)(**{**sizes, **options})).double()


def links(x: torch.Tensor, present: torch.Tensor, stops: list[int], binary: bool = False) -> torch.Tensor:
    """Dense `K(X)`: row i keeps its K nearest among the first `stops[i]` items."""
    unit = F.normalize(x, dim=1)
    cosine, kept = unit @ unit.T, torch.zeros(len(x), len(x), dtype=torch.float64)
    for i, stop in enumerate(stops):
        candidates = present[:stop].nonzero().squeeze(1)
        if present[i]:
            kept[i, candidates[cosine[i, candidates].topk(K).indices]] = 1
    return kept if binary else kept * cosine


def normalized(a: torch.Tensor) -> torch.Tensor:
    d = a.sum(1)
    r = torch.where(d > 0, 1 / d.clamp(min=1e-30).sqrt(), 0.0)
    return r[:, None] * a * r


def dense_layers(model: Model, n_layers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    i = model.inputs
    r = torch.zeros(N_USERS, N_OLD, dtype=torch.float64)
    r[i.users, i.items] = 1
    users, items = model.user_embedding, model.item_embedding
    found = [(users, items)]
    for _ in range(n_layers):
        if model.name in ("lattice", "micro"):
            users, items = (
                (users + r @ items) / (r.sum(1) + 1)[:, None],
                (items + r.T @ users) / (r.sum(0) + 1)[:, None],
            )
        else:
            hat = r / ((r.sum(1)[:, None] + 1e-7) * (r.sum(0) + 1e-7)).sqrt()
            users, items = hat @ items, hat.T @ users
        found.append((users, items))
    return found


def dense_h(model: Any, stops: list[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """`h` of all items, old and new, and what each graph gives; new ones have no ID row."""
    n, config = len(stops), model.config
    x = torch.cat([model.item_embedding, torch.zeros(n - N_OLD, WIDTH, dtype=torch.float64)])
    tables = [features(n)[m] for m in model.modalities]
    if model.name == "freedom":
        weights = {"image": 0.1, "text": 0.9}
        s = sum(weights[m] * links(f.values, f.present, stops, True) / K for m, f in features(n).items())
        has = sum(weights[m] * f.present.double() for m, f in features(n).items())
        s = s / torch.where(has > 0, has, 1.0)[:, None]
        for _ in range(config.n_item_layers):
            x = s @ x
        return x, []
    learned = [
        links(F.linear(f.values, model.projection_weight[m], model.projection_bias[m]), f.present, stops)
        for m, f in enumerate(tables)
    ]
    frozen = [normalized(links(f.values, f.present, stops)) for f in tables]
    share = config.frozen_weight
    if model.name == "lattice":
        w = model.modality_logits.softmax(0) if len(tables) > 1 else [1.0]
        mixed = sum(a * b for a, b in zip(w, learned, strict=True))
        graphs = [(1 - share) * normalized(mixed) + share * sum(a * b for a, b in zip(w, frozen, strict=True))]
    else:
        graphs = [(1 - share) * normalized(a) + share * b for a, b in zip(learned, frozen, strict=True)]
    given = []
    for graph in graphs:
        y = x
        for _ in range(config.n_item_layers):
            y = graph @ y
        given.append(y)
    if model.name == "lattice":
        return given[0], given
    h = torch.zeros_like(x)
    for i in range(n):
        own = [m for m, f in enumerate(tables) if f.present[i]]
        if own:
            hidden = [torch.tanh(model.attention_weight @ given[m][i] + model.attention_bias) for m in own]
            a = torch.stack([model.attention_vector @ y for y in hidden]).softmax(0)
            h[i] = sum(a[index] * given[m][i] for index, m in enumerate(own))
    return h, given


def dense_vectors(model: Any, stops: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    layers = dense_layers(model, model.config.n_layers)
    users, items = (torch.stack(side).mean(0) for side in zip(*layers, strict=True))
    items = torch.cat([items, torch.zeros(len(stops) - N_OLD, WIDTH, dtype=torch.float64)])
    h, _ = dense_h(model, stops)
    return users, items + (h if model.name == "freedom" else F.normalize(h, dim=1))


@pytest.mark.parametrize("n_item_layers", [1, 2])
@pytest.mark.parametrize("batches", [[N_NEW], [2, 3]], ids=str)
@pytest.mark.parametrize("name", ["freedom", "lattice", "micro"])
def test_grown_items_equal_the_dense_formula(name, batches, n_item_layers):
    """Rows of S, of learned and of frozen graphs reach the items that each batch found; old items keep every bit."""
    model = made(name, n_item_layers=n_item_layers)
    before = model.scorer()
    kept = {key: tensor.clone() for key, tensor in before.tensors().items()}
    scorer, catalog, stops = before, [features(N_OLD)], [N_OLD] * N_OLD
    for size in batches:
        new = features(len(stops) + size, len(stops))
        scorer = model.add_items(scorer, catalog, new)
        catalog.append(new)
        stops += [len(stops) + size] * size
    users, items = dense_vectors(model, stops)
    torch.testing.assert_close(scorer.user_vectors, users.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(scorer.item_vectors, items.detach(), rtol=0, atol=1e-12)
    assert torch.equal(scorer.item_vectors[:N_OLD], before.item_vectors)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in before.tensors().items())
    assert all(len(tensor) == TOTAL for key, tensor in scorer.memory.items() if key.startswith("item_"))


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("name", ["freedom", "lattice", "micro", "bm3"])
def test_fold_in_is_the_part_of_a_new_node(name, n_layers):
    model = made(name, n_layers=n_layers)
    states = [items for _, items in dense_layers(model, n_layers - 1)]
    degrees = torch.bincount(model.inputs.items, minlength=N_OLD)
    expected = []
    for liked in HISTORIES:
        user = total = torch.zeros(WIDTH, dtype=torch.float64)
        for x in states:
            if name in ("lattice", "micro"):
                user = (user + x[liked].sum(0)) / (len(liked) + 1)
            else:
                user = sum(x[i] / (len(liked) * max(1, int(degrees[i]))) ** 0.5 for i in liked.tolist())
            total = total + user
        total = total / (n_layers + 1)
        expected.append(F.linear(total, model.predictor_weight, model.predictor_bias) if name == "bm3" else total)
    found = model.fold_in(model.scorer(), HISTORIES)
    torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_item_layers", [1, 2])
@pytest.mark.parametrize("name", ["lattice", "micro"])
def test_loss_and_gradients_equal_the_dense_ones_where_modalities_are_missing(name, n_item_layers):
    model = made(name, n_item_layers=n_item_layers, regularization=0.1)
    model.start_epoch(1)
    found = model.loss(*BATCH)["loss"]
    found.backward()
    ours = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    users, items = dense_vectors(model, [N_OLD] * N_OLD)
    u, p, n = (table[rows] for table, rows in zip((users, items, items), BATCH, strict=True))
    loss = -F.logsigmoid((u * (p - n)).sum(1)).mean() + 0.1 * sum(x.square().sum() for x in (u, p, n)) / 8
    if name == "micro":
        h, given = dense_h(model, [N_OLD] * N_OLD)
        for m, own in zip(model.modalities, given, strict=True):
            there = features(N_OLD)[m].present
            z, y = F.normalize(own[there], dim=1), F.normalize(h[there], dim=1)
            cross, within = (z @ y.T / 0.5).exp(), (z @ z.T / 0.5).exp()
            mass = cross.sum(1) + within.sum(1) - within.diagonal()
            loss = loss - 0.03 * (cross.diagonal() / mass).log().mean()
    torch.testing.assert_close(found, loss, rtol=0, atol=1e-12)
    loss.backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(ours[key], parameter.grad, rtol=0, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", ["lattice", "micro"])
def test_scoring_builds_its_own_graph_and_leaves_that_of_the_epoch(name):
    model = made(name)
    model.start_epoch(1)
    model.loss(*BATCH)
    expected = model.loss(*BATCH)["loss"].item()  # the second batch: its graph is a constant
    with torch.no_grad():
        before = [weight.clone() for weight in model.projection_weight]
        for weight in model.projection_weight:
            weight.copy_(torch.randn_like(weight))
    scored = model.scorer().item_vectors
    torch.testing.assert_close(scored, dense_vectors(model, [N_OLD] * N_OLD)[1].detach(), rtol=0, atol=1e-12)
    assert model.loss(*BATCH)["loss"].item() == expected
    with torch.no_grad():
        for weight, old in zip(model.projection_weight, before, strict=True):
            weight.copy_(old)
    model.start_epoch(2)
    assert model.loss(*BATCH)["loss"].item() == pytest.approx(expected, abs=1e-14)


def test_a_sample_of_the_contrast_is_the_whole_one_on_average():
    whole, sampled = made("micro"), made("micro", n_contrasted=4)
    whole.start_epoch(1)
    expected = whole.loss(*BATCH)["contrast"]
    drawn = []
    for epoch in range(1, 401):
        sampled.start_epoch(epoch)
        drawn.append(sampled.loss(*BATCH)["contrast"])
    drawn = torch.stack(drawn)
    assert drawn.std() > 0
    assert abs(drawn.mean() - expected) < 4 * drawn.std() / 20
    sampled.start_epoch(400)
    assert sampled.loss(*BATCH)["contrast"] == drawn[-1]


def test_lattice_with_one_modality_needs_no_weights():
    model = made("lattice", ("text",))
    assert "modality_logits" not in dict(model.named_parameters())
    torch.testing.assert_close(
        model.scorer().item_vectors, dense_vectors(model, [N_OLD] * N_OLD)[1].detach(), rtol=0, atol=1e-12
    )


def test_micro_needs_two_modalities():
    with assert_error(CapabilityError, mentions=["micro", 2, "'text'"]):
        made("micro", ("text",))


def test_freedom_counts_a_pair_if_both_of_its_items_have_the_modality():
    model = made("freedom", edge_dropout=0.0, regularization=0.5)
    users, _ = model()
    expected = torch.zeros((), dtype=torch.float64)
    for feature, weight in zip(model.features, model.projection_weight, strict=True):
        z = feature.values @ weight.T
        for u, p, n in zip(*BATCH, strict=True):
            if feature.present[p] and feature.present[n]:
                expected = expected - F.logsigmoid(users[u] @ (z[p] - z[n])) / 4
    torch.testing.assert_close(model.loss(*BATCH)["content"], (0.5 * expected).detach(), rtol=0, atol=1e-12)


def test_freedom_without_weight_on_its_features_has_no_projections():
    assert set(dict(made("freedom", regularization=0.0).named_parameters())) == {"user_embedding", "item_embedding"}


def test_bm3_counts_the_items_that_have_the_modality_and_passes_no_gradient_to_targets():
    model = made("bm3", dropout=0.0, contrast_weight=2.0, regularization=0.0)
    users, positives, _ = BATCH
    layers = dense_layers(model, 1)
    u, x = (torch.stack(side).mean(0) for side in zip(*layers, strict=True))
    i = x + model.item_embedding
    g = lambda v: F.linear(v, model.predictor_weight, model.predictor_bias)
    apart = lambda a, b: 1 - F.cosine_similarity(g(a), b.detach(), dim=-1).mean()
    expected = apart(u[users], i[positives]) + apart(i[positives], u[users])
    for feature, weight, bias in zip(model.features, model.projection_weight, model.projection_bias, strict=True):
        there = positives[feature.present[positives]]
        t = feature.values[there] @ weight.T + bias
        expected = expected + 2 * (apart(t, i[there]) + apart(t, t))
    found = model.loss(*BATCH)["loss"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    ours = torch.autograd.grad(found, list(model.parameters()))
    for mine, theirs in zip(ours, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_bm3_drops_the_share_of_target_entries_that_it_should():
    model = made("bm3", dropout=0.3)
    ones = torch.ones(2000, 5, dtype=torch.float64, requires_grad=True)
    target = model._target(ones)
    assert not target.requires_grad
    assert set(target.unique().tolist()) == {0.0, 1 / 0.7}
    assert abs((target == 0).double().mean() - 0.3) < 0.02


@pytest.mark.parametrize(
    "name, options, facts",
    [
        ("freedom", {"n_layers": 0}, ["n_layers", 0, 1]),
        ("freedom", {"edge_dropout": 1.0}, ["edge_dropout", 1.0, 0, 1]),
        ("freedom", {"modality_weights": {"image": -1.0}}, ["modality_weights", 0]),
        ("lattice", {"frozen_weight": 1.0}, ["frozen_weight", 1.0, 0, 1]),
        ("lattice", {"regularization": float("nan")}, ["regularization", "nan", 0]),
        ("micro", {"contrast_temperature": 0.0}, ["contrast_temperature", 0.0]),
        ("micro", {"n_contrasted": 0}, ["n_contrasted", 0, 1, "none"]),
        ("bm3", {"dropout": 1.0}, ["dropout", 1.0, 0, 1]),
        ("bm3", {"contrast_weight": 0.0}, ["contrast_weight", 0.0]),
    ],
    ids=str,
)
def test_values_out_of_range(name, options, facts):
    with assert_error(ConfigError, mentions=facts):
        dataclasses.replace(config_type(name)(), **options)
