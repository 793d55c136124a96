"""Principal components and projections, against scikit-learn and against the features themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.nn import principal_components as module
from lirdrec.nn.principal_components import Projection, principal_components

N, D = 60, 9


def features(seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(N, D)) @ np.diag(np.linspace(3, 0.5, D)) + draw.normal(size=D) * 4).astype(dtype)


def all_rows(n: int = N) -> torch.Tensor:
    return torch.ones(n, dtype=torch.bool)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_projection_is_the_pca_of_scikit_learn(whiten, dtype):
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = features(dtype=dtype)
    pca = decomposition.PCA(4, whiten=whiten, svd_solver="full").fit(x.astype(np.float64))
    expected = pca.transform(x.astype(np.float64)) * (N / (N - 1)) ** (0.5 if whiten else 0)
    found = Projection.fit(torch.from_numpy(x), all_rows(), 4, whiten)(torch.from_numpy(x)).numpy()
    if not whiten:  # the mean stays, so that inner products stay
        found = found - pca.mean_ @ pca.components_.T
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-4)
    components = principal_components(torch.from_numpy(x), all_rows())
    np.testing.assert_allclose(components.variances[:4] * N / (N - 1), pca.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(components.mean, pca.mean_, rtol=1e-9)
    largest = components.directions.abs().argmax(0, keepdim=True)
    assert bool((components.directions.gather(0, largest) > 0).all())


def test_rows_that_are_not_chosen_are_not_read(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * D * 7)  # blocks of seven rows
    x = torch.from_numpy(features())
    chosen = torch.arange(N) % 3 != 1
    spoiled = x.clone()
    spoiled[~chosen] = float("nan")
    found = Projection.fit(spoiled, chosen, 4)
    alone = Projection.fit(x[chosen], all_rows(int(chosen.sum())), 4)
    torch.testing.assert_close(found.directions, alone.directions, rtol=0, atol=1e-12)
    assert torch.equal(found(x), Projection.fit(spoiled, chosen, 4)(x))


@pytest.mark.parametrize("affine", [False, True])
def test_with_the_rank_of_the_features_all_inner_products_stay(affine):
    """Rank 4; with `affine` the features differ in three directions, and their mean lies outside of these."""
    draw = np.random.default_rng(2)
    codes = draw.normal(size=(N, 4))
    if affine:
        codes[:, 3] = 2.0
    x = torch.from_numpy((codes @ draw.normal(size=(4, D))).astype(np.float32))
    products = (x.double() @ x.double().T).float()
    found = Projection.fit(x, all_rows(), 4)
    assert found.n_columns == 4 == Projection.fit(x, all_rows(), 8).n_columns
    torch.testing.assert_close(found(x) @ found(x).T, products, rtol=1e-5, atol=1e-4)
    gram = found.directions.T @ found.directions
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-9)
    less = Projection.fit(x, all_rows(), 3)(x)
    assert float((less @ less.T - products).abs().max()) > 0.1


def test_rows_of_zeros_stay_zero():
    x = torch.from_numpy(features())
    x[[3, 8]] = 0
    projected = Projection.fit(x, x.any(1), 5, whiten=True)(x)
    assert projected.dtype == torch.float32
    assert (~projected.any(1)).nonzero().flatten().tolist() == [3, 8]
    present = projected[x.any(1)]
    torch.testing.assert_close(present.T @ present / len(present), torch.eye(5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("whiten", [False, True])
def test_features_without_a_direction_are_refused(whiten):
    with pytest.raises(ValueError):
        Projection.fit(torch.zeros(N, D), all_rows(), 2, whiten)
    with pytest.raises(ValueError):
        Projection.fit(torch.ones(N, D), ~all_rows(), 2, whiten)
    same = torch.ones(N, D)
    if whiten:
        with pytest.raises(ValueError):
            Projection.fit(same, all_rows(), 2, whiten)
    else:
        torch.testing.assert_close(Projection.fit(same, all_rows(), 2)(same), torch.full((N, 1), float(D**0.5)))
