r"""Gradients of item IDs and item features in training (Theorem 1, Lemma 2 and Fig. 1 of the paper).

The model has a table of item vectors `ID` `(I, e)`, and a projection `Z_m = F_m W_mᵀ` of the fixed features of each
modality m. The probe only reads gradients: the training is the same with and without it. It compares

    per item      1/I Σ_i ‖g(ID_i)‖    with    1/I Σ_i ‖g(Z_i)‖, the mean over modalities
    together      √(Σ_i ‖g(ID_i)‖²)    with    √(Σ_m ‖g(W_m)‖²)

Here `g(x)` is the gradient of the minimized loss with respect to x, summed over the steps of an epoch; each step is
weighted by its share of the interactions. In the sums, `i` are all items; in `1/I`, `I` is the number of items that
occur in training.

(The length of `Σ_i g(ID_i)` would measure nothing: with BPR and inner products, the gradients of the positive and the
negative item of a triple have the sum 0.)

After each epoch the BPR loss on the epoch's triples and the validation recall are also computed from each part of the
score alone, IDs or features. A projection is any product of rows of a feature matrix with a parameter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.errors import CapabilityError
from lirdrec.evaluation.scorer_evaluation import GroundTruth, evaluate_scorer
from lirdrec.models.base import Model, ModelInputs
from lirdrec.nn.losses import bpr
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.training.callbacks import Callback
from lirdrec.training.config import TrainConfig
from lirdrec.training.loop import train
from lirdrec.training.sampling import TripleSampler

SUBTRACTIONS = (torch.Tensor.sub, torch.Tensor.__sub__, torch.sub)

Terms = list[tuple[int, Tensor]]  # row r of a tensor is the sum of sign times item `items[r]`


@dataclass
class Projection:
    """One product `F W^T` in a forward pass: modality, weight `(e, d)`, output, and the items of the output's rows.

    Row r of the output is the projection of a sum: over (sign, items) in `terms`, sign times features of `items[r]`.
    """

    modality: str
    weight: Tensor
    output: Tensor
    terms: Terms

    def gradient(self, n_items: int) -> Tensor:
        """Return the gradient of the loss with respect to the projected features of each of the I items, `(I, e)`."""
        gradient = self.output.grad
        assert gradient is not None
        by_item = gradient.new_zeros(n_items, gradient.shape[1])
        for sign, items in self.terms:
            by_item.index_add_(0, items, gradient, alpha=sign)
        return by_item


class Projections(TorchFunctionMode):
    """Context manager that records each projection of feature rows (product with a parameter) that needs gradients.

    Rows of a feature matrix may be selected, and differences of selected rows taken, before they are projected.
    """

    def __init__(self, model: Model):
        super().__init__()
        self.parameters = set(model.parameters())
        self.names = {feature.values.data_ptr(): name for name, feature in model.inputs.features.items()}
        self.all_items = torch.arange(model.inputs.n_items, device=model.inputs.device)
        self.seen: list[Projection] = []
        # id of a tensor → the tensor (kept, so that its id stays valid), its modality and terms
        self.rows: dict[int, tuple[Tensor, str, Terms]] = {}

    def pop(self) -> list[Projection]:
        """Return the projections that were recorded since the last call, and forget them."""
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
            rows = self.rows.get(id(args[0]))
            if rows is None and args[0].data_ptr() in self.names:
                rows = args[0], self.names[args[0].data_ptr()], [(1, self.all_items)]
            if rows is not None:
                out.retain_grad()
                self.seen.append(Projection(rows[1], args[1], out, rows[2]))
        return out


class GradientProbe(Callback):
    """Training callback that records norms of gradients, losses and recalls: one entry per epoch in `lines`.

    Args:
        model: the model that is trained.
        projections: records the projections of the model; it must be active during the training.
        training: training options.
        truth: the validation interactions, or None.
        cutoff: cut-off of recall.

    Raises:
        CapabilityError: the model has no table of item IDs or, as the first training step shows, projects no features.
    """

    def __init__(
        self, model: Model, projections: Projections, training: TrainConfig, truth: GroundTruth | None, cutoff: int
    ):
        inputs = model.inputs
        self.model, self.projections, self.truth, self.cutoff = model, projections, truth, cutoff
        self.ids = item_table(model)
        self.n_trained = len(inputs.items.unique())
        self.sampler = TripleSampler(inputs.users, inputs.items, inputs.n_items, training.seed)
        n = len(self.sampler)
        self.shares = [len(part) / n for part in torch.arange(n).split(training.pairs_per_step(len(inputs.users)))]
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}  # modality → weight of its last projection
        self.lines: list[dict[str, float]] = []

    def on_step_end(self, epoch: int, step: int) -> None:
        projections = self.projections.pop()
        if not projections or self.ids.grad is None:
            raise CapabilityError(
                f"{self.model.name} does not learn from both item IDs and projected features, "
                "so their gradients cannot be compared; choose another model"
            )
        gradients = [("id", self.ids.grad)]
        for projection in projections:
            gradients.append((f"items {projection.modality}", projection.gradient(self.model.inputs.n_items)))
            self.weights[projection.modality] = projection.weight
        gradients += [(f"weight {name}", w.grad) for name, w in self.weights.items() if w.grad is not None]
        for key, gradient in gradients:
            total = self.sums.setdefault(key, torch.zeros_like(gradient))
            total.add_(gradient, alpha=self.shares[step - 1])

    @torch.no_grad()
    def on_epoch_end(self, line: dict[str, Any]) -> None:
        projected = [total for key, total in self.sums.items() if key.startswith("items ")]
        weights = [total for key, total in self.sums.items() if key.startswith("weight ")]
        per_item = sum(float(total.norm(dim=1).sum()) for total in projected) / len(projected)
        values = {
            "id_per_item": float(self.sums["id"].norm(dim=1).sum()) / self.n_trained,
            "features_per_item": per_item / self.n_trained,
            "id_table": float(self.sums["id"].norm()),
            "projection": sum(float(total.square().sum()) for total in weights) ** 0.5,
        }
        scorer = self.model.scorer()
        assert isinstance(scorer, VectorScorer)
        users, positives, negatives = (
            part.to(scorer.user_vectors.device) for part in self.sampler.epoch(line["epoch"])
        )
        for name, part in self._parts(scorer).items():
            values[f"loss_{name}"] = float(bpr(part.user_vectors, part.item_vectors, users, positives, negatives))
            if self.truth is not None:
                metrics = evaluate_scorer(part, self.truth, ("recall",), (self.cutoff,)).values
                values[f"recall_{name}"] = metrics[f"recall@{self.cutoff}"]
        self.lines.append({"epoch": line["epoch"], "loss": line["loss"], **values})
        self.sums = {}

    def _parts(self, scorer: VectorScorer) -> dict[str, VectorScorer]:
        """Return name → scorer: the whole scorer as "total", and a scorer for each part of the score.

        If the score has a single part, the scorer "features" multiplies user vectors with the mean of the projected
        features, provided that they have the same size.
        """
        parts, names = {"total": scorer}, scorer.part_names
        if len(names) > 1:
            vectors = (x.split(scorer.widths, dim=1) for x in (scorer.user_vectors, scorer.item_vectors))
            return parts | {name: VectorScorer(u, v) for name, u, v in zip(names, *vectors, strict=True)}
        features = self.model.inputs.features
        projected = [features[name].values @ weight.T for name, weight in self.weights.items()]
        if projected and projected[0].shape[1] == scorer.user_vectors.shape[1]:
            parts["features"] = VectorScorer(scorer.user_vectors, torch.stack(projected).mean(0))
        return parts


def item_table(model: Model) -> nn.Parameter:
    """Return the model's table of item vectors that are learned for item IDs, without features, `(I, e)`.

    Raises:
        CapabilityError: the model has no such table.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and len(parameter) == model.inputs.n_items and "user" not in name:
            return parameter
    raise CapabilityError(
        f"{model.name} has no table of item IDs, so there is no gradient to compare with; choose another model"
    )


