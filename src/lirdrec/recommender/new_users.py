"""Every user as if new: known only by a list of liked items. What `Model.fold_in` loses is measured with it."""

from __future__ import annotations

import copy

import torch

from lirdrec.errors import CapabilityError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.queries import check_queries
from lirdrec.recommender.recommender import Recommender

USERS = 1024  # folded in at once


@torch.no_grad()
def as_new_users(recommender: Recommender) -> Recommender:
    """The same recommender with users' vectors folded in from their training items.

    Users without any keep their trained vector. A model without vectors knows users by what they liked anyway.

    Raises:
        CapabilityError: the model cannot serve new users, or it is a slim run.
    """
    model = recommender.model("serve new users")
    if not model.capabilities.new_users:
        raise CapabilityError("this model cannot serve users that it was not trained with")
    scorer = recommender.scorer
    if not isinstance(scorer, VectorScorer):
        return recommender
    vectors = scorer.user_vectors.clone()
    known = recommender.histories.counts().nonzero().squeeze(1)
    for users in known.split(USERS):
        folded_in = model.fold_in(scorer, [recommender.histories.of(user) for user in users.tolist()])
        check_queries(folded_in)
        vectors[users] = folded_in
    folded = copy.copy(recommender)
    folded.scorer = VectorScorer(vectors, scorer.item_vectors, scorer.part_names, memory=scorer.memory)
    return folded
