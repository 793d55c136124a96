"""docs/models.md says of every model what the model says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from lirdrec.models.registry import model_names, model_type

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def rows() -> dict[str, list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


@pytest.mark.parametrize("name", model_names())
def test_the_row_of_a_model_is_true(name):
    assert name in rows(), f"{name} has no row in docs/models.md"
    _, needs, cold_items, new_users, *_ = rows()[name]
    says = model_type(name).capabilities
    assert needs.startswith("features") == says.needs_features
    assert cold_items.startswith("yes") == says.cold_items
    assert new_users.startswith("yes") == says.new_users


def test_no_row_is_left_of_a_model_that_is_gone():
    assert set(rows()) <= set(model_names())
