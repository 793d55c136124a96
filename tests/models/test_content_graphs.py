"""GRCN, LGMRec and SLMRec where no public numbers reach: dense formulas, missing modalities, one or three of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lirdrec.models.base import Features, Model, ModelInputs
from lirdrec.models.registry import build, config_type
from lirdrec.ranking.scorers import VectorScorer

N_USERS, N_ITEMS, WIDTH = 9, 7, 4
NAMES = ("grcn", "lgmrec", "slmrec")
# item 0 has no image, item 1 no sound, item 2 nothing; item 6 and user 8 have no training pair
LACKING = {"image": (0, 2), "sound": (1, 2), "smell": (2,)}
BATCH = torch.tensor([0, 1, 2, 3]), torch.tensor([2, 0, 5, 3]), torch.tensor([6, 4, 1, 0])
HISTORIES = [torch.tensor([3, 4]), torch.tensor([0, 2, 5]), torch.tensor([1])]


def inputs(modalities=("image", "sound"), lacking=LACKING) -> ModelInputs:
    generator = torch.Generator().manual_seed(4)
    pairs = (torch.rand(N_USERS, N_ITEMS, generator=generator) < 0.5).nonzero()
    pairs = pairs[(pairs[:, 0] != 8) & (pairs[:, 1] != 6)]
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    features = {}
    for name in modalities:
        present = torch.ones(N_ITEMS, dtype=torch.bool)
        present[list(lacking.get(name, ()))] = False
        values = torch.randn(N_ITEMS, 3, generator=generator, dtype=torch.float64) * present[:, None]
        features[name] = Features(values, present)
    return ModelInputs(
        N_USERS, N_ITEMS, pairs[:, 0], pairs[:, 1], features, neighbors=lambda name, k: torch.empty(0), seed=1
    )


def made(name: str, given: ModelInputs | None = None, **options) -> Model:
    model = build(name, given or inputs(), config_type(name)(embedding_size=WIDTH, **options))
    model.start_epoch(1)
    return model


def scorer_of(model: Model) -> VectorScorer:
    scorer = model.scorer()
    assert isinstance(scorer, VectorScorer)
    return scorer


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


# Dense formulas, written from the papers without any code of the library


def history_matrix(given: ModelInputs, items: torch.Tensor) -> torch.Tensor:
    matrix = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    matrix[given.users, given.items] = 1
    return matrix * items


def adjacency(given: ModelInputs, items: torch.Tensor) -> torch.Tensor:
    history = history_matrix(given, items)
    matrix = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    matrix[:N_USERS, N_USERS:], matrix[N_USERS:, :N_USERS] = history, history.T
    scale = (matrix.sum(1) + 1e-7).rsqrt()
    return scale[:, None] * matrix * scale


def received(given: ModelInputs, items: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """What users with HISTORIES get in one propagation step from items with the states `(I, e)`."""
    degrees = history_matrix(given, items).sum(0)
    rows = []
    for history in HISTORIES:
        liked = [i for i in history.tolist() if items[i]]
        parts = [states[i] / (len(liked) * max(1.0, degrees[i].item())) ** 0.5 for i in liked]
        rows.append(torch.stack(parts).sum(0) if parts else states.new_zeros(states.shape[1]))
    return torch.stack(rows)


def neighbors_of(given: ModelInputs, user: int | None = None, item: int | None = None) -> list[int]:
    if user is not None:
        return sorted(i for u, i in zip(given.users.tolist(), given.items.tolist(), strict=True) if u == user)
    return sorted(u for u, i in zip(given.users.tolist(), given.items.tolist(), strict=True) if i == item)


def routed(p: torch.Tensor, f: torch.Tensor, liked: list[int], n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One user's preference after n steps, and the attention to the liked items."""
    if not liked:
        return p, p.new_zeros(0)
    for _ in range(n):
        p = F.normalize(p + (f[liked] @ p).softmax(0) @ f[liked], dim=0, eps=1e-12)
    return p, (f[liked] @ p).softmax(0)


