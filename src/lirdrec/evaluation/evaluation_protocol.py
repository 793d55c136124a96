"""Protocol of a test: by which interactions each user is known, and whether items that the user has seen are ranked.

If the test is held out by time, the user's history is everything before it, validation interactions included. A model
that can serve new users computes the user's query from this history (`Model.fold_in`). A model whose queries are
histories uses this longer history. Every other model keeps the trained vector of the user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.positions_or_times import last_positions
from lirdrec.data.splits import is_split_by_time, split_method
from lirdrec.errors import ConfigError, DataError
from lirdrec.option_names import option_text
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import Scorer, VectorScorer

TestHistory = Literal["train", "train+valid"]
TEST_HISTORIES: tuple[TestHistory, ...] = ("train", "train+valid")
TestTarget = Literal["all", "last"]
TEST_TARGETS: tuple[TestTarget, ...] = ("all", "last")
BATCH_USERS = 1024  # users whose queries are computed together


@dataclass(frozen=True)
class EvaluationProtocol:
    """How an evaluation was done.

    Attributes:
        test_history: interactions that a user is known by: "train" or "train+valid".
        test_target: the relevant interactions: "all" of the test, or each user's "last". The test interactions before
            the last one then count as validation interactions.
        mask_seen: whether the items of this history are left out of the ranking.
        queries: what represents the users: "trained", as after the training, or "histories", computed from the longer
            history.
    """

    test_history: TestHistory = "train"
    test_target: TestTarget = "all"
    mask_seen: bool = True
    queries: Literal["trained", "histories"] = "trained"

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits whose interactions the history has, such as ("train", "valid")."""
        return tuple(self.test_history.split("+"))

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self)


def default_test_history(info: Mapping[str, Any]) -> TestHistory:
    """Return the test history of a dataset with this `info`: "train+valid" after a split by time, else "train".

    >>> default_test_history({"split": {"method": "leave_last_out"}})
    'train+valid'
    """
    return "train+valid" if is_split_by_time(info) else "train"


def default_test_target(info: Mapping[str, Any]) -> TestTarget:
    """Return the test target of a dataset with this `info`: "last" after the split "global_time_last", else "all"."""
    return "last" if split_method(info) == "global_time_last" else "all"


def protocol_of(
    recommender: Any,
    info: Mapping[str, Any],
    split: str,
    test_history: str | None = None,
    test_target: str | None = None,
    mask_seen: bool = True,
) -> EvaluationProtocol:
    """Return the protocol for the evaluation of a recommender on a split of a dataset with this `info`.

    Args:
        recommender: a `Recommender`, an object with a `scorer`, or None for lists made elsewhere.
        info: facts of the dataset (`Dataset.info`).
        split: "train", "valid" or "test".
        test_history: "train", "train+valid", or None: see `default_test_history`. Other splits than the test have the
            history of the training, and all targets.
        test_target: "all", "last", or None: see `default_test_target`.
        mask_seen: whether the items of the history are left out of the ranking.

    Raises:
        ConfigError: an unknown history or target, or one that only the test can have, for another split.
    """
    check_protocol(test_history, test_target, split)
    if split != "test":
        return EvaluationProtocol(mask_seen=mask_seen)
    history: Any = test_history or default_test_history(info)
    target: Any = test_target or default_test_target(info)
    takes = history == "train+valid" and recommender is not None and takes_histories(recommender)
    return EvaluationProtocol(history, target, mask_seen, "histories" if takes else "trained")


def check_protocol(test_history: str | None, test_target: str | None, split: str = "test") -> None:
    """Check the options `test_history` and `test_target` of an evaluation on `split`; None is always accepted.

    Raises:
        ConfigError: a value is unknown, or it is only for the test and `split` is another one.
    """
    for name, value, choices in (
        ("test_history", test_history, TEST_HISTORIES),
        ("test_target", test_target, TEST_TARGETS),
    ):
        if value not in (None, *choices):
            raise ConfigError(f"{option_text(name, value)}: choose one of {', '.join(choices)}")
        if split != "test" and value not in (None, choices[0]):
            raise ConfigError(f"{option_text(name, value)}: this is for the test only, not for the split '{split}'")


