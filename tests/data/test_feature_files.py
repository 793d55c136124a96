"""Feature files of every kind: ids and values, and every fault gets one sentence."""

import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lirdrec.data.readers import read_features
from lirdrec.errors import DataError, LirdrecError

from ..helpers import assert_error, assert_mentions


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


IDS = np.array([5, 3, 9])
X = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "list", "array"])
def test_feature_files_with_ids(tmp_path, kind):
    if kind == "npz":
        path = write_npz(tmp_path / "f.npz", movieId=IDS, x=X)
    elif kind == "safetensors":
        save_file({"ids": IDS, "matrix": X}, path := tmp_path / "f.safetensors")
    else:
        vectors = pl.Series(X.tolist() if kind == "list" else X)
        path = tmp_path / "f.parquet"
        pl.DataFrame({"movie": IDS, "vector": vectors}).write_parquet(path)
    found = read_features(path)
    assert found.ids.to_list() == [5, 3, 9]
    np.testing.assert_array_equal(found.values, X)


def test_feature_files_without_ids(tmp_path):
    np.save(tmp_path / "f.npy", X.astype(np.float64))
    save_file({"anything": X.astype(np.float16)}, tmp_path / "f.safetensors")
    for name, kind in (("f.npy", np.float32), ("f.safetensors", np.float16)):
        found = read_features(tmp_path / name)
        assert found.ids is None and found.values.dtype == kind
        np.testing.assert_array_equal(found.values, X)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def npy(array):
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


PICKLED = ["pickle", "numpy.save"]
BAD_FEATURES = {
    "pickle.npy": (lambda p: p.write_bytes(pickle.dumps(Evil())), PICKLED),
    "object.npy": (lambda p: p.write_bytes(npy(np.array([Evil(), None], dtype=object))), PICKLED),
    "object.npz": (
        lambda p: np.savez(p, v=X, sku=np.array(["a", "b", "c"], dtype=object)),
        ["'sku'", "pickle", "numpy.savez(FILE, sku=numpy.asarray(ids, dtype=str), …)"],
    ),
    "short.npy": (lambda p: p.write_bytes(npy(X)[:-5]), []),
    "header.npy": (lambda p: p.write_bytes(npy(X)[:20]), []),
    "short.npz": (lambda p: (np.savez(p, x=X), p.write_bytes(p.read_bytes()[:-40])), []),
    "text.npy": (lambda p: p.write_text("1 2 3"), ["pickle"]),
    "empty.npy": (lambda p: p.write_bytes(b""), []),
    "empty.parquet": (lambda p: p.write_bytes(b""), []),
    "flat.npy": (lambda p: np.save(p, X[0]), ["(4,)"]),
    "words.npy": (lambda p: np.save(p, np.array([["a"]])), ["<U1"]),
    "two.npz": (lambda p: np.savez(p, a=X, b=X), ["a float32[3, 4], b float32[3, 4]"]),
    "lists.npz": (
        lambda p: np.savez(p, x=X, a=IDS, b=IDS),
        ["ids", "x float32[3, 4], a int64[3], b int64[3]"],
    ),
    "count.npz": (lambda p: np.savez(p, x=X, ids=IDS[:2]), ["2 ids", "3 rows"]),
    "negative.npz": (
        lambda p: np.savez(p, x=X, ids=-IDS),
        ["'ids'", "item id -5", "row 0", "string_ids=True"],
    ),
    "short.safetensors": (
        lambda p: (save_file({"x": X}, p), p.write_bytes(p.read_bytes()[:-4])),
        ["safetensors"],
    ),
    "short.parquet": (
        lambda p: (pl.DataFrame({"id": IDS, "v": X}).write_parquet(p), p.write_bytes(p.read_bytes()[:-9])),
        ["Parquet"],
    ),
    "ragged.parquet": (
        lambda p: pl.DataFrame({"id": [1, 2], "v": [[1.0, 2.0], [3.0]]}).write_parquet(p),
        ["1 number", "2"],
    ),
    "holes.parquet": (
        lambda p: pl.DataFrame({"id": [1, 2], "v": [[1.0, 2.0], [3.0, None]]}).write_parquet(p),
        ["'v'"],
    ),
    "novector.parquet": (lambda p: pl.DataFrame({"id": [1, 2]}).write_parquet(p), ["'id'"]),
    "noids.parquet": (
        lambda p: pl.DataFrame({"a": [1], "b": [2], "v": [[1.0]]}).write_parquet(p),
        ["a, b, v", "ids"],
    ),
    "features.pt": (lambda p: p.write_bytes(b"x"), [".npy, .npz, .safetensors, .parquet, .csv", ".tsv", ".pt"]),
}


@pytest.mark.parametrize("name", BAD_FEATURES)
def test_bad_feature_files(tmp_path, name):
    make, facts = BAD_FEATURES[name]
    make(tmp_path / name)
    with assert_error(DataError, mentions=[tmp_path / name]) as caught:
        read_features(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert_mentions(str(caught.value).replace(str(tmp_path / name), ""), facts)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_feature_file_is_one_sentence_or_no_harm(tmp_path_factory, suffix, data):
    path = tmp_path_factory.mktemp("features") / f"f{suffix}"
    if suffix == ".npy":
        np.save(path, X)
    elif suffix == ".npz":
        np.savez_compressed(path, ids=IDS, x=X)
    elif suffix == ".safetensors":
        save_file({"ids": IDS, "x": X}, path)
    else:
        pl.DataFrame({"id": IDS, "v": X}).write_parquet(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] = data.draw(st.integers(0, 255))
    path.unlink()  # a new file, not the old one's pages: it may be mapped
    path.write_bytes(content)
    try:
        read_features(path)
    except LirdrecError as error:
        assert "\n" not in str(error) and str(path) in str(error)
