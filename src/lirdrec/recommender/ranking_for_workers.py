"""`UserRanking`: rank users of a run, with all that this needs in one object that can be sent to other processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lirdrec.data.dataset_base import Interactions
from lirdrec.files.progress_bars import ProgressCallback, no_progress
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorer_from_tensors import scorer_from_tensors
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.top_k import Quota, rank_users
from lirdrec.recommender.new_item_encoder import NewItemPolicy
from lirdrec.recommender.recommender import Recommender

NOT_RANKED = "memory.", "weights"  # beginnings of the names of tensors that no score depends on


@dataclass(frozen=True)
class UserRanking:
    """Ranks the k best items for users of a run.

    A pickle has the tensors of the scorer as NumPy arrays, which Ray's workers read without copying them. The
    object that is read from it is on the first device of the same kind.

    Attributes:
        scorer: computes the scores, with the offsets of new items that the request needs.
        k: number of items per user.
        device: where the users are ranked.
        seen: users and items `(n,)` of the pairs to leave out, or None.
        candidates: item rows to choose from, or None for all.
        quota: places of new items in each list, or None.
    """

    scorer: Scorer
    k: int
    device: torch.device
    seen: tuple[np.ndarray, np.ndarray] | None = None
    candidates: np.ndarray | None = None
    quota: Quota | None = None

    @classmethod
    def of(
        cls, recommender: Recommender, k: int, exclude_seen: bool, candidates: np.ndarray | None, policy: NewItemPolicy
    ) -> UserRanking:
        """Make the ranking for a recommender, with the options of `recommend_all`; `candidates` are item rows."""
        seen, train, dislikes = None, recommender.train, recommender.dislikes
        if exclude_seen and train is not None:
            excluded = train if dislikes is None else Interactions.concatenate([train, dislikes])
            seen = excluded.users, excluded.items
        quota = policy.quota(k, recommender.n_trained_items)
        return cls(recommender.policy_scorer(policy), k, recommender.device, seen, candidates, quota)

    def _blocks(self, rows: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rank the users in these rows; yields blocks of scores and item rows, `(b, k)` each, in the order of users."""
        device, seen = self.device, None
        if self.seen is not None:
            seen_users, seen_items = self.seen
            in_shard = (seen_users >= rows.start) & (seen_users < rows.stop)
            pairs = torch.tensor(seen_users[in_shard]), torch.tensor(seen_items[in_shard])
            seen = Histories(*pairs, self.scorer.n_users).to(device)
        candidates = None if self.candidates is None else torch.tensor(self.candidates, device=device)
        all_rows = torch.arange(rows.start, rows.stop, device=device)
        options: dict[str, Any] = {"seen": seen, "candidates": candidates, "quota": self.quota}
        for _, scores, items in rank_users(self.scorer, all_rows, self.k, **options):
            yield scores.cpu().numpy(), items.to(torch.int32).cpu().numpy()

    def shard(self, rows: range, advance: ProgressCallback = no_progress) -> dict[str, np.ndarray]:
        """Rank the users in these rows; return "scores" and "items" (item rows), `(len(rows), k)` each.

        `advance` is called after each block of users with the number of its users.
        """
        scores, items = [], []
        for block_scores, block_items in self._blocks(rows):
            scores.append(block_scores)
            items.append(block_items)
            advance(len(block_scores))
        return {"scores": np.concatenate(scores), "items": np.concatenate(items)}

    def __reduce__(self) -> tuple[Any, ...]:
        tensors = self.scorer.tensors()
        if self.scorer.kind == "vectors":
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(NOT_RANKED)}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        rest = self.k, self.device.type, self.seen, self.candidates, self.quota
        return _rebuilt, (arrays, self.scorer.settings(), *rest)


def _rebuilt(
    arrays: dict[str, np.ndarray],
    settings: dict[str, Any],
    k: int,
    device: str,
    seen: tuple[np.ndarray, np.ndarray] | None,
    candidates: np.ndarray | None,
    quota: Quota | None,
) -> UserRanking:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # we do not write to it
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    scorer = scorer_from_tensors(tensors, settings).to(device)
    return UserRanking(scorer, k, torch.device(device), seen, candidates, quota)
