from __future__ import annotations

import json
import re
import shutil

import polars as pl
import pytest

from lirdrec.errors import DataError, RunFolderError
from lirdrec.experiments.registry import experiment, experiment_summaries
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.experiments.trial_store import TrialStore

from ..helpers import assert_error


def trial_of(data, **changes) -> TrialSpec:
    trial = TrialSpec("train", str(data), "lirdrec", {"n_layers": 2, "loss": "bpr"}, {"epochs": 3}, seed=1)
    return trial.with_(**changes)


CHANGES = {
    "work": "trial",
    "model": "mf",
    "model_options": {"n_layers": 3, "loss": "bpr"},
    "training": {},
    "seed": 2,
    "variant": "w/o image",
    "feature_set": "mllm",
    "modalities": ("image",),
    "split": {"split": "cold_items"},
    "extra": {"final": True},
}


def test_every_part_of_a_cell_is_in_its_key(data):
    trial = trial_of(data)
    keys = {trial.key, *(trial.with_(**{name: value}).key for name, value in CHANGES.items())}
    assert len(keys) == 1 + len(CHANGES)
    assert set(CHANGES) | {"dataset"} == set(trial.to_json())


def test_the_key_knows_the_bytes_of_the_dataset_not_its_place(data, tmp_path):
    moved, changed = tmp_path / "moved", tmp_path / "changed"
    for copy in (moved, changed):
        shutil.copytree(data, copy)
    (changed / "manifest.json").write_text((data / "manifest.json").read_text().replace("planted", "planter"))
    assert trial_of(moved).key == trial_of(data).key != trial_of(changed).key
    with assert_error(DataError, mentions=[tmp_path / "nowhere"]):
        _ = trial_of(tmp_path / "nowhere").key


def test_the_key_of_a_plain_folder_is_that_of_its_files(tmp_path):
    def folder(name, text) -> TrialSpec:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.inter").write_text(text)
        return trial_of(tmp_path / name)

    one, same, other = folder("one", "1 2"), folder("same", "1 2"), folder("other", "1 3")
    assert one.key == same.key != other.key


def test_equal_content_is_equal_whatever_the_order_and_the_kind_of_list(data):
    one = trial_of(data, modalities=["image"], extra={"sizes": (1, 2), "a": 1})
    other = trial_of(
        data, modalities=("image",), extra={"a": 1, "sizes": [1, 2]}, model_options={"loss": "bpr", "n_layers": 2}
    )
    assert one == other and one.key == other.key and len({one, other}) == 1
    assert TrialSpec.from_json(one.to_json()) == one


def test_a_result_comes_back_from_its_file(data, tmp_path):
    trial = trial_of(data)
    result = TrialResult(
        trial,
        figures={"valid": {"recall@20": 0.1234567890123456}},
        seconds=1.5,
        peak_memory=7,
        epochs=2,
        history=({"epoch": 1, "seconds": 0.5, "recall@20": 0.1},),
        data={"a": [1]},
    )
    store = TrialStore(tmp_path)
    assert store.result(trial) is None
    store.record(result)
    assert store.result(trial) == result == TrialStore(tmp_path).result(trial)
    assert list(Results.load(store)) == [result]
    store.record(TrialResult(trial, "failed", "no", attempts=2))
    assert store.result(trial).attempts == 2
    (tmp_path / "cells" / f"{trial.key}.json").write_text("{")
    with assert_error(RunFolderError, mentions=[f"{trial.key}.json"]):
        store.result(trial)


def test_a_figure_that_was_changed_in_a_result_is_noticed(data, tmp_path):
    trial = trial_of(data)
    TrialStore(tmp_path).record(TrialResult(trial, figures={"valid": {"recall@20": 0.125}}, history=({"epoch": 1},)))
    path = tmp_path / "cells" / f"{trial.key}.json"
    whole = path.read_text()
    path.write_text(whole.replace("0.125", "0.135"))
    for read in (lambda store: store.result(trial), Results.load):
        with assert_error(RunFolderError, mentions=[path]):
            read(TrialStore(tmp_path))
    values = json.loads(whole)
    del values["checksum"]  # as earlier versions wrote it
    path.write_text(json.dumps(values))
    assert TrialStore(tmp_path).result(trial).figures == {"valid": {"recall@20": 0.125}}