def with_last_target(dataset: Dataset) -> Dataset:
    """Return the dataset with only each user's last test interaction in the test; earlier ones are moved to valid.

    Raises:
        DataError: the test interactions have no timestamps.
    """
    test = dataset.test.oldest_first()
    if test.timestamps is None:
        raise DataError(
            f"{dataset.name}: the last test interaction of a user is known only with timestamps, but there are none;"
            " use all test interactions (test_target)"
        )
    last = last_positions(test.users)
    valid = Interactions.concatenate([dataset.valid, test.take(np.delete(np.arange(len(test)), last))])
    return replace(dataset, valid=valid, test=test.take(last), folder=None)


def takes_histories(recommender: Any) -> bool:
    """Return whether a recommender can represent its users by other histories than in the training.

    This is so if its model serves new users, or represents users by their histories anyway.
    """
    if isinstance(recommender.scorer, ItemWeightScorer):
        return True
    if not isinstance(recommender.scorer, VectorScorer):  # a mix of several models
        return False
    if getattr(recommender, "is_slim", False) or not getattr(recommender, "has_model", False):
        return False
    return bool(recommender.model("serve new users").capabilities.new_users)


class HistoryScorer(Scorer):
    """A scorer in which some users have longer histories, from which `make` gives their queries; else as `scorer`.

    Args:
        scorer: gives the scores, and the queries of the other users.
        users: `(n,)` int64 rows of the users with a longer history.
        make: function from rows `(B,)` of such users to their queries `(B, D)`.
    """

    def __init__(self, scorer: Scorer, users: Tensor, make: Callable[[Tensor], Tensor]):
        self.scorer, self.make = scorer, make
        self.kind, self.part_names = scorer.kind, scorer.part_names
        self.n_users, self.n_items = scorer.n_users, scorer.n_items
        self._is_longer = torch.zeros(self.n_users, dtype=torch.bool, device=users.device)
        self._is_longer[users] = True

    def queries(self, users: Tensor) -> Tensor:
        queries, longer = self.scorer.queries(users), self._is_longer[users]
        for positions in longer.nonzero().squeeze(1).split(BATCH_USERS):
            queries[positions] = self.make(users[positions]).to(queries)
        return queries

    def scores(self, queries: Tensor) -> Tensor:
        return self.scorer.scores(queries)

    def parts(self, queries: Tensor, items: Tensor) -> Tensor:
        return self.scorer.parts(queries, items)

    def similar_items(self, items: Tensor) -> Tensor:
        return self.scorer.similar_items(items)

    def similar_users(self, users: Tensor) -> Tensor:
        return self.scorer.similar_users(users)

    def tensors(self) -> dict[str, Tensor]:
        return self.scorer.tensors()

    def to(self, device: torch.device | str) -> HistoryScorer:
        """Return a copy that scores on `device`; the queries of longer histories are still made on the old device."""
        make, home = self.make, self._is_longer.device
        users = self._is_longer.nonzero().squeeze(1).to(device)
        return HistoryScorer(self.scorer.to(device), users, lambda rows: make(rows.to(home)))


def with_histories(recommender: Any, scorer: Scorer, history: Histories, added: Histories) -> Scorer:
    """Return the scorer with queries made from histories, for users with a longer history than in the training.

    Args:
        recommender: a recommender for which `takes_histories` is true.
        scorer: its scorer, or one with other offsets of new items.
        history: the complete history of every user, oldest first.
        added: the part of this history that is not in the training.
    """
    users = added.counts().nonzero().squeeze(1)
    if isinstance(scorer, ItemWeightScorer) and not getattr(recommender, "is_ordered", False):

        def longer_rows(rows: Tensor) -> Tensor:
            queries = scorer.queries(rows)
            owner, items = added.pairs(rows)
            queries[owner, items] = 1  # as in `ItemWeightScorer.queries_of`: the mean weight
            return queries

        return HistoryScorer(scorer, users, longer_rows)
    model = recommender.model("serve new users")

    @torch.no_grad()
    def folded_in(rows: Tensor) -> Tensor:
        return model.fold_in(scorer, [history.of(row) for row in rows.tolist()])

    return HistoryScorer(scorer, users, folded_in)
