"""MF, LightGCN and VBPR beyond what the contract and the parity fixtures say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.errors import ConfigError
from lirdrec.models.base import Features, ModelInputs
from lirdrec.models.lightgcn import LightGCN, LightGCNConfig
from lirdrec.models.mf import MF, MFConfig
from lirdrec.models.vbpr import VBPR, VBPRConfig
from lirdrec.nn.losses import batch_penalty

from ..helpers import assert_error

N_USERS, N_ITEMS = 12, 9


def inputs(dtype: torch.dtype = torch.float64) -> ModelInputs:
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((N_USERS, N_ITEMS)) < 0.4)
    features = {}
    for name, width in (("image", 5), ("text", 3)):
        values = torch.from_numpy(rng.normal(size=(N_ITEMS, width))).to(dtype)
        values[2] = 0
        features[name] = Features(values, values.any(1))
    return ModelInputs(
        N_USERS, N_ITEMS, torch.from_numpy(users), torch.from_numpy(items), features, lambda name, k: pytest.fail()
    )


def test_penalties_by_hand():
    rng = np.random.default_rng(1)
    rows = [rng.normal(size=(4, 3)) for _ in range(3)]
    tensors = [torch.from_numpy(x) for x in rows]
    squared = sum((x**2).sum() for x in rows) / 2 / 4
    norms = sum(np.sqrt((x**2).sum()) for x in rows) / 4
    assert batch_penalty("squared", tensors).item() == pytest.approx(squared)
    assert batch_penalty("norm", tensors).item() == pytest.approx(norms)


@pytest.mark.parametrize("kind, config", [(MF, MFConfig), (LightGCN, LightGCNConfig), (VBPR, VBPRConfig)])
def test_the_papers_penalty_is_half_the_squares_of_the_batch(kind, config):
    batch = torch.tensor([0, 1, 1]), torch.tensor([3, 4, 4]), torch.tensor([5, 5, 6])
    plain, penalised = (
        kind(inputs(), config(embedding_size=4, penalty="squared", regularization=weight)).double()
        for weight in (0.0, 0.7)
    )
    penalty = float(penalised.loss(*batch)["loss"].detach() - plain.loss(*batch)["loss"].detach())
    items = penalised.item_vectors() if kind is VBPR else penalised.item_embedding
    rows = [penalised.user_embedding[batch[0]], items[batch[1]], items[batch[2]]]
    assert penalty == pytest.approx(0.7 * sum(x.detach().square().sum().item() for x in rows) / 2 / 3)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_lightgcn_folds_a_user_in_as_the_graph_would(loss):
    """With one layer and P = 0, a known user's own vector is what its history gives."""
    model = LightGCN(inputs(), LightGCNConfig(loss=loss, embedding_size=4, n_layers=1)).double()
    with torch.no_grad():
        model.user_embedding[3] = 0
    scorer = model.scorer()
    history = model.inputs.items[model.inputs.users == 3]
    folded = model.fold_in(scorer, [history, history[:1]])
    torch.testing.assert_close(folded[0], scorer.user_vectors[3], rtol=1e-6, atol=1e-9)
    assert not torch.allclose(folded[1], scorer.user_vectors[3])


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("weights", ["equal", "decaying", "learned", "numbers"])
def test_lightgcn_is_the_weighted_mean_of_its_layers(weights, n_layers):
    """Vectors, gradients and folding in against a dense matrix."""
    a = torch.tensor({1: [2.0, 0.5], 3: [2.0, 0.0, -0.25, 0.5]}[n_layers], dtype=torch.float64)
    if weights != "numbers":
        a = torch.ones(n_layers + 1) if weights == "equal" else 1 / torch.arange(1, n_layers + 2)
    option = tuple(a.tolist()) if weights == "numbers" else weights
    model = LightGCN(inputs(), LightGCNConfig(embedding_size=4, n_layers=n_layers, layer_weights=option)).double()
    r = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    r[model.inputs.users, model.inputs.items] = 1
    whole = torch.cat([torch.cat([torch.zeros(N_USERS, N_USERS), r], 1), torch.cat([r.T, torch.zeros(9, 9)], 1)])
    scale = (whole.sum(1) + 1e-7).rsqrt()
    a_hat = scale[:, None] * whole * scale
    x0 = torch.cat([model.user_embedding, model.item_embedding])
    layers = [torch.matrix_power(a_hat, layer) @ x0 for layer in range(n_layers + 1)]
    a = (a / a.sum()).double()
    expected = sum(weight * layer for weight, layer in zip(a, layers, strict=True))
    found = torch.cat(model())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    direction = torch.from_numpy(np.random.default_rng(4).normal(size=found.shape))
    parameters = (model.user_embedding, model.item_embedding)
    for ours, theirs in zip(
        torch.autograd.grad((found * direction).sum(), parameters),
        torch.autograd.grad((expected * direction).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    liked, degrees = torch.tensor([1, 4, 5]), r.sum(0)
    received = sum(
        weight * (layer[N_USERS:][liked] / (3 * degrees[liked]).sqrt()[:, None]).sum(0)
        for weight, layer in zip(a[1:], layers[:-1], strict=True)
    )
    torch.testing.assert_close(model.fold_in(model.scorer(), [liked])[0], received.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_vbpr_scores_a_new_item_as_a_known_one_without_id(loss):
    model = VBPR(inputs(), VBPRConfig(loss=loss, embedding_size=4))
    with torch.no_grad():
        model.item_embedding[6] = 0
        model.bias.fill_(0.1)
    scorer = model.scorer()
    new = {name: Features(f.values[[6, 2]], f.present[[6, 2]]) for name, f in model.inputs.features.items()}
    grown = model.add_items(scorer, [model.inputs.features], new)
    torch.testing.assert_close(grown.item_vectors[-2], scorer.item_vectors[6])
    assert torch.isfinite(grown.item_vectors).all()
    assert torch.equal(grown.item_vectors[:N_ITEMS], scorer.item_vectors)
    parts = grown.parts(grown.queries(torch.tensor([0])), torch.tensor([N_ITEMS]))
    assert grown.part_names == ("id", "features") and parts[0, 0] == 0 and parts[0, 1] != 0


@pytest.mark.parametrize("options", [{}, {"loss": "softmax", "n_negatives": 2}])
def test_vbpr_projects_only_the_items_of_the_batch_and_gets_the_gradients_of_all(options):
    batch = torch.tensor([0, 1, 1]), torch.tensor([3, 4, 8]), torch.tensor([5, 5, 3])
    model = VBPR(inputs(), VBPRConfig(embedding_size=4, regularization=0.0, **options))
    model.loss(*batch)["loss"].backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.ranking(model.user_embedding, model.item_vectors(), *batch).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "make, facts",
    [
        (lambda: MFConfig(embedding_size=0), ["embedding_size", 0, 1]),
        (lambda: MFConfig(regularization=float("nan")), ["regularization", "nan", 0]),
        (lambda: LightGCNConfig(n_layers=0), ["n_layers", 0, 1]),
        (lambda: LightGCNConfig(layer_weights=(1.0, -2.0), n_layers=1), ["layer_weights", -1, 0]),
        (lambda: LightGCNConfig(temperature=0.0), ["temperature", 0.0]),
        (lambda: VBPRConfig(embedding_size=-1), ["embedding_size", -1]),
    ],
)
def test_options_out_of_range(make, facts):
    with assert_error(ConfigError, mentions=facts):
        make()
