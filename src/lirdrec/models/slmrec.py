r"""SLMRec: self-supervised multimedia recommendation (Tao et al., IEEE Transactions on Multimedia 2022).

The channels are the item IDs and the modalities. All channels share the table `P` `(U, e)` of users; `Â` is the graph
of `graphs/user_item.py`:

    z_id = Q (free, I×e),  z_m = W_m F_m/‖F_m‖ + b_m
    [u_c ; i_c] = 1/(L+1) Σ_{l=0..L} Â^l [P ; z_c]                  for each channel c
    u = A [u_id | u_m …] + a,   i = B [i_id | i_m …] + b            score(u, i) = ⟨u, i⟩
    loss = InfoNCE_τ(u, i) + α · task + λ/2 ‖θ‖²

InfoNCE uses the pairs of a batch: the vector of a user must find the vector of its item, by cosine, among the items of
the batch. No negatives are drawn. The self-supervised tasks of the paper have their own temperature, and also compare
vectors within the batch. In all of them, a vector must find the other one that belongs to the same item (or user):

- fac aligns channels step by step, from fine to coarse, by inner products of projected item rows: `x_0 = i_id`; for
  modality k = 1, 2, …, `x_k = G_k x_{k-1} + g_k` must find `H_k i_k + h_k`. The last of several steps has e/2 columns.
- fd draws dropout after each propagation step, twice. The fused vectors of one draw must find those of the other draw
  (users and items, by cosines).
- fm compares two views in the same way: one without the features (or IDs) of one channel, one without those of another.
- fd+fm does both.

λ/2 ‖θ‖² is the weight decay that the public settings give to Adam. Items that lack a modality are not in the graph of
this modality, nor in its step of fac. A new item has features and no row of Q; a new user has no row of P.

**Differs from public code** (the authors' github.com/zltao/SLMRec and MMRec's):

- MMRec has fac only. Where its audio step was removed, it has two linear layers in a row, which are the same function
  as the one layer here.
- MMRec adds 1e-8 to every degree of Â, the authors add nothing, this file adds 1e-7 as all models here do: a relative
  difference of 1e-7 at most.
- In the authors' code, fd and fm append the layers 1..L of each view to the list of the other view. For fd this swaps
  two views that are alike. For fm, layer 0 of a view then lacks one channel and its further layers another; here all
  layers of a view lack the same channel, as in the paper.
- Scores are those of the current parameters. The public codes use the vectors that the last training step computed
  before it changed the parameters, and apply a sigmoid, which changes no ranking.

**Published training**: `conf/SLMRec.properties` (also α, τ, λ) and `NeuRec.properties` (patience) of the authors; MMRec
searches rates of 1e-4 to 0.1 (the grid: its `model/SLMRec.yaml`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, check_share, option, validated
from lirdrec.errors import ConfigError
from lirdrec.graphs.user_item import UserItemGraph, folded
from lirdrec.models.base import Capabilities, Features, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.interaction_matrices import item_degrees, user_item_graph
from lirdrec.models.modality_options import chosen_modalities, pairs_with
from lirdrec.nn.init import torch_linear_, xavier_uniform_
from lirdrec.nn.losses import full_softmax, info_nce
from lirdrec.nn.normalize_and_dropout import EPSILON, dropout, normalize
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.row_buffers import append_rows

Parts = list[tuple[Tensor, Tensor]]  # users and items of each channel


@dataclass(frozen=True)
@validated
class SLMRecConfig(FeatureSizeOptions):
    """Hyper-parameters of SLMRec; it has no option for the ranking loss, which is always InfoNCE.

    >>> SLMRecConfig(embedding_size=32).embedding_size
    32
    """

    model: ClassVar[str] = "slmrec"

    embedding_size: int = option(64, "e, columns of each channel and of the fused vectors")
    n_layers: int = option(3, "L, user-item propagation layers")
    temperature: float = option(0.2, "τ of the ranking loss")
    task: Literal["fac", "fd", "fm", "fd+fm"] = option(
        "fac", "fac: fine and coarse alignment; fd: feature dropout; fm: feature masking"
    )
    contrast_weight: float = option(0.1, "α of the self-supervised task")
    contrast_temperature: float = option(0.2, "temperature of the self-supervised task")
    dropout: float = option(0.3, "share of entries that fd sets to 0 after each propagation step")
    regularization: float = option(1e-4, "λ, weight decay of all parameters")
    scoring: Literal["product", "cosine"] = option("product", "how a trained model compares vectors")
    modalities: tuple[str, ...] | None = option(None, "feature matrices to use, in the order of fac; none: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 2, "embedding_size")
        check_minimum(self, 0, "n_layers", "contrast_weight", "regularization")
        for name in ("temperature", "contrast_temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        check_share(self, "dropout")


class SLMRec(Model):
    """SLMRec: LightGCN for each modality with self-supervised losses.

    The formulas are at the top of this file.
    """

    name = SLMRecConfig.model
    Config = SLMRecConfig
    capabilities = Capabilities(needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True)
    grid: ClassVar = {
        "contrast_temperature": (0.1, 0.2, 0.5, 1.0),
        "contrast_weight": (0.01, 0.05, 0.1, 0.5, 1.0),
    }
    published: ClassVar = {"learning_rate": 1e-2, "batch_size": 2048, "epochs": 1000, "patience": 50}

    def __init__(self, inputs: ModelInputs, config: SLMRecConfig):
        super().__init__(inputs, config)
        self.config: SLMRecConfig = config
        self.modalities = chosen_modalities(inputs, config.modalities, reserved=("id",))
        self.features = [inputs.features[m] for m in self.modalities]
        dtype, e, n_modalities = self.features[0].values.dtype, config.embedding_size, len(self.modalities)
        generator = torch.Generator().manual_seed(inputs.seed)

        def table(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, dtype=dtype, device=inputs.device))

        def linear(columns: int, rows: int) -> tuple[nn.Parameter, nn.Parameter]:
            weight, bias = table(rows, columns), table(rows)
            xavier_uniform_(weight, generator, columns, rows)
            torch_linear_(bias, generator, columns)
            return weight, bias

        def linears(sizes: Sequence[tuple[int, int]]) -> tuple[nn.ParameterList, nn.ParameterList]:
            pairs = [linear(columns, rows) for columns, rows in sizes]
            return nn.ParameterList([w for w, _ in pairs]), nn.ParameterList([b for _, b in pairs])

        self.user_embedding = table(inputs.n_users, e)  # P
        self.item_embedding = table(inputs.n_items, e)  # Q
        for parameter in (self.user_embedding, self.item_embedding):
            xavier_uniform_(parameter, generator, *parameter.shape)
        dims = [f.values.shape[1] for f in self.features]
        self.feature_weight, self.feature_bias = linears([(d, e) for d in dims])  # W_m, b_m
        self.user_weight, self.user_bias = linear((n_modalities + 1) * e, e)  # A, a
        self.item_weight, self.item_bias = linear((n_modalities + 1) * e, e)  # B, b
        if config.task == "fac" and config.contrast_weight > 0:
            widths = [e] * (n_modalities - 1) + [e // 2 if n_modalities > 1 else e]
            self.step_weight, self.step_bias = linears([(e, w) for w in widths])  # G_k, g_k
            self.aligned_weight, self.aligned_bias = linears([(e, w) for w in widths])  # H_k, h_k

    @cached_property
    def graphs(self) -> list[UserItemGraph]:
        """The user-item graph of each channel, with the items that have this channel."""
        i, dtype = self.inputs, self.user_embedding.dtype
        graphs = [user_item_graph(i, dtype)]
        for name, feature in zip(self.modalities, self.features, strict=True):
            complete = feature.is_complete
            graphs.append(graphs[0] if complete else user_item_graph(i, dtype, pairs_with(i, name)))
        return graphs

    @cached_property
    def _scales(self) -> list[Tensor]:
        return [_inverse_norms(feature.values) for feature in self.features]

    # Forward

    def projected(self, row: int, features: Features, scale: Tensor) -> Tensor:
        """Return `z_m` `(n, e)`; 0 without the modality, whose index is `row`. `scale` `(n, 1)` is `1/‖F_m‖`."""
        z = F.linear(features.values, self.feature_weight[row]) * scale + self.feature_bias[row]
        if not features.is_complete:
            z = z * features.present[:, None]
        return z.to(self.user_embedding.dtype)

    def ego_items(self) -> list[Tensor]:
        """Return `z_c` `(I, e)` of each channel."""
        projected = [self.projected(row, f, self._scales[row]) for row, f in enumerate(self.features)]
        return [self.item_embedding, *projected]

    def propagated(self, channel: int, items: Tensor, p: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return users `(U, e)` and items `(I, e)` of a channel: the mean of its layers.

        `p` is the dropout after each propagation step.
        """
        graph, n_layers = self.graphs[channel], self.config.n_layers
        users: Tensor = self.user_embedding
        if p == 0:
            sum_users, sum_items = graph.propagate(users, items, n_layers)
        else:
            sum_users, sum_items = users, items
            for _ in range(n_layers):
                users, items = (dropout(x, p, self.generator) for x in graph.last(users, items, 1))
                sum_users, sum_items = sum_users + users, sum_items + items
        return sum_users / (n_layers + 1), sum_items / (n_layers + 1)

    def fused_users(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the fused vectors `(n, e)` of users from their vectors `(n, e)` in each channel."""
        return F.linear(torch.cat(list(parts), 1), self.user_weight, self.user_bias).to(parts[0].dtype)

    def fused_items(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the fused vectors `(n, e)` of items from their vectors `(n, e)` in each channel."""
        return F.linear(torch.cat(list(parts), 1), self.item_weight, self.item_bias).to(parts[0].dtype)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return user vectors `(U, e)` and item vectors `(I, e)`."""
        parts = [self.propagated(channel, items) for channel, items in enumerate(self.ego_items())]
        return self.fused_users([u for u, _ in parts]), self.fused_items([i for _, i in parts])

    # Training

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return InfoNCE of the batch's pairs, the self-supervised task, and the weight decay; uses no `negatives`."""
        config, ego = self.config, self.ego_items()
        parts = [self.propagated(channel, items) for channel, items in enumerate(ego)]
        weights = None if self.inputs.pair_weights is None else self.inputs.pair_weights.of(users, positives)
        ranking = info_nce(*self._gathered(parts, users, positives), config.temperature, weights=weights)
        terms = {"loss": ranking, "ranking": ranking.detach()}
        if config.contrast_weight > 0:
            task = (
                self.aligned(parts, positives) if config.task == "fac" else self.contrast(parts, ego, users, positives)
            )
            terms["loss"] = terms["loss"] + config.contrast_weight * task
            terms["contrast"] = config.contrast_weight * task.detach()
        if config.regularization > 0:
            penalty = config.regularization / 2 * torch.stack([p.square().sum() for p in self.parameters()]).sum()
            terms["loss"] = terms["loss"] + penalty
            terms["regularization"] = penalty.detach()
        return terms

    def _gathered(self, parts: Parts, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused vectors of the users `(B,)` and items `(B,)`, `(B, e)` each."""
        return (
            self.fused_users([u.index_select(0, users) for u, _ in parts]),
            self.fused_items([i.index_select(0, items) for _, i in parts]),
        )

    def aligned(self, parts: Parts, items: Tensor) -> Tensor:
        """Return the loss of the task fac: InfoNCE of the batch's items, summed over its steps (one per modality)."""
        x: Tensor = parts[0][1].index_select(0, items)
        total = x.new_zeros(())
        for step, (_, propagated) in enumerate(parts[1:]):
            x = F.linear(x, self.step_weight[step], self.step_bias[step])
            kept = self.features[step].present[items].nonzero().squeeze(1)
            if len(kept) == 0:
                continue
            channel = propagated.index_select(0, items[kept])
            keys = F.linear(channel, self.aligned_weight[step], self.aligned_bias[step])
            queries, targets = x.index_select(0, kept), torch.arange(len(kept), device=items.device)
            total = total + full_softmax(queries, keys, targets, self.config.contrast_temperature)
        return total

    def contrast(self, parts: Parts, ego: Sequence[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """Return the loss of the tasks fd and fm: InfoNCE between two views of the batch's users and items."""
        p = self.config.dropout if "fd" in self.config.task else 0.0
        masked = (
            torch.randperm(len(ego), generator=self.generator)[:2].tolist() if "fm" in self.config.task else [-1, -1]
        )
        views = []
        for lost in masked:
            view = []
            for channel, own in enumerate(ego):
                if channel == lost:
                    view.append(self.propagated(channel, torch.zeros_like(own), p))
                else:
                    view.append(parts[channel] if p == 0 else self.propagated(channel, own, p))
            views.append(self._gathered(view, users, items))
        pairs = zip(*views, strict=True)
        return torch.stack([info_nce(a, b, self.config.contrast_temperature) for a, b in pairs]).sum()

    # Serving

    def _transform_for_scoring(self, vectors: Tensor) -> Tensor:
        return normalize(vectors) if self.config.scoring == "cosine" else vectors

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the current parameters, with what `add_items` and `fold_in` need."""
        n_items, memory = self.inputs.n_items, {}
        for channel, (name, ego) in enumerate(zip(("id", *self.modalities), self.ego_items(), strict=True)):
            states = torch.zeros_like(ego)
            if self.config.n_layers > 0:
                states = self.graphs[channel].sums(self.user_embedding, ego, self.config.n_layers - 1)[1]
            present = torch.ones(n_items, dtype=torch.bool, device=ego.device)
            pairs, present = (
                (None, present) if channel == 0 else (pairs_with(self.inputs, name), self.features[channel - 1].present)
            )
            memory[f"item_states_{name}"] = states.detach().clone()
            memory[f"item_degrees_{name}"] = item_degrees(self.inputs, ego.dtype, pairs)
            memory[f"item_present_{name}"] = present.clone()
        users, items = (self._transform_for_scoring(vectors) for vectors in self())
        return VectorScorer(users, items, memory=memory)

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with new items, made from their features: nodes without edges and without a row of Q."""
        assert isinstance(scorer, VectorScorer)
        memory, chosen = dict(scorer.memory), [new[m] for m in self.modalities]
        ego = [self.projected(row, f, _inverse_norms(f.values)) for row, f in enumerate(chosen)]
        nothing = torch.zeros_like(ego[0])
        there = [torch.ones_like(chosen[0].present), *(f.present for f in chosen)]
        for name, own, present in zip(("id", *self.modalities), [nothing, *ego], there, strict=True):
            additions = {
                "states": own if self.config.n_layers > 0 else nothing,
                "degrees": nothing[:, 0],
                "present": present,
            }
            for table, rows in additions.items():
                memory[f"item_{table}_{name}"] = append_rows(memory[f"item_{table}_{name}"], rows)
        vectors = self.fused_items([own / (self.config.n_layers + 1) for own in [nothing, *ego]])
        return scorer.with_items(self._transform_for_scoring(vectors), memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return vectors `(B, e)` of new users, which have no row of `P`, from their items as for other users."""
        assert isinstance(scorer, VectorScorer)
        memory, parts = scorer.memory, []
        for name in ("id", *self.modalities):
            present = memory[f"item_present_{name}"]
            liked = [h[present[h]] for h in histories]
            received = folded(liked, memory[f"item_states_{name}"], memory[f"item_degrees_{name}"])
            parts.append(received / (self.config.n_layers + 1))
        return self._transform_for_scoring(self.fused_users(parts))


def _inverse_norms(values: Tensor) -> Tensor:
    """Return `1/‖row‖` `(n, 1)` of features `(n, d)`, computed in blocks, because these may be larger than memory."""
    norms = torch.cat([block.norm(dim=1, keepdim=True) for block in values.split(8192)])
    return norms.clamp_(min=EPSILON).reciprocal_()
