"""Treat every user of a recommender as a new user, to measure how much worse the vectors of new users are."""

from __future__ import annotations

import copy

import torch

from lirdrec.errors import CapabilityError
from lirdrec.evaluation.evaluation_protocol import BATCH_USERS
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.query_arguments import check_queries
from lirdrec.recommender.recommender import Recommender


@torch.no_grad()
def as_new_users(recommender: Recommender) -> Recommender:
    """Return a copy of the recommender in which `Model.fold_in` has computed each user's vector from the history.

    Users without a history keep their trained vector. If the model has no user vectors, the recommender is returned as
    it is: it represents users by their histories anyway.

    Raises:
        CapabilityError: the model cannot serve new users, or it is a slim run.
        DataError: a computed vector is not finite; the message names the user.
    """
    model = recommender.model("serve new users")
    if not model.capabilities.new_users:
        raise CapabilityError("this model cannot serve users that it was not trained with")
    scorer = recommender.scorer
    if not isinstance(scorer, VectorScorer):
        return recommender
    vectors = scorer.user_vectors.clone()
    with_history = recommender.histories.counts().nonzero().squeeze(1)

    def name(position: int) -> str:
        return f"user {recommender.users.ids[int(with_history[position])]}"

    for start in range(0, len(with_history), BATCH_USERS):
        users = with_history[start : start + BATCH_USERS]
        folded_in = model.fold_in(scorer, [recommender.histories.of(user) for user in users.tolist()])
        check_queries(folded_in, name, start)
        vectors[users] = folded_in
    folded = copy.copy(recommender)
    folded.scorer = scorer.replaced(users=vectors, weights=None)
    return folded
