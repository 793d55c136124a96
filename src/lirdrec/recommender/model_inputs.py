"""Build `ModelInputs`, the input tensors of models, from a dataset; check that they fit into the memory."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lirdrec.available_memory import check_memory
from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.graphs.cache import NeighborSource
from lirdrec.models.base import Features, ModelInputs
from lirdrec.nn.principal_components import Projection
from lirdrec.parallel.ranks_and_shards import ONE, Ranks
from lirdrec.wording import pluralize

NEIGHBOR_ENTRY = 8 + 4  # bytes of a neighbor and its similarity
GRAPH_ENTRY = 8 + 2 * 8 + 4  # bytes of a neighbor, and of its entry in the graph: row, column, value


def check_size(dataset: Dataset, config: Any, device: torch.device, columns: Mapping[str, int] | None = None) -> None:
    """Check that the memory is enough for a model's vectors and neighbors on the CPU, before they are allocated.

    For another device nothing is checked. The need is a lower bound, in float32: user vectors with their gradient and
    Adam's two moments, and the vectors of all users and items with their gradient; for LIRDRec also the weights of its
    hidden layers. Each item has `n_neighbors` neighbors. `columns` gives the number of columns of each modality that is
    reduced.

    Raises:
        ConfigError: they need more memory than is free; the message names the option and both sizes.
    """
    if device.type != "cpu":
        return
    _check_neighbors(dataset, config)
    size = getattr(config, "embedding_size", None)
    if size is None:
        return
    numbers = size * (4 * dataset.n_users + 2 * (dataset.n_users + dataset.n_items))
    options = f"embedding_size {size}"
    multiplier = getattr(config, "hidden_multiplier", None)
    if multiplier is not None:
        widths = {name: matrix.dims for name, matrix in dataset.features.items()} | dict(columns or {})
        numbers += 4 * size * multiplier * sum(widths.values())
        options += f" with hidden_multiplier {multiplier}"
    check_memory(4 * numbers, f"{options}: training on {dataset.name}")


def _check_neighbors(dataset: Dataset, config: Any) -> None:
    """Check the memory for the nearest items of each item; `n_neighbors` may be as large as the number of items."""
    k = getattr(config, "n_neighbors", None)
    if k is None or getattr(config, "item_graph", "features") not in ("features", "both"):
        return
    names, n = getattr(config, "modalities", None) or dataset.features, dataset.n_items
    if hasattr(config, "embedding_size"):
        of_modalities = getattr(config, "modality_neighbors", None) or {}
        need = GRAPH_ENTRY * sum(n * min(of_modalities.get(name, k), n) for name in names)
    else:
        need = NEIGHBOR_ENTRY * n * min(k, n)
    check_memory(need, f"n_neighbors {k}, of {pluralize(n, 'item')}: training on {dataset.name}")


def make_model_inputs(
    dataset: Dataset,
    device: torch.device | str = "cpu",
    cache: str | Path | Literal[False] | None = None,
    seed: int = 0,
    progress: bool = False,
    ranks: Ranks = ONE,
    projections: Mapping[str, Projection] | None = None,
) -> ModelInputs:
    """Build the inputs of a model on `device`: training pairs, features in float32, and a source of nearest neighbors.

    The pairs have their weights and timestamps, if there are any. The neighbors are computed when they are first used,
    and kept in the folder `cache` (as for `fit`).

    With several `ranks` (processes), only the features of this rank's items are read. A modality with a projection is
    reduced by it (`recommender/feature_pca.py`), also for the search for neighbors.
    """
    projections = projections or {}
    features, rows = {}, slice(None) if ranks.size == 1 else ranks.shard(dataset.n_items).rows
    for name in sorted(dataset.features):  # one order everywhere: image before text
        features[name] = as_features(dataset.features[name], device, projections.get(name), rows)
    neighbors: Callable[[str, int], torch.Tensor]
    if ranks.size == 1:
        tensors = {name: (f.values, f.present) for name, f in features.items()}
        neighbors = NeighborSource(tensors, _cache_folder(cache), _neighbor_progress if progress else None)
    else:
        neighbors = _NeighborsOfFirst(dataset, torch.device(device), _cache_folder(cache), progress, ranks, projections)
    return ModelInputs(
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        users=torch.from_numpy(np.array(dataset.train.users)).to(device),
        items=torch.from_numpy(np.array(dataset.train.items)).to(device),
        features=features,
        neighbors=neighbors,
        seed=seed,
        ranks=ranks,
        projections=projections,
        weights=_optional_tensor(dataset.train.weights, device),
        timestamps=_optional_tensor(dataset.train.timestamps, device),
    )


def _optional_tensor(values: np.ndarray | None, device: torch.device | str) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(np.array(values)).to(device)


class _NeighborsOfFirst:
    """A `NeighborSource` for several ranks: rank 0 computes the neighbors, or reads them from the cache, for all."""

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        folder: Path | None,
        progress: bool,
        ranks: Ranks,
        projections: Mapping[str, Projection],
    ) -> None:
        self._dataset, self._device, self._folder = dataset, device, folder
        self._progress, self._ranks, self._projections = progress, ranks, projections

    def __call__(self, name: str, k: int) -> torch.Tensor:
        return self._ranks.tensor_from_first(self._computed(name, k) if self._ranks.is_first else None).to(self._device)

    def _computed(self, name: str, k: int) -> torch.Tensor:
        feature = as_features(self._dataset.features[name], self._device, self._projections.get(name))
        tensors = {name: (feature.values, feature.present)}
        return NeighborSource(tensors, self._folder, _neighbor_progress if self._progress else None)(name, k)


def _cache_folder(cache: str | Path | Literal[False] | None) -> Path | None:
    if cache is False:
        return None
    if cache is not None:
        return Path(cache)
    base = os.environ.get("LIRDREC_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lirdrec"


def as_features(
    matrix: FeatureMatrix,
    device: torch.device | str,
    projection: Projection | None = None,
    rows: slice = slice(None),
) -> Features:
    """Return rows of a feature matrix as float32 on `device`, reduced by the projection if there is one.

    A memory map of float32 is not copied on the CPU.
    """
    values = matrix.values[rows]
    tensor = _as_tensor(values) if projection is None else projection(stored_tensor(values))
    return Features(tensor, torch.from_numpy(np.array(matrix.present[rows]))).to(device)


def _as_tensor(values: np.ndarray) -> torch.Tensor:
    return stored_tensor(values if values.dtype == np.float32 else np.array(values, dtype=np.float32))


def stored_tensor(values: np.ndarray) -> torch.Tensor:
    """Return features as a tensor in the dtype that they are stored in; a memory map, if contiguous, is not copied."""
    if not values.flags.c_contiguous:
        values = np.array(values, order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)  # no model writes to its features


def _neighbor_progress(name: str) -> Callable[[int, int], None]:
    """Return a function that shows the progress of computing a neighbor table, if this takes more than two seconds."""
    from rich.console import Console
    from rich.progress import Progress

    started = time.monotonic()
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(f"nearest items by {name}", total=None)

    def show(done: int, total: int) -> None:
        if time.monotonic() - started > 2 and not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    return show
