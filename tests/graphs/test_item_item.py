"""Neighbors, their fusion and their cache against brute force."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec.graphs.cache import NeighborSource
from lirdrec.graphs.item_item import fuse, nearest_among, nearest_items

from ..helpers import assert_mentions


def table(n: int, d: int, absent: list[int], seed: int = 0, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    # lengths from 1e-3 to 1e3: cosine must not see them
    values = torch.from_numpy(rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-3, 3, (n, 1))).to(dtype)
    present = torch.ones(n, dtype=torch.bool)
    present[absent] = False
    values[~present] = 0
    return values, present


def brute_force(values: torch.Tensor, present: torch.Tensor, k: int) -> list[list[int]]:
    v, there = values.double().numpy(), present.numpy()
    rows = []
    for i in range(len(v)):
        others = np.flatnonzero(there) if there[i] else []
        cosine = {int(j): v[i] @ v[j] / np.linalg.norm(v[i]) / np.linalg.norm(v[j]) for j in others}
        nearest = sorted(cosine, key=lambda j: -cosine[j])[:k]
        rows.append(nearest + [-1] * (min(k, len(v)) - len(nearest)))
    return rows


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 25),
    st.sampled_from([1, 2, 5, 40]),
    st.lists(st.integers(0, 24), max_size=10),
    st.sampled_from([1, 700, 2**28]),
    st.integers(0, 99),
)
def test_nearest_items_is_brute_force(n, k, absent, memory_limit, seed):
    values, present = table(n, 4, [row for row in absent if row < n], seed)
    found = nearest_items(values, present, k, memory_limit=memory_limit)
    assert found.tolist() == brute_force(values, present, k)


def test_float32_features_with_a_large_range():
    values, present = table(200, 16, [3, 77], dtype=torch.float32)
    assert nearest_items(values, present, 10, memory_limit=10_000).tolist() == brute_force(values, present, 10)


def test_an_item_is_its_own_nearest():
    values, present = table(50, 3, [7])
    nearest = nearest_items(values, present, 4)[:, 0]
    assert nearest[present].tolist() == [row for row in range(50) if row != 7]
    assert nearest[7] == -1


@pytest.mark.parametrize("cuts", [[], [1], [5, 6], [3, 3, 9]], ids=str)
def test_a_catalog_in_blocks_is_the_catalog(cuts):
    values, present = table(12, 4, [2, 9])
    blocks = list(zip(values.tensor_split(cuts), present.tensor_split(cuts), strict=True))
    blocks = [block for block in blocks if len(block[0])]
    found = nearest_among(values[4:], present[4:], blocks, 5, memory_limit=300)
    assert found.tolist() == brute_force(values, present, 5)[4:]


def test_progress_counts_the_rows_that_have_features():
    values, present = table(10, 3, [0, 4])
    calls = []
    nearest_items(values, present, 2, memory_limit=10 * 8 * 2 * 3, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(3, 8), (6, 8), (8, 8)]


def test_fusion_by_hand():
    """Four items, two modalities; item 2 lacks the image, item 3 the text."""
    neighbors = {
        "image": torch.tensor([[0, 1], [1, 0], [-1, -1], [3, 0]]),
        "text": torch.tensor([[0, 2], [1, 2], [2, 1], [-1, -1]]),
    }
    s = fuse(neighbors, {"image": 0.25, "text": 0.75}, 4, torch.float64)
    half_image, half_text = 0.125, 0.375
    expected = [
        [half_image + half_text, half_image, half_text, 0],
        [half_image, half_image + half_text, half_text, 0],
        [0, 0.5, 0.5, 0],  # 0.75 / 2, rescaled by 1 / 0.75
        [0.5, 0, 0, 0.5],  # 0.25 / 2, rescaled by 1 / 0.25
    ]
    torch.testing.assert_close(s.dense(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(s.row_sums(), torch.ones(4, dtype=torch.float64))
    twice = fuse(neighbors, {"image": 0.5, "text": 1.5}, 4, torch.float64)  # weights need not sum to one
    torch.testing.assert_close(twice.dense(), 2 * s.dense())


def test_fusion_with_fewer_items_than_neighbors():
    values, present = table(3, 2, [])
    s = fuse({"text": nearest_items(values, present, 10)}, {"text": 1.0}, 3, torch.float64)
    torch.testing.assert_close(s.dense(), torch.full((3, 3), 1 / 3, dtype=torch.float64))


def test_an_item_without_any_neighbor_has_an_empty_row():
    s = fuse({"text": torch.tensor([[0, 1], [1, 0], [-1, -1]])}, {"text": 1.0}, 3)
    assert s.dense()[2].tolist() == [0, 0, 0]
    assert s.dense()[:, 2].tolist() == [0, 0, 0]


class TestCache:
    def source(self, folder, seed: int = 0, absent: tuple[int, ...] = (1,)) -> NeighborSource:
        return NeighborSource({"text": table(20, 4, list(absent), seed)}, folder)

    def test_the_second_source_reads_what_the_first_wrote(self, tmp_path, monkeypatch):
        folder = tmp_path / "not" / "yet"
        first = self.source(folder)("text", 3)
        assert len(list(folder.iterdir())) == 1
        monkeypatch.setattr("lirdrec.graphs.cache.nearest_items", lambda *_, **__: pytest.fail("built again"))
        assert torch.equal(self.source(folder)("text", 3), first)

    def test_the_same_source_asks_once(self, tmp_path, monkeypatch):
        source = self.source(None)
        first = source("text", 3)
        monkeypatch.setattr("lirdrec.graphs.cache.nearest_items", lambda *_, **__: pytest.fail("built again"))
        assert source("text", 3) is first

    def test_other_features_another_mask_and_another_k_are_other_files(self, tmp_path):
        self.source(tmp_path)("text", 3)
        self.source(tmp_path, seed=1)("text", 3)
        self.source(tmp_path, absent=(2,))("text", 3)
        self.source(tmp_path)("text", 4)
        assert len(list(tmp_path.iterdir())) == 4
        values, present = table(20, 4, [1])
        NeighborSource({"text": (values.float(), present)}, tmp_path)("text", 3)
        changed = values.clone()
        changed[19, 3] = torch.nextafter(changed[19, 3], torch.tensor(9.0).double())  # one bit of one number
        NeighborSource({"text": (changed, present)}, tmp_path)("text", 3)
        assert len(list(tmp_path.iterdir())) == 6

    def test_the_same_features_under_another_name_are_the_same_file(self, tmp_path):
        self.source(tmp_path)("text", 3)
        NeighborSource({"title": table(20, 4, [1])}, tmp_path)("title", 3)
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("damage", ["empty", "cut", "text", "zip", "shape", "range", "floats", "object", "huge"])
    def test_a_damaged_or_foreign_file_is_computed_again(self, tmp_path, damage):
        expected = self.source(tmp_path)("text", 3)
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        if damage == "empty":
            file.write_bytes(b"")
        elif damage == "cut":
            file.write_bytes(whole[:-5])
        elif damage == "text":
            file.write_text("neighbors")
        elif damage == "zip":
            np.savez(file.with_suffix(".npz"), table=expected)
            os.replace(file.with_suffix(".npz"), file)
        elif damage == "shape":
            np.save(file, expected.numpy()[:, :2])
        elif damage == "range":
            np.save(file, expected.numpy() + 1)
        elif damage == "floats":
            np.save(file, expected.numpy().astype(float))
        elif damage == "object":
            np.save(file, expected.numpy().astype(object), allow_pickle=True)
        elif damage == "huge":
            file.write_bytes(whole.replace(b"(20, 3), }            ", b"(20000000000000, 300)}"))
        assert file.read_bytes() != whole
        assert torch.equal(self.source(tmp_path)("text", 3), expected)
        assert file.read_bytes() == whole
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_flipped_bit_is_noticed_wherever_it_is(self, tmp_path, caplog):
        """Also one that makes another neighbor of a neighbor, which no check of ranges finds."""
        expected = self.source(tmp_path)("text", 3)
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        for index in [*range(0, len(whole), 7), 128, 136, len(whole) - 1]:
            content = bytearray(whole)
            content[index] ^= 1
            file.write_bytes(content)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                assert torch.equal(self.source(tmp_path)("text", 3), expected)
            (remark,) = caplog.records
            assert str(file) in remark.getMessage()
            assert file.read_bytes() == whole
        caplog.clear()
        self.source(tmp_path)("text", 3)
        self.source(tmp_path)("text", 4)  # not there yet: nothing to remark
        assert caplog.records == []

    def test_a_folder_that_cannot_be_written_only_warns(self, tmp_path, caplog):
        blocking_file = tmp_path / "file"
        blocking_file.write_text("")
        with caplog.at_level(logging.WARNING):
            found = self.source(blocking_file / "cache")("text", 3)
        assert torch.equal(found, self.source(None)("text", 3))
        assert_mentions(caplog.text, [blocking_file / "cache"])

    def test_a_full_disk_leaves_no_temporary_file(self, tmp_path, caplog, monkeypatch):
        def full(file, table):
            file.write(b"some bytes")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("numpy.save", full)
        found = self.source(tmp_path)("text", 3)
        assert torch.equal(found, self.source(None)("text", 3))
        assert list(tmp_path.iterdir()) == []
        assert_mentions(caplog.text, ["No space left on device"])


def test_an_item_is_its_own_first_neighbor_among_exact_copies():
    values = torch.ones(12, 3) * torch.arange(1, 13)[:, None]  # twelve items of one direction
    found = nearest_items(values, torch.ones(12, dtype=torch.bool), 4, memory_limit=200)
    assert found[:, 0].tolist() == list(range(12))
