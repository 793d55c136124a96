"""Weights of interactions: columns, kinds of events, decay with time, dislikes, and what is stored."""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data import Dataset
from lirdrec.data.cold_start import draw_launch, hold_out_items, with_launched_items
from lirdrec.data.column_names import SPLITS
from lirdrec.data.dataset_base import Interactions
from lirdrec.data.readers import read_raw
from lirdrec.data.summary import summarize
from lirdrec.errors import ConfigError, DataError
from lirdrec.recommender.refit_settings import merge_splits

from ..helpers import assert_error

EVENTS = {"view": 1, "cart": 3, "buy": 5, "return": -6}
LOG = pl.DataFrame(
    {
        "user": [1, 1, 1, 2, 2, 2, 2],
        "item": ["a", "b", "a", "a", "b", "c", "b"],
        "kind": ["view", "buy", "cart", "view", "buy", "cart", "return"],
        "share": ["1", "2", "1", "0.5", "1", "4", "1"],
        "day": ["2024-01-01", "2024-01-11", "2024-01-11", "2024-01-21", "2024-01-11", "2024-01-31", "2024-01-11"],
    }
)


def weights_of(interactions, dataset):
    """(user id, item id) -> weight."""
    users, items = (
        series.gather(rows).to_list()
        for series, rows in (
            (dataset.users.series, interactions.users),
            (dataset.items.series, interactions.items),
        )
    )
    return dict(zip(zip(users, items, strict=True), interactions.weights.tolist(), strict=True))


def from_log(frame=LOG, **options):
    return Dataset.from_frames(frame, **{"split": "none", **options})


def test_the_weights_of_a_repeated_pair_are_added_up_and_its_sum_decides_whether_it_is_liked():
    dataset = from_log(event="kind", event_weights=EVENTS)
    assert weights_of(dataset.train, dataset) == {(1, "a"): 4, (1, "b"): 5, (2, "a"): 1, (2, "c"): 3}
    assert weights_of(dataset.dislikes, dataset) == {(2, "b"): -1}
    assert dataset.train.weights.dtype == np.float32
    assert dataset.frame()["weight"].to_list() == dataset.train.weights.tolist()


def test_column_event_and_age_are_multiplied():
    dataset = from_log(event="kind", event_weights=EVENTS, weight="share", timestamp="day", half_life=10)
    expected = {(1, "a"): 1 / 8 + 3 / 4, (1, "b"): 10 / 4, (2, "a"): 0.5 / 2, (2, "c"): 12}
    assert weights_of(dataset.train, dataset) == pytest.approx(expected)
    assert weights_of(dataset.dislikes, dataset) == pytest.approx({(2, "b"): -1 / 4})


@pytest.mark.parametrize("scale", [1, 1000, 10**6], ids=["seconds", "milliseconds", "microseconds"])
@pytest.mark.parametrize("kind", [pl.Int64, pl.String], ids=["numbers", "texts"])
def test_integers_are_times_in_the_unit_of_their_size(scale, kind):
    days = pl.Series("day", [19_700, 19_710, 19_730]) * 86_400 * scale
    frame = pl.DataFrame({"user": [1, 1, 1], "item": ["a", "b", "c"]}).with_columns(days.cast(kind))
    dataset = from_log(frame, timestamp="day", half_life=10)
    assert weights_of(dataset.train, dataset) == {(1, "a"): 1 / 8, (1, "b"): 1 / 4, (1, "c"): 1}


def test_a_like_of_long_ago_is_no_dislike():
    frame = pl.DataFrame({"user": [1, 1], "item": ["a", "b"], "day": ["1985-01-01", "2024-01-01"]})
    dataset = from_log(frame, timestamp="day", half_life=1)
    assert weights_of(dataset.train, dataset) == pytest.approx({(1, "a"): 2**-20, (1, "b"): 1})
    assert dataset.dislikes is None


def test_integers_that_are_no_times_are_refused():
    frame = pl.DataFrame({"user": [1, 1], "item": ["a", "b"], "place": [1, 2]})
    with assert_error(DataError, mentions=["place", "2"]):
        from_log(frame, timestamp="place", half_life=3)


def test_an_event_without_a_weight_is_an_error_that_lists_the_events():
    with assert_error(DataError, mentions=["'buy'", "view", "cart", "return", "kind", "event_weights", "row 1"]):
        from_log(event="kind", event_weights={"view": 1, "cart": 2})
    dataset = from_log(event="kind", event_weights=EVENTS | {"view": 0})
    assert weights_of(dataset.train, dataset) == {(1, "a"): 3, (1, "b"): 5, (2, "c"): 3}
    assert dataset.info["preparation"]["rows_of_ignored_events"] == 2