def test_a_claim_holds_until_it_ends_and_no_longer(data, tmp_path):
    trial, other = trial_of(data), trial_of(data, seed=5)
    store, rival = TrialStore(tmp_path), TrialStore(tmp_path)
    with store.claim(trial) as mine:
        assert mine
        with rival.claim(trial) as theirs, rival.claim(other) as free:
            assert (theirs, free) == (False, True)
    with rival.claim(trial) as theirs:
        assert theirs


def test_frames_have_one_row_a_figure_a_cell_and_an_epoch(data, tmp_path):
    figures = {"valid": {"recall@20": 0.5, "ndcg@20": 0.25}, "test": {"recall@20": 0.4}}
    history = (
        {"epoch": 1, "seconds": 2.0, "loss": 0.7, "recall@20": 0.3},
        {"epoch": 2, "seconds": 4.5, "loss": 0.6},
    )
    (tmp_path / "per_user").mkdir()
    pl.DataFrame({"user": [4, 9], "recall@20": [0.0, 0.8]}).write_parquet(tmp_path / "per_user" / "a.parquet")
    good = TrialResult(
        trial_of(data, extra={"final": True}, feature_set="mllm"),
        figures=figures,
        seconds=9.0,
        peak_memory=3 << 20,
        history=history,
        epochs=2,
        best_epoch=1,
        per_user="per_user/a.parquet",
        options={"model": {"loss": "softmax"}},
    )
    bad = TrialResult(trial_of(data, model="mf", model_options={}), "out of memory")
    results = Results([good, bad], "compare", tmp_path)
    frame = results.frame()
    assert frame.select("stage", "metric", "value").rows() == [
        ("valid", "recall@20", 0.5),
        ("valid", "ndcg@20", 0.25),
        ("test", "recall@20", 0.4),
    ]
    identity = {
        "experiment": "compare",
        "dataset": "data",
        "model": "lirdrec",
        "feature_set": "mllm",
        "loss": "softmax",
    }
    assert frame.select(*identity).unique().to_dicts() == [identity]
    runs = results.runs()
    assert runs.select("model", "status", "seconds", "peak_memory_mb", "final").rows() == [
        ("lirdrec", "done", 9.0, 3.0, True),
        ("mf", "out of memory", 0.0, 0.0, False),
    ]
    assert results.histories().select("epoch", "seconds", "metric", "value").rows() == [
        (1, 2.0, "loss", 0.7),
        (1, 2.0, "recall@20", 0.3),
        (2, 4.5, "loss", 0.6),
    ]
    assert results.per_user().select("model", "user", "recall@20").rows() == [
        ("lirdrec", "4", 0.0),
        ("lirdrec", "9", 0.8),
    ]
    assert [r.trial.model for r in results.where(status="done", model=("lirdrec", "mf"))] == ["lirdrec"]
    assert len(results.where(dataset="data", final=False)) == 1
    empty = Results([], "compare")
    assert empty.frame().columns == frame.columns and empty.per_user().is_empty()


# reports at any time: without results, and with failures only

STUDIES = [name for name in experiment_summaries() if name != "compare"]
SETTINGS = {"splits": {"methods": ["random", "cold_items"]}, "layers": {"layers": [1, 2]}}


def study(name: str, context):
    chosen = experiment(name)
    return chosen, context(models=chosen.models, settings=SETTINGS.get(name, {}), trials=1)


@pytest.mark.parametrize("name", STUDIES)
def test_with_nothing_done(name, context, answer):
    chosen, settings = study(name, context)
    page = chosen.report(settings, Results([], name, settings.output))
    assert answer(page) and not re.search(r"\d\.\d", answer(page))  # a sentence, and no figure in it


@pytest.mark.parametrize("name", STUDIES)
def test_with_failures_only(name, context, words):
    chosen, settings = study(name, context)
    cells = list(chosen.plan(settings, Results()))
    results = Results([TrialResult(trial, "failed", "the sky fell") for trial in cells], name, settings.output)
    assert "the sky fell" in words(chosen.report(settings, results))
    assert list(chosen.plan(settings, results)) == cells or name == "cold"  # whose searches continue with what is left


@pytest.mark.parametrize("name", STUDIES)
def test_the_plan_repeats_itself_and_every_model_is_there(name, context):
    chosen, settings = study(name, context)
    first, again = (list(chosen.plan(settings, Results())) for _ in range(2))
    assert first == again and len({trial.key for trial in first}) == len(first)
    assert {trial.model for trial in first} == set(settings.models)
