"""`benchmarks/gpu.py` on small shapes and the CPU, with only those packages that a GPU machine has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers import assert_mentions

ROOT = Path(__file__).resolve().parents[2]
# runs the script while every other package is as if it were not installed; packages of torch itself are there with it
PROGRAM = """
import runpy, sys
from importlib.machinery import PathFinder
HERE = {"torch", "torchgen", "functorch", "numpy", "scipy", "pandas", "pyarrow", "sklearn", "joblib", "threadpoolctl"}
HERE |= {"filelock", "typing_extensions", "setuptools", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec"}
CARRIED = {"lirdrec", "polars", "_polars_runtime_32", "_polars_runtime", "device_data", "gpu_report", "shapes"}
KNOWN = HERE | CARRIED | sys.stdlib_module_names

class Hiding:
    @staticmethod
    def find_spec(name, path=None, target=None):
        first = name.partition(".")[0]
        return PathFinder.find_spec(name, path, target) if first in KNOWN or first.startswith("_sysconfig") else None

sys.meta_path[:] = [Hiding if one is PathFinder else one for one in sys.meta_path]
script = sys.argv[1]
sys.path[0] = script.rpartition("/")[0]
sys.argv = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


def run(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, (ROOT / "benchmarks" / "gpu.py").as_posix(), "--small", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--output", str(output), *arguments], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    output = tmp_path_factory.mktemp("gpu") / "gpu.json"
    result = run(output, "--shapes", "baby", "million", "--precisions", "float32", "bfloat16", "--seconds", "4000")
    assert result.returncode == 0, result.stderr
    return json.loads(output.read_text())


def test_every_part_is_measured(found):
    assert found["small"] and found["skipped"] == []
    steps = [row for row in found["rows"] if "step_s" in row]
    settings, precisions = ("fast", "paper"), ("float32", "bfloat16")
    expected = [(shape, one, kind) for shape in ("baby", "million") for one in settings for kind in precisions]
    assert [(row["shape"], row["settings"], row["precision"]) for row in steps] == expected
    for row in steps:
        assert min(row["step_s"], row["evaluation_s"], row["limit_s"], row["peak_bytes"]) > 0
        assert row["expected_epoch_s"] > row["steps"] * row["step_s"]
        assert ("epoch_s" in row) == (row["shape"] == "baby")  # the larger one is measured on a part of its users
    assert {row["shape"] for row in found["rows"] if row.get("part") == "item graph"} == {"baby", "million"}


def test_the_cpu_agrees_with_float64(found):
    (row,) = [row for row in found["rows"] if row.get("part") == "agreement"]
    assert row["device_gradient"] == row["cpu_gradient"] and 0 < row["cpu_gradient"] < 1e-4
    assert row["cpu_loss"] < 1e-6 and row["cpu_lists"] < 0.01 and row["cpu_metrics"] < 0.01


def test_shares_of_the_time(found):
    profiles = [row for row in found["rows"] if row.get("part") == "profile"]
    assert len(profiles) == 4
    for row in profiles:
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
        assert row["shares"]["dense products"] > 0 and row["dense_flop"] > 0 and row["sparse_flop"] > 0


def test_without_time_all_is_skipped_and_said(tmp_path):
    result = run(tmp_path / "gpu.json", "--seconds", "0", "--shapes", "baby")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "baby" in [one["part"] for one in found["skipped"]]
    assert not [row for row in found["rows"] if "step_s" in row]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (("--device", "nope"), ["--device", "nope"]),
        (("--seconds", "nan"), ["--seconds", "nan"]),
        (("--seconds", "-1"), ["--seconds", "-1"]),
        (("--output", "/missing/gpu.json"), ["--output", "/missing/gpu.json"]),
    ],
)
def test_bad_arguments_are_refused_before_any_part(arguments, facts, tmp_path):
    result = run(tmp_path / "gpu.json", *arguments)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert_mentions(result.stderr, facts)