def dense_grcn(model, given: ModelInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """User vectors, item vectors, and user vectors of HISTORIES."""
    n, names = model.config.n_routings, list(given.features)
    user_parts, item_parts, folded_parts, folded_alpha = [], [], [], []
    to_users = torch.zeros(len(names), N_USERS, N_ITEMS, dtype=torch.float64)
    to_items = torch.zeros(len(names), N_USERS, N_ITEMS, dtype=torch.float64)
    for m, feature in enumerate(given.features.values()):
        f = F.leaky_relu(feature.values @ model.feature_weight[m].T + model.feature_bias[m])
        f = F.normalize(f, dim=1) * feature.present[:, None]
        start = F.normalize(model.preference[m], dim=1)
        mine = [[i for i in neighbors_of(given, user=u) if feature.present[i]] for u in range(N_USERS)]
        p = torch.stack([routed(start[u], f, mine[u], n)[0] for u in range(N_USERS)])
        users, items = p.clone(), f.clone()
        for u in range(N_USERS):
            alpha = routed(start[u], f, mine[u], n)[1]
            to_users[m, u, mine[u]] = alpha
            users[u] += alpha @ f[mine[u]]
        for i in range(N_ITEMS):
            theirs = neighbors_of(given, item=i) if feature.present[i] else []
            to_items[m, theirs, i] = (p[theirs] @ f[i]).softmax(0)
            items[i] += to_items[m, :, i] @ p
        user_parts.append(users)
        item_parts.append(items)
        vectors, weights = [], torch.zeros(len(HISTORIES), N_ITEMS, dtype=torch.float64)
        for row, history in enumerate(HISTORIES):
            liked = [i for i in history.tolist() if feature.present[i]]
            own, alpha = routed(p.new_zeros(WIDTH), f, liked, n)
            weights[row, liked] = alpha
            vectors.append(own + alpha @ f[liked])
        folded_parts.append(torch.stack(vectors))
        folded_alpha.append(weights)
    w_users = (to_users * model.item_confidence.T[:, None]).amax(0).relu()
    w_items = (to_items * model.user_confidence.T[:, :, None]).amax(0).relu()
    x_u, x_i = F.normalize(model.user_embedding, dim=1), F.normalize(model.item_embedding, dim=1)
    first_u, first_i = w_users @ x_i, w_items.T @ x_u
    users = x_u + first_u + w_users @ first_i
    items = x_i + first_i + w_items.T @ first_u
    w = (torch.stack(folded_alpha) * model.item_confidence.T[:, None]).amax(0).relu()
    folded = torch.cat([w @ x_i + w @ first_i, *folded_parts], 1)
    return torch.cat([users, *user_parts], 1), torch.cat([items, *item_parts], 1), folded


def dense_lgmrec(model, given: ModelInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    c, everything = model.config, torch.ones(N_ITEMS)
    a, ego = adjacency(given, everything), torch.cat([model.user_embedding, model.item_embedding])
    layers = [torch.linalg.matrix_power(a, layer) @ ego for layer in range(c.n_layers + 1)]
    vectors = torch.stack(layers).mean(0)
    folded = received(given, everything, torch.stack(layers[:-1]).sum(0)[N_USERS:]) / (c.n_layers + 1)
    collaborative, whole, new = vectors[N_USERS:], 0, 0
    for m, feature in enumerate(given.features.values()):
        there = feature.present.double()
        history, own = history_matrix(given, there), feature.values @ model.feature_weight[m]
        mean = history @ own / (history.sum(1, keepdim=True) + 1e-7)
        local = [torch.linalg.matrix_power(adjacency(given, there), n) @ torch.cat([mean, own]) for n in range(4)]
        vectors = vectors + F.normalize(local[c.n_modality_layers], dim=1, eps=1e-12)
        logits = feature.values @ model.hyper_weight[m]
        h_items = (logits / 0.2).softmax(1) * there[:, None]
        h_users = (history @ logits / 0.2).softmax(1)
        x = collaborative
        for _ in range(c.n_hyper_layers):
            edges = h_items.T @ x
            x = h_items @ edges
        whole = whole + torch.cat([h_users @ edges, x])
        mine = torch.zeros(len(HISTORIES), N_ITEMS, dtype=torch.float64)
        for row, liked in enumerate(HISTORIES):
            mine[row, liked] = there[liked]
        if c.n_modality_layers == 0:
            near = mine @ own / (mine.sum(1, keepdim=True) + 1e-7)
        else:
            near = received(given, there, local[c.n_modality_layers - 1][N_USERS:])
        folded = folded + F.normalize(near, dim=1, eps=1e-12)
        new = new + (mine @ logits / 0.2).softmax(1) @ edges
    vectors = vectors + 0.3 * F.normalize(whole, dim=1, eps=1e-12)
    return vectors[:N_USERS], vectors[N_USERS:], folded + 0.3 * F.normalize(new, dim=1, eps=1e-12)


def dense_slmrec(model, given: ModelInputs, lost: int = -1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`lost`: a channel whose items are zero, as in feature masking."""
    n, everything = model.config.n_layers, torch.ones(N_ITEMS)
    channels = [(everything, model.item_embedding)]
    for m, feature in enumerate(given.features.values()):
        projected = F.linear(F.normalize(feature.values, dim=1), model.feature_weight[m], model.feature_bias[m])
        channels.append((feature.present.double(), projected * feature.present[:, None]))
    parts, folded = [], []
    for channel, (there, own) in enumerate(channels):
        ego = torch.cat([model.user_embedding, own * (channel != lost)])
        layers = [torch.linalg.matrix_power(adjacency(given, there), layer) @ ego for layer in range(n + 1)]
        parts.append(torch.stack(layers).mean(0))
        folded.append(received(given, there, torch.stack(layers[:-1]).sum(0)[N_USERS:]) / (n + 1))
    users = torch.cat([x[:N_USERS] for x in parts], 1) @ model.user_weight.T + model.user_bias
    items = torch.cat([x[N_USERS:] for x in parts], 1) @ model.item_weight.T + model.item_bias
    return users, items, torch.cat(folded, 1) @ model.user_weight.T + model.user_bias


def cross_entropy(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    return F.cross_entropy(a @ b.T / temperature, torch.arange(len(a)))


def cosines(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    return cross_entropy(F.normalize(a, dim=1), F.normalize(b, dim=1), temperature)


DENSE = {"grcn": dense_grcn, "lgmrec": dense_lgmrec, "slmrec": dense_slmrec}


@pytest.mark.parametrize(
    "name, options",
    [
        ("grcn", {}),
        ("grcn", {"n_routings": 0}),
        ("lgmrec", {}),
        ("lgmrec", {"n_hyper_layers": 2, "n_modality_layers": 0, "n_hyperedges": 6}),
        ("lgmrec", {"n_layers": 1, "n_modality_layers": 1, "n_hyperedges": 2}),
        ("slmrec", {}),
        ("slmrec", {"n_layers": 1}),
    ],
)
@torch.no_grad()
def test_vectors_equal_the_dense_formulas(name, options):
    given = inputs()
    model = made(name, given, **options)
    users, items, folded = DENSE[name](model, given)
    scorer = scorer_of(model)
    same(scorer.user_vectors, users)
    same(scorer.item_vectors, items)
    same(model.fold_in(scorer, HISTORIES), folded)


@torch.no_grad()
def test_the_hypergraphs_contrast_is_among_the_items_that_have_both():
    model = made("lgmrec", inputs(), hyper_dropout=0.0, contrast_weight=0.5)
    _, _, (a, b) = model(model.draw_noise())
    items = torch.tensor([3, 0, 5, 2, 3])  # 0 and 2 lack a modality
    users = torch.tensor([8, 1])
    expected = torch.zeros((), dtype=torch.float64)
    for first, second, rows, among in (
        (a.users, b.users, [8, 1], range(N_USERS)),
        (a.items, b.items, [3, 5, 3], range(3, N_ITEMS)),
    ):
        v, t = F.normalize(first @ a.edges, dim=1), F.normalize(second @ b.edges, dim=1)
        for row in rows:
            expected -= (v[row] @ t[row] / 0.2) - torch.stack([v[row] @ t[j] / 0.2 for j in among]).logsumexp(0)
    same(model.contrast([a, b], users, items), expected)


def test_the_hypergraphs_training_draws_noise_and_dropout_by_epoch():
    model = made("lgmrec")
    first, second = (model.loss(*BATCH)["loss"].item() for _ in range(2))
    model.start_epoch(1)
    assert model.loss(*BATCH)["loss"].item() == first != second
    h = model(model.draw_noise())[2][0].users
    assert 0.2 < float((h == 0).double().mean()) < 0.8


@torch.no_grad()
def test_alignment_goes_step_by_step_over_the_items_that_have_each_modality():
    given = inputs()
    model = made("slmrec", given, contrast_temperature=0.7, n_layers=2)
    ego = model.ego_items()
    parts = [model.propagated(channel, own) for channel, own in enumerate(ego)]
    items = torch.tensor([3, 0, 5, 2, 3, 1])
    fine = F.linear(parts[0][1][items], model.step_weight[0], model.step_bias[0])
    coarse = F.linear(fine, model.step_weight[1], model.step_bias[1])
    assert (fine.shape[1], coarse.shape[1]) == (WIDTH, WIDTH // 2)
    expected = 0
    for step, (x, rows) in enumerate(((fine, [0, 2, 4, 5]), (coarse, [0, 1, 2, 4])), start=0):
        own = F.linear(parts[step + 1][1][items], model.aligned_weight[step], model.aligned_bias[step])
        expected = expected + cross_entropy(x[rows], own[rows], 0.7)
    same(model.aligned(parts, items), expected)


@torch.no_grad()
def test_masking_contrasts_views_that_lack_a_channel():
    given = inputs()
    model = made("slmrec", given, task="fm", contrast_weight=1.0, regularization=0.0)
    lost = torch.randperm(3, generator=torch.Generator().set_state(model.generator.get_state()))[:2].tolist()
    (users, items, _), (users_too, items_too, _) = (dense_slmrec(model, given, channel) for channel in lost)
    expected = cosines(users[BATCH[0]], users_too[BATCH[0]], 0.2) + cosines(items[BATCH[1]], items_too[BATCH[1]], 0.2)
    same(model.loss(*BATCH)["contrast"], expected)


@torch.no_grad()
def test_feature_dropout_without_dropout_contrasts_a_view_with_itself():
    given = inputs()
    model = made("slmrec", given, task="fd", contrast_weight=1.0, regularization=0.0, dropout=0.0)
    users, items, _ = dense_slmrec(model, given)
    expected = sum(cosines(x[rows], x[rows], 0.2) for x, rows in ((users, BATCH[0]), (items, BATCH[1])))
    same(model.loss(*BATCH)["contrast"], expected)


@pytest.mark.parametrize("task", ["fd", "fd+fm"])
def test_feature_dropout_is_drawn_by_epoch_and_keeps_the_mean(task):
    model = made("slmrec", task=task)
    first, second = (model.loss(*BATCH)["loss"].item() for _ in range(2))
    model.start_epoch(1)
    assert model.loss(*BATCH)["loss"].item() == first != second
    with torch.no_grad():
        own = model.ego_items()[0]
        drawn = torch.stack([torch.cat(model.propagated(0, own, 0.3)) for _ in range(4000)])
        expected = torch.cat(model.propagated(0, own))
        error = (drawn.mean(0) - expected).abs()
        assert bool((error < 5 * drawn.std(0) / 4000**0.5 + 1e-12).all())


def test_weight_decay_is_adams():
    plain, decayed = (made("slmrec", regularization=value) for value in (0.0, 0.01))
    for model, decay in ((plain, 0.01), (decayed, 0.0)):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=decay)
        for _ in range(3):
            optimizer.zero_grad()
            model.loss(*BATCH)["loss"].backward()
            optimizer.step()
    for ours, theirs in zip(plain.parameters(), decayed.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
class TestEveryOne:
    @pytest.mark.parametrize("modalities", [("image",), ("smell", "image", "sound")])
    def test_any_number_of_modalities(self, name, modalities):
        model = made(name, inputs(modalities))
        model.loss(*BATCH)["loss"].backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.any(), key
        scorer = scorer_of(model)
        assert torch.isfinite(scorer.scores(scorer.queries(torch.arange(N_USERS)))).all()

    def test_what_an_item_lacks_does_not_matter(self, name):
        """Other numbers in absent rows: the same loss, gradients and vectors."""
        given = inputs()
        garbage = {
            m: Features(torch.where(f.present[:, None], f.values, 9.0), f.present) for m, f in given.features.items()
        }
        found = []
        for each in (given, dataclasses.replace(given, features=garbage)):
            model = made(name, each)
            loss = model.loss(*BATCH)["loss"]
            loss.backward()
            scorer = scorer_of(model)
            gradients = [p.grad for p in model.parameters()]
            found.append([loss.detach(), scorer.user_vectors, scorer.item_vectors, *gradients])
        for ours, theirs in zip(*found, strict=True):
            same(ours, theirs)

    def test_a_batch_of_items_without_anything(self, name):
        model = made(name)
        terms = model.loss(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([3, 4]))
        terms["loss"].backward()
        assert torch.isfinite(terms["loss"])
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())

    @torch.no_grad()
    def test_a_new_item_is_an_item_without_interactions(self, name):
        """Item 6 has none: as a new one it gets the same vector, but for the ID that nobody trained."""
        given = inputs()
        model = made(name, given)
        model.item_embedding[6] = 0
        scorer = scorer_of(model)
        new = {m: Features(f.values[6:], f.present[6:]) for m, f in given.features.items()}
        grown = model.add_items(scorer, [given.features], new)
        same(grown.item_vectors[-1], scorer.item_vectors[6])
        assert torch.equal(grown.item_vectors[:-1], scorer.item_vectors)
        # in a history it counts as item 6 does, which has no ID either
        ours, theirs = (model.fold_in(grown, [torch.tensor([3, item])]) for item in (7, 6))
        if name == "grcn":  # but for the confidence that item 6 was initialized with
            ours, theirs = ours[:, WIDTH:], theirs[:, WIDTH:]
        same(ours, theirs)
