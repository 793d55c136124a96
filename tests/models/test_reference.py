"""LIRDRec against a dense float64 restatement in NumPy, for one, two and three modalities and every switch.

The restatement follows the formulas of the model's page and shares no code with the library. Its gradients are exact:
the imaginary part of the loss at a complex step of 1e-30, one parameter at a time.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from lirdrec.graphs.item_item import nearest_items
from lirdrec.models.base import Features, ModelInputs
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig

N_USERS, N_ITEMS = 7, 9
DIMS = {"audio": 3, "image": 5, "text": 4}
ABSENT = {"audio": [1], "image": [0, 4], "text": [2]}  # items that lack a modality
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}
SMALL = {"embedding_size": 4, "hidden_multiplier": 2, "n_layers": 2, "n_neighbors": 3, "regularization": 0.02}

CASES = {
    "one modality": (("text",), {}),
    "two modalities": (("image", "text"), {}),
    "three modalities": (("audio", "image", "text"), {}),
    "weights given": (("image", "text"), {"modality_weights": {"image": 0.3, "text": 1.2}}),
    "another order": (("audio", "image", "text"), {"modalities": ("text", "audio")}),
    "no DCT": (("image", "text"), {"dct": None}),
    "no DCT, one modality": (("image",), {"dct": None}),
    "DCT of the matrix": (("image", "text"), {"dct": "matrix"}),
    "no PWC": (("image", "text"), {"pwc": None}),
    "uniform weights": (("audio", "image", "text"), {"pwc": "uniform"}),
    "logits": (("image", "text"), {"pwc": "logits"}),
    "no item layer": (("image", "text"), {"n_item_layers": 0}),
    "two item layers": (("image", "text"), {"n_item_layers": 2}),
    "no user layer": (("image", "text"), {"n_layers": 0}),
    "four user layers": (("image", "text"), {"n_layers": 4}),
    "decaying layers": (("image", "text"), {"n_layers": 3, "layer_weights": "decaying"}),
    "learned layers": (("image", "text"), {"n_layers": 3, "layer_weights": "learned"}),
    "learned, no user layer": (("image", "text"), {"n_layers": 0, "layer_weights": "learned"}),
    "numbers": (("image", "text"), {"layer_weights": (0.5, -2.0, 3.0)}),
    "Xavier": (("image", "text"), {"init": "xavier"}),
    "more neighbors than items": (("image", "text"), {"n_neighbors": 20}),
    "another schedule": (("image", "text"), {"pwc_weight": 0.7, "pwc_base": 0.5}),
}


class Data:
    """Small random data: user 6 and item 8 have no edge, some items lack a modality."""

    def __init__(self, names: tuple[str, ...]):
        rng = np.random.default_rng(3)
        self.names = names
        r = rng.random((N_USERS, N_ITEMS)) < 0.45
        r[6], r[:, 8] = False, False
        self.r = r.astype(float)
        self.features, self.present = {}, {}
        for name in names:
            values = rng.normal(size=(N_ITEMS, DIMS[name])).astype(np.float32).astype(float)
            present = np.ones(N_ITEMS, dtype=bool)
            if len(names) > 1:
                present[ABSENT[name]] = False
            self.features[name], self.present[name] = values * present[:, None], present
        self.batch = np.array([[0, 1, 2, 2, 5, 0], [1, 2, 3, 4, 0, 1], [8, 5, 0, 8, 7, 2]])

    def inputs(self, dtype: torch.dtype, seed: int = 5) -> ModelInputs:
        features = {
            n: Features(torch.from_numpy(self.features[n]).to(dtype), torch.from_numpy(self.present[n]))
            for n in self.names
        }
        users, items = (torch.from_numpy(part) for part in self.r.nonzero())

        def neighbors(name: str, k: int) -> torch.Tensor:
            return nearest_items(features[name].values, features[name].present, k)

        return ModelInputs(N_USERS, N_ITEMS, users, items, features, neighbors, seed)


class Reference:
    """The model's formulas, dense. `p` holds the parameters under the library's names."""

    def __init__(self, data: Data, config: LIRDRecConfig, w: tuple[float, float], r: np.ndarray | None = None):
        self.data, self.config, self.w = data, config, w
        self.names = config.modalities or data.names
        r = data.r if r is None else r
        a = np.block([[np.zeros((N_USERS, N_USERS)), r], [r.T, np.zeros((N_ITEMS, N_ITEMS))]])
        d = a.sum(1) + 1e-7
        self.a_hat = a / np.sqrt(d[:, None] * d)
        self.s = self.item_graph()

    def modality_weights(self) -> dict[str, float]:
        if self.config.modality_weights:
            return dict(self.config.modality_weights)
        if set(self.names) == {"image", "text"}:
            return {"image": 0.1, "text": 0.9}
        return {n: 1 / len(self.names) for n in self.names}

    def item_graph(self) -> np.ndarray:
        weights = self.modality_weights()
        s, has = np.zeros((N_ITEMS, N_ITEMS)), np.zeros(N_ITEMS)
        for n in self.names:
            f, present = self.data.features[n], self.data.present[n]
            unit = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12)
            k = np.zeros((N_ITEMS, N_ITEMS))
            for i in np.flatnonzero(present):
                cosine = np.where(present, unit @ unit[i], -np.inf)
                nearest = [j for j in np.argsort(-cosine)[: self.config.n_neighbors] if present[j]]
                k[i, nearest] = 1
            d = k.sum(1)
            inverse = np.where(d > 0, 1 / np.sqrt(np.maximum(d, 1)), 0)
            s += weights[n] * inverse[:, None] * k * inverse
            has += weights[n] * present
        return s * (sum(weights.values()) / has)[:, None]

    def forward(self, p: dict[str, np.ndarray]):
        e, names = self.config.embedding_size, self.names
        z = []
        for row, n in enumerate(names):
            hidden = leaky(self.data.features[n] @ p[f"hidden_weight.{row}"].T + p["hidden_bias"][row])
            z.append((hidden @ p["output_weight"][row].T) * self.data.present[n][:, None])
        if self.config.dct is not None:
            whole = self.config.dct == "matrix"
            c = np.hstack([dct_2d(self.data.features[n]) if whole else dct_1d(self.data.features[n]) for n in names])
            w_s = np.hstack([p[f"shared_weight.{row}"] for row in range(len(names))])
            hidden = leaky(c @ w_s.T + p["hidden_bias"][len(names)])
            z.append(hidden @ p["output_weight"][len(names)].T)
        ego_users = [unit(p["user_embedding"][:, k]) for k in range(len(z))]
        x0 = np.vstack([np.hstack(ego_users), np.hstack([unit(branch) for branch in z])])
        a = self.layer_weights(p)
        x = sum(
            a[layer] * (np.linalg.matrix_power(self.a_hat, layer) @ x0) for layer in range(self.config.n_layers + 1)
        )
        users, items = x[:N_USERS], x[N_USERS:]
        v = items + np.linalg.matrix_power(self.s, self.config.n_item_layers) @ items
        chunks = [users[:, k * e : (k + 1) * e] for k in range(len(z))]
        if self.config.pwc is None:
            return users, v, None, None
        if self.config.pwc == "uniform":
            return users / len(z), v, np.full((N_USERS, len(z)), 1 / len(z)), None
        a = [
            leaky(c @ p["attention_weight"][k].T + p["attention_bias"][k]) @ p["attention_vector"][k]
            + p["attention_offset"][k]
            for k, c in enumerate(chunks)
        ]
        logits = self.w[0] * np.stack(a, axis=1) + self.w[1] * p["theta"]
        alpha = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return np.hstack([alpha[:, [k]] * c for k, c in enumerate(chunks)]), v, alpha, logits

    def layer_weights(self, p: dict[str, np.ndarray]) -> np.ndarray:
        count = np.arange(self.config.n_layers + 1)
        if self.config.layer_weights == "learned":
            raised = np.exp(p["layer_weights.logits"])
            return len(count) * raised / raised.sum()
        named = {"equal": np.ones(len(count)), "decaying": 1 / (count + 1)}
        given = self.config.layer_weights
        return named[given] if isinstance(given, str) else np.array(given)

    def loss(self, p: dict[str, np.ndarray]):
        users, items, _, _ = self.forward(p)
        u, i, j = self.data.batch
        difference = (users[u] * (items[i] - items[j])).sum(1)
        ranking = np.log(1 + np.exp(-difference)).mean()
        return ranking + self.config.regularization * ((users**2).mean() + (items**2).mean())

    def gradients(self, p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        step, result = 1e-30, {}
        for name, value in p.items():
            gradient = np.empty(value.size)
            for index in range(value.size):
                moved = value.astype(complex)
                moved.flat[index] += 1j * step
                gradient[index] = self.loss({**p, name: moved}).imag / step
            result[name] = gradient.reshape(value.shape)
        return result


def leaky(x):
    return np.where(x.real > 0, x, 0.01 * x)


def unit(x):
    norm = np.sqrt((x * x).sum(1, keepdims=True))  # without conjugation: the complex step needs it analytic
    return x / np.where(norm.real > 1e-12, norm, 1e-12)


def dct_1d(f):
    return scipy.fft.dct(f, norm="ortho", axis=1)


def dct_2d(f):
    return scipy.fft.dctn(f, norm="ortho")


def close(ours, theirs, dtype: torch.dtype, what: str, scale: float = 0.0) -> None:
    ours, theirs = ours.detach().double().numpy(), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    off = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), scale, 1e-12)
    assert off < TOLERANCE[dtype], f"{what}: off by {off:.1e}"


def parameters(model: LIRDRec) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in model.named_parameters()}


def made(case: str, dtype: torch.dtype, **more) -> tuple[Data, LIRDRec]:
    names, options = CASES[case]
    data = Data(names)
    return data, LIRDRec(data.inputs(dtype), LIRDRecConfig(**{**SMALL, **options, **more}))


def check_gradients(model: LIRDRec, expected: dict[str, np.ndarray], dtype: torch.dtype) -> None:
    scale = max(np.abs(g).max() for g in expected.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        if np.abs(expected[name]).max() < 1e-6 * scale:  # nothing but rounding is left of it
            assert np.abs(parameter.grad.double().numpy()).max() < TOLERANCE[dtype] * scale, name
        else:
            # in float32 a gradient that is a sum of larger terms keeps their rounding, which differs between processors
            floor = 1e-2 * scale if dtype == torch.float32 else 0.0
            close(parameter.grad, expected[name], dtype, f"gradient of {name}", floor)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_forward_loss_gradients_and_scorer(case, dtype):
    data, model = made(case, dtype)
    model.start_epoch(1)
    w1 = model.config.pwc_weight * model.config.pwc_base
    w = np.array([w1, 1 - model.config.pwc_weight]) / (w1 + 1 - model.config.pwc_weight)
    reference, p = Reference(data, model.config, tuple(w)), parameters(model)
    close(model.item_item.dense(), reference.s, dtype, "S")
    close(
        torch.tensor(model.layer_weights.numbers(), dtype=torch.float64),
        reference.layer_weights(p),
        dtype,
        "weights of the layers",
    )
    for ours, theirs, what in zip(model(), reference.forward(p), ("users", "items", "α", "logits"), strict=True):
        assert (ours is None) is (theirs is None), what
        if theirs is not None:
            close(ours, theirs, dtype, what)
    loss = model.loss(*torch.from_numpy(data.batch))["loss"]
    close(loss, reference.loss(p), dtype, "loss")
    loss.backward()
    check_gradients(model, reference.gradients(p), dtype)
    scorer = model.scorer()
    users, items, alpha, _ = reference.forward(p)
    n = scorer.n_similarity_columns  # the learned columns; those of content follow
    close(scorer.user_vectors[:, :n], users, dtype, "users of the scorer")
    close(scorer.item_vectors[:, :n], items, dtype, "items of the scorer")
    assert not scorer.item_vectors[:, n:].any()
    if alpha is not None:
        close(scorer.weights, alpha, dtype, "α of the scorer")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
def test_edge_dropout_trains_on_the_kept_edges_and_scores_with_all(dtype):
    data, model = made("two modalities", dtype, edge_dropout=0.4)
    kept = []
    for epoch in (1, 2):
        model.start_epoch(epoch)
        kept.append((model._epoch_graph.matrix.dense() > 0).double().numpy())
        assert kept[-1].sum() == int(data.r.sum() * 0.6)
        assert (kept[-1] <= data.r).all()
    assert (kept[0] != kept[1]).any()
    reference, p = Reference(data, model.config, tuple(model.schedule.tolist()), kept[1]), parameters(model)
    loss = model.loss(*torch.from_numpy(data.batch))["loss"]
    close(loss, reference.loss(p), dtype, "loss over the kept edges")
    loss.backward()
    check_gradients(model, reference.gradients(p), dtype)
    whole = Reference(data, model.config, tuple(model.schedule.tolist())).forward(p)
    scorer = model.scorer()
    n = scorer.n_similarity_columns
    close(scorer.user_vectors[:, :n], whole[0], dtype, "users over all edges")
    close(scorer.item_vectors[:, :n], whole[1], dtype, "items over all edges")


def test_dropped_edges_of_an_epoch_are_the_same_in_any_order():
    _, first = made("two modalities", torch.float64, edge_dropout=0.4)
    _, second = made("two modalities", torch.float64, edge_dropout=0.4)
    first.start_epoch(1)
    first.start_epoch(2)
    second.start_epoch(2)
    assert torch.equal(first._epoch_graph.matrix.dense(), second._epoch_graph.matrix.dense())


@pytest.mark.parametrize("case, copies", [("two modalities", 2), ("logits", 3)])
def test_theta_receives_what_the_last_training_forward_gave(case, copies):
    """Released: α; logits: w1·a + w2·θ. A forward for evaluation in between changes nothing."""
    data, model = made(case, torch.float64)
    model.start_epoch(1)
    reference, p = Reference(data, model.config, tuple(model.schedule.tolist())), parameters(model)
    expected = reference.forward(p)[copies]
    model.loss(*torch.from_numpy(data.batch))
    with torch.no_grad():  # an optimizer step that must not matter, and an evaluation that must not either
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.scorer()
    model()
    model.start_epoch(2)
    close(model.theta, expected, torch.float64, "θ")


def test_scoring_changes_no_state():
    data, model = made("two modalities", torch.float32, edge_dropout=0.3)
    model.start_epoch(1)
    model.loss(*torch.from_numpy(data.batch))
    model.scorer()  # the first one fits the principal components of content
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = model.scorer().tensors(), model.scorer().tensors()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("init", ["torch", "xavier"])
def test_initial_parameters_have_the_stated_distribution(init):
    rng = np.random.default_rng(0)
    n_users, n_items = 600, 30
    features = {
        name: Features(torch.from_numpy(rng.normal(size=(n_items, d))), torch.ones(n_items, dtype=torch.bool))
        for name, d in (("image", 50), ("text", 30))
    }
    one = torch.zeros(1, dtype=torch.int64)
    inputs = ModelInputs(n_users, n_items, one, one, features, lambda name, k: one, seed=1)
    model = LIRDRec(inputs, LIRDRecConfig(embedding_size=32, init=init))
    e, g, h, k = 32, 8, 128, 3
    fans = {
        "hidden_weight.0": (50, h),
        "hidden_weight.1": (30, h),
        "shared_weight.0": (80, h),  # one layer over both modalities, kept in blocks
        "shared_weight.1": (80, h),
        "output_weight": (h, e),
        "attention_weight": (e, g),
        "attention_vector": (g, 1),
    }
    named = dict(model.named_parameters())
    for name, (fan_in, fan_out) in fans.items():
        bound = fan_in**-0.5 if init == "torch" else (6 / (fan_in + fan_out)) ** 0.5
        value = named.pop(name).detach().abs()
        assert value.max() <= bound, name
        assert value.max() > 0.85 * bound, name
        if value.numel() > 500:
            assert abs(value.mean() - bound / 2) < 0.05 * bound, name
    for name, (fan_in, fan_out) in {"user_embedding": (n_users, e), "theta": (n_users, k)}.items():
        assert named.pop(name).detach().std() == pytest.approx((2 / (fan_in + fan_out)) ** 0.5, rel=0.06), name
    bounds = {"hidden_bias": [50**-0.5, 30**-0.5, 80**-0.5], "attention_bias": e**-0.5, "attention_offset": g**-0.5}
    for name, bound in bounds.items():
        largest = named.pop(name).detach().abs().reshape(k, -1).max(1).values
        limit = torch.as_tensor(bound, dtype=torch.float64).expand(k)
        assert (largest <= limit).all() if init == "torch" else (largest == 0).all(), name
        if init == "torch" and name == "hidden_bias":
            assert (largest > 0.9 * limit).all()
    assert not named


def test_an_item_whose_only_modality_weighs_nothing_keeps_finite_vectors():
    data = Data(("image", "text"))
    config = LIRDRecConfig(**SMALL, modality_weights={"image": 1.0, "text": 0.0})
    model = LIRDRec(data.inputs(torch.float64), config)
    rows = model.item_item.dense()
    assert torch.isfinite(rows).all()
    assert (rows[ABSENT["image"]] == 0).all()  # no modality with a weight says which group they are of
    assert torch.isfinite(model.scorer().item_vectors).all()
