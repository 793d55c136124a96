"""Models of ordered histories: the loss, the item graph, progressive weight copying, new items, and planted order."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.graphs.item_item import transition_graph
from lirdrec.models.base import Features
from lirdrec.models.registry import build, config_type
from lirdrec.nn.transformer import gap_classes
from lirdrec.ranking.histories import Histories
from lirdrec.recommender.fit import fit
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.training.config import TrainConfig
from lirdrec.training.sampling import make_sampler

from ..helpers import assert_error

N_ITEMS = 24
TINY = {"embedding_size": 8, "n_layers": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def cycle() -> Dataset:
    """Every user walks around a circle of items: item i is followed by i + 1. Features tell the place on the circle."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(120):
        first = rng.integers(N_ITEMS)
        rows += [(user, (first + step) % N_ITEMS, 10 * step) for step in range(rng.integers(6, 12))]
    angle = 2 * np.pi * np.arange(N_ITEMS) / N_ITEMS
    place = np.stack([f(k * angle) for k in range(1, 5) for f in (np.sin, np.cos)], axis=1).astype(np.float32)
    return Dataset.from_frames(
        pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"),
        items=pl.DataFrame({"item": np.arange(N_ITEMS)}),
        features={"image": place[:, :6], "text": place + 0.01 * rng.normal(size=place.shape).astype(np.float32)},
        timestamp="time",
        split="leave_last_out",
    )


def built(name: str, dataset: Dataset, **options):
    config = make_config(config_type(name), {**TINY, **options})
    return build(name, make_model_inputs(dataset, cache=False, seed=1), config)


def first_batch(model, size: int = 200):
    return next(make_sampler(model, TrainConfig()).batches(1, size, torch.device("cpu")))


@pytest.mark.parametrize("name", ["sasrec", "lirdrec_seq"])
def test_the_next_item_of_a_planted_order_is_found(name, cycle):
    config = make_config(config_type(name), {"embedding_size": 16, "n_layers": 1, "dropout": 0.1})
    training = TrainConfig(epochs=40, batch_size=256, learning_rate=1e-2, patience=40, metric="ndcg@5")
    recommender = fit(cycle, config, training, progress=False, cache=False, calibrate_new_items=False)
    right = []
    for user in range(cycle.n_users):
        rows = recommender.histories.of(user)
        best = recommender.recommend(cycle.users.ids[user], k=1)["item"].item()
        right.append(best == (cycle.items.ids[int(rows[-1])] + 1) % N_ITEMS)
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("similarity", ["cosine", "product"])
def test_the_loss_is_the_cross_entropy_of_every_next_item(similarity, cycle):
    model = built("sasrec", cycle, similarity=similarity, temperature=0.3)
    n_targets, (items, times, users) = first_batch(model)
    table = model.item_table()
    total, count = 0.0, 0
    for row in items.tolist():
        history = [item for item in row if item >= 0]
        states = model.states(table[history[:-1]][None], None)[0]
        for state, target in zip(states, history[1:], strict=True):
            scores = table @ state
            if similarity == "cosine":
                scores = scores / (table.norm(dim=1) * state.norm())
            total -= (scores / 0.3).log_softmax(0)[target].item()
            count += 1
    assert count == n_targets
    assert model.loss(items, times, users)["loss"].item() == pytest.approx(total / count, rel=1e-4)


def test_sampled_negatives_leave_out_the_target(cycle):
    model = built("sasrec", cycle, n_negatives=500)  # far more than items: all of them are sampled, again and again
    model.start_epoch(1)
    _, batch = first_batch(model)
    loss = model.loss(*batch)["loss"]
    loss.backward()
    assert 0 < loss.item() < 100 and bool(model.item_embedding.grad.isfinite().all())


