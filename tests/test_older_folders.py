"""Datasets and runs that were written before modules, classes and options got their present names.

`fixtures/before_renaming.zip` holds a dataset, a run of LIRDRec and one of EASE as that version wrote them; its
`facts.json` holds what the commands of that version printed.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lirdrec import Dataset, Recommender, fit
from lirdrec.cli.main import app
from lirdrec.training.config import TrainConfig

FIXTURE = Path(__file__).parent / "fixtures" / "before_renaming.zip"
USERS = ["u003", "u017"]


@pytest.fixture(scope="module")
def older(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def facts(older) -> dict:
    return json.loads((older / "facts.json").read_text())


def printed(*arguments: object) -> object:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def close(found: object, expected: object) -> None:
    """The same structure, and numbers that agree to 1e-5: the last bits depend on the processor."""
    if isinstance(expected, dict):
        expected = {{"neighbour": "neighbor"}.get(key, key): value for key, value in expected.items()}
    if isinstance(expected, dict):
        assert isinstance(found, dict) and expected.keys() <= found.keys()
        for key, value in expected.items():
            close(found[key], value)
    elif isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("run", ["run", "ease"])
def test_runs_answer_as_before(older, facts, run):
    close(printed("recommend", older / run, "-u", USERS[0], "-u", USERS[1], "-k", 7), facts[run]["recommend"])
    close(printed("recommend", older / run, "--history", "0001,0005", "-k", 5), facts[run]["history"])
    close(printed("similar", older / run, "-i", "0007", "-k", 5), facts[run]["similar"])
    close(printed("explain", older / run, "-u", USERS[0], "-i", "0007"), facts[run]["explain"])


def test_items_are_added_to_an_older_run(older):
    recommender = Recommender.load(older / "run")
    before = recommender.score([(USERS[0], "0007")])["score"][0]
    recommender.add_items(["new"], {name: np.ones((1, width)) for name, width in (("image", 8), ("text", 33))})
    assert recommender.n_items == 41 and recommender.recommend(USERS[0], k=1, candidates=["new"])["item"][0] == "new"
    assert recommender.score([(USERS[0], "0007")])["score"][0] == before


def test_an_older_dataset_is_trained_on(older):
    dataset = Dataset.load(older / "dataset")
    assert (dataset.n_users, dataset.n_items, sorted(dataset.features)) == (60, 40, ["image", "text"])
    made = fit(dataset, "ease", training=TrainConfig(seed=0), progress=False)
    kept = Recommender.load(older / "ease")
    assert made.recommend(USERS, k=5)["item"].to_list() == kept.recommend(USERS, k=5)["item"].to_list()
