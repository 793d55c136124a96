"""The layout of the package: circles, sizes of functions and folders, what an import loads, and the wheel."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lirdrec

from .helpers import assert_error

SOURCE = Path(__file__).resolve().parents[1] / "src"
FILES = sorted(SOURCE.glob("lirdrec/**/*.py"))
MODULES = {".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
PACKAGE = "lirdrec"  # its public names are loaded when they are first used, so it imports nothing by itself


def imported(file: Path) -> Iterator[str]:
    """Modules of the package that a file imports anywhere: at its top, in functions, for type checks."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def graph() -> dict[str, set[str]]:
    return {
        module: {other for other in imported(file) if other in MODULES and other not in (module, PACKAGE)}
        for module, file in MODULES.items()
        if module != PACKAGE
    }


def test_no_module_imports_itself_through_others():
    try:
        order = list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert len(order) > 200


def test_a_circle_would_be_found():
    with pytest.raises(CycleError):
        list(TopologicalSorter({**graph(), "lirdrec.errors": {"lirdrec.cli.main"}}).static_order())


def test_functions_have_at_most_60_lines():
    long = [
        f"{file.relative_to(SOURCE)}:{node.lineno}: {node.name}: {length} lines"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := node.end_lineno - node.lineno + 1) > 60
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("folder", ["features", "server"])
def test_folders_hold_at_most_20_modules(folder):
    root = SOURCE / PACKAGE / folder
    counts = {path: len(list(path.glob("*.py"))) for path in (root, *root.rglob("*")) if path.is_dir()}
    assert counts[root] > 5 and max(counts.values()) <= 20, counts


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


ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that must succeed; the repository is not on its path."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays as it is, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "sample", source / "sample")
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", source, cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"lirdrec", f"lirdrec-{lirdrec.__version__}.dist-info"}
    assert "lirdrec/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "lirdrec").rglob("*.py")}
    assert modules <= set(names)


def test_installed_wheel_works_outside_the_repository(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # The dependencies are borrowed from this environment: torch is not downloaded again. Only the package itself is
    # installed again. Its own folder comes first on the path, before the borrowed one.
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    command = scripts / ("lirdrec.exe" if os.name == "nt" else "lirdrec")
    shown = run(command, "--help", cwd=tmp_path)
    for name in ("demo", "prepare", "inspect", "train", "evaluate", "recommend", "similar", "explain"):
        assert name in shown
    assert run(python, "-m", "lirdrec", "--help", cwd=tmp_path).split()[0] == "Usage:"
    script = (
        "import lirdrec, pathlib\n"
        "for name in lirdrec.__all__: getattr(lirdrec, name)\n"
        "print(pathlib.Path(lirdrec.__file__).parent, lirdrec.__version__)"
    )
    assert run(python, "-c", script, cwd=tmp_path).strip() == f"{site / 'lirdrec'} {lirdrec.__version__}"
