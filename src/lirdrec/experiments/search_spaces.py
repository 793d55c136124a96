"""Search spaces of tuning: the published grid of a model, and training options for each ranking loss or similarity."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.trial_spec_and_result import canonical
from lirdrec.models.registry import model_type
from lirdrec.recommender.presets import COMMON_RATE, PUBLISHED_RATES, SEQUENCE_BATCH, SEQUENCE_RATE
from lirdrec.training.config import AUTO_BATCH, TrainConfig

TEMPERATURES = (0.07, 0.1, 0.15, 0.2, 0.3)
_BPR = {"batch_size": (2048, 4096, 8192), "learning_rate": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)}
_SEQUENCES = {"batch_size": (1024, 2048), "learning_rate": (5e-4, 1e-3, 2e-3, 5e-3)}
# training options that are searched in addition to the model's grid. The keys are ranking losses; "" is for gradient
# models with a fixed loss; the similarities "cosine" and "product" are for models of ordered histories. Cosines lie in
# [-1, 1] and need a small temperature; products become larger by training
STEPS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "bpr": _BPR,
    "softmax": {
        "temperature": TEMPERATURES,
        "scoring": ("product", "cosine"),
        "batch_size": (4096, 8192),
        "learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
    },
    "": _BPR,
    "cosine": {"similarity": ("cosine",), "temperature": (0.05, 0.07, 0.1, 0.15, 0.2), **_SEQUENCES},
    "product": {"similarity": ("product",), "temperature": (1.0,), **_SEQUENCES},
}
# model options searched for all models of ordered histories that have them, instead of their own grids
SEQUENCE_MODELS: Mapping[str, tuple[Any, ...]] = {"dropout": (0.1, 0.2, 0.3, 0.4, 0.5), "n_layers": (1, 2)}
# configurations that a search starts with, by ranking loss or similarity; for bpr the published setting (of LIRDRec, or
# of common public code)
FIRST: Mapping[str, Mapping[str, Any]] = {
    "bpr": {"batch_size": 2048},
    "softmax": {"temperature": 0.15, "scoring": "product", "batch_size": 4096, "learning_rate": 1e-3},
    "": {"batch_size": 2048},
    "cosine": {
        "similarity": "cosine",
        "temperature": 0.1,
        "batch_size": SEQUENCE_BATCH,
        "learning_rate": SEQUENCE_RATE,
    },
    "product": {
        "similarity": "product",
        "temperature": 1.0,
        "batch_size": SEQUENCE_BATCH,
        "learning_rate": COMMON_RATE,
    },
}
LOSSES = ("bpr", "softmax")
WEIGHTS = (0.1, 0.5, 0.9)  # weights of the first of two modalities in an item-item graph; the second has 1 - weight

Choice = dict[str, Any]  # option → value, of the model and of training


@dataclass(frozen=True)
class Space:
    """Search space of a model: the values that tuning may choose for each option.

    Attributes:
        shared: option → values, for every branch.
        branches: branch → option → values. A branch is a ranking loss or a similarity; models without a choice have a
            single branch "".
        first: complete configurations to try first, one for each branch.
    """

    shared: Mapping[str, tuple[Any, ...]]
    branches: Mapping[str, Mapping[str, tuple[Any, ...]]]
    first: tuple[Choice, ...]

    @property
    def size(self) -> int:
        """Number of all configurations."""
        shared = math.prod(map(len, self.shared.values()))
        return sum(shared * math.prod(map(len, branch.values())) for branch in self.branches.values())

    def all(self) -> Iterator[Choice]:
        """Yield all configurations."""
        for loss, branch in self.branches.items():
            options = {**self.shared, **branch}
            for values in itertools.product(*options.values()):
                yield with_loss(loss, dict(zip(options, values, strict=True)))

    def draw(self, generator: random.Random) -> Choice:
        """Return a configuration at random: first a branch is drawn, then a value of each option."""
        loss = generator.choice(list(self.branches))
        options = {**self.shared, **self.branches[loss]}
        return with_loss(loss, {name: generator.choice(values) for name, values in options.items()})


def with_loss(branch: str, options: Choice) -> Choice:
    """Return the options as a configuration of the branch: a ranking loss is added as the option "loss"."""
    return {"loss": branch, **options} if branch in LOSSES else options


def branch_of(options: Mapping[str, Any]) -> str:
    """Return the branch of a configuration: its loss or, without one, its similarity.

    Only for search spaces with several branches, since others may have neither option.
    """
    branch: str = options["loss"] if "loss" in options else options["similarity"]
    return branch


def space_of(model: str, fixed: Mapping[str, Any], losses: Sequence[str] = (), modalities: Sequence[str] = ()) -> Space:
    """Return the search space of a model: the grid and defaults of its class, and training options of each branch.

    Args:
        model: name of the model.
        fixed: name → value of model and training options that are set, and are therefore not searched.
        losses: ranking losses to search; empty: all losses of the model.
        modalities: names of the feature matrices; if there are exactly two, the model's option `modality_weights` is
            searched, too.

    Raises:
        ConfigError: the model's grid names an unknown option.
    """
    kind = model_type(model)
    defaults = {entry.name: None if entry.default is MISSING else entry.default for entry in fields(kind.Config)}
    for name in kind.grid:
        if name not in defaults:
            raise ConfigError(
                f"{model}: its grid names '{name}', which is not an option of the model; correct `grid` of its class"
            )
    shared = {name: _with(values, defaults[name]) for name, values in kind.grid.items() if name not in fixed}
    shared.pop("loss", None)
    if len(modalities) == 2 and "modality_weights" in defaults and "modality_weights" not in fixed:
        first_name, second_name = modalities
        weights = tuple({first_name: weight, second_name: round(1 - weight, 6)} for weight in WEIGHTS)
        shared["modality_weights"] = (defaults["modality_weights"], *weights)
    start = {name: defaults[name] for name in shared}
    if kind.capabilities.training == "closed_form":
        return Space(shared, {"": {}}, (start,))
    sequences = kind.capabilities.ordered
    if sequences:
        shared.pop("temperature", None)  # it depends on the similarity
        for name in SEQUENCE_MODELS.keys() & defaults.keys() - fixed.keys():
            shared[name] = _with(SEQUENCE_MODELS[name], defaults[name])
        shared = dict(sorted(shared.items()))
        start = {name: defaults[name] for name in shared}
    wanted = _branches(fixed, losses, defaults, sequences)
    branches, first = {}, []
    for loss in wanted:
        branch = {name: values for name, values in STEPS[loss].items() if name not in fixed and name not in shared}
        initial = {**FIRST[loss]}
        if "learning_rate" not in initial:
            initial["learning_rate"] = PUBLISHED_RATES.get(model, COMMON_RATE)
        if "batch_size" in fixed:  # scale the learning rate with the square root of the batch size
            size = AUTO_BATCH if fixed["batch_size"] == "auto" else fixed["batch_size"]
            target = initial["learning_rate"] * (size / initial["batch_size"]) ** 0.5
            rates = STEPS[loss]["learning_rate"]
            initial["learning_rate"] = min(rates, key=lambda rate: abs(math.log(rate / target)))
        branches[loss] = branch
        first.append(with_loss(loss, {**start, **{name: initial[name] for name in branch}}))
    return Space(shared, branches, tuple(first))


def _branches(
    fixed: Mapping[str, Any], losses: Sequence[str], options: Mapping[str, Any], sequences: bool
) -> tuple[str, ...]:
    """Return the names of the branches of a model that is trained by gradients."""
    if sequences:
        return (fixed["similarity"],) if "similarity" in fixed else ("cosine", "product")
    if "loss" not in options:
        return ("",)
    return (fixed["loss"],) if "loss" in fixed else tuple(losses) or LOSSES


def parts(choice: Choice) -> tuple[Choice, Choice]:
    """Split a configuration; return the options of the model, and the options of training."""
    training = {entry.name for entry in fields(TrainConfig)}
    model_options = {name: value for name, value in choice.items() if name not in training}
    return model_options, {name: value for name, value in choice.items() if name in training}


def _with(values: Sequence[Any], default: Any) -> tuple[Any, ...]:
    """Return the values, with the default added if it is not among them; numbers are sorted."""
    complete = [*values] if canonical(default) in map(canonical, values) else [*values, default]
    return tuple(sorted(complete) if all_numbers(complete) else complete)


def all_numbers(values: Sequence[Any]) -> bool:
    """Whether all values are numbers; booleans are not."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
