"""What a step does with gradients between backward and Adam: sums over ranks, and clipping."""

from __future__ import annotations

import torch

from lirdrec.models.base import Model


def sum_gradients(model: Model) -> None:
    """Sum the gradients of the parameters that all ranks have, in one exchange; split tables have theirs complete."""
    ranks = model.inputs.ranks
    if ranks.size == 1:
        return
    gradients = [p.grad for name, p in model.named_parameters() if p.grad is not None and model.shard_of(name) is None]
    if not gradients:
        return
    summed = ranks.sum_(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, total in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def clip_gradient(model: Model, limit: float) -> None:
    """Scale the gradient so that its norm over all parameters, on all ranks, is at most `limit`."""
    ranks = model.inputs.ranks
    if ranks.size == 1:
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        return
    split, common = torch.zeros((), device=model.inputs.device), torch.zeros((), device=model.inputs.device)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            (common if model.shard_of(name) is None else split).add_(parameter.grad.square().sum())
    norm = (ranks.sum_(split) + common).sqrt()
    torch.nn.utils.clip_grads_with_norm_(list(model.parameters()), limit, norm)
