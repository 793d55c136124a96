"""Modalities of a model: which feature matrices it uses, their weights, and their fusion into one row per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.base import Features, ModelInputs
from lirdrec.nn.normalize_and_dropout import normalize


def chosen_modalities(
    inputs: ModelInputs,
    names: Sequence[str] | None,
    *,
    reserved: Sequence[str] = (),
    at_least: int = 1,
    model: str = "",
) -> tuple[str, ...]:
    """Return the names of the modalities that a model uses, in order, after checking the option `modalities`.

    Args:
        inputs: the inputs of the model, with the feature matrices.
        names: the option `modalities`; None: all modalities of the inputs.
        reserved: names that the model uses for other parts of its score.
        at_least: smallest number of modalities with which the model works.
        model: name of the model, for the error message.

    Raises:
        ConfigError: a name is unknown, repeated or reserved, or there is no name.
        CapabilityError: there are fewer modalities than `at_least`.
    """
    modalities = tuple(names) if names is not None else tuple(inputs.features)
    for name in modalities:
        if name not in inputs.features:
            raise ConfigError(
                f"modalities: there is no feature matrix '{name}'; the dataset has {', '.join(inputs.features)}"
            )
    if taken := [name for name in modalities if name in reserved]:
        raise ConfigError(
            f"modalities: the feature matrix '{taken[0]}' has the same name as another part of the model's score; leave"
            " it out of the option modalities, or prepare the dataset with another name for the matrix"
        )
    if not modalities or len(set(modalities)) < len(modalities):
        also = f", and none can be called {' or '.join(map(repr, reserved))}" if reserved else ""
        raise ConfigError(f"modalities must name at least one feature matrix, and none of them twice{also}")
    if len(modalities) < at_least:
        raise CapabilityError(
            f"{model} needs {at_least} modalities or more, and there is only '{modalities[0]}'; name more in the option"
            " modalities, or add a feature matrix to the dataset (lirdrec features DATASET)"
        )
    return modalities


def pairs_with(inputs: ModelInputs, name: str) -> Tensor | None:
    """Return the mask `(E,)` bool of the training pairs whose item has the modality `name`; None: all items do."""
    present = inputs.features[name].present
    return None if bool(present.all()) else present[inputs.items]


def check_modality_weights(weights: Mapping[str, float] | None) -> None:
    """Check that no weight in the option `modality_weights` is negative or NaN.

    Raises:
        ConfigError: a weight is negative or NaN.
    """
    if weights is not None and not all(weight >= 0 for weight in weights.values()):
        raise ConfigError("modality_weights must be 0 or more")


def modality_weights(modalities: Sequence[str], given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the weight that each of the `M` modalities has when items are compared.

    These are the weights `given` by the option `modality_weights`. None: image .1 and text .9 if exactly these two are
    used, else 1/M for each.

    Raises:
        ConfigError: a modality has no weight in `given`, or the weights of all modalities are 0.
    """
    if given is not None:
        if not set(modalities) <= set(given) or sum(given[m] for m in modalities) <= 0:
            raise ConfigError(
                f"modality_weights needs a weight for each of {', '.join(modalities)}; not all of them can be zero"
            )
        return {m: given[m] for m in modalities}
    if set(modalities) == {"image", "text"}:
        return {"image": 0.1, "text": 0.9}
    return {m: 1 / len(modalities) for m in modalities}


def fused_features(features: Mapping[str, Features], weights: Mapping[str, float]) -> Tensor:
    r"""Return one row `z_i` per item from all its modalities, so that inner products of rows are weighted cosines.

        z_i = ‖_m √w_m f_im/‖f_im‖ / √W_i
        ⟨z_i, z_j⟩ = Σ_m w_m cos(f_im, f_jm) / √(W_i W_j)        over the modalities m that both items have

    `f_im` are the features of item i in modality m, and `‖_m` puts the vectors of all modalities side by side. `W_i` is
    the sum of the weights of the modalities that item i has, so `z_i` has length 1 (0 if the item has no modality).

    Args:
        features: modality → features of `n` items.
        weights: modality → `w_m` ≥ 0, of the modalities to use.

    Returns:
        `(n, Σ d_m)` in the features' dtype, a copy.
    """
    parts = [normalize(features[m].values) * weight**0.5 for m, weight in weights.items()]
    return normalize(torch.cat(parts, dim=1))
