"""Compute vectors and scores of new items, from their features, the nearest trained items, and an offset.

`Model.add_items` computes the vector `c` of a new item from its features alone. Such items are ranked well among each
other, but seldom among all items: no training interaction has moved their vectors towards users. `NewItemEncoder`
therefore does three things, all after training and without changing anything else:

    m = Σ_modalities Σ_{j ∈ N(i)} softmax_j(β cos(f_i, f_j)) v_j      N(i): the n nearest trained items
    v = normalize(a ĉ + (1 - a) m̂) · length                          a: share of the content vector
    score(u, i) = (1 - w) ⟨u, v⟩ + w S cos(q_u, f_i) + b               b: the offset of new items, 0 for trained ones

`f` are the features of an item, `v_j` the vector of a trained item, and `β` is `SHARPNESS`. `ĉ` and `m̂` have length 1;
`length` is the same mean of the lengths of `c` and of the neighbors' vectors.

The term with `w` is for models with content vectors (models/history_content_score.py). It says how similar the
features of the item are to the features of the user's history (`q_u`); nothing in it is learned. `S` is the scale of
scores: the median length of user vectors times the median length of item vectors.

`new_item_calibration` calibrates `b` on the validation interactions. In each of up to ten rounds it treats a tenth of
the trained items as new. `b` is the largest offset that costs at most 3 % of the hits on known items, with a margin for
the error of this cost over the users.

`NewItemPolicy` says how new items compete in lists: with the calibrated offset, without an offset, with the offset for
a given cost, or with a fixed share of the places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lirdrec.errors import CapabilityError, ConfigError, RunFolderError
from lirdrec.models.base import Features
from lirdrec.models.history_content_score import ITEM_CONTENT
from lirdrec.nn.normalize_and_dropout import normalize
from lirdrec.option_names import option_text
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.ranking.top_k import Quota
from lirdrec.row_buffers import append_rows

NEW_ITEMS = "new_items"  # key of the encoder in `RunState.info`
SHARPNESS = 10.0  # β
CERTAINTY = 1.645  # number of standard errors between a measured cost and its upper limit (95 %, one-sided)
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class LaunchStep:
    """One offset and its effect in simulated launches, in which trained items are treated as new ones.

    Attributes:
        offset: added to the scores of new items.
        cost: relative loss of Recall@20 on known items, compared with content vectors without an offset.
        share: share of all list places that new items get.
        recall: Recall@20 of new items, ranked among all items.
        cost_error: standard error of `cost` over users; 0 in runs of earlier versions, which did not measure it.
    """

    offset: float
    cost: float
    share: float
    recall: float
    cost_error: float = 0.0

    @property
    def cost_limit(self) -> float:
        """Upper limit of the cost over users (95 %, one-sided); the cost itself if its error is not known."""
        return self.cost + CERTAINTY * self.cost_error


@dataclass(frozen=True)
class NewItemEncoder:
    """How the vectors and scores of new items are computed; see the file's docstring for the formulas.

    Attributes:
        content: `a`, share of the content vector; 1: the vectors of `Model.add_items` are not mixed.
        n_neighbors: number of nearest trained items for each modality; not used if `content` is 1.
        offset: `b`, the calibrated offset.
        frontier: the measured effects of all simulated offsets, in ascending order of offsets.
        similarity: `w`, weight of the similarity of features; 0: scores have no such term.
        scale: `S`, the score of a similarity of 1.

    >>> NewItemEncoder(content=1.0, n_neighbors=0, offset=0.1).offset
    0.1
    """

    content: float = 1.0
    n_neighbors: int = 0
    offset: float = 0.0
    frontier: tuple[LaunchStep, ...] = ()
    similarity: float = 0.0
    scale: float = 1.0

    def apply(
        self, scorer: VectorScorer, first: int, trained: Mapping[str, Features], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with the vectors and offsets of the new items, from row `first` on; other rows stay.

        These rows of the given scorer may be changed in place.

        Args:
            scorer: result of `Model.add_items`, whose last rows are the content vectors of the new items.
            first: row of the first new item.
            trained: modality → features of the trained items, which are the first rows of the scorer.
            new: modality → features of the new items.
        """
        if scorer.offsets is None:
            new_rows = scorer.item_vectors.new_zeros(scorer.n_items - first)
            scorer = scorer.replaced(offsets=append_rows(scorer.item_vectors.new_zeros(first), new_rows))
        assert scorer.offsets is not None
        # in place: `Model.add_items` has just appended these rows, and no other scorer has them
        scorer.offsets[first:] = self.offset
        if self.content < 1 or self.similarity > 0:
            trained_vectors = scorer.item_vectors[: len(next(iter(trained.values())).values)]
            neighbors = Neighbors.find(trained, new, self.n_neighbors) if self.content < 1 else None
            scorer.item_vectors[first:] = self.new_vectors(scorer, first, trained_vectors, neighbors)
        return scorer

    def new_vectors(self, scorer: VectorScorer, first: int, trained: Tensor, neighbors: Neighbors | None) -> Tensor:
        """Return the vectors `(n, D + C)` of the new items, which are the items from row `first` on.

        D columns are mixed from learned vectors; C columns compare the item's features with the user's history.

        Args:
            scorer: result of `Model.add_items`.
            trained: `(I, D + C)` vectors of the trained items, in the rows that `neighbors` refers to.
            neighbors: the nearest trained items of the new items; None: vectors are not mixed.
        """
        width, added = scorer.n_similarity_columns, scorer.item_vectors[first:]
        learned, content = added[:, :width], added[:, width:]
        if neighbors is not None:
            learned = self.mix(learned, trained[:, :width], neighbors)
        if self.similarity > 0:
            learned = (1 - self.similarity) * learned
            content = self.similarity * self.scale * scorer.memory[ITEM_CONTENT][first:]
        return torch.cat([learned, content.to(learned)], dim=1)

    def mix(self, content: Tensor, trained: Tensor, neighbors: Neighbors) -> Tensor:
        """Mix the content vectors `(n, D)` of new items with the vectors `(I, D)` of their neighbors; return `(n, D)`.

        If `content` is 1, the content vectors are returned as they are.
        """
        if self.content == 1:
            return content
        mean, length = neighbors.mean(trained, self.n_neighbors)
        lengths = content.norm(dim=1)
        direction = self.content * normalize(content) + (1 - self.content) * normalize(mean)
        return normalize(direction) * (self.content * lengths + (1 - self.content) * length)[:, None]

    def offset_for(self, cost: float) -> float:
        """Return the largest offset that costs at most this share of the hits on known items, in simulated launches.

        If every simulated offset costs more, the smallest one is returned.

        Raises:
            ConfigError: the run has no simulated launches, or the cost is below 0, or 1 or more.
        """
        if not 0 <= cost < 1:
            raise ConfigError(f"the cost of new items is {cost}; this share must be at least 0 and less than 1")
        if not self.frontier:
            raise ConfigError(
                "this run was trained without simulated launches, which measure what an offset of new items costs;"
                " choose another policy for new items, or train again with validation interactions, which they need"
            )
        offsets = [step.offset for step in self.frontier if step.cost <= cost]
        return max(offsets, default=self.frontier[0].offset)

    def step(self, cost: float | None = None) -> LaunchStep | None:
        """Return the measured effect of the calibrated offset, or of `offset_for(cost)` if a cost is given.

        Returns None without simulated launches.
        """
        if not self.frontier:
            return None
        offset = self.offset if cost is None else self.offset_for(cost)
        return min(self.frontier, key=lambda step: abs(step.offset - offset))

    def step_at(self, offset: float) -> LaunchStep | None:
        """Return the measured effect of an offset; None if this offset was not simulated."""
        return next((step for step in self.frontier if step.offset == offset), None)

    def to_info(self) -> dict[str, Any]:
        """Return all fields as JSON-able values, for `RunState.info`."""
        return asdict(self)

    @classmethod
    def from_info(cls, info: Any) -> NewItemEncoder | None:
        """Return the encoder of a run from its entry in `RunState.info`; None if it has no encoder.

        Raises:
            RunFolderError: the entry has other fields, or numbers that are not finite.
        """
        if info is None:
            return None
        try:
            encoder = cls(**{**info, "frontier": tuple(LaunchStep(**step) for step in info["frontier"])})
            numbers = [encoder.content, encoder.offset, encoder.similarity, encoder.scale]
            numbers += [value for step in encoder.frontier for value in astuple(step)]
            if not all(map(math.isfinite, numbers)):
                raise ValueError("a number is not finite")
            return encoder
        except (TypeError, KeyError, ValueError) as error:
            raise RunFolderError(f"the run's entry 'new_items' is damaged ({error}); train again") from None


