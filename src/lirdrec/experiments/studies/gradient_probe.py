r"""What a training's gradients say about item IDs and item features (Theorem 1, Lemma 2 and Fig. 1 of the paper).

A model with a table of item IDs `ID` `(I, e)` and projections `Z_m = F_m W_mᵀ` of fixed features is trained as ever
and watched from outside. With `g(x)` the gradient of the loss as it is minimized, weighted by the batch's share of the
pairs and summed over an epoch's steps, and `I` the items that occur in training:

    per item      1/I Σ_i ‖g(ID_i)‖    against    1/I Σ_i ‖g(Z_i)‖, the mean over modalities
    together      √(Σ_i ‖g(ID_i)‖²)    against    √(Σ_m ‖g(W_m)‖²)

(The vector `Σ_i g(ID_i)` says nothing: in a BPR of inner products the positive's and the negative's gradients cancel.)

The BPR loss and the validation figures of either part alone are those of the scorer's part vectors after the epoch, on
the epoch's own triples.

The projections are found by what they do: products of rows of a feature matrix with a parameter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.errors import CapabilityError
from lirdrec.evaluation.evaluator import GroundTruth, evaluate_scorer
from lirdrec.models.base import Model, ModelInputs
from lirdrec.nn.losses import bpr
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.training.config import TrainConfig
from lirdrec.training.loop import Callback, train
from lirdrec.training.sampling import TripleSampler

SUBTRACTIONS = (torch.Tensor.sub, torch.Tensor.__sub__, torch.sub)


@dataclass
class Projection:
    """One product `F W^T` of a forward: modality, weight `(e, d)`, output, and the items behind the output's rows.

    Row r of the output stands for the sum over `terms` (sign, items) of sign times item `items[r]`.
    """

    modality: str
    weight: Tensor
    output: Tensor
    terms: list[tuple[int, Tensor]]

    def of_items(self, n_items: int) -> Tensor:
        """The gradient of the loss by each item's projected features, `(I, e)`."""
        gradient = self.output.grad
        assert gradient is not None
        found = gradient.new_zeros(n_items, gradient.shape[1])
        for sign, items in self.terms:
            found.index_add_(0, items, gradient, alpha=sign)
        return found


class Projections(TorchFunctionMode):
    """While active, keeps hold of each first linear map of features in a forward that carries gradients.

    Rows of a feature matrix may be picked, and differences of picked rows taken, before they are projected.

    Args:
        model: whose features and parameters count.
    """

    def __init__(self, model: Model):
        super().__init__()
        features = model.inputs.features
        self.parameters = set(model.parameters())
        self.names = {feature.values.data_ptr(): name for name, feature in features.items()}
        self.everything = torch.arange(model.inputs.n_items, device=model.inputs.device)
        self.seen: list[Projection] = []
        self.rows: dict[int, tuple[Tensor, str, list[tuple[int, Tensor]]]] = {}  # by id; the tensor stays alive

    def taken(self) -> list[Projection]:
        """What was seen since the last call."""
        seen, self.seen, self.rows = self.seen, [], {}
        return seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not torch.is_grad_enabled():
            return out
        if func is torch.Tensor.index_select and args[0].data_ptr() in self.names:
            self.rows[id(out)] = (out, self.names[args[0].data_ptr()], [(1, args[2])])
        elif func in SUBTRACTIONS and all(isinstance(x, Tensor) and id(x) in self.rows for x in args[:2]):
            (_, name, ours), (_, _, theirs) = (self.rows[id(x)] for x in args[:2])
            self.rows[id(out)] = (out, name, ours + [(-sign, items) for sign, items in theirs])
        elif func is torch.nn.functional.linear and args[1] in self.parameters:
            found = self.rows.get(id(args[0]))
            if found is None and args[0].data_ptr() in self.names:
                found = args[0], self.names[args[0].data_ptr()], [(1, self.everything)]
            if found is not None:
                out.retain_grad()
                self.seen.append(Projection(found[1], args[1], out, found[2]))
        return out


class GradientWatcher(Callback):
    """Adds up the gradients of an epoch's steps; `lines` has one entry of norms per epoch.

    Args:
        model: in training.
        projections: active while it trains.
        training: its options.

    Raises:
        CapabilityError: the model has no table of item IDs, or no projected features beside it.
    """

    def __init__(self, model: Model, projections: Projections, training: TrainConfig):
        i = model.inputs
        self.model, self.projections = model, projections
        self.ids = item_table(model)
        self.n_trained = len(i.items.unique())
        n_pairs = len(TripleSampler(i.users, i.items, i.n_items, training.seed))
        sizes = torch.arange(n_pairs).split(training.pairs_per_step(len(i.users)))
        self.shares = [len(part) / n_pairs for part in sizes]
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}  # modality -> projection, as it was last used
        self.lines: list[dict[str, float]] = []

    def _add(self, key: str, gradient: Tensor | None, share: float) -> None:
        if gradient is not None:
            known = self.sums.get(key)
            self.sums[key] = gradient * share if known is None else known.add_(gradient, alpha=share)

    def on_step_end(self, epoch: int, step: int) -> None:
        seen = self.projections.taken()
        if not seen or self.ids.grad is None:
            raise CapabilityError(
                f"{self.model.name} does not learn from item IDs and projected features side by side, "
                "so their gradients cannot be compared"
            )
        share = self.shares[step - 1]
        self._add("id", self.ids.grad, share)
        for one in seen:
            self._add(f"items {one.modality}", one.of_items(self.model.inputs.n_items), share)
            self.weights[one.modality] = one.weight
        for name, weight in self.weights.items():
            self._add(f"weight {name}", weight.grad, share)

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        projected = [self.sums[key] for key in self.sums if key.startswith("items ")]
        weights = [self.sums[key] for key in self.sums if key.startswith("weight ")]
        per_item = sum(float(g.norm(dim=1).sum()) for g in projected) / len(projected)
        self.lines.append(
            {
                "id_per_item": float(self.sums["id"].norm(dim=1).sum()) / self.n_trained,
                "features_per_item": per_item / self.n_trained,
                "id_table": float(self.sums["id"].norm()),
                "projection": sum(float(g.square().sum()) for g in weights) ** 0.5,
            }
        )
        self.sums = {}


