"""Folders of MMRec: interactions, features, item tables, and their faults."""

import numpy as np
import pytest

from lirdrec.data.readers import read_any, read_mmrec
from lirdrec.data.schema import SPLITS
from lirdrec.errors import ConfigError, DataError

from ..helpers import assert_error

INTER = "userID\titemID\tx_label\n4\t0\t0\n4\t2\t1\n4\t1\t2\n7\t2\t0\n7\t2\t0\n"


@pytest.fixture
def mmrec(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.inter").write_text(INTER)
    np.save(folder / "image_feat.npy", np.array([[1, 2], [0, 0], [3, 4], [5, 6]], dtype=np.float32))
    np.save(folder / "smell_feat.npy", np.ones((4, 3), dtype=np.float16))
    (folder / "items.tsv").write_text('itemID\ttitle\n2\ttwo "2"\n0\tnought\n')
    return folder


def test_mmrec_times_are_kept(mmrec):
    lines = INTER.splitlines()
    text = "\n".join(["\t".join([lines[0], "timestamp"]), *(f"{line}\t{50 - n}" for n, line in enumerate(lines[1:]))])
    (mmrec / "shop.inter").write_text(text)
    assert read_any(mmrec).frame("train").rows() == [(4, 0, 50), (7, 2, 46)]


def test_mmrec_folders(mmrec):
    dataset = read_any(mmrec)
    assert dataset.users.ids.tolist() == [4, 7]
    assert dataset.items.ids.tolist() == [0, 1, 2, 3]
    assert [dataset.frame(name).rows() for name in SPLITS] == [[(4, 0), (7, 2)], [(4, 2)], [(4, 1)]]
    assert list(dataset.features) == ["image", "smell"]
    assert dataset.features["image"].present.tolist() == [True, False, True, True]
    assert dataset.item_table.rows() == [(0, "nought"), (1, None), (2, 'two "2"'), (3, None)]
    assert dataset.info["preparation"] == {"repeated_pairs": 1}
    assert isinstance(dataset.features["smell"].values, np.memmap)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda f: (f / "shop.inter").unlink(), ["manifest.json", "MMRec", "RecBole", ".inter"]),
        (lambda f: (f / "b.inter").write_text(INTER), ["b.inter, shop.inter"]),
        (
            lambda f: (f / "shop.inter").write_text(INTER.replace("x_label", "label")),
            ["shop.inter", "'x_label'", "userID, itemID, label", "'label'"],
        ),
        (
            lambda f: (f / "shop.inter").write_text(INTER + "9\t9\t0\n"),
            ["image_feat.npy", "4 rows", "1 item", "9"],
        ),
        (lambda f: (f / "shop.inter").write_text(INTER + "9\tx\t0\n"), ["shop.inter", "'x'", "line 7"]),
        (lambda f: (f / "shop.inter").write_text(INTER + "9\t1\t3\n"), ["shop.inter", "'3'", "line 7", "0, 1, 2"]),
        (lambda f: (f / "shop.inter").write_text(INTER + "9\t1\t"), ["shop.inter", "line 7"]),
        (
            lambda f: np.save(f / "smell_feat.npy", np.ones((3, 3))),
            ["image_feat.npy 4", "smell_feat.npy 3"],
        ),
        (
            lambda f: np.save(f / "smell_feat.npy", np.full((4, 3), np.nan)),
            ["smell_feat.npy", "NaN", "4 rows", "0, 1, 2, 3"],
        ),
        (lambda f: (f / "smell_feat.npy").unlink(), ["1 of 4 items", "without_features='drop'"]),
        (lambda f: (f / "items.tsv").write_text("id\ttitle\n1\tx\n"), ["items.tsv", "'itemID'", "id, title"]),
        (lambda f: (f / "items.tsv").write_text("itemID\ta\n1\tx\n1\ty\n"), ["items.tsv", "item id 1"]),
        (lambda f: (f / "shop.inter").write_text(INTER + "4\t0\t2\n"), ["user 4", "item 0", "train", "test"]),
    ],
)
def test_mmrec_folders_that_do_not_fit_together(mmrec, change, facts):
    change(mmrec)
    with assert_error(DataError, mentions=facts) as caught:
        read_any(mmrec)
    assert "\n" not in str(caught.value)


def test_bad_rows_of_mmrec(mmrec):
    (mmrec / "shop.inter").write_text(INTER + "\t1\t0\n9\t1\t3\n9\t1\n9\t3\t0\n")
    with assert_error(DataError, mentions=["shop.inter", "line 9"]):
        read_mmrec(mmrec)
    dataset = read_mmrec(mmrec, bad_rows="skip")
    assert dataset.frame("train").rows() == [(4, 0), (7, 2), (9, 3)]
    assert dataset.info["preparation"] == {"rows": 9, "bad_rows_skipped": 3, "repeated_pairs": 1}
    with assert_error(ConfigError, mentions=["bad_rows", "drop"]):
        read_mmrec(mmrec, bad_rows="drop")