def test_transitions_count_neighbors_in_either_order():
    users, items = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 2, 3])
    times = torch.tensor([1, 2, 3, 9, 4, 1])  # user 1 took item 2 before item 1
    histories = Histories(users, items, 3, times)
    graph = transition_graph(histories.start, histories.items, 5).csr.to_dense().numpy()
    counts = np.zeros((5, 5))
    for a, b in ((0, 1), (1, 0), (2, 1)):
        counts[a, b] += 1
        counts[b, a] += 1
    degrees = counts.sum(1).clip(min=1)
    np.testing.assert_allclose(graph, counts / np.sqrt(np.outer(degrees, degrees)), rtol=1e-6)
    assert not graph[3].any() and not graph[4].any()


@pytest.mark.parametrize("graph", ["none", "features", "transitions", "both"])
def test_item_vectors_are_the_branches_smoothed_over_the_graphs(graph, cycle):
    model = built("lirdrec_seq", cycle, item_graph=graph, n_neighbors=4)
    own = model.item_branches(model._reduced)
    torch.testing.assert_close(own.unflatten(1, (3, 8)).norm(dim=2), torch.ones(N_ITEMS, 3))
    expected = own
    if graph in ("features", "both"):
        expected = expected + model.feature_graph.csr.to_dense() @ own
    if graph in ("transitions", "both"):
        expected = expected + model.transitions.csr.to_dense() @ own
    torch.testing.assert_close(model.item_table()[:, : model.n_learned], expected)


@pytest.mark.parametrize("graph", ["none", "features", "transitions", "both"])
def test_a_new_item_is_as_one_in_training_without_interactions(graph, cycle):
    """The vector of an item that nobody took equals that of the same item added to a catalog without it."""
    last = N_ITEMS - 1
    lonely = cycle.train.items != last
    train = dataclasses.replace(cycle.train.take(lonely))
    nothing = train.take(np.zeros(len(train), dtype=bool))
    whole = dataclasses.replace(cycle, train=train, valid=nothing, test=nothing)
    model = built("lirdrec_seq", whole, item_graph=graph, n_neighbors=5, whiten=False).eval()
    inputs = model.inputs
    known = {name: Features(f.values[:last], f.present[:last]) for name, f in inputs.features.items()}
    new = {name: Features(f.values[last:], f.present[last:]) for name, f in inputs.features.items()}
    scorer = model.scorer()
    memory = {k: v[:last] if k.startswith("item_") else v for k, v in scorer.memory.items()}
    smaller = scorer.replaced(items=scorer.item_vectors[:last], memory=memory)
    grown = model.add_items(smaller, [known], new)
    assert grown.n_items == N_ITEMS
    torch.testing.assert_close(grown.item_vectors[last], scorer.item_vectors[last])
    torch.testing.assert_close(grown.memory["item_inputs"][last], scorer.memory["item_inputs"][last])
    # and it can be part of a history
    folded = model.fold_in(grown, [torch.tensor([3, last])])
    torch.testing.assert_close(folded, model.fold_in(scorer, [torch.tensor([3, last])]))


def whitened(features: np.ndarray, fitted_to: np.ndarray) -> np.ndarray:
    """Principal components of variance 1, each row to length 1: written apart from the model."""
    centered = features.astype(np.float64) - features[fitted_to].mean(0)
    _, sizes, directions = np.linalg.svd(centered[fitted_to], full_matrices=False)
    counts = sizes > 1e-4 * sizes[0]
    components = centered @ directions[counts].T / sizes[counts]
    return components / np.linalg.norm(components, axis=1, keepdims=True)


