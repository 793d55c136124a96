"""Modalities of a model: which feature matrices it uses, their weights, and their fusion into one row per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.base import Features, ModelInputs
from lirdrec.nn.functional import normalize


def chosen_modalities(
    inputs: ModelInputs,
    names: Sequence[str] | None,
    *,
    reserved: Sequence[str] = (),
    at_least: int = 1,
    model: str = "",
) -> tuple[str, ...]:
    """The modalities `names` of the inputs, in that order; None: all of them.

    Args:
        inputs: of the model.
        names: the option `modalities`.
        reserved: names that the model uses for other parts of its score.
        at_least: number of modalities that the model needs; `model` is its name for the error message.

    Raises:
        ConfigError: a name that is unknown, repeated or reserved.
        CapabilityError: fewer than `at_least`.
    """
    modalities = tuple(names) if names is not None else tuple(inputs.features)
    for name in modalities:
        if name not in inputs.features:
            raise ConfigError(f"modalities: no feature matrix '{name}'; the dataset has {', '.join(inputs.features)}")
    if taken := [name for name in modalities if name in reserved]:
        raise ConfigError(
            f"modalities: the feature matrix '{taken[0]}' has the name of another part of the model's score; name the"
            " matrices to use without it (modalities), or prepare the dataset with another name"
        )
    if not modalities or len(set(modalities)) < len(modalities):
        also = f", and none can be called {' or '.join(map(repr, reserved))}" if reserved else ""
        raise ConfigError(f"modalities must name at least one feature matrix, none twice{also}")
    if len(modalities) < at_least:
        raise CapabilityError(f"{model} needs {at_least} modalities or more, and there is only '{modalities[0]}'")
    return modalities


def pairs_with(inputs: ModelInputs, name: str) -> Tensor | None:
    """Mask `(E,)` bool of the training pairs whose item has the modality `name`; None: all."""
    present = inputs.features[name].present
    return None if bool(present.all()) else present[inputs.items]


def check_modality_weights(weights: Mapping[str, float] | None) -> None:
    """Check the option `modality_weights`.

    Raises:
        ConfigError: a weight is negative or NaN.
    """
    if weights is not None and not all(weight >= 0 for weight in weights.values()):
        raise ConfigError("modality_weights must be 0 or more")


def modality_weights(modalities: Sequence[str], given: Mapping[str, float] | None) -> dict[str, float]:
    """Weight of each modality's item-item graph: the given ones, else image .1 and text .9 for these two, else 1/M.

    Raises:
        ConfigError: a modality has no weight, a weight is negative, or all are 0.
    """
    if given is not None:
        if not set(modalities) <= set(given) or sum(given[m] for m in modalities) <= 0:
            raise ConfigError(f"modality_weights needs a weight for each of {', '.join(modalities)}, not all zero")
        return {m: given[m] for m in modalities}
    if set(modalities) == {"image", "text"}:
        return {"image": 0.1, "text": 0.9}
    return {m: 1 / len(modalities) for m in modalities}


def fused_features(features: Mapping[str, Features], weights: Mapping[str, float]) -> Tensor:
    r"""One row per item whose inner products are weighted cosines: `z_i = ‖_m √w_m f_im/‖f_im‖ / √W_i`.

    `W_i` is the sum of the weights of the modalities that the item has, so `z_i` has length 1 (0 if it has none) and
    `⟨z_i, z_j⟩ = Σ_m w_m cos(f_im, f_jm) / √(W_i W_j)` over the modalities that both have.

    Args:
        features: modality → features of `n` items.
        weights: modality → `w_m` ≥ 0, of the modalities to use.

    Returns:
        `(n, Σ d_m)` in the features' dtype, a copy.
    """
    parts = [normalize(features[m].values) * weight**0.5 for m, weight in weights.items()]
    return normalize(torch.cat(parts, dim=1))
