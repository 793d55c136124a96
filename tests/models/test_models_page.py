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


def test_the_table_of_weights_names_every_model_that_uses_them():
    section = PAGE.read_text(encoding="utf-8").split("## Weights of interactions")[1].split("\n## ")[0]
    by_gradient = {name for name in model_names() if model_type(name).capabilities.training == "gradient"}
    named = {name for name in model_names() if f"`{name}`" in section}
    assert named | by_gradient == {name for name in model_names() if model_type(name).capabilities.weights}


def test_no_row_is_left_of_a_model_that_is_gone():
    assert set(rows()) <= set(model_names())


def test_the_published_training_is_that_of_the_models():
    names = {"".join(c for c in name if c.isalnum()): name for name in model_names()}
    lines = PAGE.read_text(encoding="utf-8").split("## Published training")[1].splitlines()
    found = {}
    for line in lines:
        if line.startswith("| ") and not line.startswith("| trained as"):
            models, rate, batch, epochs, patience, every, _ = (cell.strip() for cell in line.strip("|").split("|"))
            base, *decay = rate.split(" · ")
            options = {"learning_rate": float(base), "batch_size": batch, "epochs": epochs, "patience": patience}
            options = {key: value if key[0] == "l" else int(value.replace(",", "")) for key, value in options.items()}
            if every != "1":
                options["evaluate_every"] = int(every)
            if decay:
                assert decay == ["0.96^(epoch/50)"]
                options |= {"schedule": "exponential", "decay": 0.96, "decay_epochs": 50}
            found |= {names[model.strip().lower()]: options for model in models.split(",")}
    assert found == {name: dict(model_type(name).published) for name in model_names() if model_type(name).published}
