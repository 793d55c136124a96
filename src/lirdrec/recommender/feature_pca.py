"""Check that features vary; reduce them to principal components (`feature_size`, `whiten`) before a model uses them.

The projection is fitted once, to the items with training interactions, and is stored in the run. The same projection
reduces the features of items that are added later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lirdrec.data.dataset import Dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.models.feature_size_option import FeatureSizeOptions, SizeOptions
from lirdrec.nn.principal_components import Projection, vary
from lirdrec.option_names import setting_text
from lirdrec.parallel.ranks_and_shards import ONE, Ranks
from lirdrec.recommender.model_inputs import stored_tensor

log = logging.getLogger(__name__)

N_COMPARED = 1000  # rows whose length is compared before and after the reduction


def check_variance(dataset: Dataset, config: Any) -> None:
    """Check that the features of each modality differ between items; otherwise a model learns nothing from them.

    If they are missing or all the same, a warning is logged; if this is so for all modalities, an error is raised. Only
    the features of items of training are compared. Features that differ by no more than rounding in float32 count as
    the same. With `whiten` there is no warning, because `fit_projections` raises an error for such a modality.

    Args:
        dataset: the dataset with its features.
        config: the config of a model that needs features.

    Raises:
        DataError: the features of every modality that the model uses are missing or all the same.
    """
    used, known = _used(dataset, config), _known(dataset)
    same = [name for name in used if not vary(*_tensors(dataset, name, known))]
    if not same:
        return
    names, model = ", ".join(f"'{name}'" for name in same), config.model
    fault = f"the features {names} of {dataset.name} are missing or all the same for the items of training"
    if len(same) == len(used):
        raise DataError(
            f"{fault}, so {model} can learn nothing from them; make them again (lirdrec features DATASET), or"
            " take a model that needs none (ease, lightgcn, sasrec …)"
        )
    if not (isinstance(config, FeatureSizeOptions) and config.whiten):
        log.warning("%s: %s learns nothing from them; leave them out (modalities) or make them again", fault, model)


def fit_projections(dataset: Dataset, config: Any, ranks: Ranks = ONE) -> dict[str, Projection]:
    """Return name of a modality → projection, for each modality that the model config reduces or whitens.

    A modality whose features are all the same is not reduced. With several ranks (processes), rank 0 computes all
    projections.

    Raises:
        ConfigError: a size for a modality that the model does not use, or `whiten` with features that are all the same.
    """
    sizes, whiten = column_counts(dataset, config), isinstance(config, FeatureSizeOptions) and config.whiten
    if not sizes or (not whiten and all(size >= dataset.features[name].dims for name, size in sizes.items())):
        return {}
    projections = {}
    known = _known(dataset)
    for name, size in sizes.items():
        if not whiten and (size >= dataset.features[name].dims or not vary(*_tensors(dataset, name, known))):
            continue
        found = _fitted(dataset, name, known, size, whiten) if ranks.is_first else None
        if found is not None and not whiten:
            _check_outliers(dataset, name, known, found, size)
        if ranks.size > 1:
            parts = (None, None) if found is None else (found.offset, found.directions)
            offset, directions = (ranks.tensor_from_first(part) for part in parts)
            found = Projection(offset.cpu(), directions.cpu())
        assert found is not None
        projections[name] = found
    return projections


def column_counts(dataset: Dataset, config: Any) -> dict[str, int]:
    """Return modality → its number of columns, for the modalities that `feature_size` or `whiten` changes.

    The number is an upper limit. Only a modality whose features are all the same keeps all of its columns
    (`fit_projections`).

    Raises:
        ConfigError: a size for a modality that the dataset does not have or the model does not use.
    """
    if not isinstance(config, SizeOptions):
        return {}
    size, whiten = config.feature_size, isinstance(config, FeatureSizeOptions) and config.whiten
    if size is None and not whiten:
        return {}
    used = _used(dataset, config)
    given = size if isinstance(size, Mapping) else {} if size is None else dict.fromkeys(used, size)
    for name in given:
        if name not in used:
            what = "the dataset has" if getattr(config, "modalities", None) is None else "the model uses"
            raise ConfigError(f"feature_size: no modality '{name}'; {what} {', '.join(used) or 'none'}")
    widths = {name: dataset.features[name].dims for name in used}
    return {name: min(given.get(name, width), width) for name, width in widths.items() if whiten or name in given}


def _used(dataset: Dataset, config: Any) -> list[str]:
    """Return the modalities that a model with this config uses, sorted."""
    chosen = getattr(config, "modalities", None)
    return [name for name in sorted(dataset.features) if chosen is None or name in chosen]


def _known(dataset: Dataset) -> np.ndarray:
    """Return which items have a training interaction, `(I,)` bool."""
    known = np.zeros(dataset.n_items, dtype=bool)
    known[dataset.train.items] = True
    return known


def _tensors(dataset: Dataset, name: str, known: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the stored features `(I, d)` of a modality, and which items are `known` and have it, `(I,)` bool."""
    matrix = dataset.features[name]
    return stored_tensor(matrix.values), torch.from_numpy(known & matrix.present)


def _check_outliers(dataset: Dataset, name: str, known: np.ndarray, found: Projection, size: int) -> None:
    """Warn if the projection `found` keeps fewer columns than `size`, and less than half of a typical row's length.

    The cause is a few rows that are much larger than the others.
    """
    matrix = dataset.features[name]
    if found.n_columns >= min(size, matrix.dims):
        return
    rows = np.flatnonzero(known & matrix.present)
    values = stored_tensor(np.asarray(matrix.values[rows[:: max(1, len(rows) // N_COMPARED)]]))
    lengths = values.double().norm(dim=1).clamp(min=1e-300)
    kept = float((found(values).double().norm(dim=1) / lengths).median())
    if kept < 0.5:
        log.warning(
            "feature_size: a few rows of the features '%s' of %s are so much larger than the others that the reduction"
            " keeps only %d of %d columns and %.0f %% of the length of a typical row; correct these rows, or keep all"
            " columns (%s)",
            name,
            dataset.name,
            found.n_columns,
            matrix.dims,
            100 * kept,
            setting_text("feature_size", None),
        )


def _fitted(dataset: Dataset, name: str, known: np.ndarray, size: int, whiten: bool) -> Projection:
    try:
        return Projection.fit(*_tensors(dataset, name, known), size, whiten)
    except ValueError:
        raise ConfigError(
            f"whiten: the features '{name}' of {dataset.name} are missing or all the same for the items of training;"
            " leave that modality out (modalities)"
        ) from None
