"""Principal components and projections, against scikit-learn and against the features themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.nn import principal_components as module
from lirdrec.nn.principal_components import Projection, principal_components, vary

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


@pytest.mark.parametrize("n", [20, 500])
@pytest.mark.parametrize("width", [1, 3, 64])
def test_what_rounding_makes_is_no_variance(n, width):
    """Equal numbers, changed by less than float32 can hold near them: no direction, however large the matrix is."""
    draw = np.random.default_rng(width)
    for scale in (1e-6, 1.0, 1e6):
        base = scale * (1 + draw.uniform(size=width))
        x = torch.from_numpy((base * (1 + 6e-8 * draw.normal(size=(n, width)))).astype(np.float32))
        assert not vary(x, all_rows(n))
        assert not bool(principal_components(x, all_rows(n)).have_variance(0).any())
        with pytest.raises(ValueError):
            Projection.fit(x, all_rows(n), width, whiten=True)


def test_a_direction_that_only_rounding_makes_is_left_out():
    """The third column is the sum of two large ones: of three directions, two are real."""
    draw = np.random.default_rng(1)
    x = 3000 + draw.normal(size=(400, 2))
    x = torch.from_numpy(np.concatenate([x, x.sum(1, keepdims=True)], axis=1).astype(np.float32))
    variances = principal_components(x, all_rows(400)).variances
    assert float(variances[2]) > module.NOT_SCALED * float(variances[0])  # rounding is not small by itself
    assert Projection.fit(x, all_rows(400), 3, whiten=True).n_columns == 2


def test_columns_of_large_numbers_do_not_hide_small_ones():
    """A constant column of 10^6, and one that differs by rounding, beside columns of 0.001."""
    x = 1e-3 * np.random.default_rng(2).normal(size=(N, 5))
    alone = Projection.fit(torch.from_numpy(x.astype(np.float32)), all_rows(), 5, whiten=True)
    rounded = 1000 + 1e-4 * np.random.default_rng(3).normal(size=(N, 1))
    wide = torch.from_numpy(np.concatenate([np.full((N, 1), 1e6), rounded, x], axis=1).astype(np.float32))
    found = Projection.fit(wide, all_rows(), 7, whiten=True)
    assert found.n_columns == 5 and vary(wide, all_rows())
    torch.testing.assert_close(found(wide), alone(wide[:, 2:]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 500])
def test_rows_vary_where_one_column_does_wherever_its_block_is(size, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 3 * size)
    x = torch.full((90, 3), 7.0)
    assert not vary(x, all_rows(90)) and not vary(x, ~all_rows(90))
    for row in (0, 44, 89):
        other = x.clone()
        other[row, 1] = 7.1
        assert vary(other, all_rows(90))
        assert not vary(other, torch.arange(90) != row)
    # two rows that differ by a little at the start are nothing beside many that do not
    near = torch.full((200_000, 1), 1.0)
    near[0] += 4e-6
    assert not vary(near, all_rows(200_000))
