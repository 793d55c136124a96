"""The help: light, complete, with an example in every command."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest
from typer.main import get_command

from lirdrec.cli.main import app

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


def test_the_commands_are_those_of_the_manual():
    known = "demo prepare features caption inspect train evaluate config experiment"
    known += " recommend similar explain add-items strip export serve keys push pull"
    assert sorted(known.split(" ")) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_teaches_with_an_example(lirdrec, command):
    result = lirdrec(command, "--help")
    assert result.exit_code == 0
    assert f"  lirdrec {command}" in result.stdout
    assert not re.search(r"\bNone\b|<list\[(str|int)\]>", result.stdout)  # words of Python


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom lirdrec.cli.main import main\nsys.argv = ['lirdrec', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'polars', 'numpy', 'pandas', 'pyarrow', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(lirdrec):
    import lirdrec as package

    assert lirdrec("--version").stdout == f"lirdrec {package.__version__}\n"


def test_defaults_in_the_help_are_those_of_python(lirdrec):
    """The command passes on only what was given, so the library's defaults hold; the help must not claim others."""
    from lirdrec.recommender.recommender import Recommender

    for method in (Recommender.recommend, Recommender.similar_items, Recommender.similar_users):
        assert inspect.signature(method).parameters["k"].default == 10
    assert inspect.signature(Recommender.explain).parameters["n_liked"].default == 5
    assert "How many items (default: 10)" in lirdrec("recommend", "--help").stdout
    assert "(default: 5)" in lirdrec("explain", "--help").stdout
