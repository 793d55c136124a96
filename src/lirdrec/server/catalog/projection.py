"""Project the catalog to two dimensions: PCA of the item vectors, computed in the background."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lirdrec.data.ids import IdMap
from lirdrec.errors import CapabilityError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.server.snapshot import Snapshot

_EDGE = 0.995  # share of the items within the unit square


@dataclass(frozen=True, eq=False)
class Projection:
    """A point in two dimensions for each item. Items whose vectors have similar directions are near each other."""

    points: np.ndarray  # (I, 2) float32, about within -1 … 1; added items use the axes of the trained ones
    explained: tuple[float, float]  # share of the variance of the trained items' directions on each axis


class _Axes(NamedTuple):
    """A linear projection of item vectors to points."""

    center: Tensor  # (D,)
    directions: Tensor  # (D, 2)
    scale: float
    explained: tuple[float, float]

    def points(self, vectors: Tensor) -> np.ndarray:
        return ((_normalized(vectors) - self.center) @ self.directions / self.scale).numpy()


class CatalogProjection:
    """The projection of the run that is served; computed once for each run, at the first request or by `begin`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run: IdMap | None = None  # users of the run: the same object in all snapshots of one run only
        self._axes: Future[_Axes] | None = None
        self._points = np.empty((0, 2), dtype=np.float32)

    def begin(self, snapshot: Snapshot) -> Future[_Axes]:
        """Return a future of the axes of this run's projection.

        The first call for a run starts to compute them in the background.
        """
        with self._lock:
            if self._axes is None or self._run is not snapshot.recommender.users:
                self._run, self._points = snapshot.recommender.users, np.empty((0, 2), dtype=np.float32)
                self._axes = Future()
                threading.Thread(target=_compute, args=(self._axes, snapshot), name="map", daemon=True).start()
            return self._axes

    def get(self, snapshot: Snapshot, wait: float = 20.0) -> Projection:
        """Return the points of all items of a snapshot.

        Raises:
            TimeoutError: the computation takes more than `wait` seconds; try again.
            CapabilityError: the model has no item vectors.
        """
        axes = self.begin(snapshot).result(wait)
        n_items = snapshot.recommender.n_items
        with self._lock:
            is_current = self._run is snapshot.recommender.users
            points = self._points if is_current else self._points[:0]
            if len(points) < n_items:  # the vectors of existing items never change
                points = np.concatenate([points, axes.points(_item_vectors(snapshot)[len(points) :])])
                if is_current:
                    self._points = points
        return Projection(points[:n_items], axes.explained)


@torch.no_grad()
def principal_axes(vectors: Tensor) -> _Axes:
    """Compute the projection of vectors `(n, D)` to two dimensions, by a PCA of the vectors at length 1.

    The scale is such that 99.5 % of the points are within -1 to 1 on both axes. The sign of an axis is chosen so that
    the entry of its direction with the largest absolute value is positive; so the result is always the same.
    """
    unit = _normalized(vectors)
    center = unit.mean(0)
    centered = (unit - center).double()
    values, directions = torch.linalg.eigh(centered.T @ centered)  # ascending
    first = pad(directions[:, -2:].flip(1), (0, 2 - min(2, len(values))))
    signs = first.gather(0, first.abs().argmax(0, keepdim=True)).sign()
    first = (first * torch.where(signs == 0, 1.0, signs)).float()
    lengths = ((unit - center) @ first).abs().amax(1)
    scale = float(torch.quantile(lengths[:: 1 + len(lengths) // 1_000_000], _EDGE))
    values = pad(values.clamp(min=0).flip(0), (0, 1))
    shares = (values / values.sum().clamp(min=1e-300)).tolist()
    return _Axes(center, first, max(scale, 1e-12), (shares[0], shares[1]))


@torch.no_grad()
def _compute(result: Future[_Axes], snapshot: Snapshot) -> None:
    try:
        result.set_result(principal_axes(_item_vectors(snapshot)[: snapshot.recommender.n_trained_items]))
    except BaseException as error:  # is raised in the requests that wait for the result
        result.set_exception(error)


def has_projection(snapshot: Snapshot) -> bool:
    """Return whether the model has item vectors, which a projection needs."""
    return isinstance(snapshot.recommender.scorer, VectorScorer)


def _item_vectors(snapshot: Snapshot) -> Tensor:
    """Return the vectors `(I, D)` float32 of all items that similarities are computed from, or raise an error."""
    scorer = snapshot.recommender.scorer
    if not isinstance(scorer, VectorScorer):
        raise CapabilityError("this model has no item vectors, so there is no projection")
    return scorer.similarity_vectors.float().cpu()


def _normalized(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
