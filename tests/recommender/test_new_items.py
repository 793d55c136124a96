"""Items added and users served without retraining, on data whose truth is planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import lirdrec
from lirdrec.data.cold_start import hold_out_items
from lirdrec.data.dataset import Dataset
from lirdrec.data.ids import IdMap
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError, DataError, RunFolderError, UnknownIdError
from lirdrec.models.item_knn import ItemKNN, ItemKNNConfig
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec.models.mf import MFConfig
from lirdrec.models.popularity import PopularityConfig
from lirdrec.recommender.known_users_as_new import as_new_users
from lirdrec.recommender.new_item_checks import new_table
from lirdrec.recommender.recommender import Recommender
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error, assert_mentions

GROUPS = 5


@pytest.fixture(scope="module")
def data() -> Dataset:
    dims = {"image": 12, "text": 8}
    return make_synthetic_dataset(60, 50, 600, dims, groups=GROUPS, noise=0.3, seed=1, missing={"image": 0.2})


def untrained(dataset: Dataset) -> Recommender:
    """LIRDRec with the weights that it starts with: enough for everything that follows from features."""
    from lirdrec.recommender.model_inputs import make_model_inputs

    torch.manual_seed(0)
    model = LIRDRec(
        make_model_inputs(dataset, "cpu", seed=3), LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=4)
    )
    return Recommender.from_training(model, dataset)


@pytest.fixture
def recommender(data) -> Recommender:
    return untrained(data)


def features_of(data: Dataset, row: int) -> dict[str, np.ndarray]:
    return {name: np.array(matrix.values[row : row + 1]) for name, matrix in data.features.items()}


def state(recommender: Recommender) -> tuple:
    tensors = {name: tensor.clone() for name, tensor in recommender.scorer.tensors().items()}
    return recommender.n_items, recommender.item_table, len(recommender.features.added), tensors


def same(first: tuple, second: tuple) -> bool:
    return (
        first[0] == second[0]
        and first[1].equals(second[1])
        and first[2] == second[2]
        and all(torch.equal(tensor, second[3][name]) for name, tensor in first[3].items())
    )


def test_a_new_item_lies_among_its_own_kind(data):
    """Leave ten items out of training, add them by their features: their neighbors are of their planted group."""
    rest, rows, features = hold_out_items(data, list(range(10)))
    recommender = untrained(rest)
    recommender.add_items(rows, features)
    near = recommender.similar_items(list(range(10)), k=3)
    group = dict(zip(data.item_table["item"], data.item_table["group"], strict=True))
    hits = [group[row["item"]] == group[row["neighbor"]] for row in near.iter_rows(named=True)]
    assert np.mean(hits) > 0.9
    assert recommender.item_table.filter(pl.col("item") < 10).sort("item").equals(data.item_table.head(10))


def test_nothing_that_exists_changes(data, recommender):
    before = recommender.recommend(k=50, exclude_seen=False)
    recommender.add_items([100, 101], {"text": [np.ones(8), None], "image": [None, np.ones(12)]})
    assert recommender.n_items == 52 and recommender.n_trained_items == 50
    after = recommender.recommend(k=52, exclude_seen=False)
    assert set(after["item"].unique()) - set(before["item"].unique()) == {100, 101}
    old = after.filter(pl.col("item") < 100).drop("rank")
    assert_frame_equal(old, before.drop("rank"), check_row_order=False, abs_tol=1e-6)


def test_one_at_a_time_or_saved_between_gives_the_same(data, tmp_path):
    new = {"text": np.eye(8)[:3], "image": np.eye(12)[:3]}
    first = untrained(data)
    first.add_items([100], {name: matrix[:1] for name, matrix in new.items()})
    loaded = Recommender.load(first.save(tmp_path / "one"))
    for one in (first, loaded):
        one.add_items([101, 102], {name: matrix[1:] for name, matrix in new.items()})
    assert_frame_equal(first.recommend(k=20), loaded.recommend(k=20))
    again = Recommender.load(loaded.save(tmp_path / "two"), verify=True)
    assert_frame_equal(again.recommend(k=20), first.recommend(k=20))
    assert again.n_items == 53 and again.items.series[-1] == 102


def test_an_added_twin_gets_the_parts_of_its_features(data, recommender):
    """Two new items with the same features are interchangeable, and each other's nearest."""
    recommender.add_items(["a"] if not data.items.is_integer else [100], features_of(data, 0))
    recommender.add_items([101], features_of(data, 0))
    assert recommender.similar_items(101, k=1)["neighbor"].to_list() == [100]
    reason = recommender.explain(0, 101)
    assert reason.score == sum(reason.parts.values())
    assert reason.score == pytest.approx(recommender.score((0, 101))["score"][0], abs=1e-6)


