"""Heavy libraries are loaded only when something needs them, and every public name is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lirdrec

from .helpers import assert_error

HEAVY = ["torch", "polars", "pyarrow", "pandas", "matplotlib", "scipy", "safetensors"]
REPORT = f"\nimport sys; print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"


def heavy_after(code: str) -> str:
    """The heavy libraries that a fresh interpreter has loaded after `code`."""
    done = subprocess.run([sys.executable, "-c", code + REPORT], capture_output=True, text=True, check=True)
    return done.stdout.rsplit("loaded:", 1)[-1].strip()


def test_import_loads_nothing_heavy():
    assert heavy_after("import lirdrec") == ""


def test_the_check_sees_a_heavy_library():
    assert heavy_after("import polars") == "polars"


def test_errors_and_configuration_load_nothing_heavy():
    assert heavy_after("import lirdrec.errors, lirdrec.config") == ""


@pytest.mark.parametrize("command", [[], ["demo"], ["prepare"], ["inspect"], ["train"], ["evaluate"], ["explain"]])
def test_help_loads_nothing_heavy(command):
    code = f"""
import sys
from lirdrec.cli.main import main
sys.argv = ["lirdrec", *{command}, "--help"]
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert not code, code
"""
    assert heavy_after(code) == ""


def test_every_public_name_exists_and_is_listed():
    assert [name for name in lirdrec.__all__ if getattr(lirdrec, name, None) is None] == []
    assert set(lirdrec.__all__) <= set(dir(lirdrec))


def test_unknown_name_says_so():
    with assert_error(AttributeError, mentions=["'lirdrec'", "'Datasets'"]):
        lirdrec.Datasets  # noqa: B018
