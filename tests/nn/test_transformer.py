"""The causal transformer: what a state depends on, groups, positions and gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lirdrec.nn.transformer import N_GAPS, CausalTransformer, gap_classes

WIDTH, LENGTH = 8, 7


def network(seed: int = 0, **options: Any) -> CausalTransformer:
    """In float64, with all parameters away from their initial values, so that nothing is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(seed)
    options = {"max_length": LENGTH, **options}
    made = CausalTransformer(WIDTH, 2, 2, 16, generator=generator, **options).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return made


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaps(n: int, seed: int = 2) -> torch.Tensor:
    return torch.randint(N_GAPS, (n, LENGTH), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_state_depends_on_all_items_up_to_its_own_and_on_none_after(positions, groups):
    """By gradients: the derivative of state t by item s is 0 exactly where s > t; the same for gaps."""
    made = network(positions=positions, groups=groups, gaps=True)
    x, times = noise(groups, 2, LENGTH, WIDTH).requires_grad_(), gaps(2)
    for t in range(LENGTH):
        states = made(x, times)
        (gradient,) = torch.autograd.grad((states[:, 0, t] * noise(groups, WIDTH, seed=9)).sum(), x)
        by_item = gradient.abs().amax(dim=(0, 3))
        assert (by_item[0, : t + 1] > 1e-9).all()
        assert (by_item[0, t + 1 :] == 0).all() and (by_item[1] == 0).all()  # nor on another sequence
        changed = times.clone()
        changed[0, t] = (changed[0, t] + 1) % N_GAPS
        different = (made(x, changed) - states).abs().amax(dim=(0, 3)) > 1e-12
        assert different[0].tolist() == [s >= t for s in range(LENGTH)] and not different[1].any()


@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
def test_padding_changes_no_state(positions):
    """A sequence of four items has the same states alone and beside one of seven, whatever is in its padding."""
    made, x = network(positions=positions, gaps=True), noise(1, 2, LENGTH, WIDTH)
    times = gaps(2)
    alone = made(x[:, :1, :4], times[:1, :4])
    for padding in (torch.zeros(3, WIDTH, dtype=torch.float64), 1e6 * noise(3, WIDTH), x[0, 0, 3:4].expand(3, -1)):
        padded = x.clone()
        padded[0, 0, 4:] = padding
        torch.testing.assert_close(made(padded, times)[:, :1, :4], alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_groups_are_networks_of_their_own(positions):
    options: dict[str, Any] = {"positions": positions, "gaps": True}
    together, alone = network(groups=3, **options), [network(seed, **options) for seed in range(3)]
    x, times = noise(3, 4, LENGTH, WIDTH), gaps(4)
    with torch.no_grad():
        for name, parameter in together.named_parameters():
            parameter.copy_(torch.cat([dict(one.named_parameters())[name] for one in alone]))
    states = together(x, times)
    for group, one in enumerate(alone):
        torch.testing.assert_close(states[group : group + 1], one(x[group : group + 1], times), rtol=0, atol=1e-12)


def test_rotary_positions_are_relative():
    """Items in front that nobody attends to shift all positions: with rotary ones the states stay, learned ones move.

    An item that nobody attends to: its value is 0 and it takes none of the attention, here by copying the sequence
    behind itself and reading attention between items of the second copy only, in a single block.
    """
    block = network(positions="rotary").blocks[0]
    from lirdrec.nn.transformer import _angles, _rotated

    q, k = noise(2, 5, 4, seed=3), noise(2, 5, 4, seed=4)  # (heads, T, c)
    cos, sin = _angles(LENGTH + 20, 4, torch.device("cpu"))
    logits = []
    for shift in (0, 3, 19):
        rotation = (cos[shift : shift + 5].double(), sin[shift : shift + 5].double())
        logits.append(_rotated(q, rotation) @ _rotated(k, rotation).transpose(1, 2))
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=0, atol=1e-5)  # angles are float32
    assert (logits[0] - q @ k.transpose(1, 2)).abs().max() > 0.1
    assert block.n_heads == 2


@pytest.mark.parametrize("width", [4, 5])
def test_a_rotation_keeps_lengths(width):
    from lirdrec.nn.transformer import _angles, _rotated

    x = noise(3, 6, width)
    turned = _rotated(x, _angles(6, width, torch.device("cpu")))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(turned[:, 0], x[:, 0], rtol=0, atol=0)  # position 0 is not turned


def test_without_positions_the_order_of_earlier_items_has_no_effect():
    x = noise(1, 1, LENGTH, WIDTH)
    swapped = x[:, :, [2, 0, 1, 3, 4, 5, 6]]
    for positions, same in (("none", True), ("learned", False), ("rotary", False)):
        made = CausalTransformer(
            WIDTH, 1, 2, 16, max_length=LENGTH, generator=torch.Generator().manual_seed(0), positions=positions
        )
        difference = (made.double().eval()(x) - made(swapped))[0, 0, 3:].abs().max()
        assert (difference < 1e-12) == same, positions


def test_no_gaps_are_unknown_gaps():
    made, x, last = network(gaps=True), noise(1, 2, LENGTH, WIDTH), torch.tensor([3, LENGTH - 1])
    torch.nn.init.normal_(made.gap, generator=torch.Generator().manual_seed(0))
    unknown = torch.zeros(2, LENGTH, dtype=torch.int64)
    assert torch.equal(made(x), made(x, unknown)) and torch.equal(made.at(x, last), made.at(x, last, unknown))
    assert not torch.equal(made(x), made(x, unknown + 1))


def test_dropout_is_that_of_the_generator_and_only_in_training():
    made, x = network(dropout=0.4), noise(1, 3, LENGTH, WIDTH)
    plain = made(x)
    assert torch.equal(made(x, generator=torch.Generator().manual_seed(1)), plain)  # eval
    made.train()
    torch.manual_seed(3)
    first = made(x, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(4)
    assert torch.equal(made(x, generator=torch.Generator().manual_seed(1)), first)
    assert not torch.equal(made(x, generator=torch.Generator().manual_seed(2)), first)
    assert not torch.equal(first, plain)
    assert torch.equal(made(x), plain)  # no generator: no dropout


def test_classes_of_gaps():
    times = torch.tensor([[100, 100, 101, 103, 106, 110, 174], [5, 4, 4 + 2**37, 4 + 2**61, 2**62, 2**62, 2**62 + 8]])
    expected = [
        [0, 1, 2, 3, 3, 4, 8],  # unknown, none, 1, 2, 3, 4, 64
        [0, 1, 39, N_GAPS - 1, N_GAPS - 1, 1, 5],  # a step back in time counts as none; far apart: the last class
    ]
    assert gap_classes(times).tolist() == expected
    assert gap_classes(times[:, :1]).tolist() == [[0], [0]]


def test_classes_of_random_gaps():
    """Against Python's integers: class c covers gaps from 2^(c-2) to 2^(c-1) - 1."""
    rng = np.random.default_rng(0)
    steps = [int(2 ** rng.uniform(0, 36)) for _ in range(500)]
    steps += [2**k + d for k in range(2, 37) for d in (-1, 0, 1)]
    found = gap_classes(torch.tensor([np.cumsum([0, *steps]).tolist()]))[0, 1:].tolist()
    assert found == [2 + step.bit_length() - 1 for step in steps]
