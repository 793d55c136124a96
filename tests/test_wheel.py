"""The wheel works in a clean environment: the command, every public name, types; and holds nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import lirdrec

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
