"""The cosine transform: orthonormal, its own inverse's transpose, in both precisions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from lirdrec.nn.dct import dct, idct

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