def random_features(dataset: Dataset, seed: int) -> Dataset:
    """Return the dataset with normal noise as features; each column keeps its mean and sd, and the mask is kept."""
    features = {}
    for number, (name, matrix) in enumerate(sorted(dataset.features.items())):
        rng = np.random.default_rng([seed, number])
        present = np.asarray(matrix.values[matrix.present], dtype=np.float32)
        noise = np.zeros(matrix.values.shape, dtype=np.float32)
        noise[matrix.present] = rng.standard_normal(present.shape, dtype=np.float32) * present.std(0) + present.mean(0)
        features[name] = FeatureMatrix(noise, matrix.present)
    return dataclasses.replace(dataset, features=features, folder=None)


def watch(
    kind: type[Model],
    config: Any,
    inputs: ModelInputs,
    training: TrainConfig,
    truth: GroundTruth | None,
    cutoff: int = 20,
) -> list[dict[str, float]]:
    """Train a model with a `GradientProbe` for all of `training.epochs`; return the probe's entry for each epoch.

    There is no early stopping.

    Args:
        kind, config, inputs: the model's class, config and inputs. The model must have a table of item IDs, project
            features and have a `VectorScorer`.
        training: training options.
        truth: the validation interactions, or None.
        cutoff: cut-off of recall.

    Raises:
        CapabilityError: the model has no item IDs or no projected features.
    """
    model = kind(inputs, config)
    projections = Projections(model)
    probe = GradientProbe(model, projections, training, truth, cutoff)
    with projections:
        train(model, dataclasses.replace(training, patience=training.epochs), None, callbacks=(probe,))
    return probe.lines