BAD = [
    (lambda r: r.add_items([], {}), []),
    (lambda r: r.add_items([100, 3], {"text": np.ones((2, 8))}), ["1 ", " 3"]),
    (lambda r: r.add_items([100, 100], {"text": np.ones((2, 8))}), ["item id 100", "row 0"]),
    (lambda r: r.add_items([-1], {"text": np.ones((1, 8))}), ["item id -1", "row 0"]),
    (lambda r: r.add_items(["x"], {"text": np.ones((1, 8))}), ["integers", "strings"]),
    (lambda r: r.add_items([100], {"sound": np.ones((1, 8))}), ["'sound'", "image, text"]),
    (lambda r: r.add_items([100], {"text": np.ones((2, 8))}), ["features 'text'", "2 × 8", "1 × 8"]),
    (
        lambda r: r.add_items([100], {"text": np.ones((1, 9))}),
        ["features 'text'", "1 × 9", "1 × 8"],
    ),
    (
        lambda r: r.add_items([100], {"text": np.full((1, 8), np.nan)}),
        ["features 'text'", "NaN", "1 row", 100],
    ),
    (lambda r: r.add_items([100]), ["image, text", 100, "features='NAME=FILE'", "--encoders"]),
    (
        lambda r: r.add_items([100, 101], {"text": [np.ones(8), None]}),
        ["image, text", 101, "features='NAME=FILE'", "--encoders"],
    ),
    (
        lambda r: r.add_items(pl.DataFrame({"item": [100], "group": ["x"]}), {"text": np.ones((1, 8))}),
        ["'group'"],
    ),
    (lambda r: r.add_items(pl.DataFrame({"id": [100]})), ["'item'", " id"]),
]


@pytest.mark.parametrize(("ask", "facts"), BAD)
def test_all_or_nothing(recommender, ask, facts):
    before = state(recommender)
    with assert_error(DataError, mentions=facts) as caught:
        ask(recommender)
    assert "\n" not in str(caught.value)
    assert same(before, state(recommender))


def test_a_model_without_cold_items_says_so(data):
    from lirdrec.recommender.model_inputs import make_model_inputs

    model = ItemKNN(make_model_inputs(data, "cpu"), ItemKNNConfig())
    model.solve()
    with assert_error(CapabilityError, mentions=["item_knn", "items"]):
        Recommender.from_training(model, data).add_items([100], {"text": np.ones((1, 8))})


def test_a_history_in_each_row_of_an_array(recommender):
    ids = recommender.items.ids
    lists = [[ids[0], ids[3]], [ids[5], ids[8]]]
    expected = recommender.recommend_for_history(lists, k=3).rows()
    assert {row[0] for row in expected} == {0, 1}
    for array in (np.array(lists), torch.tensor(np.array(lists)), pl.Series(lists)):
        assert recommender.recommend_for_history(array, k=3).rows() == expected
    one = recommender.recommend_for_history(np.array(lists[0]), k=3)["item"].to_list()
    assert one == [row[1] for row in expected if row[0] == 0]
    with assert_error(DataError, mentions=["(1, 2, 2)"]):
        recommender.recommend_for_history(np.array([lists]), k=3)
    with assert_error(UnknownIdError, mentions=["(2, 2)"]):
        recommender.similar_items(np.array(lists), k=3)


def test_codes_and_fractions_do_not_fit_a_catalog_of_integers():
    known, table = IdMap([1, 2], "item"), pl.DataFrame({"item": [1, 2], "code": [10, 20], "ean": ["007", "8"]})
    made = new_table(pl.DataFrame({"item": [3.0], "code": ["30"], "ean": ["04"]}), known, table)
    assert made.rows() == [(3, 30, "04")]
    with assert_error(DataError, mentions=["'code'", "'030'"]):
        new_table(pl.DataFrame({"item": [3], "code": ["030"]}), known, table)
    with assert_error(DataError, mentions=["'code'"]):
        new_table(pl.DataFrame({"item": [3], "code": [1.5]}), known, table)


def test_a_new_user_gets_what_the_history_is_about(data, recommender):
    group = data.item_table["group"].to_numpy()
    histories = [np.flatnonzero(group == g)[:4].tolist() for g in range(GROUPS)]
    frame = recommender.recommend_for_history(histories, k=5)
    assert frame.columns == ["history", "item", "rank", "score"]
    assert frame["history"].to_list() == [number for number in range(GROUPS) for _ in range(5)]
    for number, liked in enumerate(histories):
        assert not set(liked) & set(frame.filter(pl.col("history") == number)["item"])
    right = [group[row["item"]] == row["history"] for row in frame.iter_rows(named=True)]
    assert np.mean(right) > 0.8
    single = recommender.recommend_for_history(histories[2], k=5)
    assert single["item"].to_list() == frame.filter(pl.col("history") == 2)["item"].to_list()
    repeated = recommender.recommend_for_history(histories[2] * 2, k=5)
    assert_frame_equal(repeated, single)


def test_a_new_user_may_like_new_items(data, recommender):
    recommender.add_items([100], features_of(data, 0))
    near = recommender.recommend_for_history([100], k=50, exclude_seen=False)
    assert near.height == 50
    with assert_error(UnknownIdError, mentions=["item", 101, "100, 49, 48"]):
        recommender.recommend_for_history([100, 101], k=5)


