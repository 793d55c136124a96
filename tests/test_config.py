"""Options as a person types them: what becomes of the values, and what is said of those that cannot be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from lirdrec.config import make_config, option, parse_assignments, read_toml
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.errors import ConfigError
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.models.registry import config_type, model_names
from lirdrec.training.config import TrainConfig

from .helpers import assert_error


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
    assert getattr(make_config(Options, parse_assignments([typed])), typed.partition("=")[0]) == expected


def test_a_configuration_file_says_none_for_an_option_without_a_value(tmp_path):
    file = tmp_path / "model.toml"
    file.write_text('feature_size = "none"\n', encoding="utf-8")
    assert make_config(LIRDRecConfig, read_toml(file)).feature_size is None
    file.write_text('feature_size = "some"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        make_config(LIRDRecConfig, read_toml(file))
    assert_error(error, ["feature_size", "some"])


@pytest.mark.parametrize(
    ("typed", "facts"),
    [
        ("names=text,,e", ["'names'", "'text,,e'"]),
        ("names=", ["'names'", "''"]),
        ("names=true", ["'names'", "true"]),
        ("counts=5,many", ["'counts'", "'many'"]),
        ("counts=none", ["'counts'", "none"]),
        ("rate=high", ["'rate'", "'high'"]),
        ("fast=yes", ["'fast'", "'yes'", "true", "false"]),
        ("table=3", ["'table'", "3"]),
    ],
)
def test_other_values_are_refused_in_plain_words(typed, facts):
    with assert_error(ConfigError, mentions=["configuration", *facts]):
        make_config(Options, parse_assignments([typed]))


@pytest.mark.parametrize("value", [2**63, -(2**63)])
def test_integers_beyond_64_bits_are_refused_with_the_limits(value):
    with assert_error(ConfigError, mentions=["'counts'", value, -(2**63) + 1, 2**63 - 1]):
        make_config(Options, {"counts": [value]})


@pytest.mark.parametrize("name", [*model_names(), "training", "recipe"])
def test_values_of_the_wrong_type_name_their_field(name):
    kind = {"training": TrainConfig, "recipe": PreprocessingConfig}.get(name) or config_type(name)
    for field in dataclasses.fields(kind):
        with assert_error(ConfigError, mentions=[f"'{field.name}'"]):
            kind(**{field.name: object()})
        if isinstance(field.default, bool) or not isinstance(field.default, (int, float)):
            continue
        wrong = [str(field.default), None, True]
        for value in wrong + ([float(field.default)] if isinstance(field.default, int) else []):
            if value is None and "None" in str(field.type):
                continue
            with assert_error(ConfigError, mentions=[f"'{field.name}'"]):
                kind(**{field.name: value})
