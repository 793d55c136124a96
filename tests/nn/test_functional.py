"""Row-wise operators, the cosine transform and principal components against plain torch and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F

from lirdrec.nn import principal_components as module
from lirdrec.nn.functional import dct, dropout, idct, mean_square, normalize
from lirdrec.nn.principal_components import Projection, principal_components


@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 2, 6), (2, 1)], ids=str)
def test_equal_torch_in_value_and_gradient(shape):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for ours, theirs in (
        (normalize, lambda x: F.normalize(x, dim=-1, eps=1e-12)),
        (mean_square, lambda x: (x**2).mean()),
    ):
        first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
        a, b = ours(first), theirs(second)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
        for value in (a, b):
            (value.cos() * 3).sum().backward()
        torch.testing.assert_close(first.grad, second.grad, rtol=0, atol=1e-14)
        assert torch.autograd.gradcheck(ours, x.clone().requires_grad_())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
def test_rows_about_as_short_as_the_smallest_divisor(dtype, tolerance):
    """`normalize` divides rows shorter than 1e-12 by 1e-12; their gradient is that of a division by a constant."""
    generator = torch.Generator().manual_seed(2)
    norms = torch.logspace(-13, -11, 81, dtype=torch.float64)
    x = F.normalize(torch.randn(81, 7, dtype=torch.float64, generator=generator)) * norms[:, None]
    x = torch.cat([x, torch.zeros(1, 7, dtype=torch.float64), 1e-12 * torch.eye(7, dtype=torch.float64)]).to(dtype)
    weight = torch.randn(x.shape, dtype=torch.float64, generator=generator).to(dtype)
    gradients = []
    for function in (normalize, F.normalize):
        own = x.clone().requires_grad_()
        (function(own) * weight).sum().backward()
        gradients.append(own.grad)
    ours, theirs = gradients
    assert (torch.linalg.vector_norm(theirs, dim=1) > 0).all()
    difference = torch.linalg.vector_norm(ours - theirs, dim=1) / torch.linalg.vector_norm(theirs, dim=1)
    assert difference.max() < tolerance


def test_of_views():
    x = torch.randn(6, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y: mean_square(y[::2].T), x.requires_grad_())
    assert torch.autograd.gradcheck(lambda y: normalize(y.T), x)


def test_a_zero_row_stays_zero_and_gives_no_nan():
    x = torch.zeros(2, 3, requires_grad=True)
    y = normalize(x)
    assert (y == 0).all()
    y.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_dropout_keeps_the_mean_and_repeats_itself():
    x = torch.full((400, 500), 3.0, dtype=torch.float64, requires_grad=True)
    y, again = (dropout(x, 0.2, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(y, again)
    assert sorted(y.detach().unique().tolist()) == [0, 3.75]
    assert float((y == 0).double().mean()) == pytest.approx(0.2, abs=0.005)
    y.sum().backward()
    assert torch.equal(x.grad, (y.detach() > 0) * 1.25)
    assert dropout(x, 0, torch.Generator()) is x


SIZES = [1, 2, 3, 4, 5, 16, 17, 127]


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_equals_scipy_and_its_inverse(d, dtype, atol):
    x = np.random.default_rng(d).normal(size=(2, 3, d))
    ours = dct(torch.from_numpy(x).to(dtype))
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, scipy.fft.dct(x, norm="ortho"), atol=atol)
    np.testing.assert_allclose(idct(ours), x, atol=atol)
    np.testing.assert_allclose(dct(idct(torch.from_numpy(x).to(dtype))), x, atol=atol)


@pytest.mark.parametrize("d", SIZES)
def test_a_transformed_weight_serves_for_transformed_features(d):
    """DCT(F) Wᵀ = F IDCT(W)ᵀ, in value and in the gradient of W: no second copy of the features is needed."""
    rng = np.random.default_rng(d)
    features, weight = torch.from_numpy(rng.normal(size=(6, d))), torch.from_numpy(rng.normal(size=(4, d)))
    direct, rotated = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    first, second = dct(features) @ direct.T, features @ idct(rotated).T
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    for value in (first, second):
        value.sin().sum().backward()
    torch.testing.assert_close(direct.grad, rotated.grad, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(dct, torch.from_numpy(rng.normal(size=(2, d))).requires_grad_())
    assert torch.autograd.gradcheck(idct, torch.from_numpy(rng.normal(size=(2, d))).requires_grad_())


def test_a_slice_of_columns():
    wide = torch.randn(3, 20, dtype=torch.float64)
    np.testing.assert_allclose(dct(wide[:, ::2]), scipy.fft.dct(wide[:, ::2].numpy(), norm="ortho"), atol=1e-13)
    np.testing.assert_allclose(idct(wide.T), scipy.fft.idct(wide.T.numpy(), norm="ortho"), atol=1e-13)


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