def test_features_of_a_prepared_dataset_are_referred_to(data, tmp_path):
    data.save(tmp_path / "data")
    recommender = untrained(Dataset.load(tmp_path / "data"))
    run = recommender.save(tmp_path / "run")
    assert not (run / "features").exists()
    for folder in (tmp_path, tmp_path.parent / f"{tmp_path.name}-moved"):
        if folder != tmp_path:
            tmp_path.rename(folder)  # run and dataset together: the relative path still holds
        loaded = Recommender.load(folder / "run", verify=True)
        loaded.add_items([100], features_of(data, 0))
        assert loaded.n_items == 51


def broken(run: Path, dataset: Path) -> None:
    path = dataset / "features" / "text.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    ("harm", "facts"),
    [
        (lambda run, dataset: dataset.rename(run.parent / "elsewhere"), ["Recommender.load(run, features=FOLDER)"]),
        (lambda run, dataset: (dataset / "features" / "text.npy").unlink(), ["features/text.npy"]),
        (
            lambda run, dataset: (dataset / "features" / "text.npy").write_bytes(b"x"),
            ["features/text.npy", "1 byte", "1,728"],
        ),
        (broken, ["features/text.npy", "checksum"]),
    ],
)
def test_a_run_serves_without_its_features_and_says_when_it_needs_them(data, tmp_path, harm, facts):
    data.save(tmp_path / "data")
    run = untrained(Dataset.load(tmp_path / "data")).save(tmp_path / "run")
    harm(run, tmp_path / "data")
    loaded = Recommender.load(run, verify=True)
    assert loaded.recommend(0, k=5).height == 5
    with assert_error(RunFolderError, mentions=[run, *facts]):
        loaded.add_items([100], features_of(data, 0))
    data.save(tmp_path / "copy")
    found = Recommender.load(run, features=tmp_path / "copy")
    found.add_items([100], features_of(data, 0))
    assert found.n_items == 51


def test_without_items_is_the_rest_and_nothing_is_lost(data):
    rest, rows, features = hold_out_items(data, [7, 3])
    assert rows["item"].to_list() == [7, 3] and rest.n_items == 48
    assert np.array_equal(features["text"].values, data.features["text"].values[[7, 3]])
    whole = data.frame("train").filter(~pl.col("item").is_in([3, 7]))
    assert_frame_equal(rest.frame("train"), whole)
    row = rest.items.row(8)
    assert np.array_equal(rest.features["text"].values[row], data.features["text"].values[8])


def test_new_ids_that_differ_by_zeros_are_warned_of(caplog):
    known = IdMap(["00012", "00013", "x"], "item")
    table = pl.DataFrame({"item": known.series})
    assert new_table(["12", "14", "0x", "013"], known, table)["item"].to_list() == ["12", "14", "0x", "013"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert_mentions(said[0], ["'12' and '00012'", "'013' and '00013'"])
    assert "'14'" not in said[0] and "'0x'" not in said[0]
    caplog.clear()
    new_table(["15"], known, table)
    new_table([112], IdMap([12], "item"), pl.DataFrame({"item": [12]}))
    assert not caplog.records


@pytest.fixture(scope="module")
def synthetic() -> Dataset:
    return make_synthetic_dataset(120, 60, 1500, {"text": 8}, groups=4, noise=0.3, seed=2)


def test_each_is_recommended_what_a_new_user_with_the_same_likes_is(synthetic):
    config = LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=5, loss="softmax")
    training = TrainConfig(epochs=15, batch_size=512, learning_rate=0.02)
    known = lirdrec.fit(synthetic, config, training, progress=False, cache=False)
    new = as_new_users(known)
    for user in known.users.series.to_list()[:10]:
        unknown = known.recommend_for_history(known.liked(user), k=5)["item"].to_list()
        assert new.recommend(user, k=5)["item"].to_list() == unknown
    own = known.scorer.user_vectors.clone()
    popularity = lirdrec.fit(synthetic, PopularityConfig(), progress=False, cache=False)
    before, after, popular = (lirdrec.evaluate(fitted, synthetic)["recall@20"] for fitted in (known, new, popularity))
    assert after > 0.9 * before > popular
    assert torch.equal(known.scorer.user_vectors, own) and not torch.equal(new.scorer.user_vectors, own)


def test_models_without_vectors_know_users_by_their_likes_anyway(synthetic):
    knn = lirdrec.fit(synthetic, ItemKNNConfig(), progress=False, cache=False)
    assert as_new_users(knn) is knn


def test_a_model_that_cannot_says_so(synthetic):
    fitted = lirdrec.fit(synthetic, MFConfig(embedding_size=8), TrainConfig(epochs=1), progress=False, cache=False)
    with assert_error(CapabilityError, mentions=["users"]):
        as_new_users(fitted)


def test_title_is_the_title_column_of_another_name():
    catalog, table = IdMap([1], "item"), pl.DataFrame({"item": [1], "product_name": ["cup"]})
    for column in ("title", "product_name"):
        rows = new_table(pl.DataFrame({"item": [2], column: ["pan"]}), catalog, table)
        assert rows.to_dicts() == [{"item": 2, "product_name": "pan"}]