def test_events_of_rows_that_other_filters_remove_need_no_weight():
    dataset = from_log(event="kind", event_weights={"buy": 5, "cart": 3}, only={"kind": ["buy", "cart"]})
    assert weights_of(dataset.train, dataset) == {(1, "a"): 3, (1, "b"): 5, (2, "b"): 5, (2, "c"): 3}


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        ({"event": "kind"}, ["event_weights"]),
        ({"event_weights": {"view": 1}}, ["event"]),
        ({"event": "kind", "event_weights": {"view": float("nan")}}, ["view", "nan"]),
        ({"half_life": 3}, ["timestamp"]),
        ({"half_life": 0, "timestamp": "day"}, ["0"]),
    ],
)
def test_options_that_say_nothing_are_refused(options, mentions):
    with assert_error(ConfigError, mentions=mentions):
        from_log(**options)


@pytest.mark.parametrize(("value", "mentions"), [("x", ["'x'"]), (None, []), ("inf", ["inf"]), ("1e30", ["1e+30"])])
def test_a_weight_that_is_no_number_is_an_error_with_its_row(value, mentions):
    frame = LOG.with_columns(share=pl.Series([*LOG["share"][:6], value]))
    with assert_error(DataError, mentions=["share", "row 6", *mentions]):
        from_log(frame, weight="share")
    if value in ("x", None):
        dataset = from_log(frame, weight="share", bad_rows="skip")
        assert dataset.info["preparation"]["bad_rows_skipped"] == 1


def test_only_dislikes_are_no_dataset():
    with assert_error(DataError, mentions=["weight", "5"]):
        from_log(LOG.with_columns(share=pl.lit("-1")), weight="share")


def test_dislikes_follow_their_users_and_items_through_the_core():
    frame = pl.DataFrame(
        {
            "user": [1, 1, 2, 2, 3, 1, 2, 3],
            "item": ["a", "b", "a", "b", "c", "c", "d", "a"],
            "w": [1, 1, 1, 1, 1, -1, 0, -2],
        }
    )
    dataset = from_log(frame.with_columns(w=pl.col("w").cast(pl.Float64)), weight="w", k_core=2)
    assert (dataset.n_users, dataset.n_items, dataset.dislikes) == (2, 2, None)
    dataset = from_log(frame, weight="w")
    assert weights_of(dataset.dislikes, dataset) == {(1, "c"): -1, (3, "a"): -2}  # d is liked by nobody


def test_a_folder_keeps_weights_and_dislikes(tmp_path):
    dataset = from_log(event="kind", event_weights=EVENTS, timestamp="day")
    loaded = Dataset.load(dataset.save(tmp_path / "dataset"))
    assert loaded.frame().equals(dataset.frame())
    assert weights_of(loaded.dislikes, loaded) == weights_of(dataset.dislikes, dataset)
    assert loaded.dislikes.timestamps.tolist() == dataset.dislikes.timestamps.tolist()
    assert loaded.info == dataset.info


def test_without_weights_the_folder_has_no_column_of_them(tmp_path):
    for number, options in enumerate(({}, {"timestamp": "day"})):
        dataset = Dataset.from_frames(LOG, split="none", **options)
        folder = dataset.save(tmp_path / str(number))
        table = pl.read_parquet(folder / "interactions.parquet")
        assert table.columns == ["user", "item", *options, "split"]
        assert Dataset.load(folder).train.weights is None
        assert dataset.dislikes is None


def test_every_split_keeps_the_weight_of_each_pair(tmp_path):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user": np.repeat(np.arange(20), 10), "item": np.tile(np.arange(10), 20)})
    frame = frame.with_columns(w=pl.Series(rng.integers(0, 50, 200) / 4))
    expected = {(user, item): weight for user, item, weight in frame.iter_rows() if weight > 0}

    def all_weights(dataset):
        splits = [weights_of(dataset.split(name), dataset) for name in SPLITS if len(dataset.split(name))]
        return {pair: weight for split in splits for pair, weight in split.items()}

    dataset = Dataset.from_frames(frame, weight="w", seed=3)
    assert all_weights(dataset) == expected
    assert all_weights(dataset.resplit("random", seed=4)) == expected
    assert all_weights(merge_splits(dataset)) == expected
    rest, _, _ = hold_out_items(dataset, [3])
    assert all_weights(rest) == {pair: weight for pair, weight in expected.items() if pair[1] != 3}
    assert set(weights_of(rest.dislikes, rest)) == {
        pair for pair in weights_of(dataset.dislikes, dataset) if pair[1] != 3
    }
    drawn = draw_launch(dataset, seed=1)

    def of_items(data):
        return {pair: weight for pair, weight in expected.items() if pair[1] in data.items.series.to_list()}

    assert all_weights(drawn.dataset) == of_items(drawn.dataset)
    launched = drawn.test.take(np.arange(len(drawn.test.users)))
    assert all_weights(with_launched_items(drawn.dataset, launched)) == of_items(
        with_launched_items(drawn.dataset, drawn.test)
    )