def item_table(model: Model) -> nn.Parameter:
    """The model's free vectors of items, `(I, e)`.

    Raises:
        CapabilityError: it has none.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and len(parameter) == model.inputs.n_items and "user" not in name:
            return parameter
    raise CapabilityError(f"{model.name} has no table of item IDs, so there is no gradient to compare with")


def random_features(dataset: Dataset, seed: int) -> Dataset:
    """The dataset with normal noise for features: means and deviations of each matrix's columns, the same mask."""
    found = {}
    for number, (name, matrix) in enumerate(sorted(dataset.features.items())):
        rng = np.random.default_rng([seed, number])
        there = np.asarray(matrix.values[matrix.present], dtype=np.float32)
        noise = np.zeros(matrix.values.shape, dtype=np.float32)
        noise[matrix.present] = rng.standard_normal(there.shape, dtype=np.float32) * there.std(0) + there.mean(0)
        found[name] = FeatureMatrix(noise, matrix.present)
    return dataclasses.replace(dataset, features=found, folder=None)


class PartsWatcher(Callback):
    """After each epoch, the BPR loss and the validation recall of the whole score and of its parts alone.

    Parts are those of the scorer; where it has only one, "features" is the product of user vectors and projections.

    Args:
        model: in training.
        gradients: knows the projections.
        seed: of the training, which gives the epoch's triples.
        truth: what validation holds out, or None.
        cutoff: of recall.
    """

    def __init__(self, model: Model, gradients: GradientWatcher, seed: int, truth: GroundTruth | None, cutoff: int):
        i = model.inputs
        self.model, self.gradients, self.truth, self.cutoff = model, gradients, truth, cutoff
        self.sampler = TripleSampler(i.users, i.items, i.n_items, seed)
        self.lines: list[dict[str, float]] = []

    @torch.no_grad()
    def on_epoch_end(self, line: dict[str, Any]) -> None:
        scorer = self.model.scorer()
        assert isinstance(scorer, VectorScorer)
        triples = [part.to(scorer.user_vectors.device) for part in self.sampler.epoch(line["epoch"])]
        found: dict[str, float] = {}
        for name, one in self._parts(scorer).items():
            found[f"loss_{name}"] = float(bpr(one.user_vectors, one.item_vectors, *triples))
            if self.truth is not None:
                figures = evaluate_scorer(one, self.truth, ("recall",), (self.cutoff,)).values
                found[f"recall_{name}"] = figures[f"recall@{self.cutoff}"]
        self.lines.append(found)

    def _parts(self, scorer: VectorScorer) -> dict[str, VectorScorer]:
        parts = {"total": scorer}
        n = len(scorer.part_names)
        if n > 1:
            users, items = (x.chunk(n, dim=1) for x in (scorer.user_vectors, scorer.item_vectors))
            return parts | {
                name: VectorScorer(u, v) for name, u, v in zip(scorer.part_names, users, items, strict=True)
            }
        features = self.model.inputs.features
        projected = [features[name].values @ weight.T for name, weight in self.gradients.weights.items()]
        if projected and projected[0].shape[1] == scorer.user_vectors.shape[1]:
            parts["features"] = VectorScorer(scorer.user_vectors, torch.stack(projected).mean(0))
        return parts


def watch(
    kind: type[Model],
    config: Any,
    inputs: ModelInputs,
    training: TrainConfig,
    truth: GroundTruth | None,
    cutoff: int = 20,
) -> list[dict[str, float]]:
    """Train a model for all of `training.epochs` and give one line of figures per epoch.

    Args:
        kind, config, inputs: the model; it has a table of item IDs, projects features and gives a `VectorScorer`.
        training: the options; there is no early stopping.
        truth: what validation holds out, or None.
        cutoff: of recall.

    Raises:
        CapabilityError: a model without IDs or without projected features.
    """
    model = kind(inputs, config)
    projections = Projections(model)
    gradients = GradientWatcher(model, projections, training)
    parts = PartsWatcher(model, gradients, training.seed, truth, cutoff)
    with projections:
        found = train(model, replace(training, patience=training.epochs), None, callbacks=(gradients, parts))
    lines = zip(found.history, gradients.lines, parts.lines, strict=True)
    return [{"epoch": line["epoch"], "loss": line["loss"], **one, **other} for line, one, other in lines]
