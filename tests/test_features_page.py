"""What docs/features.md and docs/captions.md show: the Python works as it stands there, the commands exist."""

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

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "features.md").read_text(encoding="utf-8")
COLORS = [(220, 30, 30), (30, 200, 40), (40, 40, 230), (230, 220, 40)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset `mydata` that knows its pictures, and the picture of a new item, a green one."""
    (tmp_path / "covers").mkdir()
    for at, color in enumerate(COLORS):
        Image.new("RGB", (40, 30), color).save(tmp_path / "covers" / f"{at}.png")
    Image.new("RGB", (50, 50), COLORS[1]).save(tmp_path / "new.jpg", quality=95)
    pairs = pl.DataFrame({"user": [0] * 4, "item": range(4)})
    with_images(Dataset.from_frames(pairs, split="none"), tmp_path / "covers").save(tmp_path / "mydata")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_in_python_makes_features_and_encodes_a_new_item(place):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
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
