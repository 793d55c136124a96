"""What docs/features.md shows in Python works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from lirdrec import Dataset
from lirdrec.data.pictures import with_images

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "features.md").read_text(encoding="utf-8")
COLOURS = [(220, 30, 30), (30, 200, 40), (40, 40, 230), (230, 220, 40)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset `mydata` that knows its pictures, and the picture of a new item, a green one."""
    (tmp_path / "covers").mkdir()
    for at, colour in enumerate(COLOURS):
        Image.new("RGB", (40, 30), colour).save(tmp_path / "covers" / f"{at}.png")
    Image.new("RGB", (50, 50), COLOURS[1]).save(tmp_path / "new.jpg", quality=95)
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
