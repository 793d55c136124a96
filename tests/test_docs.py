"""The commands of the README and of docs/serving.md, the examples and the notebook run as they are written."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import polars
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

import lirdrec
from lirdrec import Dataset
from lirdrec.cli.main import app
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.training.config import TrainConfig

from .experiments.conftest import compute_cells_here
from .helpers import PATIENCE, FreePort

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def commands(start: str) -> list[list[str]]:
    """The commands of all shell blocks that begin with `start`, as argument lists."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [parts for line in lines if (parts := shlex.split(line, comments=True))[:1] == [start]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample and with a newcomer's own files, as the README supposes them."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "sample", folder / "sample")
    data = Dataset.load(folder / "sample" / "movielens")
    likes = pl.concat([data.frame(split) for split in ("train", "valid", "test")])
    keep = likes.join(data.item_table.head(300), on="item", how="semi").sample(fraction=1.0, shuffle=True, seed=0)
    keep.select(pl.col("user").alias("userId"), pl.col("item").alias("movieId")).with_columns(
        pl.lit(4.5).alias("rating")
    ).write_csv(folder / "ratings.csv")
    films = data.item_table.head(300)
    films.rename({"item": "movieId"}).write_csv(folder / "movies.csv")
    for name, file in (("text", "texts.npz"), ("image", "posters.npz")):
        matrix = data.features[name]
        rows = np.flatnonzero(matrix.present[:300])
        np.savez(folder / file, ids=films["item"].to_numpy()[rows], x=matrix.values[rows])
    movielens(folder, data, films["item"].to_list())
    return folder


def movielens(folder: Path, data: Dataset, films: list[int]) -> None:
    """The same films as MovieLens publishes them, with drawn posters for some."""
    (folder / "ml-latest-small").mkdir()
    (folder / "posters").mkdir()
    likes = pl.concat([data.frame(split) for split in ("train", "valid", "test")]).filter(pl.col("item").is_in(films))
    likes.select(
        pl.col("user").alias("userId"),
        pl.col("item").alias("movieId"),
        pl.lit(4.5).alias("rating"),
        pl.int_range(pl.len()).alias("timestamp"),
    ).write_csv(folder / "ml-latest-small" / "ratings.csv")
    table = data.item_table.filter(pl.col("item").is_in(films))
    table.select(pl.col("item").alias("movieId"), "title", "genres").write_csv(
        folder / "ml-latest-small" / "movies.csv"
    )
    for film in films[:40]:
        Image.new("RGB", (60, 90), ((film * 37) % 256, (film * 91) % 256, (film * 13) % 256)).save(
            folder / "posters" / f"{film}.jpg"
        )


def run(arguments: list[str], cwd: Path) -> str:
    """Output of a command that must succeed."""
    quiet = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    return done.stdout


def serve_until_ready(arguments: list[str], cwd: Path) -> None:
    """A server that answers, shows its page and ends without errors when it is stopped."""
    port = FreePort()
    command = [sys.executable, "-m", "lirdrec", *arguments, "--port", str(port.number)]
    patient = {"transport": httpx.HTTPTransport(retries=10), "timeout": PATIENCE}
    with httpx.Client(base_url=f"http://127.0.0.1:{port.number}", **patient) as client, contextlib.closing(port):
        with subprocess.Popen(command, cwd=cwd, stderr=subprocess.DEVNULL) as server:  # a full pipe would stop it
            try:
                while client.get("/ready").status_code == 503:
                    assert client.get("/health").status_code == 200
                assert client.get("/ui/").status_code == 200
                assert len(client.get("/users").json()["users"]) > 0
            finally:
                server.terminate()
        assert server.returncode in (0, -signal.SIGTERM)  # uvicorn ends in peace, then as the signal wants it


def test_every_shell_line_is_a_known_command():
    shell = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    assert {line.split()[0] for line in shell if line.strip()} == {"make", "lirdrec"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {target for line in commands("make") for target in line[1:]} | set(re.findall(r"`make ([a-z-]+)`", README))
    assert {"demo", "test", "test-slow"} <= named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_links_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_for_own_files(place, monkeypatch):
    monkeypatch.chdir(place)
    compute_cells_here(monkeypatch)
    for _, *arguments in commands("lirdrec"):
        # an experiment as it is written takes hours: the last of two values counts
        short = ["--seeds", "1", "--epochs", "1"] if arguments[0] == "experiment" and arguments[1:] else []
        short += ["--trials", "1"] if arguments[:2] == ["experiment", "compare"] else []
        if arguments[0] == "serve":
            serve_until_ready(arguments, place)
        else:
            done = CliRunner().invoke(app, [*arguments, *short])
            assert done.exit_code == 0, f"{arguments}\n{done.output}"
    assert (place / "runs" / "first" / "metrics.json").is_file()
    assert (place / "runs" / "films" / "metrics.json").is_file() and (place / "images.html").is_file()
    assert (place / "study" / "report.html").is_file() and (place / "study-ablation" / "report.html").is_file()
    assert pl.read_parquet(place / "recs.parquet")["user"].n_unique() > 100
    assert (place / "vectors" / "load.py").is_file()


@pytest.mark.slow
def test_python_blocks(place):
    (place / "readme.py").write_text("\n".join(blocks("python")), encoding="utf-8")
    recall = float(run(["readme.py"], place).splitlines()[0])
    assert 0.25 < recall < 0.5  # 0.34 when this was written; popularity 0.20


@pytest.mark.slow
def test_demo(tmp_path):
    shown = run(["-m", "lirdrec", "demo", "--run", str(tmp_path / "run")], ROOT)
    (example,) = blocks("text")
    headings = re.findall(r"^\d  .+?(?= ─)", example, re.MULTILINE)
    assert len(headings) >= 3
    assert [heading for heading in headings if heading not in shown] == []
    rows = ("without an offset", "calibrated offset", "after 5 likes")
    assert [row for row in rows if row not in example or row not in shown] == []
    assert (tmp_path / "run" / "manifest.json").is_file()


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


NOTEBOOK = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_every_cell_was_executed_in_order_without_an_error():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert [one for cell in CODE for one in cell["outputs"] if one["output_type"] == "error"] == []
    assert sum(bool(cell["outputs"]) for cell in CODE) >= len(CODE) - 1


def test_it_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    for number, cell in enumerate(CODE, start=1):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)