@pytest.mark.parametrize("similarity, scale", [("cosine", 1), ("product", 10)])
def test_content_is_the_similarity_of_features_to_those_of_the_history(similarity, scale, cycle):
    last = N_ITEMS - 1
    train = cycle.train.take(cycle.train.items != last)
    nothing = train.take(np.zeros(len(train), dtype=bool))
    rest = dataclasses.replace(cycle, train=train, valid=nothing, test=nothing)
    weights = {"image": 0.3, "text": 0.7}
    options = {"content_weight": 0.2, "new_content_weight": 0.6, "similarity": similarity}
    model = built("lirdrec_seq", rest, modality_weights=weights, **options).eval()
    scorer, known = model.scorer(), np.arange(N_ITEMS) < last
    f = np.concatenate(
        [whitened(rest.features[m].values, known) * np.sqrt(weight) for m, weight in weights.items()], axis=1
    )
    for user in (0, 7):
        history = model.inputs.histories.of(user).numpy()
        cosines = f @ f[history].sum(0) / np.linalg.norm(f[history].sum(0))
        parts = scorer.parts(scorer.user_vectors[[user] * N_ITEMS], torch.arange(N_ITEMS)).numpy()
        expected = scale * cosines * np.where(known, 0.2, 0.6)
        np.testing.assert_allclose(parts[:, scorer.part_names.index("content")], expected, atol=2e-5)
        np.testing.assert_allclose(parts.sum(1), scorer.scores(scorer.user_vectors[[user]])[0].numpy(), atol=1e-5)
    if similarity == "cosine":  # what is left is (1 - λ) of a cosine
        learned = scorer.item_vectors[:, : model.n_learned].norm(dim=1).numpy()
        np.testing.assert_allclose(learned, np.where(known, 0.8, 0.4), rtol=1e-5)
    own = scorer.item_vectors[:, : model.n_learned]  # items are similar by their branches
    cosines = torch.nn.functional.cosine_similarity(own[[last]], own)
    torch.testing.assert_close(scorer.similar_items(torch.tensor([last]))[0], cosines)


def test_without_content_the_score_has_the_branches_alone(cycle):
    model = built("lirdrec_seq", cycle, content_weight=0.0, new_content_weight=0.0)
    assert model.scorer().part_names == ("image", "text", "shared")
    assert not any("content" in name for name in model.state_dict())


@pytest.mark.parametrize("name", ["sasrec", "lirdrec_seq"])
def test_a_new_user_with_a_known_history_has_the_same_vector(name, cycle):
    model = built(name, cycle).eval()
    scorer = model.scorer()
    histories = [model.inputs.histories.of(user) for user in range(cycle.n_users)]
    torch.testing.assert_close(model.fold_in(scorer, histories), scorer.user_vectors)
    backwards = [history.flip(0) for history in histories]
    assert not torch.allclose(model.fold_in(scorer, backwards), scorer.user_vectors, atol=1e-3)


def test_only_the_latest_items_are_read(cycle):
    model = built("sasrec", cycle, max_length=3).eval()
    scorer = model.scorer()
    long, short = torch.arange(9), torch.arange(6, 9)
    torch.testing.assert_close(*model.fold_in(scorer, [long, short]))


@pytest.mark.parametrize("pwc", ["released", "logits"])
def test_progressive_weight_copying(pwc, cycle):
    """θ of the second epoch is each user's mean weight of the first, and w1 falls by Eq. 19."""
    model = built("lirdrec_seq", cycle, pwc=pwc, pwc_weight=0.8, pwc_base=0.5)
    model.train()
    model.start_epoch(1)
    w = 0.8 * 0.5
    torch.testing.assert_close(model.schedule, torch.tensor([w / (w + 0.2), 0.2 / (w + 0.2)], dtype=torch.float64))
    table, sums, counts = model.item_table(), torch.zeros(cycle.n_users, 3), torch.zeros(cycle.n_users, 1)
    for _, (items, times, users) in make_sampler(model, TrainConfig()).batches(1, 300, torch.device("cpu")):
        for user, row in zip(users.tolist(), items.tolist(), strict=True):
            history = [item for item in row if item >= 0][:-1]
            _, alpha, logits = model.weighted_states(table[history][None], None, torch.tensor([user]))
            sums[user] += (alpha if pwc == "released" else logits).detach()[0].sum(0)
            counts[user] += len(history)
        model.loss(items, times, users)
    model.start_epoch(2)
    torch.testing.assert_close(model.theta, sums / counts, rtol=1e-4, atol=1e-5)