def test_a_dataset_refuses_pairs_of_weight_zero_and_disliked_positives():
    dataset = from_log(event="kind", event_weights=EVENTS)
    users, items = dataset.train.users, dataset.train.items
    with assert_error(DataError, mentions=["0"]):
        Dataset("bad", dataset.users, dataset.items, Interactions(users, items, None, [0, 1, 1, 1]), *_empty())
    with assert_error(DataError, mentions=[1, "a", "dislike"]):
        Dataset("bad", dataset.users, dataset.items, dataset.train, *_empty(), dislikes=dataset.train.take([0]))
    with assert_error(DataError, mentions=[4]):
        Interactions(users, items, None, [1.0, 2.0])


def _empty():
    nothing = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))
    return nothing, nothing


def test_files_of_any_kind_have_weights(tmp_path):
    text = LOG.with_columns(share=pl.col("share").str.replace(".", ",", literal=True))
    text.write_csv(tmp_path / "log.csv", separator=";")
    LOG.select("user", "item", "share").write_csv(tmp_path / "log.tsv", separator="\t")
    LOG.with_columns(pl.col("share").cast(pl.Float32)).write_parquet(tmp_path / "log.parquet")
    LOG.write_ndjson(tmp_path / "log.jsonl")
    expected = {(1, "a"): 2, (1, "b"): 2, (2, "a"): 0.5, (2, "b"): 2, (2, "c"): 4}
    for name in ("log.csv", "log.tsv", "log.parquet", "log.jsonl"):
        dataset = read_raw(tmp_path / name, weight="share", split="none")
        assert weights_of(dataset.train, dataset) == expected, name
    parts = {"train": LOG[:4], "test": LOG[4:6]}
    for name, part in parts.items():
        part.write_csv(tmp_path / f"{name}.csv")
    files = {name: tmp_path / f"{name}.csv" for name in parts}
    dataset = read_raw(**files, event="kind", event_weights=EVENTS)
    assert weights_of(dataset.train, dataset) == {(1, "a"): 4, (1, "b"): 5, (2, "a"): 1}
    assert weights_of(dataset.test, dataset) == {(2, "b"): 5, (2, "c"): 3}


def test_entries_of_a_matrix_can_be_weights():
    dataset = Dataset.from_sparse(np.array([[2.0, 0, 0.5], [-1, 3, 0]]), weight="rating", split="none")
    assert weights_of(dataset.train, dataset) == {(0, 0): 2, (0, 2): 0.5, (1, 1): 3}
    assert weights_of(dataset.dislikes, dataset) == {(1, 0): -1}


def test_the_order_of_rows_does_not_matter(tmp_path):
    digests = set()
    for seed in range(3):
        options = {"event": "kind", "event_weights": EVENTS, "timestamp": "day", "half_life": 7, "split": "none"}
        dataset = Dataset.from_frames(LOG.sample(fraction=1, shuffle=True, seed=seed), **options)
        dataset.save(tmp_path / str(seed))
        table = pl.read_parquet(tmp_path / str(seed) / "interactions.parquet")
        digests.add(hashlib.sha256(table.with_columns(pl.col("weight").round(4)).write_csv().encode()).hexdigest())
    assert len(digests) == 1


def test_the_summary_has_weights():
    summary = summarize(from_log(event="kind", event_weights=EVENTS))
    assert summary["weights"] == {"min": 1, "median": 3.5, "mean": 3.25, "max": 5}
    assert summary["dislikes"] == 1
    assert summarize(from_log())["weights"] is None


def test_the_worked_example_of_the_page_is_true(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.split("For example, `log.csv`:\n\n```\n")[1].split("```")[0]
    (tmp_path / "log.csv").write_text(table + "bob,sofa,buy,2024-05-31\n")
    weights = {"view": 1, "cart": 3, "buy": 5, "return": -6}
    options = {"event": "kind", "event_weights": weights, "timestamp": "time", "half_life": 30, "split": "none"}
    dataset = read_raw(tmp_path / "log.csv", **options)
    assert weights_of(dataset.train, dataset) == {("ann", "lamp"): 3.5, ("ann", "desk"): 5, ("bob", "sofa"): 5}
    assert weights_of(dataset.dislikes, dataset) == pytest.approx({("ann", "sofa"): -0.79}, abs=0.005)
    alone = read_raw(_written(tmp_path / "alone.csv", table), **options)
    assert alone.dislikes is None


def _written(path, text):
    path.write_text(text)
    return path
