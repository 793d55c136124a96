"""A virtual environment for each library: made once, with pinned versions; why one could not be made is kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

# torch from PyPI brings CUDA; where another index has builds for the CPU, give it by --pip
CONSTRAINTS = ("torch==2.13.0",)
# library -> what pip installs
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "implicit": ("implicit==0.7.3", "numpy==2.4.6", "scipy==1.17.1"),
    "rectools": ("rectools==0.19.0",),
    "lenskit": ("lenskit==2025.8.1",),
    "cornac": ("cornac==3.0.1", "torch==2.13.0", "dgl==1.1.3"),  # dgl: for LightGCN; Cornac does not install it
    "recbole": ("recbole==1.2.1", "numpy==1.26.4", "scipy==1.10.1", "pandas==1.5.3", "torch==2.13.0"),
}
FAILED, DONE = "failed.txt", "versions.txt"


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def is_made(folder: Path) -> bool:
    """Whether an environment is complete."""
    return (folder / DONE).is_file() and python_of(folder).is_file()


def reason(folder: Path) -> str | None:
    """Why an environment could not be made, or None."""
    path = folder / FAILED
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def make(name: str, folder: Path, pip_options: tuple[str, ...] = (), python: str = sys.executable) -> str | None:
    """Make the environment of a library in `folder`, which may hold an unfinished one.

    Args:
        name: a key of `ENVIRONMENTS`.
        folder: the environment; a complete one is left as it is.
        pip_options: further arguments of pip, such as `--index-url`.
        python: the interpreter to start from.

    Returns:
        None, or the reason of the failure: the last lines that pip wrote. It is also kept in the folder.
    """
    if is_made(folder):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    constraints = folder.with_name(f"{name}-constraints.txt")
    constraints.write_text("\n".join(CONSTRAINTS) + "\n", encoding="utf-8")
    # the pip of the interpreter to start from: an environment with a pip of its own takes much longer
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--python", str(python_of(folder)))
    steps = (
        (python, "-m", "venv", "--without-pip", str(folder)),
        (*pip, "install", "-c", str(constraints), *pip_options, *ENVIRONMENTS[name]),
        (*pip, "freeze"),
    )
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            problem = last_lines(done.stderr or done.stdout) if done.returncode else None
        except OSError as error:
            problem = str(error)
        if problem is not None:
            (folder / FAILED).write_text(problem + "\n", encoding="utf-8")
            return problem
    (folder / DONE).write_text(done.stdout, encoding="utf-8")
    return None


def last_lines(text: str, number: int = 3) -> str:
    """The last lines of a program's output that say something; those with ERROR, if there are any."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return "\n".join((errors or lines)[-number:]) or "it ended with an error and wrote nothing"
