r"""GRU4Rec: next items by a recurrent network (Hidasi et al., ICLR 2016, arXiv 1511.06939; Tan et al., DLRS 2016).

With item vectors `V` `(I, e)`, which are free parameters, and the items `i_1 … i_T` of a user in order:

    x_t = dropout(V_{i_t})
    g_t = GRU(x_1 … x_t)                       n_layers layers of hidden_size units, without biases
    h_t = W g_t + b
    score(u, i) = ⟨h_T, V_i⟩, or their cosine

It is trained by the softmax over all items at every position. The network is that of RecBole. The authors instead train
sessions in parallel, with sampled items and the losses TOP1 and BPR-max. Their code has biases in the GRU, one bias for
each item in the score, and dropout after every layer; it has no layer `W`.

**Published training**: RecBole's `overall.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.models.base import Capabilities, ModelInputs
from lirdrec.models.sequential import SequentialModel, SequentialOptions
from lirdrec.nn.init import torch_linear_, xavier_normal_, xavier_uniform_
from lirdrec.nn.normalize_and_dropout import dropout


@dataclass(frozen=True)
@validated
class GRU4RecConfig(SequentialOptions):
    """Hyper-parameters of GRU4Rec.

    >>> GRU4RecConfig(hidden_size=64).n_layers
    1
    """

    model: ClassVar[str] = "gru4rec"

    n_layers: int = option(1, "layers of the recurrent network")
    hidden_size: int = option(128, "units of each layer of the recurrent network")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "n_layers", "hidden_size")


class GRU4Rec(SequentialModel):
    """GRU4Rec: predict the next item by a recurrent network over item IDs.

    The formulas are at the top of this file.
    """

    name = GRU4RecConfig.model
    Config = GRU4RecConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="gradient", weights=True, ordered=True
    )
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 2048, "epochs": 300, "patience": 10}
    grid: ClassVar = {"dropout": (0.1, 0.3, 0.5), "n_layers": (1, 2), "hidden_size": (64, 128)}

    def __init__(self, inputs: ModelInputs, config: GRU4RecConfig):
        super().__init__(inputs, config)
        self.config: GRU4RecConfig = config
        e, hidden, device = config.embedding_size, config.hidden_size, inputs.device
        generator = torch.Generator().manual_seed(inputs.seed)
        self.item_embedding = nn.Parameter(torch.empty(inputs.n_items, e, device=device))
        xavier_normal_(self.item_embedding, generator, inputs.n_items, e)
        # made without values, because torch would draw them from its global generator
        network = nn.GRU(e, hidden, config.n_layers, bias=False, batch_first=True, device="meta")
        self.network: nn.GRU = network.to_empty(device=device)
        for weight in self.network.parameters():
            xavier_uniform_(weight, generator, weight.shape[1], weight.shape[0])
        self.output_weight = nn.Parameter(torch.empty(e, hidden, device=device))
        self.output_bias = nn.Parameter(torch.empty(e, device=device))
        for parameter in (self.output_weight, self.output_bias):
            torch_linear_(parameter, generator, hidden)

    def item_table(self) -> Tensor:
        return self.item_embedding

    def states(self, items: Tensor, gaps: Tensor | None, users: Tensor | None = None) -> Tensor:
        if self.training:
            items = dropout(items, self.config.dropout, self.generator)
        hidden: Tensor = self.network(items)[0]
        return nn.functional.linear(hidden, self.output_weight, self.output_bias)