@dataclass(frozen=True)
class Neighbors:
    """Nearest trained items of new items in each modality.

    Attributes:
        rows: modality → `(n, k)` int64 rows of trained items, nearest first.
        cosines: modality → `(n, k)` float; `-inf` where the new or the trained item lacks the modality.
    """

    rows: Mapping[str, Tensor]
    cosines: Mapping[str, Tensor]

    @classmethod
    def find(cls, trained: Mapping[str, Features], new: Mapping[str, Features], k: int) -> Neighbors:
        """Find the `k` nearest trained items of each new item in each modality by cosine, exactly."""
        rows, cosines = {}, {}
        for name, features in new.items():
            table = normalize(trained[name].values.float())
            step = max(1, BLOCK_BYTES // (4 * max(1, len(table))))
            best = [
                _masked(normalize(block.float()) @ table.T, trained[name].present).topk(min(k, len(table)), dim=1)
                for block in features.values.split(step)
            ]
            rows[name] = torch.cat([top.indices for top in best])
            cosines[name] = torch.cat([top.values for top in best])
            cosines[name][~features.present] = -torch.inf
        return cls(rows, cosines)

    def mean(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return, for each new item, the weighted means `(n, D)` of its neighbors' vectors and `(n,)` of their lengths.

        The neighbors are the first `k` in each modality; `vectors` `(I, D)` are the vectors of all trained items. The
        weights are a softmax of the cosines.
        """
        norms = vectors.norm(dim=1)
        n = len(next(iter(self.rows.values())))
        total, length, count = vectors.new_zeros(n, vectors.shape[1]), norms.new_zeros(n), norms.new_zeros(n)
        for name, rows in self.rows.items():
            cosines = self.cosines[name][:, :k]
            weights = torch.softmax(SHARPNESS * cosines, dim=1).nan_to_num().to(vectors.dtype)  # NaN: no neighbor
            near = rows[:, :k]
            for rank in range(near.shape[1]):  # one neighbor after the other: no `(n, k, D)` tensor
                total += weights[:, rank, None] * vectors[near[:, rank]]
            length += (weights * norms[near]).sum(1)
            count += weights.sum(1)
        count.clamp_(min=1e-12)
        return total / count[:, None], length / count


def _masked(cosines: Tensor, present: Tensor) -> Tensor:
    return cosines if bool(present.all()) else cosines.masked_fill(~present, -torch.inf)


Kind = Literal["calibrated", "none", "boost", "share"]


@dataclass(frozen=True)
class NewItemPolicy:
    """How items that were added after the training compete with the other items.

    Attributes:
        kind: "calibrated", with the offset that simulated launches chose; "none", without an offset; "boost", with the
            largest offset that costs at most the share `value` of the hits on known items, in simulated launches;
            "share", new items get exactly the share `value` of the places.
        value: the share for "boost" and "share", from 0 to 1; for "boost" less than 1.

    >>> NewItemPolicy.parse("share=0.2")
    NewItemPolicy(kind='share', value=0.2)
    >>> NewItemPolicy.parse({"boost": 0.05}).kind
    'boost'
    """

    kind: Kind = "calibrated"
    value: float = 0.0

    @classmethod
    def parse(cls, value: Any) -> NewItemPolicy:
        """Read a policy: "calibrated", "none", "boost=0.05", "share=0.2", {"boost": 0.05} or {"share": 0.2}.

        Raises:
            ConfigError: none of these, a share that is not from 0 to 1, or a boost that is not at least 0 and below 1.
        """
        if isinstance(value, NewItemPolicy):
            return value
        number: Any = None
        kind = value
        if isinstance(value, str) and "=" in value:
            kind, _, number = value.partition("=")
        elif isinstance(value, Mapping) and len(value) == 1:
            ((kind, number),) = value.items()
        if kind not in get_args(Kind) or (kind in ("boost", "share")) != (number is not None):
            raise ConfigError(
                f"{option_text('new_items', value)}: choose calibrated, none, boost=SHARE (share of the hits on known"
                " items that it may cost) or share=SHARE (share of the places in each list)"
            )
        if number is None:
            return cls(kind)
        try:
            number = float("nan") if isinstance(number, bool) else float(number)
        except (TypeError, ValueError):
            number = float("nan")
        if not 0 <= number <= 1 or (kind == "boost" and number == 1):
            bounds = "at least 0 and less than 1" if kind == "boost" else "from 0 to 1"
            raise ConfigError(f"{option_text('new_items', value)}: the {kind} must be a number {bounds}")
        return cls(kind, number)

    def quota(self, k: int, n_trained: int) -> Quota | None:
        """Return the number of places of new items (rows from `n_trained` on) in a list of `k`; None if not "share"."""
        return Quota(n_trained, round(self.value * k)) if self.kind == "share" else None

    def offset_change(self, scorer: Scorer, encoder: NewItemEncoder | None, n_trained: int) -> float:
        """Return what this policy adds to the scores of new items; these scores have the calibrated offset already.

        This is 0 for "calibrated" and "share".

        Raises:
            CapabilityError: the policy is a boost, and the model has no item vectors.
            ConfigError: the policy is a boost, and the run has no simulated launches.
        """
        if self.kind not in ("none", "boost") or n_trained == scorer.n_items:
            return 0.0
        if not isinstance(scorer, VectorScorer):
            if self.kind == "none":
                return 0.0
            raise CapabilityError(
                "this model scores items without vectors, so new items cannot get a boost; choose another policy"
            )
        encoder = encoder or NewItemEncoder()
        return (encoder.offset_for(self.value) if self.kind == "boost" else 0.0) - encoder.offset

    def scorer(self, scorer: Scorer, encoder: NewItemEncoder | None, n_trained: int) -> Scorer:
        """Return a copy of the scorer with the offsets of this policy; the same object if the offsets do not change.

        Raises:
            CapabilityError: the policy is a boost, and the model has no item vectors.
            ConfigError: the policy is a boost, and the run has no simulated launches.
        """
        change = self.offset_change(scorer, encoder, n_trained)
        if change == 0:
            return scorer
        assert isinstance(scorer, VectorScorer)
        offsets = torch.zeros_like(scorer.item_vectors[:, 0]) if scorer.offsets is None else scorer.offsets.clone()
        offsets[n_trained:] += change
        return scorer.replaced(offsets=offsets)
