"""The seal, attacked: tuning must be blind to the test pairs, and the test must be scored once, as declared."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.evaluation.beyond_accuracy import BEYOND
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.experiments import worker
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.sealed_test_set import SEALED, Preregistration, SealedTestSet, declaration_name, seal
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.experiments.tuning import base_trial, suggest

from ..helpers import assert_error
from .conftest import assert_facts


def trials(context, results):
    """Tuning alone."""
    for model in context.models:
        yield from suggest(context, results, base_trial(context, context.datasets[0], model)).cells


def final_trial(context, **options):
    base = base_trial(context, context.datasets[0], "lirdrec", model_options=options)
    return base.with_(extra={"final": True})


def test_damaged_features_are_not_sealed_as_if_they_were_whole(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    path = next((tmp_path / "data" / "features").glob("*.npy"))
    path = path.with_name(path.name.replace(".mask", ""))
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    path.write_bytes(content)
    with assert_error(RunFolderError, mentions=[path.name]):
        seal(tmp_path / "data", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.npy"))


# ------------------------------------------------------------ (a) other test pairs, same choices


def test_garbage_for_test_pairs_changes_no_choice_and_no_validation_figure(data, context, inline, tmp_path):
    whole = Dataset.load(data)
    rng = np.random.default_rng(7)
    taken = {(u, i) for part in (whole.train, whole.valid) for u, i in zip(part.users, part.items, strict=True)}
    drawn = {(int(u), int(i)) for u, i in rng.integers((whole.n_users, whole.n_items), size=(4000, 2))}
    garbage = np.array(sorted(drawn - taken)).T  # another number of pairs too
    spoiled = replace(whole, test=Interactions(*garbage), folder=None).save(tmp_path / "spoiled" / "data")
    assert len(Dataset.load(spoiled).test) != len(whole.test)

    found = {}
    for name, path in (("true", data), ("garbage", spoiled)):
        settings = context(datasets=(str(path),), output=tmp_path / name, trials=5)
        results = inline(trials, settings)
        tuned = suggest(settings, results, base_trial(settings, str(path), "lirdrec"))
        untimed = [
            [r.trial.to_json() | {"dataset": ""}, r.figures, r.best_epoch, r.options]
            + [{k: v for k, v in line.items() if k != "seconds"} for line in r.history]
            for r in results
        ]
        assert tuned.chosen is not None and len(results) == 5
        found[name] = json.dumps([untimed, tuned.chosen.model_options, tuned.chosen.training])
    assert found["true"] == found["garbage"]


def test_tuning_needs_neither_the_sealed_test_nor_the_dataset_itself(data, context, job, tmp_path):
    """With both out of reach the trial gives the same figures."""
    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    settings = context(datasets=(str(copy),))
    trial = base_trial(settings, str(copy), "lirdrec").with_(work="trial")
    before = worker.compute(job(trial, settings))
    assert before["status"] == "done"
    given = job(trial, settings)
    shutil.rmtree(settings.output / "sealed")
    shutil.rmtree(copy)
    after = worker.compute(given)
    assert after["figures"] == before["figures"] and after["epochs"] == before["epochs"] == 2


# ------------------------------------------------------------ (b) nothing within reach holds the test pairs


def holds(array: np.ndarray, secret: Interactions) -> bool:
    """Whether the users or the items of the test pairs lie in the array, one after the other, in any integer type."""
    if array.dtype.kind not in "iu" or array.size < len(secret):
        return False
    flat = np.ascontiguousarray(array).astype(np.int64).tobytes()
    return any(column.astype(np.int64).tobytes() in flat for column in (secret.users, secret.items))


def arrays_within(*roots) -> list[np.ndarray]:
    """Every array, tensor and table column that can be reached from some objects."""
    found, seen, front = [], set(), list(roots)
    while front:
        one = front.pop()
        if id(one) in seen or isinstance(one, (type, type(sys))):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            found.append(one)
        elif isinstance(one, torch.Tensor) and one.layout == torch.strided:
            found.append(one.detach().cpu().numpy())
        elif isinstance(one, pl.DataFrame):
            front.extend(one.get_columns())
        elif isinstance(one, pl.Series):
            if one.dtype.is_integer():
                found.append(one.to_numpy())
        elif not callable(one) or hasattr(one, "__dict__"):
            front.extend(gc.get_referents(one))
            front.extend(vars(one).values() if hasattr(one, "__dict__") else ())
    return found


def numbers_below(folder: Path) -> list[np.ndarray]:
    """Everything of integers that the files below a folder hold."""
    found = []
    for path in filter(Path.is_file, folder.rglob("*")):
        if path.suffix == ".parquet":
            found += [column.to_numpy() for column in pl.read_parquet(path) if column.dtype.is_integer()]
        elif path.suffix == ".npy":
            found.append(np.load(path))
        else:
            raw = path.read_bytes()
            found.append(np.frombuffer(raw[: len(raw) // 8 * 8], dtype=np.int64))
    return found


def test_nothing_that_tuning_can_reach_holds_the_test_pairs(data, context, job):
    whole = Dataset.load(data)
    secret = whole.test
    assert len(secret) > 50
    settings = context()
    given = job(base_trial(settings, str(data), "lirdrec").with_(work="trial"), settings)
    recommender = given.fit()
    given.score_valid(recommender)
    within = arrays_within(given, recommender)
    assert not any(holds(array, secret) for array in within)
    assert not any(holds(array, secret) for array in numbers_below(Path(given.trial.dataset)))
    assert len(given.dataset.test) == 0
    # the detector sees what there is: training pairs here, test pairs in the whole dataset and in the sealed_folder
    assert any(holds(array, given.dataset.train) for array in within)
    assert any(holds(array, secret) for array in arrays_within([whole]))
    assert any(holds(array, secret) for array in numbers_below(settings.output / "sealed"))
    assert any(holds(array, whole.valid) for array in numbers_below(Path(given.trial.dataset)))


def test_what_a_worker_is_given_names_neither_the_dataset_nor_the_sealed_folder(data, context, job):
    settings = context()
    given = job(base_trial(settings, str(data), "lirdrec").with_(work="trial"), settings)
    reported = f"{given!r} {(Path(given.trial.dataset) / 'manifest.json').read_text()}"
    assert str(data) not in reported and str(settings.output / "sealed") not in reported
    assert given.sealed_folder is None
    recommender = given.fit()
    with assert_error(ConfigError, mentions=["lirdrec"]):
        given.score_test(recommender)


def test_a_split_of_its_own_is_made_before_sealing(data, context):
    settings = context()
    recipe = {"split": "cold_items", "seed": 3}
    sealed = seal(data, settings.output, recipe)
    truth = Dataset.load(data).resplit("cold_items", seed=3)
    development = Dataset.load(sealed.development)
    users, items = np.load(sealed.sealed_folder / SEALED)
    assert (users.tolist(), items.tolist()) == (truth.test.users.tolist(), truth.test.items.tolist())
    assert development.train.items.tolist() == truth.train.items.tolist()
    assert development.valid.items.tolist() == truth.valid.items.tolist()
    assert sealed.development != seal(data, settings.output).development


# ------------------------------------------------------------ (c) declared, then scored once


def test_the_test_figures_are_those_of_evaluate(data, context, job):
    settings = context()
    trial = final_trial(settings)
    given = job(trial, settings)
    recommender = given.fit()
    found = given.score_test(recommender)
    metrics = ("recall", "ndcg", *BEYOND)
    right = evaluate(recommender, Dataset.load(data), "test", k=(10, 20), metrics=metrics, per_user=True)
    assert found == right.values
    kept = pl.read_parquet(settings.output / given.per_user)
    assert kept.equals(right.per_user)


def test_what_is_not_declared_is_not_scored(data, context, job):
    settings = context()
    trial = final_trial(settings)
    given = job(trial.with_(extra={}), settings)
    sealed_folder = settings.output / "sealed" / given.dataset.folder.name
    recommender = given.fit()
    with assert_error(ConfigError, mentions=[declaration_name(trial)]):
        SealedTestSet(sealed_folder).score(trial, recommender, given.dataset)
    assert not (sealed_folder / "scores").exists()


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"model_options": {"n_layers": 2}}, ["n_layers", "1", "2"]),
        ({"training": {"epochs": 3}}, ["metric", "recall@20"]),
        ({"modalities": ("image",)}, ["modalities", "image"]),
        ({"variant": "another"}, ["another"]),
        ({"model": "popularity"}, ["popularity"]),
        ({"seed": 1}, ["seed", "0", "1"]),
    ],
)
def test_other_options_than_declared_are_refused(data, context, job, changes, facts):
    settings = context()
    trial = final_trial(settings)
    given = job(trial, settings)
    recommender = given.fit()
    if "model_options" in changes:
        changes = {"model_options": {**trial.model_options, **changes["model_options"]}}
    other = given.trial.with_(**changes)
    with assert_error(ConfigError, mentions=[declaration_name(other)]) as caught:
        SealedTestSet(given.sealed_folder).score(other, recommender, given.dataset)
    assert_facts(str(caught.value).removeprefix(declaration_name(given.trial)), facts)


def test_a_recommender_trained_otherwise_than_declared_is_refused(data, context, job):
    settings = context()
    given = job(final_trial(settings), settings)
    other = context(training={"epochs": 2, "learning_rate": 0.01})
    foreign = job(final_trial(other).with_(extra={}), other).fit()
    with assert_error(ConfigError) as caught:
        given.score_test(foreign)
    assert_facts(str(caught.value), ["learning_rate", "0.01", "0.0001"])


def test_a_second_score_is_the_recorded_one_and_looks_at_nothing(data, context, job):
    settings = context()
    trial = final_trial(settings)
    given = job(trial, settings)
    recommender = given.fit()
    first = given.score_test(recommender)
    (given.sealed_folder / SEALED).unlink()  # there is nothing left to look at
    for tensor in recommender.scorer.tensors().values():
        tensor.zero_()
    assert given.score_test(recommender) == first
    with assert_error(RunFolderError, mentions=[SEALED]):
        SealedTestSet(given.sealed_folder).score(given.trial, recommender, given.dataset, candidates="cold")


def test_damage_to_the_test_pairs_and_to_their_scores_is_noticed(data, context, job):
    settings = context()
    given = job(final_trial(settings), settings)
    recommender = given.fit()
    path = given.sealed_folder / SEALED
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])  # another item
    with assert_error(RunFolderError, mentions=[path]):
        given.score_test(recommender)
    path.write_bytes(whole)
    counts = given.sealed_folder / "counts.json"
    recorded = counts.read_bytes()
    for damaged in (b"{", b"[]"):
        counts.write_bytes(damaged)
        with assert_error(RunFolderError, mentions=[counts]):
            given.score_test(recommender)
    counts.write_bytes(recorded)
    first = given.score_test(recommender)
    (score,) = (given.sealed_folder / "scores").glob("*.json")
    text = score.read_text()
    value = str(first["recall@20"])
    score.write_text(text.replace(value, str(first["recall@20"] / 2), 1))
    assert score.read_text() != text
    with assert_error(RunFolderError, mentions=[score]):
        given.score_test(recommender)


def test_a_declaration_stands_once_it_has_been_scored(data, context, job):
    settings = context()
    trial = final_trial(settings)
    other = final_trial(settings, regularization=0.5)
    given = job(trial, settings)
    ledger = Preregistration(given.sealed_folder)
    ledger.declare(other)  # nothing was scored: the last word counts
    ledger.declare(trial)
    given.score_test(given.fit())
    ledger.declare(trial)
    with assert_error(ConfigError, mentions=[declaration_name(other), "regularization", 0.5, "output"]):
        ledger.declare(other)
    with assert_error(ConfigError, mentions=[declaration_name(other), "regularization", 0.5]):
        job(other, settings)
    ledger.declare(other.with_(variant="strong"))
    assert ledger.scored(trial) == [0] and ledger.scored(other.with_(variant="strong")) == []
    assert ledger.declared(trial)["model_options"] == dict(trial.model_options)


# ------------------------------------------------------------ (d) no file is opened that should not be

WATCHED = """
import json, sys
opened = []
sys.addaudithook(lambda event, what: opened.append(str(what[0])) if event == "open" else None)
from lirdrec.experiments import worker
job = worker.job_of(json.loads(sys.argv[1]))
result = worker.compute(job)
print(json.dumps([result["status"], result["figures"], opened]))
"""


@pytest.mark.parametrize("final", [False, True])
def test_the_process_that_tunes_opens_no_file_of_the_sealed_test(data, context, job, final):
    settings = context()
    trial = final_trial(settings) if final else base_trial(settings, str(data), "lirdrec").with_(work="trial")
    given = job(trial, settings)
    spec = {"cell": given.trial.to_json(), "folder": str(given.folder), "runs": str(given.runs), "device": "cpu"}
    spec |= {"sealed_folder": str(given.sealed_folder) if final else None, "cache": settings.cache}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(spec)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    status, figures, opened = json.loads(done.stdout.splitlines()[-1])
    assert status == "done" and ("test" in figures) is final
    secret = [one for one in opened if SEALED in one or "sealed" in one or one.startswith(str(data))]
    assert any(one.endswith(SEALED) for one in secret) if final else not secret
    assert any(str(given.trial.dataset) in one for one in opened)  # the hook does see what is opened


def test_a_finished_experiment_holds_each_score_once(data, context, inline):
    def plan(settings, results):
        tuned = suggest(settings, results, base_trial(settings, str(data), "lirdrec"))
        yield from tuned.cells
        if tuned.chosen is not None:
            yield from (tuned.final(seed) for seed in range(2))

    settings = context(trials=2)
    results = inline(plan, settings)
    finals = results.where(final=True)
    assert [one.status for one in finals] == ["done", "done"]
    scores = sorted((settings.output / "sealed").glob("*/scores/*.json"))
    assert [json.loads(path.read_text())["seed"] for path in scores] == [0, 1]
    assert [json.loads(path.read_text())["figures"] for path in scores] == [one.figures["test"] for one in finals]
    assert not any("test" in one.figures for one in results.where(work="trial"))
    assert len(Results.load(TrialStore(settings.output))) == 4
