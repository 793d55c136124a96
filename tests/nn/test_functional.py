"""Operators with their own backward against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lirdrec.nn.functional import dropout, mean_square, normalize


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
