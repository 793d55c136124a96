"""Start a training from an earlier run: match rows of users and items by id, and start new rows from known rows."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lirdrec.data.cold_start import move_to_train
from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.errors import CapabilityError, ConfigError, DataError
from lirdrec.models.base import Model, ModelInputs
from lirdrec.models.registry import model_for_config
from lirdrec.option_names import option_text
from lirdrec.recommender.serialization import read_run
from lirdrec.recommender.state import RunState
from lirdrec.wording import pluralize

log = logging.getLogger(__name__)

N_NEAREST = 10  # number of nearest known items per modality; a new item's row starts from their mean
N_COMPARED = 1000  # items whose features are compared with their features in the earlier run
SAME_FEATURES = 0.9  # smallest median cosine between the features of an item in the earlier run and now


def read_earlier(run: Any) -> RunState:
    """Return the state of an earlier run, given as its folder or as a `Recommender`.

    Raises:
        RunFolderError: there is no such run.
        ConfigError: `run` is neither a folder nor a recommender.
    """
    state = read_run(run) if isinstance(run, (str, Path)) else getattr(run, "state", None)
    if not isinstance(state, RunState):
        raise ConfigError(f"give an earlier run as a run folder or a Recommender, not as {type(run).__name__}")
    return state


def check_parameters(state: RunState) -> None:
    """Check that a run has the parameters of its model, from which a training can start.

    Raises:
        CapabilityError: the run has none, such as a slim run, which has vectors and ids only.
    """
    if state.train is None or state.weights is None:
        raise CapabilityError(f"{run_name(state)} is slim, without the parameters to start from; give the full run")


def run_name(state: RunState) -> str:
    """Return the name of the run for messages: its folder, or "the recommender" if it has none."""
    return "the recommender" if state.folder is None else str(state.folder)


def weights_digest(state: RunState) -> str:
    """Return a hash of the run's parameters, 16 hexadecimal digits, which shows whether the run has changed."""
    digest = hashlib.sha256()
    for name, tensor in sorted((state.weights or {}).items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def without_trained(dataset: Dataset, state: RunState) -> Dataset:
    """Return the dataset with the held-out interactions that a run was trained on moved to the training interactions.

    A warning gives the numbers of interactions that were moved.

    Raises:
        DataError: the run was trained on every validation interaction.
    """
    assert state.trained is not None
    changed, moved = move_to_train(dataset, state.users, state.items, state.trained)
    if len(dataset.valid) and not len(changed.valid):
        n = pluralize(moved["valid"], "validation interaction")
        raise DataError(
            f"{dataset.name}: {run_name(state)} was trained on all {n}, so they cannot choose the best epoch; hold out"
            " interactions that are newer than that run (lirdrec prepare --split temporal), or start from a run that"
            " had validation"
        )
    if any(moved.values()):
        log.warning(
            "%s was trained on %d of the %d validation and %d of the %d test interactions of %s; they count as training"
            " interactions here",
            *(run_name(state), moved["valid"], len(dataset.valid), moved["test"], len(dataset.test), dataset.name),
        )
    return changed


def check_features(dataset: Dataset, state: RunState, config: Any) -> None:
    """Check that the dataset has the features that the run was trained with.

    Args:
        dataset: the dataset to train on.
        state: the earlier run.
        config: the model's config.

    Raises:
        DataError: a modality is missing, new, of another width, or was made by another encoder.
    """
    if not model_for_config(config).capabilities.needs_features:
        return
    run, used = run_name(state), getattr(config, "modalities", None)
    trained = state.features.known_names() if state.features is not None else []
    names = list(used) if used is not None else trained
    where = f"{dataset.name} (to continue {run})"
    missing = [name for name in names if name not in dataset.features]
    if missing:
        raise DataError(f"{where} has no features '{missing[0]}', which that run was trained with; add them")
    if used is None and (extra := [name for name in dataset.features if name not in names]):
        raise DataError(
            f"{where} has the features '{extra[0]}', which that run did not use; leave them out, or train from scratch"
        )
    for name, matrix in (state.features.trained or {}).items() if state.features is not None else ():
        if name in names:
            _check_same(name, matrix, dataset.features[name], state, dataset, where)
    if state.features is not None and state.features.trained is None:
        log.warning(
            "the features are not compared with those of %s: the features of that run cannot be read any more", run
        )


def _check_same(
    name: str, old: FeatureMatrix, new: FeatureMatrix, state: RunState, dataset: Dataset, where: str
) -> None:
    if old.dims != new.dims:
        raise DataError(
            f"{where}: its features '{name}' have {new.dims} columns, but {old.dims} in that run; {_remedy()}"
        )
    rows = state.items.rows(dataset.items.series)
    shared = np.flatnonzero((rows >= 0) & (rows < state.n_trained_items))
    shared = shared[new.present[shared] & old.present[rows[shared]]]
    if not len(shared):
        return
    shared = shared[:: max(1, len(shared) // N_COMPARED)]
    a, b = (np.asarray(m.values[index], np.float64) for m, index in ((old, rows[shared]), (new, shared)))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = float(np.median((a * b).sum(1) / np.maximum(lengths, 1e-300)))
    if cosine < SAME_FEATURES and lengths.any():
        raise DataError(
            f"{where}: its features '{name}' differ from the features of that run (median cosine {cosine:.2f} over"
            f" {pluralize(len(shared), 'shared item')}); {_remedy()}"
        )


def _remedy() -> str:
    reuse = option_text("reuse", "DATASET_OF_THAT_RUN")
    return f"make them with the encoder of that run: the features command with {reuse} {option_text('overwrite', True)}"


def start_from(model: Model, dataset: Dataset, state: RunState) -> None:
    """Give a new model the parameters of an earlier run, in place.

    Rows of users and items are matched by id. A new item's row is the mean row of its nearest known items (by features
    or, if there are none, by the users who took it). A new user's row is the mean row of the known users who took the
    same items. Without such items or users the row is the mean of all known rows. The model may then change the
    parameters (`Model.start_again`).

    Raises:
        ConfigError: the run is of another model, or of the same model with other settings.
        DataError: the dataset shares no user and no item with the run.
    """
    assert state.weights is not None
    run = run_name(state)
    users = torch.tensor(state.users.rows(dataset.users.series))
    items = torch.tensor(state.items.rows(dataset.items.series))
    items[items >= state.n_trained_items] = -1  # added later: no parameters of their own
    if not bool((users >= 0).any()) and not bool((items >= 0).any()):
        raise DataError(
            f"{dataset.name} shares no user and no item with {run}; check that the ids are written in the same way"
        )
    graph = _Neighbors(model.inputs, users, items)
    loaded = {}
    for name, own in model.state_dict().items():
        kind = model.rows_of(name)
        if name not in state.weights and name.split(".")[0] in model.fitted:
            loaded[name] = own
            continue
        if name not in state.weights:
            raise ConfigError(
                f"{run} has no parameter '{name}'; it was trained with other settings or by another version of"
                " lirdrec; use the same"
            )
        given = state.weights[name].to(own.device, own.dtype)
        if given.shape[int(kind is not None) :] != own.shape[int(kind is not None) :]:
            raise ConfigError(
                f"{run}: its parameter '{name}' is {tuple(given.shape)}, but must be {tuple(own.shape)}; use the"
                " settings and the features of that run"
            )
        loaded[name] = given if kind is None else graph.filled(given, kind)
    model.load_state_dict(loaded)
    model.start_again()


class _Neighbors:
    """Computes the rows that new users and items start from.

    Args:
        inputs: the inputs of the new model.
        users: `(U,)` int64, row of each user in the earlier run, -1 for a new user.
        items: `(I,)` int64, row of each item in the earlier run, -1 for a new item.
    """

    def __init__(self, inputs: ModelInputs, users: Tensor, items: Tensor):
        self.inputs, device = inputs, inputs.device
        self.rows = {"user": users.to(device), "item": items.to(device)}

    def filled(self, table: Tensor, kind: str) -> Tensor:
        """Return a table with a row for each user or item of the dataset, from the table `(n, …)` of the earlier run.

        Known users and items keep their row; a new one gets a mean of known rows (see `start_from`).
        """
        rows = self.rows[kind]
        is_known = rows >= 0
        mean = table.double().mean(0) if len(table) else table.new_zeros(table.shape[1:]).double()
        result = table.new_zeros(len(rows), *table.shape[1:])
        result[is_known] = table[rows[is_known]]
        if bool(is_known.all()):
            return result
        flat = result.flatten(1).double()
        start = mean.flatten().expand_as(flat)
        sources = [self._by_interactions(flat, kind, is_known)]
        if kind == "item":
            sources.append(self._by_features(flat, is_known))
        for found, count in sources:  # the last source that has known rows is used
            start = torch.where((count > 0)[:, None], found, start)
        return torch.where(is_known[:, None], flat, start).to(table.dtype).view_as(result)

    def _by_interactions(self, flat: Tensor, kind: str, is_known: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each user a mean `(n, D)` of the rows of known users who took the same items.

        First each item gets the mean row of the known users who took it; then each user gets the mean of these over the
        user's items. The second result is the number of such items of each user, `(n,)`. For `kind` "item", users and
        items are exchanged.
        """
        own, other = (
            (self.inputs.users, self.inputs.items) if kind == "user" else (self.inputs.items, self.inputs.users)
        )
        n_other = self.inputs.n_items if kind == "user" else self.inputs.n_users
        between, count = _mean(flat[own], other, n_other, is_known[own])
        return _mean(between[other], own, len(flat), count[other] > 0)

    def _by_features(self, flat: Tensor, is_known: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each new item the mean row `(n, D)` of its nearest known items in all modalities.

        The second result is the number of these items, `(n,)`; it is 0 for known items.
        """
        total, count = torch.zeros_like(flat), flat.new_zeros(len(flat))
        for name in self.inputs.features:
            nearest = self.inputs.neighbors(name, min(2 * N_NEAREST, self.inputs.n_items))
            new = (~is_known).nonzero().squeeze(1)
            near = nearest[new]
            usable = (near >= 0) & is_known[near.clamp(min=0)]
            usable &= usable.cumsum(1) <= N_NEAREST
            index, slot = usable.nonzero(as_tuple=True)
            total.index_add_(0, new[index], flat[near[index, slot]])
            count.index_add_(0, new[index], torch.ones(len(index), dtype=flat.dtype, device=flat.device))
        return total / count.clamp(min=1)[:, None], count


def _mean(values: Tensor, owner: Tensor, n: int, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean `(n, D)` of the usable rows of `values` with the same owner, and the number of these rows."""
    rows = usable.nonzero().squeeze(1)
    total = values.new_zeros(n, values.shape[1]).index_add_(0, owner[rows], values[rows])
    count = torch.bincount(owner[rows], minlength=n).to(values.dtype)
    return total / count.clamp(min=1)[:, None], count
