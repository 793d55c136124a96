"""The catalogue in the plane: the two main directions of the items' vectors, computed beside the requests."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lirdrec.data.ids import IdMap
from lirdrec.errors import CapabilityError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.server.state import Snapshot

_EDGE = 0.995  # share of the items that lies within the unit square; the rest may stick out


@dataclass(frozen=True, eq=False)
class Projection:
    """Where items lie. Neighbours in the plane have vectors of like direction, as far as two numbers can tell.

    Attributes:
        points: `(I, 2)` float32, about within -1 … 1; added items are laid into the plane of the trained ones.
        explained: share of the variance of the trained items' directions that each axis holds.
    """

    points: np.ndarray
    explained: tuple[float, float]


@dataclass(frozen=True, eq=False)
class _Axes:
    """How vectors become points."""

    centre: Tensor  # (D,)
    directions: Tensor  # (D, 2)
    scale: float
    explained: tuple[float, float]

    def points(self, vectors: Tensor) -> np.ndarray:
        return ((_unit(vectors) - self.centre) @ self.directions / self.scale).numpy()


class CatalogProjection:
    """The plane of the run that is served. Computed once a run, by the first who asks or by `begin`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run: IdMap | None = None  # users of the run: the same object in all its snapshots, another after a swap
        self._axes: Future[_Axes] | None = None
        self._points = np.empty((0, 2), dtype=np.float32)

    def begin(self, snapshot: Snapshot) -> Future[_Axes]:
        """Start to compute in the background, unless that was done for this run."""
        with self._lock:
            if self._axes is None or self._run is not snapshot.recommender.users:
                self._run, self._points = snapshot.recommender.users, np.empty((0, 2), dtype=np.float32)
                self._axes = Future()
                threading.Thread(target=_compute, args=(self._axes, snapshot), name="map", daemon=True).start()
            return self._axes

    def plane(self, snapshot: Snapshot, wait: float = 20.0) -> Projection:
        """The points of all items of a snapshot.

        Args:
            snapshot: what is served.
            wait: seconds to wait for the computation at most.

        Raises:
            TimeoutError: it takes longer; ask again.
            CapabilityError: the model keeps no vectors.
        """
        axes = self.begin(snapshot).result(wait)
        n_items = snapshot.recommender.n_items
        with self._lock:
            known = self._points if self._run is snapshot.recommender.users else self._points[:0]
            if len(known) < n_items:  # vectors of items that are there never change
                known = np.concatenate([known, axes.points(item_vectors(snapshot)[len(known) :])])
                if self._run is snapshot.recommender.users:
                    self._points = known
        return Projection(known[:n_items], axes.explained)


@torch.no_grad()
def principal_axes(vectors: Tensor) -> _Axes:
    """Centre, first two principal directions and scale of the directions of vectors `(n, D)`.

    A direction's sign is that which makes its largest entry positive, so the map is the same every time.
    """
    unit = _unit(vectors)
    centre = unit.mean(0)
    spread = (unit - centre).double()
    values, directions = torch.linalg.eigh(spread.T @ spread)  # ascending
    first = directions[:, -2:].flip(1)
    if first.shape[1] < 2:
        first = torch.nn.functional.pad(first, (0, 2 - first.shape[1]))
    signs = first.gather(0, first.abs().argmax(0, keepdim=True)).sign()
    first = (first * torch.where(signs == 0, 1.0, signs)).float()
    lengths = ((unit - centre) @ first).abs().amax(1)
    scale = float(torch.quantile(lengths[:: 1 + len(lengths) // 1_000_000], _EDGE))
    whole = float(values.clamp(min=0).sum())
    shares = [float(value) / whole if whole > 0 else 0.0 for value in values.clamp(min=0).flip(0)[:2]]
    return _Axes(centre, first, max(scale, 1e-12), (shares[0], shares[1] if len(shares) > 1 else 0.0))


@torch.no_grad()
def _compute(answer: Future[_Axes], snapshot: Snapshot) -> None:
    try:
        answer.set_result(principal_axes(item_vectors(snapshot)[: snapshot.recommender.n_trained_items]))
    except BaseException as error:  # whoever waits must hear of it
        answer.set_exception(error)


def has_map(snapshot: Snapshot) -> bool:
    """Whether there are vectors to draw."""
    return isinstance(snapshot.recommender.scorer, VectorScorer)


def item_vectors(snapshot: Snapshot) -> Tensor:
    """Vectors `(I, D)` float32 of all items.

    Raises:
        CapabilityError: the model keeps none.
    """
    scorer = snapshot.recommender.scorer
    if not isinstance(scorer, VectorScorer):
        raise CapabilityError("this model compares items without vectors of them, so there is no map")
    return scorer.item_vectors.float().cpu()


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
