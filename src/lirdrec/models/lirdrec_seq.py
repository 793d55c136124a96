r"""LIRDRec-Seq: LIRDRec for ordered histories, with item vectors learned directly from features.

The item branches are those of LIRDRec (arXiv 2505.04960, Eqs. 11-13 and 17; models/lirdrec.py). With `K = M + 1`
branches (each modality and *shared*), `e = embedding_size` and `D = K·e`:

    z_k(i)  normalized output of branch k for the features of item i
    V = Z + S Z + T Z,  Z_i = [z_1(i) | … | z_K(i)]              item vectors, smoothed over items
    [c_1 | … | c_K]_t = CausalTransformer(V_{i_1} B, …, V_{i_t} B)   state after item t, chunks of width e
    α_t = softmax over the branches                              progressive weight copying (PWC), below
    u_t = [α_t1 c_t1 | … | α_tK c_tK]
    cos(u_t, V_i) = Σ_k α_tk ⟨c_tk, V_ik⟩ / (‖u_t‖ ‖V_i‖)

`B` is a learned matrix. What the network learns holds for the items of training, and less for items without
interactions. The score therefore has one more part, *content*, without parameters: how similar the features of an item
are to the features of the items of the history. `f_i` is made from the whitened principal components of the features of
`i`: those of each modality are normalized to length 1, multiplied by `√w_m` and put side by side, and the result is
normalized to length 1 (models/history_content_score.py):

    q_t = Σ_{s ≤ t} f_{i_s}
    score(u_t, i) = (1 - λ_i) cos(u_t, V_i) + λ_i cos(q_t, f_i)             similarity="cosine"
    score(u_t, i) = (1 - λ_i) ⟨u_t, V_i⟩ + λ_i 10 cos(q_t, f_i)              similarity="product"

`λ_i` is `new_content_weight` for items without a training interaction, such as items that are added later. For all
other items it is `content_weight`, also in the loss; this is 0 by default, because its gain depends on the data. A
score is exactly the sum of the parts of the branches and of content.

`item_graph` selects the graphs that smooth item vectors. `S` is LIRDRec's graph of items with similar features.
`T = D^-½ C D^-½` is the graph of transitions: `C_ij` counts how often i and j are next to each other in a training
history, and `D` holds the row sums of `C`. So the vector of an item has a part of the vectors of its neighbors in
histories, and this needs no parameters. A new item has no transitions: its vector is `Z`, or `Z + S Z`.

`encoder="shared"` is one transformer of width D that lets branches interact; `encoder="branches"` gives each branch its
own transformer of width e. Both can read the time since the previous item (`time_gaps`).

PWC of LIRDRec weighs the branches once for each user. Here it weighs them at each step t:

    a_tk = leaky_relu(c_tk A_k + b_k) q_k + β_k,    α_t = softmax(w1·a_t + w2·θ_u)

    pwc="released"   after an epoch, θ_u becomes the mean of the user's α; w1 falls by the paper's schedule (Eq. 19)
    pwc="logits"     the same with the mean of the logits
    pwc="learned"    w1 = 1 and w2 = 0: the weights of each step come from the network alone
    pwc="uniform"    α = 1/K

A new user has the mean θ of all users.
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
from lirdrec.graphs.item_item import fuse, nearest_among, transition_graph
from lirdrec.graphs.sparse_matrix import SparseMatrix, product
from lirdrec.models.base import Capabilities, Features, ModelInputs
from lirdrec.models.feature_reduction import reduced, reduced_widths, reductions
from lirdrec.models.feature_size_option import SizeOptions
from lirdrec.models.history_content_score import CONTENT, content_vectors
from lirdrec.models.item_branches import branch_vectors
from lirdrec.models.modality_options import check_modality_weights, chosen_modalities, modality_weights
from lirdrec.models.sequential import SequentialModel, TransformerOptions
from lirdrec.nn.init import torch_linear_
from lirdrec.nn.normalize_and_dropout import normalize
from lirdrec.nn.transformer import CausalTransformer, GroupedLinear
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.row_buffers import append_rows

PRODUCT = 10.0  # inner product that counts as much as a cosine of 1


@dataclass(frozen=True)
@validated
class LIRDRecSeqConfig(SizeOptions, TransformerOptions):
    """Hyper-parameters of LIRDRec-Seq.

    >>> LIRDRecSeqConfig(n_layers=2, pwc="uniform").embedding_size
    64
    """

    model: ClassVar[str] = "lirdrec_seq"
    before: ClassVar = {"new_content_weight": 0.0}  # runs that were saved before there was content

    n_layers: int = option(1, "L, blocks of the transformer")
    temperature: float = option(0.07, "τ of the softmax: scores are divided by it")
    encoder: Literal["shared", "branches"] = option(
        "shared", "shared: one transformer over all branches; branches: one transformer for each branch"
    )
    positions: Literal["learned", "rotary", "none"] = option("learned", "how the transformer reads the order")
    time_gaps: bool = option(False, "read the time between items; only where timestamps are times, not positions")
    pwc: Literal["released", "logits", "learned", "uniform"] = option(
        "learned",
        "weights of the branches at each step; released, logits: copied as in LIRDRec; learned: from the network;"
        " uniform: equal",
    )
    pwc_weight: float = option(0.9, "w, weight of the learned logits in the first epoch of released and logits")
    pwc_base: float = option(0.9, "base of the decay of w1 (Eq. 19)")
    item_graph: Literal["none", "features", "transitions", "both"] = option(
        "transitions",
        "graph over which item vectors are smoothed; features: of items with similar features; transitions: of"
        " neighbors in histories; both; or none",
    )
    n_neighbors: int = option(10, "neighbors per item and modality in the graph of features, itself included")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    modality_weights: dict[str, float] | None = option(
        None, "weights w_m of the item-item graph; none: image .1 and text .9 for exactly these two, else 1/M"
    )
    feature_columns: int | None = option(
        None,
        "number of columns to which PCA reduces features, except for finding neighbors (feature_size: there too); none:"
        " all columns",
    )
    whiten: bool = option(True, "scale the principal components of each feature matrix to equal variance")
    content_weight: float = option(
        0.0, "λ, weight of the similarity of features in the scores of trained items, also in training"
    )
    new_content_weight: float = option(0.67, "λ, the same weight for items without training interactions")
    content_columns: int = option(128, "principal components of each modality in the similarity of features")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "n_neighbors", "content_columns")
        check_share(self, "content_weight", "new_content_weight")
        check_modality_weights(self.modality_weights)
        for name in ("pwc_weight", "pwc_base"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0 and at most 1")
        if self.feature_columns is not None:
            check_minimum(self, 1, "feature_columns")


class LIRDRecSeq(SequentialModel):
    """LIRDRec-Seq: predict the next item of an ordered history from item features.

    The formulas are at the top of this file.
    """

    name = LIRDRecSeqConfig.model
    Config = LIRDRecSeqConfig
    capabilities = Capabilities(
        needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True, ordered=True
    )
    # not published: the setting that validation chose on the dataset Scientific
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 1024, "epochs": 200, "patience": 10}
    grid: ClassVar = {"dropout": (0.1, 0.3, 0.5), "temperature": (0.05, 0.1, 0.15), "n_layers": (1, 2)}
    user_rows = ("theta", "copied", "n_copied")
    item_rows = ()  # item vectors come from features
    fitted = ("content_reductions",)
    mixes_neighbors = False  # new items have their content; mixing would reduce its weight

    theta: Tensor
    copied: Tensor
    n_copied: Tensor
    schedule: Tensor

    def __init__(self, inputs: ModelInputs, config: LIRDRecSeqConfig):
        super().__init__(inputs, config)
        self.config: LIRDRecSeqConfig = config
        self.modalities = chosen_modalities(inputs, config.modalities, reserved=("shared", CONTENT))
        self.branches = (*self.modalities, "shared")
        self.weights = modality_weights(self.modalities, config.modality_weights)
        self.features = [inputs.features[m] for m in self.modalities]
        device, generator = inputs.device, torch.Generator().manual_seed(inputs.seed)
        dims = [f.values.shape[1] for f in self.features]
        self.reductions = reductions(dims, config.feature_columns, torch.float32, device, config.whiten)
        self.n_learned = len(self.branches) * config.embedding_size  # columns of V; the columns of f follow
        self.has_content = max(config.content_weight, config.new_content_weight) > 0
        if self.has_content:
            self.content_reductions = reductions(dims, config.content_columns, torch.float32, device, whiten=True)
            self.n_content = sum(reduced_widths(dims, config.content_columns))
        dims = reduced_widths(dims, config.feature_columns)
        k, e = len(self.branches), config.embedding_size
        h, g = 4 * e, max(1, e // 4)

        def table(fan_in: int, *shape: int) -> nn.Parameter:
            parameter = nn.Parameter(torch.empty(*shape, device=device))
            torch_linear_(parameter, generator, fan_in)
            return parameter

        self.hidden_weight = nn.ParameterList([table(d, h, d) for d in dims])  # W_m
        self.shared_weight = nn.ParameterList([table(sum(dims), h, d) for d in dims])  # W_s, one block per modality
        self.hidden_bias = table(sum(dims), k, h)
        self.output_weight = table(h, k, e, h)  # W'_k
        groups = 1 if config.encoder == "shared" else k
        width = k * e // groups
        self.input = GroupedLinear(groups, width, width, generator, device)  # B
        self.network = CausalTransformer(
            width,
            config.n_layers,
            config.n_heads,
            width * config.hidden_multiplier,
            max_length=config.max_length,
            generator=generator,
            groups=groups,
            positions=config.positions,
            gaps=config.time_gaps,
            dropout=config.dropout,
            device=device,
        )
        if config.pwc != "uniform":
            self.attention_weight = table(e, k, g, e)  # A_k
            self.attention_bias = table(e, k, g)
            self.attention_vector = table(g, k, g)  # q_k
            self.attention_offset = table(g, k)  # β_k
        if self._copies:
            self.register_buffer("theta", torch.zeros(inputs.n_users, k, device=device))
            self.register_buffer("copied", torch.zeros(inputs.n_users, k, device=device))  # sums over an epoch's steps
            self.register_buffer("n_copied", torch.zeros(inputs.n_users, 1, device=device))
            self.register_buffer(
                "schedule", torch.tensor([config.pwc_weight, 1 - config.pwc_weight], dtype=torch.float64)
            )

    @property
    def _copies(self) -> bool:
        return self.config.pwc in ("released", "logits")

    @property
    def reads_gaps(self) -> bool:
        return self.config.time_gaps

    def vector_scorer(self, users: Tensor, items: Tensor, memory: dict[str, Tensor]) -> VectorScorer:
        if not self.has_content:
            return VectorScorer(users, items, self.branches, memory=memory)
        # similar items are found by the branches only: the weight of content differs between trained and new items
        k = len(self.branches)
        widths = (*[self.config.embedding_size] * k, self.n_content)
        names = (*self.branches, CONTENT)
        return VectorScorer(users, items, names, memory=memory, widths=widths, n_similarity_parts=k)

    @property
    def _smooths_features(self) -> bool:
        return self.config.item_graph in ("features", "both")

    @cached_property
    def feature_graph(self) -> SparseMatrix:
        """The graph `S` `(I, I)` of items with similar features."""
        tables = {m: self.inputs.neighbors(m, self.config.n_neighbors) for m in self.modalities}
        return fuse(tables, self.weights, self.inputs.n_items)

    @cached_property
    def transitions(self) -> SparseMatrix:
        """The graph `T` `(I, I)` of items that are next to each other in training histories."""
        return transition_graph(self.inputs.histories.start, self.inputs.histories.items, self.inputs.n_items)

    @cached_property
    def _graphs(self) -> list[SparseMatrix]:
        graphs = [self.feature_graph] if self._smooths_features else []
        return [*graphs, self.transitions] if self.config.item_graph in ("transitions", "both") else graphs

    @cached_property
    def _reduced(self) -> list[Features]:
        return self._reduce(self.features)

    def _reduce(self, features: Sequence[Features]) -> list[Features]:
        """Return the features of any items as the branches read them, reduced by PCA; one entry per modality."""
        return reduced(self.reductions, self.features, features, self.inputs.known_items)

    def item_branches(self, features: Sequence[Features]) -> Tensor:
        """Return `Z` `(n, K·e)` of `n` items from the reduced features of each modality."""
        z = branch_vectors(features, self.hidden_weight, self.shared_weight, self.hidden_bias, self.output_weight)
        return z.flatten(1)

    def content_vectors(self, features: Sequence[Features]) -> Tensor:
        """Return the content vectors `f` `(n, C)` of `n` items: rows of length 1, or 0 for items without features."""
        known = self.inputs.known_items
        return content_vectors(self.content_reductions, self.features, features, known, self.weights)

    @cached_property
    def _content(self) -> Tensor:
        return self.content_vectors(self.features)

    def item_table(self) -> Tensor:
        """Return the item vectors `[V | f]` `(I, D + C)`; only `V` `(I, D)` with `content_weight=0`."""
        vectors = self._smoothed(self.item_branches(self._reduced))
        return torch.cat([vectors, self._content], dim=1) if self.config.content_weight else vectors

    def _split(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split vectors `(…, D + C)` into the D learned columns and the C columns of content, or None if C is 0."""
        learned, content = vectors[..., : self.n_learned], vectors[..., self.n_learned :]
        return learned, content if content.shape[-1] else None

    def comparable(self, vectors: Tensor) -> Tensor:
        """Return states `[u | q]` as they are compared.

        With cosines, both parts have length 1; with products, `u` is not changed and `q` has length 10.
        """
        learned, content = self._split(vectors)
        if content is None:
            return super().comparable(learned)
        scale = 1.0 if self.config.similarity == "cosine" else PRODUCT
        return torch.cat([super().comparable(learned), normalize(content) * scale], dim=1)

    def comparable_items(self, vectors: Tensor, is_new: Tensor | None = None) -> Tensor:
        """Return item rows `[(1 - λ) V | λ f]` as they are compared with states; with cosines `V` has length 1.

        λ is `new_content_weight` for the items `is_new` `(n,)`, else `content_weight`; None: no item is new.
        """
        learned, content = self._split(vectors)
        if content is None:
            return super().comparable(learned)
        share: Tensor | float = self.config.content_weight
        if is_new is not None:
            share = torch.where(is_new, self.config.new_content_weight, share)[:, None].to(vectors)
        return torch.cat([super().comparable(learned) * (1 - share), content * share], dim=1)

    def _smoothed(self, own: Tensor) -> Tensor:
        """Return `V` `(I, K·e)`, which is `Z` `(I, K·e)` smoothed over the item graphs."""
        vectors = own
        for graph in self._graphs:
            vectors = vectors + graph.matmul(own)
        return vectors

    def states(self, items: Tensor, gaps: Tensor | None, users: Tensor | None = None) -> Tensor:
        learned, content = self._split(items)
        weighted, alpha, logits = self.weighted_states(learned, gaps, users)
        self._to_copy = alpha if self.config.pwc == "released" else logits
        return weighted if content is None else torch.cat([weighted, content.cumsum(1)], dim=2)

    _to_copy: Tensor | None = None  # what PWC copies, from the last call of `states`

    def last_states(self, items: Tensor, gaps: Tensor | None, users: Tensor | None, last: Tensor) -> Tensor:
        learned, content = self._split(items)
        weighted = self.weighted_states(learned, gaps, users, last)[0][:, 0]
        if content is None:
            return weighted
        in_history = torch.arange(items.shape[1], device=items.device) <= last[:, None]
        return torch.cat([weighted, torch.einsum("nt,ntc->nc", in_history.to(items), content)], dim=1)

    @torch.no_grad()
    def history_weights(self, scorer: Scorer, history: Tensor) -> Tensor | None:
        if self.config.pwc == "uniform" or not len(history):
            return None
        assert isinstance(scorer, VectorScorer)
        rows = history[-self.config.max_length :]
        learned = self._split(scorer.memory["item_inputs"][rows])[0][None]
        alpha = self.weighted_states(learned, None, None, torch.tensor([len(rows) - 1], device=rows.device))[1]
        assert alpha is not None
        return alpha[:, 0]

    def weighted_states(
        self, items: Tensor, gaps: Tensor | None, users: Tensor | None, last: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return states `(n, T, D)`, the weights α `(n, T, K)` of their branches, and the logits of α.

        α and logits are None if the weights are uniform. With `last` `(n,)`, the results are those of this one position
        of each history (T = 1), without dropout.
        """
        n, length, _ = items.shape
        groups = len(self.input.weight)
        tokens = items.reshape(n * length, groups, -1).transpose(0, 1)  # (G, n·T, width)
        x = self.input(tokens).view(groups, n, length, -1)
        states = self.network(x, gaps, self.generator) if last is None else self.network.at(x, last, gaps)[:, :, None]
        chunks = states.permute(1, 2, 0, 3).reshape(n, states.shape[2], len(self.branches), -1)
        if self.config.pwc == "uniform":
            return chunks.flatten(2), None, None
        logits = self._logits(chunks, users)
        alpha = logits.softmax(-1)
        return (alpha[..., None] * chunks).flatten(2), alpha, logits

    def _logits(self, chunks: Tensor, users: Tensor | None) -> Tensor:
        """Return the logits `w1·a_t + w2·θ_u` `(n, T, K)` from the states `(n, T, K, e)` per branch."""
        hidden = torch.einsum("ntke,kge->ntkg", chunks, self.attention_weight) + self.attention_bias
        a = (F.leaky_relu(hidden) * self.attention_vector).sum(-1) + self.attention_offset
        if not self._copies:
            return a
        w1, w2 = self.schedule.tolist()
        theta = self.theta.mean(0) if users is None else self.theta[users][:, None]
        return w1 * a + w2 * theta

    def start_epoch(self, epoch: int) -> None:
        """Prepare the model for an epoch.

        With `pwc` "released" or "logits", copy each user's mean weights (or logits) of the previous epoch into θ, and
        change w1 and w2 by the schedule (Eq. 19).
        """
        super().start_epoch(epoch)
        if not self._copies:
            return
        with torch.no_grad():
            self.theta.copy_(torch.where(self.n_copied > 0, self.copied / self.n_copied.clamp(min=1), self.theta))
            self.copied.zero_()
            self.n_copied.zero_()
            w1, w2 = self.schedule.tolist()
            w1 *= self.config.pwc_base**epoch
            self.schedule.copy_(torch.tensor([w1 / (w1 + w2), w2 / (w1 + w2)], dtype=torch.float64))

    def loss(self, items: Tensor, times: Tensor, users: Tensor) -> dict[str, Tensor]:
        """Return the softmax loss of a block of sequences.

        With `pwc` "released" or "logits", also add up the weights (or logits) that the next epoch copies into θ.
        """
        terms = super().loss(items, times, users)
        if self._copies and self._to_copy is not None:
            weights, self._to_copy = self._to_copy, None
            is_target = (items[:, 1:] >= 0)[..., None]
            self.copied.index_add_(0, users, (weights.detach() * is_target).sum(1))
            self.n_copied.index_add_(0, users, is_target.sum(1).to(self.n_copied))
        return terms

    # Serving

    def serving_memory(self) -> dict[str, Tensor]:
        own = self.item_branches(self._reduced).detach()
        vectors = self._smoothed(own)
        memory = {"item_inputs": torch.cat([vectors, self._content], dim=1) if self.has_content else vectors}
        return memory | {"item_own": own} if self._smooths_features else memory

    def new_item_vectors(
        self, scorer: VectorScorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        vectors, memory = self._new_learned_vectors(scorer, catalog, new)
        if not self.has_content:
            return vectors, memory
        return torch.cat([vectors, self.content_vectors([new[m] for m in self.modalities])], dim=1), memory

    def _new_learned_vectors(
        self, scorer: VectorScorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `V` `(n, D)` of new items, and the scorer's memory.

        If `item_graph` smooths over similar features, `Z` of the new items is added to the memory: later new items can
        have them as neighbors.
        """
        own = self.item_branches(self._reduce([new[m] for m in self.modalities]))
        if not self._smooths_features:
            return own, dict(scorer.memory)
        tables = {}
        for m in self.modalities:
            blocks = [(block[m].values, block[m].present) for block in [*catalog, new]]
            tables[m] = nearest_among(new[m].values, new[m].present, blocks, self.config.n_neighbors)
        rows = fuse(tables, self.weights, scorer.n_items + len(own), own.dtype)
        everything = append_rows(scorer.memory["item_own"], own)
        return own + product(rows.csr, everything), scorer.memory | {"item_own": everything}
