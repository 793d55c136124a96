"""New items by `add_items` and new users by `fold_in`, against dense formulas written out here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lirdrec.errors import CapabilityError
from lirdrec.graphs.item_item import nearest_items
from lirdrec.graphs.sparse_matrix import SparseMatrix
from lirdrec.models.base import Features, ModelInputs
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig

from ..helpers import assert_error

N_USERS, N_OLD, N_NEW = 8, 12, 5
CONFIG = LIRDRecConfig(embedding_size=4, n_layers=2, n_neighbors=3, hidden_multiplier=2, content_columns=0)
WEIGHTS = {"image": 0.1, "text": 0.9}
TABLES = {  # modality → (columns, items that lack it; 12 … 16 are the new ones)
    "image": (5, [3, 13, 16]),
    "text": (4, [7, 14]),
}


def features(stop: int, start: int = 0) -> dict[str, Features]:
    """Rows `start` … `stop - 1` of one fixed table of all items, old and new."""
    rng = np.random.default_rng(11)
    found = {}
    for name, (width, absent) in TABLES.items():
        values = torch.from_numpy(rng.normal(size=(N_OLD + N_NEW, width)))
        present = torch.ones(N_OLD + N_NEW, dtype=torch.bool)
        present[absent] = False
        values[~present] = 0
        found[name] = Features(values[start:stop], present[start:stop])
    return found


def inputs(n_items: int) -> ModelInputs:
    rng = np.random.default_rng(2)
    users, items = np.nonzero(rng.random((N_USERS, N_OLD - 1)) < 0.4)  # item 11 has no interaction either
    own = features(n_items)
    return ModelInputs(
        N_USERS,
        n_items,
        torch.from_numpy(users),
        torch.from_numpy(items),
        own,
        lambda name, k: nearest_items(own[name].values, own[name].present, k),
    )


def trained(config: LIRDRecConfig = CONFIG) -> LIRDRec:
    model = LIRDRec(inputs(N_OLD), config)
    model.start_epoch(1)
    return model


def row_of_s(item: int, catalog: int) -> torch.Tensor:
    """Row `item` of S by hand: its nearest among items 0 … catalog - 1, rescaled by the modalities that it has."""
    row, has = torch.zeros(catalog, dtype=torch.float64), 0.0
    for name, table in features(catalog).items():
        if not table.present[item]:
            continue
        cosine = torch.nn.functional.cosine_similarity(table.values, table.values[item][None], dim=1)
        cosine[~table.present] = -torch.inf
        row[cosine.argsort(descending=True)[: CONFIG.n_neighbors]] += WEIGHTS[name] / CONFIG.n_neighbors
        has += WEIGHTS[name]
    return row / has


def present_from_the_start(model: LIRDRec, batches: list[int]) -> LIRDRec:
    """The model whose catalog held the new items all along, with rows of S frozen as each batch found them."""
    total = N_OLD + sum(batches)
    whole = LIRDRec(inputs(total), model.config)
    whole.load_state_dict(model.state_dict())
    s = torch.zeros(total, total, dtype=torch.float64)
    stop = N_OLD
    for item in range(N_OLD):
        s[item, :stop] = row_of_s(item, stop)
    for size in batches:
        start, stop = stop, stop + size
        for item in range(start, stop):
            s[item, :stop] = row_of_s(item, stop)
    row, column = s.nonzero(as_tuple=True)
    whole.item_item = SparseMatrix(row, column, s[row, column], (total, total))
    return whole


LAYERS = [
    {"n_layers": 0},
    {"n_layers": 1},
    {"n_layers": 3},
    {"n_layers": 3, "layer_weights": "decaying"},
    {"n_layers": 3, "layer_weights": "learned"},
    {"n_layers": 0, "layer_weights": (0.5,)},
    {"n_layers": 2, "layer_weights": (0.5, 2.0, -1.0)},
]


@pytest.mark.parametrize("n_item_layers", [0, 1, 2])
@pytest.mark.parametrize("layers", LAYERS, ids=str)
@pytest.mark.parametrize("batches", [[N_NEW], [2, 3], [1, 1, 3]], ids=str)
def test_grown_items_equal_a_full_forward_in_which_they_were_present(batches, layers, n_item_layers):
    model = trained(replace(CONFIG, **layers, n_item_layers=n_item_layers))
    before = model.scorer()
    scorer, catalog, stop = before, [features(N_OLD)], N_OLD
    for size in batches:
        new = features(stop + size, stop)
        scorer = model.add_items(scorer, catalog, new)
        catalog.append(new)
        stop += size
    expected = present_from_the_start(model, batches).scorer()
    assert scorer.n_items == expected.n_items == N_OLD + N_NEW
    torch.testing.assert_close(scorer.item_vectors, expected.item_vectors, rtol=0, atol=1e-12)
    torch.testing.assert_close(scorer.user_vectors, expected.user_vectors, rtol=0, atol=1e-12)
    for name, tensor in expected.memory.items():
        torch.testing.assert_close(scorer.memory[name], tensor, rtol=0, atol=1e-12, msg=name)
    # nothing that existed changed by a single bit
    assert torch.equal(scorer.item_vectors[:N_OLD], before.item_vectors)
    assert torch.equal(scorer.user_vectors, before.user_vectors)


def test_features_reduced_by_pca_are_those_of_a_dense_decomposition():
    """Images (5 columns) and texts (4) are reduced to 3 with mean and directions of trained items; new items too."""
    model = trained(replace(CONFIG, feature_columns=3))
    scorer = model.add_items(model.scorer(), [features(N_OLD)], features(N_OLD + N_NEW, N_OLD))
    own = []
    for table in features(N_OLD + N_NEW).values():
        there = table.present[:N_OLD] & model.inputs.known_items  # item 11 has no training pair
        x = table.values[:N_OLD][there].numpy()
        _, _, directions = np.linalg.svd(x - x.mean(0), full_matrices=False)
        c = directions[:3].T
        c = c * np.sign(c[np.abs(c).argmax(0), range(3)])
        reduced = torch.from_numpy((table.values.numpy() - x.mean(0)) @ c) * table.present[:, None]
        own.append(Features(reduced, table.present))
    old = {name: Features(f.values[:N_OLD], f.present[:N_OLD]) for name, f in zip(TABLES, own, strict=True)}
    plain = LIRDRec(replace(inputs(N_OLD), features=old), CONFIG)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("reductions")})
    torch.testing.assert_close(plain.scorer().item_vectors, scorer.item_vectors[:N_OLD], rtol=0, atol=1e-10)
    torch.testing.assert_close(plain.scorer().user_vectors, scorer.user_vectors, rtol=0, atol=1e-10)
    # the branches of the new items; their neighbors are found by all columns, as those of the old ones
    branches = plain.item_branches([Features(f.values[N_OLD:], f.present[N_OLD:]) for f in own]).flatten(1)
    torch.testing.assert_close(scorer.memory["item_states"][N_OLD:], branches.detach(), rtol=0, atol=1e-10)


def test_a_reduction_is_part_of_the_state_and_is_not_fitted_again():
    config = replace(CONFIG, feature_columns=4)  # texts have four columns: they stay as they are
    model = trained(config)
    expected = model.scorer().item_vectors
    assert [name for name, _ in model.named_buffers() if name.startswith("reductions")] == [
        f"reductions.0.{part}" for part in ("mean", "directions", "fitted")
    ]
    other = features(N_OLD)
    other = {name: Features(f.values * 2, f.present) for name, f in other.items()}
    loaded = LIRDRec(replace(inputs(N_OLD), features=other), config)
    loaded.load_state_dict(model.state_dict())
    again = loaded.reduced([features(N_OLD)[m] for m in loaded.modalities])
    for one, own in zip(again, model.reduced(model.features), strict=True):
        assert torch.equal(one.values, own.values)
    assert torch.equal(model.scorer().item_vectors, expected)


def test_growing_leaves_the_scorer_that_it_was_given_alone():
    model = trained()
    scorer = model.scorer()
    before = {name: tensor.clone() for name, tensor in scorer.tensors().items()}
    model.add_items(scorer, [features(N_OLD)], features(N_OLD + N_NEW, N_OLD))
    assert scorer.n_items == N_OLD
    assert all(torch.equal(tensor, before[name]) for name, tensor in scorer.tensors().items())


def test_a_copy_of_a_trained_item_without_interactions_gets_the_same_part_of_the_same_user():
    """Item 11 was never taken: a new item with its features has its ego vector, and its modality branches are zero
    where it lacks the modality."""
    model = trained(replace(CONFIG, n_item_layers=0))
    twin = {name: Features(f.values[11:12], f.present[11:12]) for name, f in features(N_OLD).items()}
    scorer = model.add_items(model.scorer(), [features(N_OLD)], twin)
    torch.testing.assert_close(scorer.item_vectors[-1], scorer.item_vectors[11], rtol=0, atol=1e-14)
    without_image = {
        "image": Features(torch.zeros(1, 5).double(), torch.zeros(1, dtype=torch.bool)),
        "text": twin["text"],
    }
    grown = model.add_items(model.scorer(), [features(N_OLD)], without_image)
    image, text, shared = grown.item_vectors[-1].unflatten(0, (3, -1))
    assert (image == 0).all()
    torch.testing.assert_close(text, scorer.item_vectors[-1].unflatten(0, (3, -1))[1])
    assert not torch.allclose(shared, scorer.item_vectors[-1].unflatten(0, (3, -1))[2])


def test_dct_of_the_matrix_takes_no_new_items():
    model = trained(replace(CONFIG, dct="matrix"))
    with assert_error(CapabilityError, mentions=['dct="matrix"', 'dct="features"']):
        model.add_items(model.scorer(), [features(N_OLD)], features(N_OLD + N_NEW, N_OLD))


def item_states(model: LIRDRec) -> torch.Tensor:
    """Y = Σ_{l<L} a_{l+1} x_items^(l) with a dense Â."""
    i = model.inputs
    r = torch.zeros(N_USERS, i.n_items, dtype=torch.float64)
    r[i.users, i.items] = 1
    r_hat = r / ((r.sum(1)[:, None] + 1e-7) * (r.sum(0) + 1e-7)).sqrt()
    users = torch.nn.functional.normalize(model.user_embedding, dim=-1).flatten(1)
    items = model.item_branches(model.features).flatten(1)
    states = torch.zeros_like(items)
    given, n_layers = model.config.layer_weights, model.config.n_layers
    decaying = torch.tensor([1 / (layer + 1) for layer in range(n_layers + 1)], dtype=torch.float64)
    named = {
        "equal": torch.ones(n_layers + 1),
        "decaying": decaying,
        "learned": (n_layers + 1) * decaying / decaying.sum(),  # as at the start
    }
    weights = named[given] if isinstance(given, str) else torch.tensor(given, dtype=torch.float64)
    for layer in range(n_layers):
        states = states + weights[layer + 1].item() * items
        users, items = r_hat @ items, r_hat.T @ users
    return states.detach()


@pytest.mark.parametrize("layers", LAYERS, ids=str)
@pytest.mark.parametrize("pwc", ["released", "logits", "uniform", None])
def test_fold_in_is_the_formula(pwc, layers):
    model = trained(replace(CONFIG, pwc=pwc, **layers))
    histories = [torch.tensor([0, 1, 5]), torch.tensor([4]), torch.tensor([11, 2])]  # 11 has no interaction
    y, degree = item_states(model), torch.bincount(model.inputs.items, minlength=N_OLD)
    assert degree[11] == 0
    expected = []
    for liked in histories:
        c = sum(y[i] / (len(liked) * max(1, int(degree[i]))) ** 0.5 for i in liked.tolist())
        chunks = c.unflatten(0, (3, 4))
        alpha = torch.ones(3).double()
        if pwc == "uniform":
            alpha /= 3
        elif pwc is not None:
            w1, w2 = model.schedule.tolist()
            a = []
            for k in range(3):
                hidden = torch.nn.functional.leaky_relu(
                    model.attention_weight[k] @ chunks[k] + model.attention_bias[k], 0.01
                )
                a.append(hidden @ model.attention_vector[k] + model.attention_offset[k])
            alpha = (w1 * torch.stack(a) + w2 * model.theta.mean(0)).softmax(0)
        expected.append((alpha[:, None] * chunks).flatten())
    found = model.fold_in(model.scorer(), histories)
    torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weights", ["equal", "decaying", "learned", (0.5, 2.0)], ids=str)
def test_a_known_user_without_own_vector_is_folded_in_exactly(weights):
    """With one layer and P = 0 a user's vector is what the history gives, whatever the weights of the layers."""
    model = trained(replace(CONFIG, n_layers=1, layer_weights=weights, pwc="uniform"))
    with torch.no_grad():
        model.user_embedding[2] = 0
    scorer = model.scorer()
    history = model.inputs.items[model.inputs.users == 2]
    torch.testing.assert_close(model.fold_in(scorer, [history])[0], scorer.user_vectors[2], rtol=0, atol=1e-7)


def test_a_folded_in_history_may_hold_an_added_item():
    """An item without an edge in training counts as one with a single edge; its state is its own ego vector."""
    model = trained()
    new = features(N_OLD + N_NEW, N_OLD)
    scorer = model.add_items(model.scorer(), [features(N_OLD)], new)
    ego = model.item_branches([new["image"], new["text"]]).flatten(1)[2]
    alone = model.fold_in(scorer, [torch.tensor([N_OLD + 2])])
    expected, _, _ = model._weigh(ego[None], scorer.memory["mean_theta"])
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-12)
    assert not alone.requires_grad


def test_histories_do_not_depend_on_each_other_or_on_their_order():
    model = trained()
    scorer = model.scorer()
    first, second = torch.tensor([0, 1, 5]), torch.tensor([4, 2])
    together = model.fold_in(scorer, [first, second])
    torch.testing.assert_close(together[1:], model.fold_in(scorer, [second.flip(0)]), rtol=0, atol=1e-14)
    torch.testing.assert_close(together[:1], model.fold_in(scorer, [first.flip(0)]), rtol=0, atol=1e-14)
