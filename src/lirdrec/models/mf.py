r"""MF-BPR: matrix factorization trained to rank (Rendle et al., UAI 2009).

With `e = embedding_size`, user vectors `p_u` and item vectors `q_i` are free parameters `(U, e)`, `(I, e)`:

    score(u, i) = ⟨p_u, q_i⟩
    loss = -mean log σ(⟨p_u, q_i⟩ - ⟨p_u, q_j⟩) + λ · penalty(p_u, q_i, q_j)      i liked by u, j not

There are no biases. The paper's penalty is the squared length of the three vectors (`penalty="squared"`). The default
is the length, not squared, as in the MMRec code, whose grid of λ is for this penalty.

**Differs from public code** (MMRec's `BPR`): the loss has no `γ = 1e-10` inside the logarithm (`bpr` in losses.py).

**Published training**: MMRec, `src/configs/overall.yaml` (the grid: `model/BPR.yaml`); patience counts epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.models.base import Capabilities, Model, ModelInputs
from lirdrec.nn.init import xavier_normal_
from lirdrec.nn.losses import PenaltyOptions, RankingLoss, batch_penalty, batch_rows
from lirdrec.ranking.scorers import Scorer, VectorScorer


@dataclass(frozen=True)
@validated
class MFConfig(PenaltyOptions):
    """Hyper-parameters of MF-BPR.

    >>> MFConfig(loss="softmax", temperature=0.2).scoring
    'product'
    """

    model: ClassVar[str] = "mf"

    embedding_size: int = option(64, "e, columns of user and item vectors")
    regularization: float = option(1e-2, "λ of the penalty on the vectors of a batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size")


class MF(Model):
    """Matrix factorization: a score is the product of a user vector and an item vector.

    The formulas are at the top of this file.
    """

    name = MFConfig.model
    Config = MFConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=False, training="gradient", weights=True, several_devices=True
    )
    grid: ClassVar = {"regularization": (2.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)}
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 2048, "epochs": 1000, "patience": 20}  # MMRec

    def __init__(self, inputs: ModelInputs, config: MFConfig):
        super().__init__(inputs, config)
        self.config: MFConfig = config
        self.shards = inputs.shards
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights, self.shards)
        e, rows = config.embedding_size, self.shards
        self.user_embedding = nn.Parameter(torch.empty(rows.users.length, e, device=inputs.device))
        self.item_embedding = nn.Parameter(torch.empty(rows.items.length, e, device=inputs.device))
        generator = torch.Generator().manual_seed(inputs.seed)
        xavier_normal_(self.user_embedding, generator, inputs.n_users, e, rows.users)
        xavier_normal_(self.item_embedding, generator, inputs.n_items, e, rows.items)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss and the penalty of the batch's vectors."""
        ranking = self.ranking(self.user_embedding, self.item_embedding, users, positives, negatives)
        gathered = batch_rows(self.user_embedding, self.item_embedding, users, positives, negatives, self.shards)
        penalty = self.config.regularization * batch_penalty(self.config.penalty, gathered, self.shards.ranks)
        return {"loss": ranking + penalty, "ranking": ranking.detach(), "regularization": penalty.detach()}

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        transform = self.ranking.transform_for_scoring
        return transform(self.user_embedding), transform(self.item_embedding)

    @torch.no_grad()
    def scorer(self) -> Scorer:
        users, items = self.vectors()
        return VectorScorer(users.detach().clone(), items.detach().clone())
