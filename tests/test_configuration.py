"""Options as a person types them: what becomes of the values, and what is said of those that cannot be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from lirdrec.configuration import make, option, parse_assignments
from lirdrec.data.recipe import Recipe
from lirdrec.errors import ConfigError
from lirdrec.models.registry import config_type, model_names
from lirdrec.training.config import TrainConfig


@dataclass(frozen=True)
class Options:
    names: tuple[str, ...] | None = option(None, "")
    counts: tuple[int, ...] = option((1,), "")
    rates: tuple[float, ...] = option((), "")
    rate: float = option(0.5, "")
    fast: bool = option(False, "")
    table: dict[str, float] = option({}, "")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("names=text,e", ("text", "e")),
        ("names= text , e5-base ", ("text", "e5-base")),
        ("names=text", ("text",)),
        ('names=["text", "e"]', ("text", "e")),
        ("names=1a,2", ("1a", "2")),
        ("names=none", None),
        ("counts=5,10", (5, 10)),
        ("counts=[5, 10]", (5, 10)),
        ("rates=1,2.5,1e-3", (1.0, 2.5, 0.001)),
    ],
)
def test_lists_are_written_with_commas_or_as_in_toml(typed, expected):
    assert getattr(make(Options, parse_assignments([typed])), typed.partition("=")[0]) == expected


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("names=text,,e", "'names' is 'text,,e'; it must be a list of texts with commas between them"),
        ("names=", "'names' is ''; it must be a list of texts with commas between them"),
        ("names=true", "'names' is true; it must be a list of texts with commas between them"),
        ("counts=5,many", "'counts' is 'many'; it must be a whole number"),
        ("counts=none", "'counts' is none; it must be a list of whole numbers with commas between them"),
        ("rate=high", "'rate' is 'high'; it must be a number"),
        ("fast=yes", "'fast' is 'yes'; it must be true or false"),
        ("table=3", "'table' is 3; it must be a table of names and values"),
    ],
)
def test_other_values_are_refused_in_plain_words(typed, sentence):
    with pytest.raises(ConfigError) as error:
        make(Options, parse_assignments([typed]))
    assert str(error.value) == f"the configuration: {sentence}"


@pytest.mark.parametrize("name", [*model_names(), "training", "recipe"])
def test_values_of_the_wrong_type_name_their_field(name):
    kind = {"training": TrainConfig, "recipe": Recipe}.get(name) or config_type(name)
    for field in dataclasses.fields(kind):
        with pytest.raises(ConfigError, match=f"'{field.name}'"):
            kind(**{field.name: object()})
        if isinstance(field.default, bool) or not isinstance(field.default, (int, float)):
            continue
        wrong = [str(field.default), None, True]
        for value in wrong + ([float(field.default)] if isinstance(field.default, int) else []):
            if value is None and "None" in str(field.type):
                continue
            with pytest.raises(ConfigError, match=f"'{field.name}'"):
                kind(**{field.name: value})
