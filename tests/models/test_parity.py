"""LIRDRec against numbers of the released code: graphs, forward, loss, every gradient, parameters after training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lirdrec.graphs.item_item import fuse, nearest_items
from lirdrec.graphs.sparse_matrix import SparseMatrix
from lirdrec.graphs.user_item import UserItemGraph
from lirdrec.models.base import Features, ModelInputs
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec.nn.dct import dct, idct

ARRAYS = Path(__file__).parent / "parity" / "arrays.npz"
CONFIG = LIRDRecConfig(
    embedding_size=16, n_layers=2, n_neighbors=5, modality_weights={"image": 0.1, "text": 0.9}, regularization=0.01
)
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5}
DTYPES = [torch.float64, torch.float32]


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(ARRAYS, allow_pickle=False) as arrays:
        return {key.removeprefix(f"{name}/"): arrays[key] for key in arrays.files if key.startswith(f"{name}/")}


def close(ours, theirs, dtype: torch.dtype, what: str) -> None:
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape, what
    difference = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12)
    assert difference < TOLERANCE[dtype], f"{what}: off by {difference:.2e}"


def model(dtype: torch.dtype) -> LIRDRec:
    data = load("inputs")
    edges = torch.from_numpy(data["train_edges"])
    features = {
        "image": Features(torch.from_numpy(data["v_feat"]).to(dtype), torch.ones(40, dtype=torch.bool)),
        "text": Features(torch.from_numpy(data["t_feat"]).to(dtype), torch.ones(40, dtype=torch.bool)),
    }

    def neighbors(name: str, k: int) -> torch.Tensor:
        return nearest_items(features[name].values, features[name].present, k)

    lirdrec = LIRDRec(ModelInputs(50, 40, edges[:, 0], edges[:, 1], features, neighbors), CONFIG)
    copy_parameters(lirdrec, load("params_init"), dtype)
    if dtype == torch.float64:  # the fixture keeps the graphs' float32 values also in float64
        widen_graphs(lirdrec, data)
    return lirdrec


def widen_graphs(lirdrec: LIRDRec, data: dict[str, np.ndarray]) -> None:
    row, column, value = (torch.from_numpy(data[f"norm_adj_{part}"]) for part in ("row", "col", "val"))
    upper = row < 50
    lirdrec.user_item.matrix = SparseMatrix(row[upper], column[upper] - 50, value[upper].double(), (50, 40))
    row, column, value = (torch.from_numpy(data[f"mm_adj_{part}"]) for part in ("row", "col", "val"))
    lirdrec.item_item = SparseMatrix(row, column, value.double(), (40, 40))


# the released code's names of our (possibly fused) parameters
ATTENTION = [f"fusion_module.weco_{letter}" for letter in "abc"]


def ours_from_theirs(theirs: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    t = {k.removeprefix(prefix): v for k, v in theirs.items() if k.startswith(prefix)}
    s_weight = t["s_MLP.weight"]
    return {
        "user_embedding": np.stack([t["v_preference"], t["t_preference"], t["id_preference"]], axis=1),
        "hidden_weight.0": t["v_MLP.weight"],
        "hidden_weight.1": t["t_MLP.weight"],
        "shared_weight.0": s_weight[:, :12],
        "shared_weight.1": s_weight[:, 12:],
        "hidden_bias": np.stack([t[f"{b}_MLP.bias"] for b in "vts"]),
        "output_weight": np.stack([t[f"{b}_MLP_1.weight"] for b in "vts"]),
        "attention_weight": np.stack([t[f"{a}.fc1.weight"] for a in ATTENTION]),
        "attention_bias": np.stack([t[f"{a}.fc1.bias"] for a in ATTENTION]),
        "attention_vector": np.stack([t[f"{a}.fc2.weight"][0] for a in ATTENTION]),
        "attention_offset": np.concatenate([t[f"{a}.fc2.bias"] for a in ATTENTION]),
        "theta": t["fusion_module.theta"],
    }


def copy_parameters(lirdrec: LIRDRec, theirs: dict[str, np.ndarray], dtype: torch.dtype) -> None:
    with torch.no_grad():
        named = dict(lirdrec.named_parameters())
        for name, value in ours_from_theirs(theirs).items():
            named.pop(name).copy_(torch.from_numpy(value).to(dtype))
        assert not named, f"parameters that the released code lacks: {list(named)}"


def suffix(dtype: torch.dtype) -> str:
    return "f64" if dtype == torch.float64 else "f32"


def test_graphs():
    data, lirdrec = load("inputs"), model(torch.float32)
    dense = np.zeros((90, 90), np.float32)
    dense[data["norm_adj_row"], data["norm_adj_col"]] = data["norm_adj_val"]
    close(lirdrec.user_item.matrix.dense(), dense[:50, 50:], torch.float32, "Â")
    close(lirdrec.item_item.dense(), data["mm_adj_dense"], torch.float32, "S")
    for row, name in enumerate(["image", "text"]):
        table = {name: lirdrec.inputs.neighbors(name, 5)}
        close(fuse(table, {name: 1.0}, 40).dense(), data[f"mm_adj_{name}_dense"], torch.float32, f"S_{row}")
    mixed = torch.cat([dct(torch.from_numpy(data[f])) for f in ("v_feat", "t_feat")], dim=1)
    close(mixed, data["interleaved_feat"], torch.float32, "DCT")


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_loss_and_gradients(dtype):
    expected, batch = load(f"forward_{suffix(dtype)}"), torch.from_numpy(load("inputs")["batches"][0])
    lirdrec = model(dtype)
    users, items, alpha, _ = lirdrec()
    close(users.detach(), expected["user_rep"], dtype, "users")
    close(items.detach(), expected["item_rep"], dtype, "items")
    close(alpha.detach(), expected["attention"], dtype, "α")
    loss = lirdrec.loss(*batch)
    for ours, theirs in (("loss", "loss"), ("ranking", "bpr"), ("regularization", "reg")):
        close(loss[ours].detach(), expected[theirs], dtype, ours)
    loss["loss"].backward()
    gradients = dict(lirdrec.named_parameters())
    for name, theirs in ours_from_theirs(expected, "grad/").items():
        close(gradients[name].grad, theirs, dtype, f"gradient of {name}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_training(dtype):
    expected, batches = load(f"train_{suffix(dtype)}"), torch.from_numpy(load("inputs")["batches"])
    lirdrec = model(dtype)
    optimizer = torch.optim.Adam(lirdrec.parameters(), lr=1e-3)
    step = 0
    for epoch in (1, 2, 3):
        lirdrec.start_epoch(epoch)
        close(lirdrec.schedule, [expected[f"epoch{epoch}/w1"], expected[f"epoch{epoch}/w2"]], dtype, "w1, w2")
        close(lirdrec.theta.detach(), expected[f"epoch{epoch}/theta_after_pre_epoch"], dtype, f"θ of epoch {epoch}")
        for _ in range(2):
            optimizer.zero_grad()
            loss = lirdrec.loss(*batches[step])["loss"]
            loss.backward()
            step += 1
            close(loss.detach(), expected[f"step{step}/loss"], dtype, f"loss of step {step}")
            named = dict(lirdrec.named_parameters())
            for name, theirs in ours_from_theirs(expected, f"step{step}/grad/").items():
                close(named[name].grad, theirs, dtype, f"gradient of {name} in step {step}")
            optimizer.step()
            lirdrec.scorer()  # an evaluation between the steps must not change what PWC copies
        close(lirdrec.copied, expected[f"epoch{epoch}/last_att"], dtype, "last α")
        for name, theirs in ours_from_theirs(expected, f"epoch{epoch}/param/").items():
            close(dict(lirdrec.named_parameters())[name].detach(), theirs, dtype, f"{name} after epoch {epoch}")
    scorer = lirdrec.scorer()
    n = scorer.n_similarity_columns  # the learned columns; those of content follow
    close(scorer.user_vectors[:, :n], expected["final/user_rep_fresh"], dtype, "final users")
    close(scorer.item_vectors[:, :n], expected["final/item_rep_fresh"], dtype, "final items")


def test_schedule():
    expected, lirdrec = load("pwc_schedule")["w"], model(torch.float64)
    for epoch, weights in enumerate(expected, start=1):
        lirdrec.start_epoch(epoch)
        np.testing.assert_allclose(lirdrec.schedule, weights, rtol=1e-12)


def test_pruned_graph():
    expected, data = load("pruning"), load("inputs")
    kept = torch.from_numpy(data["edge_indices"])[:, expected["kept_edge_idx"]]
    graph = UserItemGraph(kept[0], kept[1], 50, 40)
    dense = np.zeros((90, 90), np.float32)
    dense[expected["rows"], expected["cols"]] = expected["vals"]
    close(graph.matrix.dense(), dense[:50, 50:], torch.float32, "pruned Â")


@pytest.mark.parametrize("d", [1, 2, 7, 8, 384])
def test_dct_against_scipy(d):
    import scipy.fft

    x = np.random.default_rng(0).normal(size=(3, d))
    np.testing.assert_allclose(dct(torch.from_numpy(x)), scipy.fft.dct(x, norm="ortho"), atol=1e-12)
    np.testing.assert_allclose(idct(torch.from_numpy(x)), scipy.fft.idct(x, norm="ortho"), atol=1e-12)
    assert torch.autograd.gradcheck(idct, torch.from_numpy(x).requires_grad_())
