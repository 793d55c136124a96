"""What tuning searches: the published grid of a model, and for each ranking loss the step sizes that suit it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from lirdrec.errors import ConfigError
from lirdrec.experiments.trial import canonical
from lirdrec.models.registry import model_type
from lirdrec.recommender.presets import COMMON_RATE, PUBLISHED_RATES
from lirdrec.training.config import TrainConfig

TEMPERATURES = (0.07, 0.1, 0.15, 0.2, 0.3)
# searched beside the grid, for each ranking loss; "" stands for gradient models that have no choice of the loss
STEPS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "bpr": {"batch_size": (2048, 4096, 8192), "learning_rate": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)},
    "softmax": {
        "temperature": TEMPERATURES,
        "scoring": ("product", "cosine"),
        "batch_size": (4096, 8192),
        "learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
    },
    "": {"batch_size": (2048, 4096, 8192), "learning_rate": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)},
}
# where the search begins: the published setting (LIRDRec's own, else the one common to public code), then softmax
FIRST: Mapping[str, Mapping[str, Any]] = {
    "bpr": {"batch_size": 2048},
    "softmax": {"temperature": 0.15, "scoring": "product", "batch_size": 4096, "learning_rate": 1e-3},
    "": {"batch_size": 2048},
}
WEIGHTS = (0.1, 0.5, 0.9)  # of the first of two modalities in an item-item graph; the second has the rest

Choice = dict[str, Any]  # option → value, of the model and of training alike


@dataclass(frozen=True)
class Space:
    """The configurations of a model that may be tried.

    Attributes:
        shared: option → values, whatever the loss.
        branches: loss → option → values; one branch "" for models without a choice of the loss.
        first: configurations to begin with, complete.
    """

    shared: Mapping[str, tuple[Any, ...]]
    branches: Mapping[str, Mapping[str, tuple[Any, ...]]]
    first: tuple[Choice, ...]

    @property
    def size(self) -> int:
        """Number of configurations."""
        shared = math.prod(map(len, self.shared.values()))
        return sum(shared * math.prod(map(len, own.values())) for own in self.branches.values())

    def all(self) -> Iterator[Choice]:
        """Every configuration."""
        for loss, own in self.branches.items():
            options = {**self.shared, **own}
            for values in itertools.product(*options.values()):
                yield with_loss(loss, dict(zip(options, values, strict=True)))

    def draw(self, generator: random.Random) -> Choice:
        """One configuration: each branch equally likely, then each value."""
        loss = generator.choice(list(self.branches))
        options = {**self.shared, **self.branches[loss]}
        return with_loss(loss, {name: generator.choice(values) for name, values in options.items()})


def with_loss(loss: str, options: Choice) -> Choice:
    """The options with the loss in front, where there is a choice."""
    return {"loss": loss, **options} if loss else options


def space_of(model: str, fixed: Mapping[str, Any], losses: Sequence[str] = (), modalities: Sequence[str] = ()) -> Space:
    """The space of a model.

    Args:
        model: its name.
        fixed: options, of the model or of training, that are set and so not searched.
        losses: ranking losses to search; empty: all that the model has.
        modalities: names of the feature matrices; where they are two, their weights are searched too.

    Raises:
        ConfigError: the model has none of the losses, or its grid names an option that it has not.
    """
    kind = model_type(model)
    defaults = {one.name: None if one.default is MISSING else one.default for one in fields(kind.Config)}
    for name in kind.grid:
        if name not in defaults:
            raise ConfigError(f"{model}: its grid names '{name}', which is not an option of the model")
    shared = {name: _with(values, defaults[name]) for name, values in kind.grid.items() if name not in fixed}
    shared.pop("loss", None)
    if len(modalities) == 2 and "modality_weights" in defaults and "modality_weights" not in fixed:
        first_one, second = modalities
        given = tuple({first_one: w, second: round(1 - w, 6)} for w in WEIGHTS)
        shared["modality_weights"] = (defaults["modality_weights"], *given)
    start = {name: defaults[name] for name in shared}
    if kind.capabilities.training == "closed_form":
        return Space(shared, {"": {}}, (start,))
    if "loss" not in defaults:
        wanted: tuple[str, ...] = ("",)
    elif "loss" in fixed:
        wanted = (fixed["loss"],)
    else:
        wanted = tuple(losses) or ("bpr", "softmax")
    branches, first = {}, []
    for loss in wanted:
        own = {name: values for name, values in STEPS[loss].items() if name not in fixed and name not in shared}
        begin = {**FIRST[loss]}
        if loss != "softmax":
            begin["learning_rate"] = PUBLISHED_RATES.get(model, COMMON_RATE)
        if "batch_size" in fixed:  # a larger batch needs a larger step: about the root of the ratio
            wanted_rate = begin["learning_rate"] * (fixed["batch_size"] / begin["batch_size"]) ** 0.5
            known = STEPS[loss]["learning_rate"]
            begin["learning_rate"] = min(known, key=lambda rate: abs(math.log(rate / wanted_rate)))
        branches[loss] = own
        first.append(with_loss(loss, {**start, **{name: begin[name] for name in own}}))
    return Space(shared, branches, tuple(first))


def parts(choice: Choice) -> tuple[Choice, Choice]:
    """A configuration as options of the model and options of training."""
    training = {one.name for one in fields(TrainConfig)}
    of_model = {name: value for name, value in choice.items() if name not in training}
    return of_model, {name: value for name, value in choice.items() if name in training}


def _with(values: Sequence[Any], default: Any) -> tuple[Any, ...]:
    """The values and the default among them, numbers in order."""
    known = {canonical(value) for value in values}
    found = [*values] if canonical(default) in known else [*values, default]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in found):
        found.sort()
    return tuple(found)
