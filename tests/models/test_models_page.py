"""The pages of models and of features say what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.main import get_command

from lirdrec import Dataset
from lirdrec.cli.main import app
from lirdrec.data.images import with_images
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


DOCS = Path(__file__).resolve().parents[2] / "docs"
FEATURES_PAGE = (DOCS / "features.md").read_text(encoding="utf-8")
COLORS = [(220, 30, 30), (30, 200, 40), (40, 40, 230), (230, 220, 40)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset `mydata` that knows its images, and the image of a new item, a green one."""
    (tmp_path / "covers").mkdir()
    for index, color in enumerate(COLORS):
        Image.new("RGB", (40, 30), color).save(tmp_path / "covers" / f"{index}.png")
    Image.new("RGB", (50, 50), COLORS[1]).save(tmp_path / "new.jpg", quality=95)
    pairs = pl.DataFrame({"user": [0] * 4, "item": range(4)})
    with_images(Dataset.from_frames(pairs, split="none"), tmp_path / "covers").save(tmp_path / "mydata")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_in_python_makes_features_and_encodes_a_new_item(place):
    blocks = re.findall(r"^```python\n(.*?)^```$", FEATURES_PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    names: dict = {}
    exec(compile(blocks[0], "docs/features.md", "exec"), names)
    image = Dataset.load(place / "mydata", verify=True).features["image"]
    assert image.present.all()
    assert np.argmax(names["vectors"] @ image.values.T) == 1  # the green one


@pytest.mark.parametrize("page", ["features.md", "captions.md"])
def test_commands_have_the_options_that_are_shown_and_write_to_folders_of_their_own(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(block for language, block in blocks if language in ("", "sh")).replace("\\\n", " ").splitlines()
    typed = [
        parts[1:]
        for line in lines
        if (parts := shlex.split(line.partition(" > ")[0], comments=True))[:1] == ["lirdrec"]
    ]
    assert len(typed) >= 9
    commands = get_command(app).commands
    contexts = [commands[name].make_context(name, arguments) for name, *arguments in typed]
    outputs = [str(one.params["output"]) for one in contexts if one.params.get("output") is not None]
    assert len(outputs) == len(set(outputs))
