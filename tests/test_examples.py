"""The scripts of examples/ run as a user would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {  # what the output must contain
    "01_quickstart.py": ("recall@20 0.", "rank"),
    "02_own_data.py": ("user-7", "sku-"),
    "03_new_items.py": ("rank", "score", "share=0.2: new films get 20.0%", "boost=0.05 is an offset of"),
    "04_new_model.py": ("recall@20",),
    "05_serve.py": ("'item'", "'score'"),
}


def test_every_example_is_tested():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_examples_run(name, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(fact in done.stdout for fact in SHOWN[name]), done.stdout
