"""MGCN, SMORE and COHESION where no public numbers reach: new items and users, missing modalities, one modality.

Everything is compared with dense matrices, or with loops over items and users, written out here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lirdrec.errors import ConfigError
from lirdrec.graphs.user_user import user_user_graph
from lirdrec.models.base import epoch_generator
from lirdrec.models.registry import config_type

from ..helpers import assert_error
from .test_item_graph_models import (
    BATCH,
    HISTORIES,
    N_NEW,
    N_OLD,
    N_USERS,
    TOTAL,
    WIDTH,
    dense_layers,
    features,
    links,
    made,
    normalized,
)

NAMES = ("mgcn", "smore", "cohesion")
OPTIONS: dict[str, dict[str, Any]] = {"mgcn": {}, "smore": {}, "cohesion": {"n_user_neighbors": 2}}
OLD = [N_OLD] * N_OLD


def r_hat(model: Any) -> torch.Tensor:
    r = torch.zeros(N_USERS, N_OLD, dtype=torch.float64)
    r[model.inputs.users, model.inputs.items] = 1
    return r / ((r.sum(1)[:, None] + 1e-7) * (r.sum(0) + 1e-7)).sqrt()


def linear(x: torch.Tensor, weights: Any, biases: Any, row: int) -> torch.Tensor:
    return x @ weights[row].T + biases[row]


def frozen_graphs(model: Any, stops: list[int]) -> list[torch.Tensor]:
    """`S_m` of each modality and, for SMORE, the largest entry at each position that has one."""
    tables = [features(len(stops))[m] for m in model.modalities]
    graphs = [normalized(links(f.values, f.present, stops)) for f in tables]
    if model.name == "smore":
        exist = [links(f.values, f.present, stops, True) > 0 for f in tables]
        stacked = torch.stack([g.masked_fill(~e, -torch.inf) for g, e in zip(graphs, exist, strict=True)]).amax(0)
        graphs.append(stacked.masked_fill(stacked == -torch.inf, 0.0))
    return graphs


def contents(model: Any, n: int) -> list[torch.Tensor]:
    tables = [features(n)[m] for m in model.modalities]
    z = [linear(f.values, model.projection_weight, model.projection_bias, row) for row, f in enumerate(tables)]
    if model.name == "mgcn":
        return z
    fusion = []
    for item in range(n):
        wave = torch.ones(WIDTH // 2 + 1, dtype=torch.complex128)
        for own, f in zip(z, tables, strict=True):
            if f.present[item]:
                wave = wave * torch.fft.fft(own[item], norm="ortho")[: WIDTH // 2 + 1]
        fusion.append(wave)
    waves = [*(torch.fft.fft(own, dim=1, norm="ortho")[:, : WIDTH // 2 + 1] for own in z), torch.stack(fusion)]
    return [
        torch.fft.irfft(wave * torch.complex(w[:, 0], w[:, 1]), n=WIDTH, dim=1, norm="ortho")
        for wave, w in zip(waves, model.spectrum, strict=True)
    ]


def side(model: Any, views: list[torch.Tensor], content: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """Row by row, of the modalities that the row has."""
    found = []
    for index, c in enumerate(content):
        own = [m for m in range(len(model.modalities)) if present is None or present[index, m]]
        prefers = lambda row, c=c: torch.sigmoid(model.preference_weight[row] @ c + model.preference_bias[row])
        x = [view[index] for view in views]
        if model.name == "mgcn":
            if not own:
                found.append(torch.zeros_like(c))
                continue
            hidden = [torch.tanh(model.attention_weight @ x[m] + model.attention_bias) for m in own]
            a = torch.stack([model.attention_vector @ h for h in hidden]).softmax(0)
            shared = sum(a[place] * x[m] for place, m in enumerate(own))
            total = shared + sum(prefers(m) * (x[m] - shared) for m in own)
        else:
            total = prefers(len(model.modalities)) * x[-1]
            for m in own:
                hidden = torch.tanh(model.query_weight[m] @ x[-1] + model.query_bias[m])
                total = total + prefers(m) * (model.column_weight[m] @ hidden).softmax(0) * x[m]
        found.append(total / (1 + len(own)))
    return torch.stack(found)


def dense_views(model: Any, stops: list[int]) -> list[torch.Tensor]:
    n = len(stops)
    q = torch.cat([model.item_embedding, torch.zeros(n - N_OLD, WIDTH, dtype=torch.float64)])
    views = []
    for row, (graph, y) in enumerate(zip(frozen_graphs(model, stops), contents(model, n), strict=True)):
        view = q * torch.sigmoid(linear(y, model.gate_weight, model.gate_bias, row))
        for _ in range(model.config.n_item_layers):
            view = graph @ view
        views.append(view)
    return views


def dense_parts(model: Any, stops: list[int]) -> list[torch.Tensor]:
    """`C` and `side` of users, then of items, of MGCN and SMORE."""
    layers = dense_layers(model, model.config.n_layers)
    users, items = (torch.stack(part).mean(0) for part in zip(*layers, strict=True))
    items = torch.cat([items, torch.zeros(len(stops) - N_OLD, WIDTH, dtype=torch.float64)])
    views = dense_views(model, stops)
    present = torch.stack([features(len(stops))[m].present for m in model.modalities], 1)
    of_users = side(model, [r_hat(model) @ view[:N_OLD] for view in views], users, None)
    return [users, of_users, items, side(model, views, items, present)]


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b) / (a.norm() * b.norm()).clamp(min=1e-8)


def common_items(model: Any) -> torch.Tensor:
    r = torch.zeros(N_USERS, N_OLD, dtype=torch.float64)
    r[model.inputs.users, model.inputs.items] = 1
    return r @ r.T


def similar(numbers: list[float], k: int) -> dict[int, float]:
    """The k users with the largest numbers, of equal ones the first, and their softmax."""
    best = sorted((-n, user) for user, n in enumerate(numbers) if n > 0)[:k]
    weights = torch.tensor([-n for n, _ in best], dtype=torch.float64).softmax(0)
    return {user: float(w) for (_, user), w in zip(best, weights, strict=True)}


def cohesion_channels(model: Any, stops: list[int]) -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]], Any]:
    """Layers of users and of items of each channel, and the users' cosines (layer, channel, user)."""
    n, hat = len(stops), r_hat(model)
    q = torch.cat([model.item_embedding, torch.zeros(n - N_OLD, WIDTH, dtype=torch.float64)])
    there = torch.arange(n) < N_OLD
    given = [(q, there), *((f.values, f.present) for f in (features(n)[m] for m in model.modalities))]
    of_users, of_items, cosines = [], [], []
    for row, (values, present) in enumerate(given):
        hidden = F.leaky_relu(linear(values, model.first_weight, model.first_bias, row), 0.01)
        t = linear(hidden, model.second_weight, model.second_bias, row)
        f = F.normalize(((q**2 + t**2) / 2 + 1e-8).sqrt(), dim=1) * present[:, None]
        p = F.normalize(model.preference[row], dim=1)
        users, items, found = [p], [f], []
        for _ in range(model.config.n_layers):
            y_users, y_items = hat @ items[-1][:N_OLD], hat.T @ users[-1]
            found.append(torch.stack([cosine(y, x) for y, x in zip(y_users, p, strict=True)]))
            users.append(found[-1][:, None] * y_users)
            refined = torch.stack([cosine(y, x) * y for y, x in zip(y_items, f[:N_OLD], strict=True)])
            items.append(torch.cat([refined, torch.zeros(n - N_OLD, WIDTH, dtype=torch.float64)]))
        of_users.append(users)
        of_items.append(items)
        cosines.append(found)
    return of_users, of_items, cosines


