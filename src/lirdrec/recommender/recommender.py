"""`Recommender`: the public interface of a trained model: recommend, score, explain, add items, save and load."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.config import to_dict
from lirdrec.data.column_names import ITEM, SCORE, USER
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.frames import FrameKind, from_polars
from lirdrec.data.ids import IdMap, as_list, known_rows
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.base import Model
from lirdrec.models.registry import model_names, model_type
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.top_k import rank_users, top_k
from lirdrec.recommender import explanation
from lirdrec.recommender.explanation import Explanation
from lirdrec.recommender.feature_store import FeatureStore
from lirdrec.recommender.new_item_encoder import NEW_ITEMS, NewItemEncoder, NewItemPolicy
from lirdrec.recommender.query_arguments import (
    as_histories,
    check_k,
    check_unknown,
    folded_in,
    history_rows,
    long_frame,
    most_similar,
    owned,
    pair_rows,
    pair_times,
    popular,
    query_blocks,
    user_rows,
)
from lirdrec.recommender.serialization import read_run, rebuild, write_metrics, write_run
from lirdrec.recommender.state import RunState, Stamp, check_full, item_title, make_histories
from lirdrec.recommender.update import with_items, with_likes
from lirdrec.wording import pluralize

HISTORY = "history"
NEIGHBOR = "neighbor"  # the column's name
# fields of the state that are attributes of the same name
PLAIN = tuple(field.name for field in fields(RunState) if field.name not in ("histories", "weights"))


class Recommender:
    """A trained model ready to serve.

    `lirdrec.fit` and `Recommender.load` return one. Results are frames with the columns user, item, rank (from 1) and
    score, best first. They are of the kind that the dataset was made from (`frames`: "polars", "pandas" or "arrow").

    Attributes:
        scorer: computes the scores from the current parameters.
        users, items: external ids ↔ rows of the scorer.
        item_table: one row per item; the first column is "item".
        train: training interactions as rows, followed by the likes of `update`; None in a slim run (vectors and ids).
        dislikes: disliked pairs, as rows, or None; recommendations leave them out like training interactions.
        features: the items' feature matrices, or None.
        info: JSON-able facts: "dataset", "dataset_folder", "model", "model_config", "training", "seed", "metrics" …
        frames: kind of the frames that are returned.
        n_trained_items: number of trained items; later rows were added by `add_items`.
        n_trained_pairs: how many interactions of `train`, from the first on, are of the training; None: all of them.
        device: where vectors and model are.
        folder: the run folder that it was loaded from or last saved to, or None.
    """

    def __init__(
        self,
        scorer: Scorer,
        users: IdMap,
        items: IdMap,
        item_table: pl.DataFrame | None = None,
        train: Interactions | None = None,
        *,
        model: Model | None = None,
        weights: Mapping[str, Tensor] | None = None,
        features: FeatureStore | None = None,
        frames: FrameKind = "polars",
        info: Mapping[str, Any] | None = None,
        n_trained_items: int | None = None,
        n_trained_pairs: int | None = None,
        device: torch.device | str = "cpu",
        histories: Histories | None = None,
        dislikes: Interactions | None = None,
    ):
        self.scorer, self.users, self.items = scorer, users, items
        self.item_table = item_table if item_table is not None else pl.DataFrame({ITEM: items.series})
        self.train, self.dislikes = train, dislikes
        self.features = features
        self.frames: FrameKind = frames
        self.info = dict(info or {})
        self.n_trained_items = len(items) if n_trained_items is None else n_trained_items
        self.n_trained_pairs = n_trained_pairs
        self.folder: Path | None = None
        self.saved: Stamp | None = None  # of the folder's manifest, as it was loaded or saved
        self.device = torch.device(device)
        self._model = model
        self._weights = weights
        self._exclusions: Histories | None = None  # of `exclusions`, made at first use
        if histories is None and train is not None:
            histories = make_histories(train, len(users), device, n_trained_pairs)
        self._histories = histories

    @classmethod
    def from_state(cls, state: RunState) -> Recommender:
        """Make a recommender from the state of a run (`state`)."""
        arguments = dict(vars(state))
        folder, saved = arguments.pop("folder"), arguments.pop("saved")
        recommender = cls(**arguments)
        recommender.folder, recommender.saved = folder, saved
        return recommender

    @property
    def state(self) -> RunState:
        """The current state of the run, as one immutable value."""
        weights = self._weights if self._model is None else self._model.state_dict()
        plain = {name: getattr(self, name) for name in PLAIN}
        return RunState(**plain, histories=self._histories, weights=weights)

    @classmethod
    def from_training(
        cls, model: Model, dataset: Dataset, *, scorer: Scorer | None = None, info: Mapping[str, Any] | None = None
    ) -> Recommender:
        """Make a recommender from a trained model.

        Args:
            model: the model, with its best parameters.
            dataset: the training data.
            scorer: `model.scorer()`, if the caller has computed it.
            info: JSON-able facts of the training ("training", "seed", "metrics" …).
        """
        facts = {"dataset": dataset.name, "model": model.name, "model_config": to_dict(model.config)}
        if dataset.folder is not None:
            facts["dataset_folder"] = str(dataset.folder.resolve())
        if "licence" in dataset.info:
            facts["licence"] = dataset.info["licence"]
        return cls(
            scorer if scorer is not None else model.scorer(),
            dataset.users,
            dataset.items,
            dataset.item_table,
            dataset.train,
            model=model,
            features=FeatureStore.of(dataset, model.inputs.projections),
            frames=dataset.frame_kind,
            info=facts | dict(info or {}),
            device=model.inputs.device,
            dislikes=dataset.dislikes,
        )

    # ------------------------------------------------------------ sizes and look-ups

    @property
    def n_users(self) -> int:
        """Number of users, who are all from the training."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items, added ones included."""
        return len(self.items)

    @property
    def is_slim(self) -> bool:
        """Whether this is a slim run, which has vectors and ids only."""
        return self.train is None

    @property
    def has_model(self) -> bool:
        """Whether the recommender has its model, which is needed for new items and new users."""
        return self._model is not None or self._weights is not None

    @property
    def is_ordered(self) -> bool:
        """Whether the model reads the history of a user in its order (`Capabilities.ordered`)."""
        if self._model is not None:
            return self._model.capabilities.ordered
        name = self.info.get("model")
        return self.has_model and not self.is_slim and name in model_names() and model_type(name).capabilities.ordered

    @property
    def histories(self) -> Histories:
        """The item rows of every user: the items of the training and of `update`.

        Raises:
            CapabilityError: a slim run has no histories.
        """
        return self._full_histories("tell what users liked")

    @property
    def exclusions(self) -> Histories:
        """The item rows that recommendations leave out for every user: `histories` and the dislikes.

        Raises:
            CapabilityError: a slim run has no histories.
        """
        histories = self._full_histories("leave out what a user has seen")
        if self.dislikes is None:
            return histories
        if self._exclusions is None:
            assert self.train is not None
            everything = Interactions.concatenate([self.train, self.dislikes])
            self._exclusions = make_histories(everything, self.n_users, self.device, self.n_trained_pairs)
        return self._exclusions

    def liked_rows(self, user_row: int) -> np.ndarray:
        """Return the item rows `(n,)` int64 of a user's history, oldest first if there are timestamps."""
        return self._full_histories("tell what a user liked").of(user_row).cpu().numpy()

    def liked(self, user: Any) -> list[Any]:
        """Return the ids of the items that the user liked, in the training and in `update`.

        They are in order, oldest first, if there are timestamps.
        """
        return self.items.series.gather(self.liked_rows(int(known_rows([user], self.users)[0]))).to_list()

    def title(self, item_row: int) -> str | None:
        """Return the item's title; None if the item table has no title column (`lirdrec.data.titles.named_title`)."""
        return item_title(self.item_table, item_row)

    def to(self, device: torch.device | str) -> Recommender:
        """Move vectors and model of this recommender to `device` (in place), and return it."""
        self.scorer = self.scorer.to(device)
        self.device = torch.device(device)
        self._histories, self._exclusions = None if self._histories is None else self._histories.to(device), None
        if self._model is not None:
            self._weights = {name: tensor.to(device) for name, tensor in self._model.state_dict().items()}
            self._model = None
        return self

    # ------------------------------------------------------------ recommending

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Any = None,
        unknown: Literal["raise", "skip", "popular"] = "raise",
        new_items: Any = "calibrated",
    ) -> Any:
        """Recommend the k best items to each user.

        Args:
            users: one id, many ids, or None for all users.
            k: number of items per user; fewer if fewer candidates remain.
            exclude_seen: leave out the user's training items, likes of `update` and dislikes.
            candidates: item ids to choose from; None for the complete catalog.
            unknown: what to do with unknown user ids: "raise", "skip", or "popular": recommend the items with the most
                training users, with that number as the score.
            new_items: how items that were added after the training compete: "calibrated", "none", "boost=0.05" or
                "share=0.2" (`NewItemPolicy`).

        Returns:
            A frame with the columns user, item, rank and score: users in the order given, best item first.

        Raises:
            UnknownIdError, ConfigError: an unknown user or candidate; a wrong option, such as a k beyond the catalog.
            CapabilityError: a slim run cannot leave out seen items or tell what is popular.

        >>> recommender.recommend(user, k=3)["rank"].to_list()
        [1, 2, 3]
        """
        check_unknown(unknown)
        check_k(k, self.n_items)
        policy = NewItemPolicy.parse(new_items)
        if users is None:
            ids, rows = self.users.series.to_list(), np.arange(self.n_users)
        else:
            ids, rows = user_rows(as_list(users), self.users, unknown)
        candidate_rows, is_unknown = self._candidates(candidates), rows < 0
        if exclude_seen and not is_unknown.all():
            self._full_histories("leave out what a user has seen (exclude_seen)")
        scores = np.full((len(rows), k), -np.inf)
        items = np.full((len(rows), k), -1)
        if not is_unknown.all():
            known = rows[~is_unknown]
            ranked = self._rank_users(known, k, exclude_seen, candidate_rows, policy)
            scores[~is_unknown], items[~is_unknown] = ranked
        if is_unknown.any():
            histories = self._full_histories("tell what is popular")
            scores[is_unknown], items[is_unknown] = popular(histories, self.n_items, k, candidate_rows)
        series = pl.Series(USER, ids, dtype=self.users.series.dtype)
        return self._frame(long_frame(USER, series, items, scores, self.items))

    def recommend_for_history(
        self,
        items_or_lists: Any,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Any = None,
        new_items: Any = "calibrated",
    ) -> Any:
        """Recommend the k best items to new users, given the items that they liked.

        Args:
            items_or_lists: one list of item ids (known or added), or a list of such lists, or an array with a history
                in each row. Models that read histories in order need the oldest item first, and a repeated item
                counts at its last position. For other models the order does not matter.
            k, candidates, new_items: as in `recommend`.
            exclude_seen: leave out the items of the history.

        Returns:
            A frame with the columns history (the number of the list, from 0), item, rank and score.

        Raises:
            CapabilityError: the model cannot serve new users, or the run is slim.
            UnknownIdError, DataError, ConfigError: unknown items, an empty list, a bad k.

        >>> len(recommender.recommend_for_history([[item], [item]], k=3))
        6
        """
        check_k(k, self.n_items)
        lists = as_histories(items_or_lists)
        flat = known_rows([item for history in lists for item in history], self.items)
        bounds = np.cumsum([0, *map(len, lists)])
        ordered = self.is_ordered
        histories = [self._rows(history_rows(flat[a:b], ordered)) for a, b in itertools.pairwise(bounds)]
        candidate_rows = self._candidates(candidates)
        model, policy = self.model("serve new users"), NewItemPolicy.parse(new_items)
        scorer, quota = self.policy_scorer(policy), policy.quota(k, self.n_trained_items)
        results = []
        for block, queries in folded_in(model, self.scorer, histories):
            seen = owned(histories[block]) if exclude_seen else None
            results.append(top_k(scorer, queries, k, seen=seen, candidates=candidate_rows, quota=quota))
        scores, items = (torch.cat(columns).cpu().numpy() for columns in zip(*results, strict=True))
        numbers = pl.Series(HISTORY, range(len(histories)), dtype=pl.Int64)
        return self._frame(long_frame(HISTORY, numbers, items, scores, self.items))

    def score(self, pairs: Any) -> Any:
        """Compute the scores of pairs of a user and an item.

        Args:
            pairs: a frame with columns user and item, a list of (user, item), or one such pair.

        Returns:
            A frame with the columns user, item and score, in the order given.

        >>> recommender.score([(user, item)]).columns
        ['user', 'item', 'score']
        """
        frame, users, items = pair_rows(pairs, self.users, self.items)
        scores = []
        for block in query_blocks(len(users), self.scorer, self.device):
            queries = self.scorer.queries(self._rows(users[block]))
            scores.append(self.scorer.parts(queries, self._rows(items[block])).double().sum(1).cpu().numpy())
        values = np.concatenate(scores) if scores else np.empty(0)
        return self._frame(frame.with_columns(pl.Series(SCORE, values, dtype=pl.Float64)))

    def similar_items(self, items: Any, k: int = 10, *, candidates: Any = None) -> Any:
        """Return the k items most similar to each item, without itself: a frame of item, neighbor, rank, score.

        `candidates` are the ids of items to choose from; None: all items.

        >>> recommender.similar_items(item, k=2)["rank"].to_list()
        [1, 2]
        """
        check_k(k, self.n_items - 1, "other items")
        rows = known_rows(as_list(items), self.items)
        return self._similar(self.items, rows, k, self.scorer.similar_items, self._candidates(candidates))

    def similar_users(self, users: Any, k: int = 10) -> Any:
        """Return the k users most similar to each user, without itself: a frame of user, neighbor, rank, score."""
        check_k(k, self.n_users - 1, "other users")
        rows = known_rows(as_list(users), self.users)
        return self._similar(self.users, rows, k, self.scorer.similar_users, None)

    def explain(self, user: Any, item: Any, n_liked: int = 5) -> Explanation:
        """Explain a score: its exact parts, the user's weights α of the parts, and `n_liked` items of the history.

        These are the items most similar to the scored item. For other choices of some models see `Explanation.liked`.

        Raises:
            UnknownIdError, ConfigError: the user or the item is unknown; `n_liked` is below 0.
            CapabilityError: a slim run has no liked items.

        >>> explanation = recommender.explain(user, item)
        >>> abs(sum(explanation.parts.values()) - explanation.score) < 1e-4
        True
        """
        return explanation.explain(self.state, user, item, n_liked, self.model() if self.is_ordered else None)

    # ------------------------------------------------------------ new items

    @property
    def new_item_encoder(self) -> NewItemEncoder | None:
        """How the vectors and scores of added items are computed; None if the training has made no such encoder."""
        return NewItemEncoder.from_info(self.info.get(NEW_ITEMS))

    def policy_scorer(self, policy: NewItemPolicy) -> Scorer:
        """Return this recommender's scorer with the offsets of a policy; for errors see `NewItemPolicy.scorer`."""
        return policy.scorer(self.scorer, self.new_item_encoder, self.n_trained_items)

    def add_items(self, items: Any, features: Mapping[str, Any] | None = None) -> None:
        """Add items that were not in the training data; changes this recommender.

        The model computes a vector from the features of each new item. It is mixed with the vectors of the nearest
        trained items. With LIRDRec, a part of the score is the similarity of the item's features to the features of the
        user's history. The calibrated offset of the run is added to the score; `recommend(new_items=…)` changes how new
        items compete. Later likes move the vectors of new items (`update`).

        Measured with LIRDRec on four datasets, with a tenth of the items as new items (docs/new_items.md): new items
        are among the 20 best of all items 1.3 to 2.9 times as often as with vectors from their features alone. Known
        items lose 1.6 to 2.5 % of their Recall@20.

        On an error no item is added. Vectors of users and of other items do not change. `save` keeps the added items
        and their features.

        Args:
            items: one id, ids, or a frame with a column "item" and columns of the item table.
            features: name → `(n, d)` matrix with a row per new item, or a list of rows, with None for an item that
                lacks the modality; a modality that is left out (or None) is missing for all new items.

        Raises:
            CapabilityError: the model cannot take new items, or the run is slim.
            DataError: ids that are repeated or already in the run; features of the wrong shape, with NaN, missing in
                all modalities, or without a finite vector.
        """
        model = self.model("take new items")
        self._replace(with_items(self.state, model, items, features))

    def update(self, likes: Any) -> None:
        """Add likes that were given since the training, without training; changes this recommender.

        The histories of the users grow: `recommend` leaves the liked items out from then on, and `liked` returns them.
        The vectors of items that were added after training move towards the users who like them
        (`Model.fold_in_items`; measured in docs/new_items.md). All other vectors stay. For lists that follow a user's
        new likes, call `recommend_for_history(recommender.liked(user))`. Likes that are known already change nothing;
        the order of likes, and of calls, does not matter.

        Models that read histories in order differ: likes are appended to the history, and a repeated item moves to its
        new position. A user whose history has changed gets a vector that the model computes from the new history, so
        recommendations follow at once.

        Args:
            likes: a frame with columns user and item, a list of (user, item), or one such pair; oldest first. For
                models that read histories in order, a column timestamp, in the unit of the training interactions,
                gives each like its position in time; without this column likes are the latest.

        Raises:
            UnknownIdError: a user or an item is unknown.
            DataError: a column is missing, a timestamp is not a whole number, or an entry is not a pair.
            CapabilityError: the run is slim.

        >>> recommender.update([(user, item)])
        >>> item in recommender.liked(user)
        True
        """
        check_full(self.train, "take in likes")
        _, users, items = pair_rows(likes, self.users, self.items)
        ordered = self.is_ordered
        times = pair_times(likes) if ordered else None
        self._replace(with_likes(self.state, self.model, users, items, times, ordered=ordered))

    # ------------------------------------------------------------ saving

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the run folder, completely or not at all, and return its path.

        Raises:
            RunFolderError: the folder is not a run folder, has a run while `overwrite` is false, was changed by another
                process since it was loaded, or cannot be written.

        >>> recommender.save(folder / "run").name
        'run'
        """
        self.saved = write_run(self.state, folder, overwrite=overwrite)
        self.folder = Path(folder)
        return self.folder

    def slim(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a slim run: vectors and ids only, to recommend to known users and find similar items; return its path.

        A slim run cannot leave out seen items, add items, serve new users, explain, or tell what is popular. For errors
        see `save`.
        """
        write_run(self.state, folder, slim=True, overwrite=overwrite)
        return Path(folder)

    def record_metrics(self, split: str, values: Mapping[str, float]) -> None:
        """Store the metrics of an evaluation in `info["metrics"][split]` and, if there is one, in the run folder.

        Raises:
            RunFolderError: the run folder cannot be written, or another process has changed it.
        """
        self.info["metrics"] = {**self.info.get("metrics", {}), split: dict(values)}
        self.saved = write_metrics(self.state)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        verify: bool = False,
        device: torch.device | str = "cpu",
        features: str | Path | None = None,
    ) -> Recommender:
        """Read a run folder.

        Args:
            folder: what `save`, `slim` or `fit(run=…)` wrote.
            verify: also compare the checksums of large files.
            device: where to put the vectors.
            features: folder of the prepared dataset, if it was moved since training; the features are read from it.

        Raises:
            RunFolderError: no such folder, not finished, damaged, or written by a newer lirdrec.

        >>> Recommender.load(recommender.save(folder / "saved")).n_items == recommender.n_items
        True
        """
        return cls.from_state(read_run(folder, verify=verify, device=device, features=features))

    # ------------------------------------------------------------ the model

    def model(self, purpose: str = "do this") -> Model:
        """Return the trained model, rebuilt from the saved weights when it is first needed.

        `purpose` is what the model is needed for; error messages say "… cannot" and then the purpose.

        Raises:
            CapabilityError: the run is slim, or has no weights of a model.
        """
        check_full(self.train, purpose)
        if not self.has_model:
            raise CapabilityError(f"this recommender has no model, so it cannot {purpose}")
        if self._model is None:
            self._model = rebuild(self.state)
        return self._model

    def weights(self) -> dict[str, Tensor]:
        """Return the parameters of the model, by name, on the CPU; {} if there is no model."""
        return {name: tensor.detach().cpu() for name, tensor in (self.state.weights or {}).items()}

    def __repr__(self) -> str:
        run = f"{self.info.get('model', 'scorer')} of {self.info.get('dataset', 'unnamed data')}"
        slim = ", slim" if self.is_slim else ""
        return f"Recommender({run}, {pluralize(self.n_users, 'user')}, {pluralize(self.n_items, 'item')}{slim})"

    # ------------------------------------------------------------ inside

    def _replace(self, state: RunState) -> None:
        """Replace the state of this recommender by `state`, to which items or likes were added."""
        for name in PLAIN:
            setattr(self, name, getattr(state, name))
        self._histories, self._exclusions = state.histories, None

    def _full_histories(self, purpose: str) -> Histories:
        check_full(self.train, purpose)
        assert self._histories is not None
        return self._histories

    def _rows(self, rows: np.ndarray) -> Tensor:
        return torch.tensor(rows, device=self.device)  # a copy: polars gives arrays that cannot be written

    def _candidates(self, candidates: Any) -> Tensor | None:
        if candidates is None:
            return None
        ids = as_list(candidates)
        if not ids:
            raise ConfigError(
                "candidates is empty: give at least one item id, or leave it out for the complete catalog"
            )
        return self._rows(np.unique(known_rows(ids, self.items)))

    def _rank_users(
        self, rows: np.ndarray, k: int, exclude_seen: bool, candidates: Tensor | None, policy: NewItemPolicy
    ) -> tuple[np.ndarray, np.ndarray]:
        seen, quota = self.exclusions if exclude_seen else None, policy.quota(k, self.n_trained_items)
        scorer = self.policy_scorer(policy)
        blocks = rank_users(scorer, self._rows(rows), k, seen=seen, candidates=candidates, quota=quota)
        _, scores, items = (torch.cat(columns).cpu().numpy() for columns in zip(*blocks, strict=True))
        return scores, items

    def _similar(
        self, id_map: IdMap, rows: np.ndarray, k: int, similarity: Callable[[Tensor], Tensor], candidates: Tensor | None
    ) -> Any:
        scores, nearest = most_similar(similarity, len(id_map), self._rows(rows), k, candidates)
        ids = id_map.series.gather(rows)
        return self._frame(long_frame(id_map.entity, ids, nearest, scores, id_map, NEIGHBOR))

    def _frame(self, frame: pl.DataFrame) -> Any:
        return from_polars(frame, self.frames)
