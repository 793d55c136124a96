"""A model of your own: implement the contract of `lirdrec.models.base.Model`, then evaluate it like all others.

This one counts how often two items were taken by the same users. A model that stays is one file in `lirdrec/models`
and one line in `lirdrec/models/registry.py`; see CONTRIBUTING.md.

python examples/04_new_model.py
"""

from dataclasses import dataclass
from pathlib import Path

import lirdrec
from lirdrec.models.base import Capabilities, Model
from lirdrec.ranking.histories import history_matrix
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import Scorer
from lirdrec.recommender.model_inputs import make_model_inputs

SAMPLE = Path(__file__).resolve().parents[1] / "sample" / "movielens"


@dataclass(frozen=True)
class CoOccurrenceConfig:
    """Options: `damping` is added to the number of users of an item."""

    damping: float = 10.0


class CoOccurrence(Model):
    """Weight of two items = their common users / (users of the second + damping)."""

    name = "co_occurrence"
    Config = CoOccurrenceConfig
    capabilities = Capabilities(needs_features=False, cold_items=False, new_users=True, training="closed_form")

    def solve(self) -> None:
        inputs = self.inputs
        self.history = history_matrix(inputs.users, inputs.items, inputs.n_users, inputs.n_items)  # CSR (U, I) of ones
        taken = self.history.to_dense()
        common = taken.T @ taken  # (I, I): users who took both
        self.weights = (common / (common.diagonal() + self.config.damping)).fill_diagonal_(0)

    def scorer(self) -> Scorer:
        return ItemWeightScorer(self.history, self.weights)


dataset = lirdrec.Dataset.load(SAMPLE)
model = CoOccurrence(make_model_inputs(dataset), CoOccurrenceConfig())
model.solve()
recommender = lirdrec.Recommender.from_training(model, dataset)
print(lirdrec.evaluate(recommender, dataset, "valid", k=20))