WITHOUT = {"from_hub", "push_to_hub"}  # they need a server
METHODS = [
    *(f"Dataset.{name}" for name in ("from_frames", "save", "load")),
    *(
        f"Recommender.{name}"
        for name in (
            "recommend",
            "recommend_for_history",
            "score",
            "similar_items",
            "explain",
            "save",
            "load",
        )
    ),
]
CLASSES = {"Dataset", "Recommender"}  # their methods have the examples
NAMES = sorted(set(lirdrec.__all__) - WITHOUT - CLASSES) + METHODS


@pytest.fixture(scope="module")
def names() -> dict[str, object]:
    dataset = make_synthetic_dataset(40, 30, 600, {"text": 6}, groups=3)
    recommender = lirdrec.fit(dataset, "ease", progress=False)
    public = {name: getattr(lirdrec, name) for name in lirdrec.__all__}
    user, item = dataset.users.ids[0], dataset.items.ids[0]
    return {**public, "dataset": dataset, "recommender": recommender, "user": user, "item": item, "polars": polars}


@pytest.mark.parametrize("name", NAMES)
def test_examples(names, name, tmp_path):
    target: object = lirdrec
    for part in name.split("."):
        target = inspect.getattr_static(target, part) if inspect.isclass(target) else getattr(target, part)
    target = getattr(target, "__func__", target)
    tests = doctest.DocTestFinder(recurse=False).find(target, name, globs={**names, "folder": tmp_path})
    assert tests and tests[0].examples, "no example in the docstring"
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(tests[0])
    assert result.failed == 0


PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
SERVED = re.compile(r"^lirdrec serve .*$", re.MULTILINE)


def steps() -> list[tuple[str, str]]:
    """(number of the step, the lines of a block) of the numbered steps before the last, in order."""
    found = []
    for number, text in re.findall(r"^## (\d)\. .*?\n(.*?)(?=^## )", PAGE, flags=re.DOTALL | re.MULTILINE):
        found += [(number, block) for block in re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]
    return found


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone after `make demo`, of a training that was short."""
    shutil.copytree(ROOT / "sample", tmp_path / "sample")
    films = lirdrec.Dataset.load(tmp_path / "sample" / "movielens")
    config, training = LIRDRecConfig(embedding_size=8, loss="softmax"), TrainConfig(epochs=2, batch_size=4096)
    lirdrec.fit(films, config, training, device="cpu", progress=False).save(tmp_path / "runs" / "demo")
    return tmp_path


class Newcomer:
    """Types the blocks of the page into one shell; servers run beside it."""

    def __init__(self, folder: Path):
        self.held = FreePort()
        self.port = self.held.number
        self.folder = folder
        self.server: subprocess.Popen[bytes] | None = None
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def type(self, block: str) -> list[dict]:
        """The answers of a block's requests; every command must succeed, and every request."""
        block = block.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}").replace("curl ", "curl -sS --fail-with-body ")
        served = SERVED.search(block)
        if served is None:
            return answers(self._run(block))
        self._run(block[: served.start()])
        self._serve(served.group())
        return answers(self._run(block[served.end() :]))

    def end(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait()
            self.server = None

    def _run(self, lines: str) -> str:
        keep = "declare -p KEY > .key 2> /dev/null || true"  # from block to block, as in one terminal
        script = "\n".join(["set -euo pipefail", "[ ! -f .key ] || . ./.key", lines, keep])
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, line: str) -> None:
        self.end()
        command = f"exec {line.split('#')[0].strip()} --port {self.port}"
        self.server = subprocess.Popen(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, stderr=subprocess.DEVNULL
        )
        with httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", transport=httpx.HTTPTransport(retries=10), timeout=PATIENCE
        ) as client:
            while client.get("/ready").status_code == 503:
                assert self.server.poll() is None


def answers(text: str) -> list[dict]:
    """JSON documents one after another; keys that were printed between them are no answers."""
    found, index = [], text.find("{")
    while index >= 0:
        one, end = json.JSONDecoder().raw_decode(text, index)
        found.append(one)
        index = text.find("{", end)
    return found


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs bash and curl")
def test_from_a_run_to_a_server_with_keys_and_live_items(clone):
    newcomer, reported = Newcomer(clone), {}
    try:
        for number, block in steps():
            reported.setdefault(number, []).extend(newcomer.type(block))
    finally:
        newcomer.end()
        newcomer.held.close()
    assert sorted(reported) == ["1", "2", "3", "4"]
    (asked,), (added, similar) = reported["1"], reported["3"]
    assert [set(one) for one in asked["items"]] == [{"item", "score", "columns"}] * 3
    assert added["items"] == [900001]
    assert similar["neighbors"][0]["item"] == 1240  # whose vectors it brought
    events, recommended, removed, partial = reported["4"]
    assert partial["change"] == removed["change"] + 2 and [one["position"] for one in partial["refused"]] == [2]
    assert events["change"] == added["change"] + 2 and removed["items"] == [900001]
    assert len(recommended["items"]) == 10
    assert (clone / "runs" / "current.live.sqlite").is_file() and not (clone / "runs" / "demo.live.sqlite").exists()
