r"""SASRec: next items by self-attention over the history (Kang & McAuley, ICDM 2018).

With item vectors `V` `(I, e)`, which are free parameters, and the items `i_1 … i_T` of a user in order:

    h = CausalTransformer(V_{i_1}, …, V_{i_T})        nn/transformer.py
    score(u, i) = ⟨h_T, V_i⟩, or their cosine

It is trained by the softmax over all items at every position. The paper trains with one sampled negative and a binary
cross-entropy; the softmax is what makes the model strong (Klenitskiy & Vasilev, RecSys 2023, arXiv 2309.07602).

**Differences.** The paper normalizes the queries of a block only; here the norm is before queries, keys and values, and
before the first block. The hidden layer of the paper has e columns and ReLU; here it has `hidden_multiplier` · e
columns and GELU. The paper scales item vectors by √e and applies dropout to attention weights; this model does not.
RecBole's network, with norms after the sums, is `bsarec` with `filter_weight=0`.

**Published training**: the paper's Section IV-B, 128 sequences per batch (here 1,024 targets), dropout 0.2 or 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lirdrec.config import validated
from lirdrec.models.base import Capabilities, ModelInputs
from lirdrec.models.sequential import TransformerModel, TransformerOptions
from lirdrec.nn.init import xavier_normal_


@dataclass(frozen=True)
@validated
class SASRecConfig(TransformerOptions):
    """Hyper-parameters of SASRec.

    >>> SASRecConfig(n_layers=1).max_length
    50
    """

    model: ClassVar[str] = "sasrec"


class SASRec(TransformerModel):
    """SASRec: predict the next item by self-attention over item IDs.

    The formulas are at the top of this file.
    """

    name = SASRecConfig.model
    Config = SASRecConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="gradient", weights=True, ordered=True
    )
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 1024, "epochs": 200, "patience": 20}
    grid: ClassVar = {"dropout": (0.1, 0.3, 0.5), "n_layers": (1, 2, 3)}

    def __init__(self, inputs: ModelInputs, config: SASRecConfig):
        super().__init__(inputs, config)
        self.config: SASRecConfig = config
        e, generator = config.embedding_size, torch.Generator().manual_seed(inputs.seed)
        self.item_embedding = nn.Parameter(torch.empty(inputs.n_items, e, device=inputs.device))
        xavier_normal_(self.item_embedding, generator, inputs.n_items, e)
        self.network = self.make_network(generator)

    def item_table(self) -> Tensor:
        return self.item_embedding