def item_graph(model: Any, stops: list[int]) -> torch.Tensor:
    tables, weights = features(len(stops)), {"image": 0.1, "text": 0.9}
    s = sum(weights[m] * links(f.values, f.present, stops, True) / 3 for m, f in tables.items())
    has = sum(weights[m] * f.present.double() for m, f in tables.items())
    return s / torch.where(has > 0, has, 1.0)[:, None]


def dense_cohesion(model: Any, stops: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    of_users, of_items, _ = cohesion_channels(model, stops)
    users, items = (torch.cat([sum(layers) for layers in side], 1) for side in (of_users, of_items))
    numbers = common_items(model)
    numbers.fill_diagonal_(0)
    t = torch.zeros(N_USERS, N_USERS, dtype=torch.float64)
    for user in range(N_USERS):
        for other, weight in similar(numbers[user].tolist(), model.config.n_user_neighbors).items():
            t[user, other] = weight
    smoothed, graph = items, item_graph(model, stops)
    for _ in range(model.config.n_item_layers):
        smoothed = graph @ smoothed
    return users + t @ users, items + smoothed


def dense_vectors(model: Any, stops: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    if model.name == "cohesion":
        return dense_cohesion(model, stops)
    users, of_users, items, of_items = dense_parts(model, stops)
    return users + of_users, items + of_items


@pytest.mark.parametrize("n_item_layers", [1, 2])
@pytest.mark.parametrize("batches", [[N_NEW], [2, 3]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_grown_items_equal_the_dense_formula(name, batches, n_item_layers):
    model = made(name, n_item_layers=n_item_layers, **OPTIONS[name])
    before = model.scorer()
    kept = {key: tensor.clone() for key, tensor in before.tensors().items()}
    scorer, catalog, stops = before, [features(N_OLD)], list(OLD)
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


def received(model: Any, liked: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    degrees = torch.bincount(model.inputs.items, minlength=N_OLD)
    return sum(states[i] / (len(liked) * max(1, int(degrees[i]))) ** 0.5 for i in liked.tolist())


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("name", ["mgcn", "smore"])
def test_fold_in_is_the_part_of_a_new_node(name, n_layers):
    model = made(name, n_layers=n_layers)
    states = [items for _, items in dense_layers(model, n_layers - 1)]
    content = torch.stack([sum(received(model, liked, x) for x in states) for liked in HISTORIES]) / (n_layers + 1)
    views = [torch.stack([received(model, liked, v) for liked in HISTORIES]) for v in dense_views(model, OLD)]
    expected = content + side(model, views, content, None)
    torch.testing.assert_close(model.fold_in(model.scorer(), HISTORIES), expected.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_cohesion_folds_in_with_mean_cosines_and_similar_users(n_layers):
    model = made("cohesion", n_layers=n_layers, n_user_neighbors=2)
    of_users, of_items, cosines = cohesion_channels(model, OLD)
    before = torch.cat([sum(layers) for layers in of_users], 1)
    r = torch.zeros(N_USERS, N_OLD, dtype=torch.float64)
    r[model.inputs.users, model.inputs.items] = 1
    active = r.sum(1) > 0
    expected = []
    for liked in HISTORIES:
        own = [
            sum(cosines[row][layer][active].mean() * received(model, liked, items[layer]) for layer in range(n_layers))
            for row, items in enumerate(of_items)
        ]
        neighbors = similar(r[:, liked].sum(1).tolist(), 2)
        expected.append(torch.cat(own) + sum(w * before[user] for user, w in neighbors.items()))
    found = model.fold_in(model.scorer(), HISTORIES)
    torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_equal_the_dense_ones_where_modalities_are_missing(name):
    model = made(name, regularization=0.1, **OPTIONS[name])
    model.start_epoch(1)
    found = model.loss(*BATCH)["loss"]
    found.backward()
    ours = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    users, items = dense_vectors(model, OLD)
    u, p, n = (table[rows] for table, rows in zip((users, items, items), BATCH, strict=True))
    if name == "cohesion":
        margins = (u * (p - n)).view(len(u), 3, WIDTH).sum(2)
        adaptive = (1 - margins.softmax(1)).detach()
        loss = -torch.sigmoid((adaptive * margins).sum(1)).log2().mean()
        loss = loss + 0.1 * sum(model.preference[row][BATCH[0]].square().mean() for row in (1, 2))
    else:
        loss = -F.logsigmoid((u * (p - n)).sum(1)).mean() + 0.1 * sum(x.square().sum() for x in (u, p, n)) / 8
        of_users, side_users, of_items, side_items = dense_parts(model, OLD)
        for own, other, rows in ((side_items, of_items, BATCH[1]), (side_users, of_users, BATCH[0])):
            a, b = F.normalize(own[rows], dim=1), F.normalize(other[rows], dim=1)
            loss = loss - 0.01 * (a @ b.T / 0.2).log_softmax(1).diagonal().mean()
    torch.testing.assert_close(found, loss, rtol=0, atol=1e-12)
    loss.backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(ours[key], parameter.grad, rtol=0, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_one_modality_is_enough(name):
    model = made(name, ("text",), **OPTIONS[name])
    model.start_epoch(1)
    model.loss(*BATCH)["loss"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    if name == "mgcn":
        users, items = model()
        (view,) = dense_views(model, OLD)
        torch.testing.assert_close(items.side, view / 2, rtol=0, atol=1e-12)
        torch.testing.assert_close(users.side, r_hat(model) @ view / 2, rtol=0, atol=1e-12)


def test_smore_drops_the_share_of_entries_that_it_should_and_only_in_training():
    model, plain = (made("smore", gate_dropout=p, contrast_weight=0.0) for p in (0.4, 0.0))
    for ours, theirs in zip(model.scorer().tensors().values(), plain.scorer().tensors().values(), strict=True):
        assert torch.equal(ours, theirs)
    view = torch.ones(4000, WIDTH, dtype=torch.float64)
    content = torch.zeros_like(view)
    model.start_epoch(1)
    dropped = model.fused([torch.zeros_like(view)] * 2 + [view], content, None, 0.4)
    whole = model.fused([torch.zeros_like(view)] * 2 + [view], content, None)
    ratio = dropped / whole
    assert set(ratio.detach().unique().round(decimals=9).tolist()) == {0.0, round(1 / 0.6, 9)}
    assert abs((ratio == 0).double().mean() - 0.4) < 0.02


@pytest.mark.parametrize("name", ["mgcn", "smore"])
def test_a_large_batch_contrasts_a_sample_of_its_pairs(name):
    whole, sampled = made(name, n_contrasted=4), made(name, n_contrasted=2)
    for epoch in (1, 2, 3):
        for model in (whole, sampled):
            model.start_epoch(epoch)
        drawn = torch.randperm(4, generator=epoch_generator(5, epoch))[:2]
        part = tuple(rows[drawn] for rows in BATCH)
        torch.testing.assert_close(sampled.loss(*BATCH)["contrast"], whole.loss(*part)["contrast"])


def test_smore_has_a_number_of_neighbors_for_each_modality():
    model = made("smore", modality_neighbors={"text": 2})
    table = {
        m: torch.bincount(s.rows, minlength=N_OLD) for m, s in zip(model.modalities, model.cosine_edges, strict=True)
    }
    assert table["image"].tolist() == [3 * bool(x) for x in features(N_OLD)["image"].present]
    assert table["text"].tolist() == [2 * bool(x) for x in features(N_OLD)["text"].present]


def test_the_user_graph_in_blocks_is_that_of_a_loop(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    r = (torch.rand(23, 9, generator=generator) < 0.25).float()
    r[4] = 0
    expected = torch.zeros(23, 23, dtype=torch.float64)
    numbers = r @ r.T
    numbers.fill_diagonal_(0)
    for user in range(23):
        for other, weight in similar(numbers[user].tolist(), 3).items():
            expected[user, other] = weight
    for limit in (128 * 2**20, 16 * 23 * 5):
        monkeypatch.setattr("lirdrec.graphs.user_user.MEMORY_LIMIT", limit)
        found = user_user_graph(r.to_sparse_csr(), 3, torch.float64).dense()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "name, options, facts",
    [
        ("mgcn", {"n_layers": 0}, ["n_layers", 0, 1]),
        ("mgcn", {"n_contrasted": 1}, ["n_contrasted", 1, 2, "none"]),
        ("mgcn", {"contrast_temperature": 0.0}, ["contrast_temperature", 0.0]),
        ("smore", {"gate_dropout": 1.0}, ["gate_dropout", 1.0, 0, 1]),
        ("smore", {"modality_neighbors": {"image": 0}}, ["modality_neighbors", 1]),
        ("cohesion", {"n_user_neighbors": 0}, ["n_user_neighbors", 0, 1]),
        ("cohesion", {"regularization": float("nan")}, ["regularization", "nan", 0]),
        ("l3ae", {"distillation": -1.0}, ["distillation", -1.0, 0]),
        ("l3ae", {"regularization": 0.0}, ["regularization", 0.0, 0]),
        ("l3ae", {"feature_regularization": 0.0}, ["feature_regularization", 0.0, 0]),
    ],
    ids=str,
)
def test_values_out_of_range(name, options, facts):
    with assert_error(ConfigError, mentions=facts):
        dataclasses.replace(config_type(name)(), **options)


def test_neighbors_of_an_unknown_modality():
    with assert_error(ConfigError, mentions=["modality_neighbors", "'sound'", "image, text"]):
        made("smore", modality_neighbors={"sound": 3})
