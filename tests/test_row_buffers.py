"""Tables that grow: equal to ones made at once, and older ones never change, whoever appends to what."""

from __future__ import annotations

import gc

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec import row_buffers
from lirdrec.data.frames import append_frame
from lirdrec.data.ids import FEW, IdMap
from lirdrec.errors import DataError
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorer_from_tensors import scorer_from_tensors
from lirdrec.row_buffers import append_rows

from .helpers import assert_error

STEPS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans())
def test_tables_appended_in_any_order_are_those_made_at_once(steps, is_tensor):
    """Each step appends to one of the tables so far, also twice to the same one."""
    first = np.arange(3.0).reshape(3, 1)
    tables = [torch.from_numpy(first) if is_tensor else first]
    truth = [first.tolist()]
    for number, (which, n) in enumerate(steps):
        rows = np.full((n, 1), 100.0 + number)
        grown = append_rows(tables[which % len(tables)], torch.from_numpy(rows) if is_tensor else rows)
        truth.append(truth[which % len(tables)] + rows.tolist())
        tables.append(grown)
        assert [one.tolist() for one in tables] == truth


def test_rows_are_copied_a_few_times_only():
    table, moves = torch.zeros(10, 2), 0
    for number in range(5000):
        grown = append_rows(table, torch.full((1, 2), float(number)))
        moves += len(table) if grown.data_ptr() != table.data_ptr() else 0
        table = grown
    assert table[10:, 0].tolist() == list(range(5000)) and moves < 12 * 5000


def test_nothing_is_kept_of_tables_that_are_gone():
    gc.collect()
    before = len(row_buffers._buffers)
    table = np.zeros(3)
    for _ in range(1000):
        table = append_rows(table, np.ones(1))
    assert len(row_buffers._buffers) == before + 1
    del table
    gc.collect()
    assert len(row_buffers._buffers) == before


def test_texts_and_other_types_keep_their_type():
    texts = append_rows(np.array(["a", "b"], dtype=object), np.array(["c"], dtype=object))
    assert texts.tolist() == ["a", "b", "c"] and texts.dtype == object
    flags = append_rows(torch.tensor([True]), torch.tensor([False]))
    assert flags.tolist() == [True, False] and flags.dtype == torch.bool


def test_a_frame_that_grows_lies_in_a_few_pieces():
    frame = whole = pl.DataFrame({"item": range(100), "title": [f"t{row}" for row in range(100)]})
    seen = []
    for number in range(2000):
        new = pl.DataFrame({"title": [f"n{number}"], "item": [100 + number]})
        frame, before = append_frame(frame, new), frame
        seen.append((before, before.height))
    whole = pl.concat([whole, pl.DataFrame({"item": range(100, 2100), "title": [f"n{n}" for n in range(2000)]})])
    assert frame.equals(whole) and frame.n_chunks() <= 12
    assert all(one.equals(whole.head(height)) for one, height in seen[::97])


def test_a_column_that_is_new_is_null_before():
    frame = append_frame(pl.DataFrame({"item": [1, 2], "a": ["x", "y"]}), pl.DataFrame({"item": [3], "b": [0.5]}))
    assert frame.to_dict(as_series=False) == {"item": [1, 2, 3], "a": ["x", "y", None], "b": [None, None, 0.5]}


@pytest.mark.parametrize("ids", [list(range(300)), [7 * n + 3 for n in range(300)], [f"i{n}" for n in range(300)]])
def test_ids_added_one_by_one_are_those_of_one_map(ids):
    grown = IdMap(ids[:100], "item")
    for index in range(100, 300):
        before, grown = grown, grown.extended(ids[index : index + 1])
        assert len(before) == index
    whole = IdMap(ids, "item")
    assert grown == whole and grown.ids.tolist() == whole.ids.tolist() and grown.is_integer is whole.is_integer
    strange = [*ids[95:105], "nobody", 10**9, ids[0]]
    for asked in ([one] for one in strange):
        assert grown.rows(asked).tolist() == whole.rows(asked).tolist()
    assert grown.rows(ids[::-1]).tolist() == list(range(300))[::-1]
    assert grown.rows(ids[: FEW + 1]).tolist() == list(range(FEW + 1))
    with assert_error(DataError, mentions=[ids[250]]):
        grown.extended([ids[250]])
    with pytest.raises(DataError):
        grown.extended(["text"] if grown.is_integer else [5])


def test_item_weights_that_grow_are_those_made_at_once():
    draw = torch.Generator().manual_seed(0)
    history = (torch.rand(20, 30, generator=draw) < 0.2).float().to_sparse_csr()
    neighbors = torch.stack([torch.randperm(30, generator=draw)[:4] for _ in range(40)])
    neighbors[::7, 2:] = -1
    similarity = torch.rand(40, 4, generator=draw)
    grown = [ItemWeightScorer.of_nearest(history, neighbors[:30], similarity[:30])]
    for index in range(30, 40):
        grown.append(grown[-1].with_items(neighbors[index : index + 1], similarity[index : index + 1]))
    other = grown[3].with_items(neighbors[33:40], similarity[33:40])  # from an older one, at once
    truth = torch.zeros(40, 40)
    for target, (rows, values) in enumerate(zip(neighbors.tolist(), similarity.tolist(), strict=True)):
        for row, value in zip(rows, values, strict=True):
            if row >= 0:
                truth[row, target] = value
    queries = grown[-1].queries(torch.arange(20))
    for one in (grown[-1], other):
        assert torch.equal(one.weights.to_dense(), truth)
        torch.testing.assert_close(one.scores(queries), queries @ truth)
        assert torch.equal(one.similar_items(torch.tensor([3, 35])), truth[[3, 35]])
        again = scorer_from_tensors(one.tensors(), one.settings())
        assert torch.equal(again.weights.to_dense(), truth)
    assert grown[5].n_items == 35 and torch.equal(grown[5].weights.to_dense(), truth[:35, :35])
