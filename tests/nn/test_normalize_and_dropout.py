"""The cosine transform and the operators with their own gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F

from lirdrec.nn.dct import dct, idct
from lirdrec.nn.normalize_and_dropout import dropout, mean_square, normalize


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
