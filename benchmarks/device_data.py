"""Planted data made with torch on the device itself: 30 million interactions and 18 GB of features in seconds.

The structure is that of `lirdrec.data.synthetic`: an item's features are the center of its group plus noise; a user
likes three groups; an interaction is an item of one of them, the r-th with weight 1/r, or, one time in ten, any item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lirdrec.evaluation.scorer_evaluation import GroundTruth
from lirdrec.models.base import Features, ModelInputs

LIKED, OFF_TASTE, HELD_OUT = 3, 0.1, 0.1
BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Planted:
    """Inputs of a model, the held-out pairs, and the group `(I,)` of each item, on one device."""

    inputs: ModelInputs
    truth: GroundTruth
    group: Tensor


def planted(
    shape: tuple[int, int, int], dims: Mapping[str, int], device: torch.device, seed: int = 0, n_neighbors: int = 10
) -> Planted:
    """Data of users, items and interactions of `shape`; a tenth of the interactions is held out.

    The neighbors of an item are itself and random items of its group, which are its true nearest ones up to noise.
    """
    n_users, n_items, n_pairs = shape
    generator = torch.Generator(device).manual_seed(seed)
    n_groups = max(2, min(1000, n_items // 100))
    group = torch.randperm(n_items, generator=generator, device=device) % n_groups
    members = group.argsort(stable=True)  # the items of group g are those from start[g] on
    sizes = torch.bincount(group, minlength=n_groups)
    start = sizes.cumsum(0) - sizes
    users, items = _pairs(n_users, n_items, n_pairs, members, sizes, start, generator)
    held_out = torch.rand(len(users), generator=generator, device=device) < HELD_OUT
    features = {}
    for name, width in dims.items():
        present = torch.ones_like(group, dtype=torch.bool)
        features[name] = Features(_features(group, n_groups, width, generator), present)
    offsets = torch.rand(n_items, n_neighbors, generator=generator, device=device)
    neighbors = members[start[group][:, None] + (offsets * sizes[group][:, None]).long()]
    neighbors[:, 0] = torch.arange(n_items, device=device)
    train = users[~held_out], items[~held_out]
    inputs = ModelInputs(n_users, n_items, *train, features, lambda name, k: neighbors[:, :k])
    return Planted(inputs, GroundTruth.from_pairs(train, (users[held_out], items[held_out]), n_users), group)


def with_columns(data: Planted, size: int | None) -> Planted:
    """The data with at most `size` columns of each modality, as many as `feature_size` leaves; None: all."""
    features = {
        name: Features(one.values[:, :size].contiguous(), one.present) for name, one in data.inputs.features.items()
    }
    return replace(data, inputs=replace(data.inputs, features=features))


def _pairs(
    n_users: int, n_items: int, n_pairs: int, members: Tensor, sizes: Tensor, start: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Distinct pairs in random order, `n_pairs` or slightly fewer. Activity of users and popularity are skewed."""
    device = members.device

    def uniform(n: int) -> Tensor:
        return torch.rand(n, generator=generator, device=device)

    tastes = torch.randint(len(sizes), (n_users, LIKED), generator=generator, device=device)
    activity = -uniform(n_users).double().clamp(min=1e-6).log()  # exponential
    edges = activity.cumsum(0) / activity.sum()
    n_drawn = int(1.3 * n_pairs)  # some are drawn twice
    users = torch.searchsorted(edges, uniform(n_drawn).double()).clamp(max=n_users - 1)
    liked = tastes[users, torch.randint(LIKED, (n_drawn,), generator=generator, device=device)]
    # P(rank < r) = log(r+1) / log(n+1): close to weights 1/r
    rank = ((uniform(n_drawn) * torch.log(sizes[liked] + 1.0)).exp() - 1).long().minimum(sizes[liked] - 1)
    anything = torch.randint(n_items, (n_drawn,), generator=generator, device=device)
    items = torch.where(uniform(n_drawn) < OFF_TASTE, anything, members[start[liked] + rank])
    keys = (users * n_items + items).unique()
    keys = keys[torch.randperm(len(keys), generator=generator, device=device)[:n_pairs]]
    return keys // n_items, keys % n_items


def _features(group: Tensor, n_groups: int, width: int, generator: torch.Generator) -> Tensor:
    """Centers of the groups plus noise, `(I, width)` float32, a block of rows at a time."""
    device = group.device
    centers = torch.randn(n_groups, width, generator=generator, device=device)
    values = torch.empty(len(group), width, device=device)
    for block, groups in zip(values.split(BLOCK_ROWS), group.split(BLOCK_ROWS), strict=True):
        block.normal_(generator=generator)
        block += centers[groups]
    return values
