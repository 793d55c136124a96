"""Models of ordered histories: the loss by its formula, states for serving, what order is worth, and resuming."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.config import make_config
from lirdrec.data.dataset import Dataset
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.models.base import ModelInputs
from lirdrec.models.registry import build, config_type
from lirdrec.models.sequential import SequentialModel
from lirdrec.recommender.fit import fit
from lirdrec.training.config import TrainConfig
from lirdrec.training.sampling import SequenceSampler

from ..helpers import assert_error

OF_IDS = ["sasrec", "gru4rec", "bsarec", "hstu"]
SMALL: dict[str, Any] = {"embedding_size": 16, "max_length": 6, "dropout": 0.2}
N_ITEMS = 14


def inputs_of(lists: list[list[int]], seed: int = 0, weights: torch.Tensor | None = None) -> ModelInputs:
    users = torch.tensor([user for user, items in enumerate(lists) for _ in items])
    items = torch.tensor([item for items in lists for item in items])
    return ModelInputs(
        len(lists),
        N_ITEMS,
        users,
        items,
        {},
        lambda *_: items[:, None],
        seed=seed,
        weights=weights,
        timestamps=torch.arange(len(items)),
    )


def model_of(name: str, inputs: ModelInputs, **options: Any) -> SequentialModel:
    model = build(name, inputs, make_config(config_type(name), {**SMALL, **options}))
    assert isinstance(model, SequentialModel)
    return model


@pytest.fixture
def lists() -> list[list[int]]:
    """Items 11 to 13 never occur; one user has nothing, one a single item, one more than the network reads."""
    rng = np.random.default_rng(0)
    return [rng.permutation(11)[:n].tolist() for n in (4, 0, 11, 1, 3, 4, 8, 2)]


@pytest.mark.parametrize("similarity", ["cosine", "product"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", OF_IDS)
def test_the_loss_is_the_cross_entropy_of_next_items_among_those_of_training(name, similarity, weighted, lists):
    """Summed target by target, each from the state after the items before it alone."""
    n = sum(map(len, lists))
    weights = torch.rand(n, generator=torch.Generator().manual_seed(1)) + 0.5 if weighted else None
    inputs = inputs_of(lists, weights=weights)
    model = model_of(name, inputs, similarity=similarity, temperature=0.3).double().eval()
    ((count, batch),) = SequenceSampler(inputs.histories, 6, seed=0).batches(1, 1000, torch.device("cpu"))
    found = model.loss(*batch)["loss"].item()
    table, total, mass = model.item_table(), 0.0, 0.0
    for items, user in zip(batch[0].tolist(), batch[2].tolist(), strict=True):
        items = [item for item in items if item >= 0]
        for t in range(1, len(items)):
            state = model.states(table[items[:t]][None], None)[0, -1]
            vectors = table[:11]
            if similarity == "cosine":
                state, vectors = state / state.norm(), vectors / vectors.norm(dim=1, keepdim=True)
            weight = 1.0
            if inputs.weights is not None:
                weight = inputs.weights[(inputs.users == user) & (inputs.items == items[t])].item()
            total -= weight * (vectors @ state / 0.3).log_softmax(0)[items[t]].item()
            mass += weight
            count -= 1
    assert count == 0
    assert found == pytest.approx(total / mass, rel=1e-6)


@pytest.mark.parametrize("name", OF_IDS)
def test_users_are_the_state_after_their_last_item(name, lists):
    """Known users and the same histories of new ones alike, alone or together; of long ones the latest items count."""
    model = model_of(name, inputs_of(lists)).double().eval()
    scorer = model.scorer()
    found = scorer.queries(torch.arange(len(lists)))
    histories = [torch.tensor(items, dtype=torch.int64) for items in lists]
    torch.testing.assert_close(model.fold_in(scorer, histories), found, rtol=0, atol=1e-12)
    table = model.item_table().detach()
    for user, items in enumerate(lists):
        if not items:
            assert (found[user] == 0).all()
            continue
        state = model.states(table[items[-6:]][None], None)[0, -1].detach()
        torch.testing.assert_close(found[user], state / state.norm(), rtol=0, atol=1e-12)
        alone = model.fold_in(scorer, [histories[user]])[0]
        torch.testing.assert_close(alone, found[user], rtol=0, atol=1e-12)
    other = model.fold_in(scorer, [histories[0].flip(0)])[0]
    assert (other - found[0]).abs().max() > 1e-4  # the order matters


@pytest.mark.parametrize("name", OF_IDS)
def test_the_last_item_determines_the_next_one(name):
    """Items follow each other on a cycle: after training, the next item is the first of the list, for unseen users."""
    rng = np.random.default_rng(2)
    cycle = rng.permutation(N_ITEMS)
    walks = [[int(cycle[(start + step) % N_ITEMS]) for step in range(6)] for start in rng.integers(0, N_ITEMS, 80)]
    inputs = inputs_of(walks)
    model = model_of(name, inputs)
    sampler = SequenceSampler(inputs.histories, 6, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(1, 31):
        model.start_epoch(epoch)
        for _, batch in sampler.batches(epoch, 100, torch.device("cpu")):
            optimizer.zero_grad()
            model.loss(*batch)["loss"].backward()
            optimizer.step()
    model.eval()
    scorer = model.scorer()
    new = [torch.from_numpy(np.roll(cycle, -start)[:length]) for start in range(N_ITEMS) for length in (2, 4)]
    scores = scorer.scores(model.fold_in(scorer, new))
    expected = [int(cycle[(start + length) % N_ITEMS]) for start in range(N_ITEMS) for length in (2, 4)]
    assert scores.argmax(1).tolist() == expected


@pytest.mark.parametrize("name", OF_IDS)
def test_a_training_that_is_stopped_and_resumed_ends_with_the_same_bits(name, tmp_path):
    """With dropout and shuffled sequences, and whatever the global generator of torch is at."""
    rng = np.random.default_rng(5)
    frame = pl.DataFrame({"user": rng.integers(0, 60, 900), "item": rng.integers(0, 40, 900), "time": np.arange(900)})
    data = Dataset.from_frames(frame.unique(["user", "item"], maintain_order=True), timestamp="time")

    def trained(run: str, epochs: int, **options: Any) -> dict[str, bytes]:
        training = TrainConfig(epochs=epochs, batch_size=100, learning_rate=5e-3, patience=20, seed=3)
        config = make_config(config_type(name), SMALL)
        made = fit(data, config, training, run=tmp_path / run, progress=False, cache=False, device="cpu", **options)
        return {key: value.numpy().tobytes() for key, value in made.scorer.tensors().items()}

    torch.manual_seed(1)
    whole = trained("whole", 4)
    torch.manual_seed(2)
    trained("run", 2)
    torch.manual_seed(3)
    assert trained("run", 4, resume=True) == whole


def test_a_training_is_not_resumed_with_other_timestamps(tmp_path):
    """Only models of ordered histories depend on them."""
    cells = np.random.default_rng(5).permutation(200)[:120]
    columns = {"user": cells // 10, "item": cells % 10}
    data, other = (
        Dataset.from_frames(columns | {"time": times}, timestamp="time") for times in (np.arange(120), -np.arange(120))
    )
    np.testing.assert_array_equal(data.train.items, other.train.items)

    def trained(given: Dataset, name: str, epochs: int, **options: Any) -> int:
        training = TrainConfig(epochs=epochs, batch_size=100, seed=3)
        run, config = tmp_path / name, make_config(config_type(name), {"embedding_size": 4})
        made = fit(given, config, training, run=run, progress=False, cache=False, device="cpu", **options)
        return made.info["metrics"]["epochs"]

    for name in ("mf", "sasrec"):
        assert trained(data, name, 1) == 1
    assert trained(other, "mf", 2, resume=True) == 2
    with assert_error(RunFolderError, mentions=["dataset"]):
        trained(other, "sasrec", 2, resume=True)
    assert trained(data, "sasrec", 2, resume=True) == 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bsarec", {"filter_weight": 1.5}),
        ("bsarec", {"cutoff": -1}),
        ("hstu", {"n_heads": 3}),
        ("gru4rec", {"hidden_size": 0}),
        ("sasrec", {"temperature": 0.0}),
        ("sasrec", {"dropout": 1.0}),
    ],
)
def test_options_out_of_range(name, options):
    with assert_error(ConfigError, mentions=[*options, *options.values()]):
        make_config(config_type(name), options)
