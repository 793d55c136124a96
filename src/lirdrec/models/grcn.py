r"""GRCN: the interaction graph refined by content, then ID vectors convolved over it (Wei et al., MM 2020).

For each modality m, preferences `p` `(U, e)` are free parameters, and `f = leaky_relu(F_m W_m + b_m)`. The rows of both
are normalized; `N(u)` are the items of user u:

    routing, n times:   p ← normalize(p + Σ_{i∈N(u)} α_ui f_i),   α_u = softmax over the user's items of ⟨p_u, f_i⟩
    content:            c_u = p_u + Σ_i α_ui f_i,   c_i = f_i + Σ_u α_iu p_u,   α_i = softmax over the item's users

The weight of an edge is that of its most confident modality; an edge with only negative confidences is pruned (weight
0). With `t` the node that receives, and `s` the node that sends:

    w_ts = relu(max_m α^m_ts · confidence[s, m])
    ID part:  x = normalize(id),   x' = W x,   x'' = W x',   x + x' + x''
    score = ⟨[ID part | content of each m]_u, […]_i⟩
    loss = BPR + λ (mean(id_u²) + (mean(id_i²) + mean(id_j²))/2 + Σ_m mean(p_u²)),   means over the batch

In the authors' code (and MMRec's) messages of the routing reach items only, so routing has no effect, as with
`n_routings=0`. MMRec also adds `λ · mean(p²)` over all users for images alone; the authors and this file do not.

An item that lacks a modality has no edge in it: it takes no part in the softmax, and its content in this modality is
zero. A new item has content and no ID vector. A new user has `p = 0` and no ID vector, and receives what the items
send.

**Differs from public code**: the routing, and the penalty of MMRec, see above. Scores are those of the current
parameters; both public codes use the vectors that the last training step computed before it changed the parameters. The
loss is `softplus(-x)`, which is exact where the `log σ(x)` of the public codes is infinite (x < -88 in float32). The
authors stop when the *test* recall no longer rises; here validation decides.

**Published training**: github.com/weiyinwei/GRCN, `main.py` (λ 1e-3 and three routings: its README, for TikTok); MMRec
searches rates of 1 to 1e-4 with batches of 2,048.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.graphs.graph_attention import Edges
from lirdrec.models.base import Capabilities, Features, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.modality_options import chosen_modalities
from lirdrec.nn.init import torch_linear_, xavier_normal_
from lirdrec.nn.losses import RankingLoss, RankingOptions
from lirdrec.nn.normalize_and_dropout import normalize
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.row_buffers import append_rows


@dataclass(frozen=True)
@validated
class GRCNConfig(FeatureSizeOptions, RankingOptions):
    """Hyper-parameters of GRCN.

    >>> GRCNConfig(embedding_size=32).embedding_size
    32
    """

    model: ClassVar[str] = "grcn"

    embedding_size: int = option(64, "e, columns of the ID part and of each modality's part")
    n_routings: int = option(3, "steps of the routing of users' preferences; 0: same as the released code")
    regularization: float = option(1e-3, "λ of the penalty on the batch's ID vectors and preferences")
    modalities: tuple[str, ...] | None = option(None, "feature matrices to use, in this order; none: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size")
        check_minimum(self, 0, "n_routings", "regularization")


class GRCN(Model):
    """GRCN: ID vectors convolved over an interaction graph whose edges are weighted by content.

    The formulas are at the top of this file.
    """

    name = GRCNConfig.model
    Config = GRCNConfig
    capabilities = Capabilities(needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True)
    user_rows = ("user_embedding", "preference", "user_confidence")
    item_rows = ("item_embedding", "item_confidence")
    grid: ClassVar = {"regularization": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5), "n_routings": (0, 3)}
    published: ClassVar = {"learning_rate": 1e-4, "batch_size": 1024, "epochs": 1000, "patience": 21}

    def __init__(self, inputs: ModelInputs, config: GRCNConfig):
        super().__init__(inputs, config)
        self.config: GRCNConfig = config
        self.modalities = chosen_modalities(inputs, config.modalities, reserved=("id",))
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights)
        self.features = [inputs.features[m] for m in self.modalities]
        dtype, e, n_modalities = self.features[0].values.dtype, config.embedding_size, len(self.modalities)

        def table(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, dtype=dtype, device=inputs.device))

        self.user_embedding = table(inputs.n_users, e)
        self.item_embedding = table(inputs.n_items, e)
        self.preference = nn.ParameterList([table(inputs.n_users, e) for _ in self.modalities])
        self.feature_weight = nn.ParameterList([table(e, f.values.shape[1]) for f in self.features])  # W_m
        self.feature_bias = table(n_modalities, e)
        self.user_confidence = table(inputs.n_users, n_modalities)
        self.item_confidence = table(inputs.n_items, n_modalities)
        generator = torch.Generator().manual_seed(inputs.seed)
        nodes = inputs.n_users + inputs.n_items  # as for one table of users and items
        for embedding in (self.user_embedding, self.item_embedding):
            xavier_normal_(embedding, generator, nodes, e)
        for row, feature in enumerate(self.features):
            xavier_normal_(self.preference[row], generator, inputs.n_users, e)
            xavier_normal_(self.feature_weight[row], generator, feature.values.shape[1], e)
            torch_linear_(self.feature_bias[row], generator, feature.values.shape[1])
        for confidence in (self.user_confidence, self.item_confidence):
            xavier_normal_(confidence, generator, nodes, n_modalities)

    @cached_property
    def edges(self) -> Edges:
        i = self.inputs
        return Edges(i.users, i.items, (i.n_users, i.n_items))

    # Forward

    def item_content(self, features: Sequence[Features]) -> list[Tensor]:
        """Return `f` `(n, e)` of each modality: normalized projections, zero if an item lacks the modality."""
        contents = []
        for row, feature in enumerate(features):
            projected = F.leaky_relu(F.linear(feature.values, self.feature_weight[row], self.feature_bias[row]))
            projected = projected.to(self.user_embedding.dtype)
            if not feature.is_complete:
                projected = projected * feature.present[:, None]
            contents.append(normalize(projected))
        return contents

    def route(self, edges: Edges, preference: Tensor, content: Tensor, lacking: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return preferences `(rows, e)` after the routing, and the scores `⟨p_u, f_i⟩` `(E,)` of the edges.

        Args:
            edges: between users (rows) and items.
            preference: `(rows, e)`, normalized.
            content: `(I, e)`.
            lacking: `(E,)` bool, the edges to items without this modality, which get the score -inf; None: there is
                no such edge.
        """

        def scores() -> Tensor:
            products = edges.dots(preference, content)
            return products if lacking is None else products.masked_fill(lacking, -torch.inf)

        for _ in range(self.config.n_routings):
            preference = normalize(preference + edges.matmul(edges.softmax(scores(), "row"), content))
        return preference, scores()

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return user vectors `(U, (M+1)·e)`, item vectors `(I, (M+1)·e)`, and the ID part that items send `(I, e)`."""
        edges = self.edges
        user_parts, item_parts, of_items, of_users = [], [], [], []
        for row, f in enumerate(self.item_content(self.features)):
            p, scores = self.route(edges, normalize(self.preference[row]), f, self._lacking[row])
            of_items.append(edges.softmax(scores, "row"))
            of_users.append(edges.softmax(scores, "column"))
            user_parts.append(p + edges.matmul(of_items[-1], f))
            item_parts.append(f + edges.matmul_t(of_users[-1], p))
        to_users = _refined(of_items, self.item_confidence, edges.columns)
        to_items = _refined(of_users, self.user_confidence, edges.rows)
        users, items = normalize(self.user_embedding), normalize(self.item_embedding)
        first_users, first_items = edges.matmul(to_users, items), edges.matmul_t(to_items, users)
        sent = items + first_items
        users = users + edges.matmul(to_users, sent)  # x + W x + W W x
        items = sent + edges.matmul_t(to_items, first_users)
        return torch.cat([users, *user_parts], 1), torch.cat([items, *item_parts], 1), sent

    @cached_property
    def _lacking(self) -> list[Tensor | None]:
        return [None if f.is_complete else ~f.present[self.edges.columns] for f in self.features]

    # Training

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss, and the mean squares of the batch's ID vectors and preferences."""
        user_vectors, item_vectors, _ = self()
        ranking = self.ranking(user_vectors, item_vectors, users, positives, negatives)
        squares = self.user_embedding.index_select(0, users).square().mean()
        for rows in (positives, negatives):
            squares = squares + self.item_embedding.index_select(0, rows).square().mean() / 2
        for preference in self.preference:
            squares = squares + preference.index_select(0, users).square().mean()
        penalty = self.config.regularization * squares
        return {"loss": ranking + penalty, "ranking": ranking.detach(), "regularization": penalty.detach()}

    # Serving

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the current parameters, with what the items send to a new user."""
        users, items, sent = self()
        contents = dict(zip(self.modalities, self.item_content(self.features), strict=True))
        memory = {f"item_content_{m}": content for m, content in contents.items()}
        memory["item_confidence"] = self.item_confidence.clone()
        memory["item_states"] = sent
        users, items = self.ranking.transform_for_scoring(users), self.ranking.transform_for_scoring(items)
        return VectorScorer(users, items, ("id", *self.modalities), memory=memory)

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with new items, made from their content; their ID part is 0, also for what they send."""
        assert isinstance(scorer, VectorScorer)
        contents = self.item_content([new[m] for m in self.modalities])
        zeros = torch.zeros_like(contents[0])
        memory = dict(scorer.memory)
        for m, content in zip(self.modalities, contents, strict=True):
            memory[f"item_content_{m}"] = append_rows(memory[f"item_content_{m}"], content)
        memory["item_states"] = append_rows(memory["item_states"], zeros)
        confidence = memory["item_confidence"]
        memory["item_confidence"] = append_rows(confidence, confidence.new_zeros(len(zeros), confidence.shape[1]))
        new_vectors = self.ranking.transform_for_scoring(torch.cat([zeros, *contents], 1))
        return scorer.with_items(new_vectors, memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return vectors `(B, (M+1)·e)` of new users, which have `p = 0` and no ID vector, from the items they like."""
        assert isinstance(scorer, VectorScorer)
        memory = scorer.memory
        states = memory["item_states"]
        sizes = torch.tensor([len(h) for h in histories], device=states.device)
        liked = torch.cat([torch.as_tensor(h, device=states.device) for h in histories])
        owner = torch.repeat_interleave(torch.arange(len(histories), device=states.device), sizes)
        edges = Edges(owner, liked, (len(histories), scorer.n_items))
        parts, weights = [], []
        for m in self.modalities:
            content = memory[f"item_content_{m}"]
            lacking = (content == 0).all(1)[edges.columns]
            p, scores = self.route(edges, content.new_zeros(len(histories), content.shape[1]), content, lacking)
            weights.append(edges.softmax(scores, "row"))
            parts.append(p + edges.matmul(weights[-1], content))
        weight = _refined(weights, memory["item_confidence"], edges.columns)
        return self.ranking.transform_for_scoring(torch.cat([edges.matmul(weight, states), *parts], 1))


def _refined(attention: Sequence[Tensor], confidence: Tensor, senders: Tensor) -> Tensor:
    """Return the weights `(E,)` of the edges in one direction: `relu(max_m α^m · confidence[sender, m])`.

    Args:
        attention: α^m `(E,)` of each modality.
        confidence: `(n, M)`, of the nodes that send.
        senders: `(E,)` int64, the node that sends over each edge.
    """
    trusted = torch.stack(list(attention), 1) * confidence.index_select(0, senders)  # (E, M)
    return torch.relu(trusted.max(1).values)
