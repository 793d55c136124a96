"""How new items compete in lists: with their calibrated offset, without one, boosted, or with a share of the places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.option_names import option_text
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.ranking.top_k import Quota
from lirdrec.recommender.new_item_encoder import NewItemEncoder

Kind = Literal["calibrated", "none", "boost", "share"]


@dataclass(frozen=True)
class NewItemPolicy:
    """How items that were added after the training compete with the others.

    Attributes:
        kind: "calibrated": with the offset that simulated launches chose; "none": without an offset; "boost": with the
            largest offset that cost known items at most `value` of their hits in simulated launches; "share": new items
            get exactly this share of the places.
        value: of "boost" and "share", from 0 to 1.

    >>> NewItemPolicy.parse("share=0.2")
    NewItemPolicy(kind='share', value=0.2)
    >>> NewItemPolicy.parse({"boost": 0.05}).kind
    'boost'
    """

    kind: Kind = "calibrated"
    value: float = 0.0

    @classmethod
    def parse(cls, value: Any) -> NewItemPolicy:
        """A policy from "calibrated", "none", "boost=0.05", "share=0.2", {"boost": 0.05} or {"share": 0.2}.

        Raises:
            ConfigError: none of these, or a number that is not between 0 and 1.
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
                f"{option_text('new_items', value)}: choose calibrated, none, boost=SHARE (of the hits on known items"
                " that it may cost) or share=SHARE (of the places in each list)"
            )
        if number is None:
            return cls(kind)
        try:
            number = float(number)
        except (TypeError, ValueError):
            number = float("nan")
        if not 0 <= number <= 1 or (kind == "boost" and number == 1):
            raise ConfigError(f"{option_text('new_items', value)}: the {kind} must be a number between 0 and 1")
        return cls(kind, number)

    def quota(self, k: int, n_trained: int) -> Quota | None:
        """The places of new items in a list of `k`, of a recommender with `n_trained` trained items."""
        return Quota(n_trained, round(self.value * k)) if self.kind == "share" else None

    def offset_change(self, scorer: Scorer, encoder: NewItemEncoder | None, n_trained: int) -> float:
        """What this policy adds to the scores of new items, which have their calibrated offset.

        Raises:
            CapabilityError: a boost, and the model has no vectors of items.
            ConfigError: a boost, and the run has no simulated launches.
        """
        if self.kind not in ("none", "boost") or n_trained == scorer.n_items:
            return 0.0
        if not isinstance(scorer, VectorScorer):
            if self.kind == "none":
                return 0.0
            raise CapabilityError("this model scores items without vectors, so new items cannot be boosted")
        encoder = encoder or NewItemEncoder()
        return (encoder.offset_for(self.value) if self.kind == "boost" else 0.0) - encoder.offset

    def scorer(self, scorer: Scorer, encoder: NewItemEncoder | None, n_trained: int) -> Scorer:
        """The scorer with the offsets of this policy; the same object where they do not change.

        Raises:
            CapabilityError: a boost, and the model has no vectors of items.
            ConfigError: a boost, and the run has no simulated launches.
        """
        change = self.offset_change(scorer, encoder, n_trained)
        if change == 0:
            return scorer
        assert isinstance(scorer, VectorScorer)
        offsets = torch.zeros_like(scorer.item_vectors[:, 0]) if scorer.offsets is None else scorer.offsets.clone()
        offsets[n_trained:] += change
        return VectorScorer(
            scorer.user_vectors, scorer.item_vectors, scorer.branch_names, scorer.weights, scorer.memory, offsets
        )
