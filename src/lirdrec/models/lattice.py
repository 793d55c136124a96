r"""LATTICE: one latent item graph, learned from all modalities and added to LightGCN.

Zhang et al., "Mining Latent Structures for Multimedia Recommendation", MM 2021. The notation is that of
`latent_graph_base.py`, which has everything except these two lines. With `w = softmax(modality_logits)`:

    G = (1-λ) N(Σ_m w_m K(z_m)) + λ Σ_m w_m N(K(F_m))
    h = G^Lm Q

This is the form of the public code. The paper normalizes the learned graph of each modality before it adds the graphs.

**Differs from public code** (the authors' github.com/CRIPAC-DIG/LATTICE and MMRec's): fixed features (see
`latent_graph_base.py`). The penalty is divided by the number of pairs in the batch; the public codes divide by the
configured batch size. The last batch of an epoch has fewer pairs, and so gets a smaller penalty for each pair in the
public codes (the authors' sampler never gives a smaller batch, MMRec's does). The authors draw distinct users and one
item of each user; here all pairs are shuffled.

**Published training**: the authors' `codes/utility/parser.py` and `main.py`: rate 5e-4 · 0.96^(epoch/50), with epochs
counted from 0, and validation every 5 epochs. MMRec has the same decay, and searches rates of 1e-4 to 5e-3 and λ with
batches of 2,048 (the grid: `model/LATTICE.yaml`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lirdrec.config import validated
from lirdrec.graphs.differentiable_item_graph import WeightedEdges
from lirdrec.models.base import Capabilities, Features, ModelInputs
from lirdrec.models.latent_graph_base import Degrees, LatentGraphModel, LatentGraphOptions


@dataclass(frozen=True)
@validated
class LATTICEConfig(LatentGraphOptions):
    """Hyper-parameters of LATTICE.

    >>> LATTICEConfig(n_layers=1).n_layers
    1
    """

    model: ClassVar[str] = "lattice"


class LATTICE(LatentGraphModel):
    """LATTICE: one learned item graph of all modalities, added to LightGCN.

    The formulas are at the top of this file and of `latent_graph_base.py`.
    """

    name = LATTICEConfig.model
    Config = LATTICEConfig
    capabilities = Capabilities(needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True)
    grid: ClassVar = {"regularization": (0.0, 1e-5, 1e-4, 1e-3)}
    published: ClassVar = {
        "learning_rate": 5e-4,
        "batch_size": 1024,
        "epochs": 200,
        "patience": 10,
        "evaluate_every": 5,
        "schedule": "exponential",
        "decay": 0.96,
        "decay_epochs": 50,
    }

    def __init__(self, inputs: ModelInputs, config: LATTICEConfig):
        super().__init__(inputs, config, at_least=1)
        if len(self.modalities) > 1:  # a single modality has weight 1, whatever its logit
            self.modality_logits = self._table(len(self.modalities))
            nn.init.zeros_(self.modality_logits)

    def blended(
        self, learned: Sequence[WeightedEdges], frozen: Sequence[WeightedEdges], degrees: Degrees
    ) -> list[WeightedEdges]:
        """Return the one graph `G`, in a list."""
        single = len(learned) == 1
        w = (learned[0].values.new_ones(()),) if single else self.modality_logits.softmax(0).unbind()
        mixed = WeightedEdges.joined([links.scaled(share) for links, share in zip(learned, w, strict=True)])
        parts = [mixed.normalized(degrees("learned", mixed)).scaled(1 - self.config.frozen_weight)]
        for name, links, share in zip(self.modalities, frozen, w, strict=True):
            parts.append(links.normalized(degrees(name, links)).scaled(self.config.frozen_weight * share))
        return [WeightedEdges.joined(parts)]

    def fused(self, smoothed: Sequence[Tensor], features: Sequence[Features]) -> Tensor:
        """Return `h`, which is `G^Lm Q` of the one graph."""
        return smoothed[0]