def test_weights_of_each_step_add_up_to_one_and_differ_between_steps(cycle):
    model = built("lirdrec_seq", cycle, pwc="learned").eval()
    history = model.item_table()[[1, 2, 3, 4]][None]
    _, alpha, _ = model.weighted_states(history, None, None)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(1, 4))
    assert not torch.allclose(alpha[0, 0], alpha[0, -1], atol=1e-5)
    assert built("lirdrec_seq", cycle, pwc="uniform").weighted_states(history, None, None)[1] is None


def test_time_gaps_are_read_where_they_are_asked_for(cycle):
    rows, slow, fast = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 100, 5000]]), torch.tensor([[0, 1, 2]])
    for gaps in (True, False):
        model = built("lirdrec_seq", cycle, time_gaps=gaps).eval()
        items = model.item_table()[rows]
        states = [model.states(items, gap_classes(times) if gaps else None) for times in (slow, fast)]
        assert torch.allclose(*states, atol=1e-6) is not gaps


def test_time_gaps_need_times_and_not_positions(cycle):
    positions = dataclasses.replace(cycle, info={**cycle.info, "timestamps": "positions"})
    config = make_config(config_type("lirdrec_seq"), {**TINY, "time_gaps": True})
    with assert_error(ConfigError, mentions=["time_gaps", cycle.name]):
        fit(positions, config, TrainConfig(epochs=1), progress=False, cache=False)


def test_without_timestamps_it_says_what_is_missing(cycle):
    bare = dataclasses.replace(cycle, train=dataclasses.replace(cycle.train, timestamps=None))
    with assert_error(CapabilityError, mentions=["sasrec", "timestamp"]):
        built("sasrec", bare)


@pytest.mark.parametrize(
    "options, facts",
    [
        ({"embedding_size": 10, "n_heads": 4}, ["embedding_size", 10, "n_heads", 4]),
        ({"dropout": 1.0}, ["dropout", 1.0]),
        ({"temperature": 0.0}, ["temperature", 0.0]),
        ({"max_length": 0}, ["max_length", 0, 1]),
        ({"n_negatives": 0}, ["n_negatives", 0, 1]),
        ({"pwc_base": 0.0}, ["pwc_base", 0.0, 1]),
        ({"new_content_weight": 1.5}, ["new_content_weight", 1.5, 1]),
        ({"item_graph": "feature"}, ["item_graph", "'feature'", "'none', 'features', 'transitions', 'both'"]),
    ],
    ids=str,
)
def test_values_out_of_range(options, facts):
    with assert_error(ConfigError, mentions=facts):
        make_config(config_type("lirdrec_seq"), options)


@pytest.mark.parametrize("name", ["lirdrec_seq", "sasrec", "unisrec"])
@pytest.mark.parametrize(
    "options", [{}, {"positions": "rotary", "encoder": "branches", "time_gaps": True}, {"content_weight": 0.2}], ids=str
)
def test_the_state_of_one_position_is_that_of_all(name, options, cycle):
    if options and name != "lirdrec_seq":
        pytest.skip("it has no such options")
    for n_layers in (0, 1, 2):
        model = built(name, cycle, **{**options, "n_layers": n_layers}).eval()
        _, (items, times, _) = first_batch(model, 60)
        rows, table = items[:, :-1].clamp(min=0), model.item_table()
        gaps = gap_classes(times[:, :-1]) if model.reads_gaps else None
        last = (items[:, :-1] >= 0).sum(1) - 1
        expected = model.states(table[rows], gaps, None)[torch.arange(len(rows)), last]
        torch.testing.assert_close(model.last_states(table[rows], gaps, None, last), expected)
