"""benchmarks/peers.py: the data handed over, lirdrec's own runner, failed environments, resuming, the report."""

from __future__ import annotations

import json
import math
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from peers import child, environments, run  # noqa: E402
from peers.command import main  # noqa: E402
from peers.data import Data, make  # noqa: E402
from peers.plan import LIRDREC, PEERS, Job, jobs  # noqa: E402
from peers.report import measures, missing, pair_rows, report  # noqa: E402

from .helpers import assert_mentions  # noqa: E402


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "tiny.npz"
    make("tiny", path)
    return path


def test_the_data_are_read_as_they_were_written(tiny, tmp_path):
    data = Data.load(tiny)
    assert (data.n_users, data.n_items) == (60, 40) and data.widths == (16,)
    assert data.matrix.shape == (60, 40) and data.matrix.nnz == data.train.shape[1]
    assert data.matrix.nnz + data.valid.shape[1] + data.test.shape[1] == 900
    split = Data(*(data.n_users, data.n_items), data.train, data.valid, data.test, data.features, (10, 6))
    split.save(tmp_path / "again.npz")
    again = Data.load(tmp_path / "again.npz")
    for name in ("train", "valid", "test", "features"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    assert [part.shape for part in again.modalities()] == [(40, 10), (40, 6)]
    Data(2, 2, data.train[:, :0], data.valid[:, :0], data.test[:, :0]).save(tmp_path / "none.npz")
    assert Data.load(tmp_path / "none.npz").modalities() == []


def test_ndcg_by_hand():
    pairs = [(0, 1, 2), (3, 4, 0)], [(0, 0, 1, 2), (0, 1, 2, 0)]
    data = Data(4, 5, *(np.array(pair) for pair in (*pairs, ((), ()))))
    assert data.evaluated.tolist() == [0, 1, 2]
    lists = np.array([[1, 4, 0], [-1, 2, -1], [1, 2, 3]])
    first = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert data.ndcg(lists) == pytest.approx((first + 1 / math.log2(3) + 0) / 3)


def asked(tiny: Path, model: str, options: dict[str, Any], epochs: int) -> dict[str, Any]:
    facts = {"runner": "lirdrec_runner", "model": model, "options": options, "data": str(tiny)}
    return facts | {"epochs": epochs, "threads": 1, "seed": 0}


def test_lirdrec_is_measured_epoch_by_epoch(tiny, tmp_path):
    found = child.measure(
        asked(tiny, "mf", {"embedding_size": 8, "batch_size": 64, "learning_rate": 0.02}, 3), tmp_path
    )
    assert len(found["epoch_times"]) == len(found["ndcg"]) == 3
    assert all(wall > 0 and processor > 0 for wall, processor in found["epoch_times"])
    assert found["fit"][0] >= sum(wall for wall, _ in found["epoch_times"])
    # the best epoch's parameters are kept: lirdrec's own metric is that of the common code
    assert found["final_ndcg"] == pytest.approx(max(found["ndcg"]), abs=1e-4)
    assert 0 < found["program_mb"] <= found["fit_peak_mb"] <= found["peak_mb"]
    assert found["versions"].keys() == {"torch", "numpy", "scipy"}


def test_the_lists_of_a_closed_form_leave_out_what_was_trained(tiny, tmp_path):
    found = child.measure(asked(tiny, "item_knn", {"n_neighbors": 10}, 0), tmp_path)
    assert found["epoch_times"] == found["ndcg"] == [] and found["final_ndcg"] > 0
    lists, data = pl.read_parquet(tmp_path / "top.parquet"), Data.load(tiny)
    assert lists["user"].n_unique() == 60
    trained = set(zip(*(column.tolist() for column in data.train), strict=True))
    assert not trained & set(lists.select("user", "item").iter_rows())


def fake_program(path: Path, text: str) -> str:
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot start a script as the interpreter")
def test_why_an_environment_could_not_be_made_is_kept_and_reported(tmp_path):
    says = "import sys; print('notice'); print('ERROR: no version of rectools fits', file=sys.stderr); sys.exit(1)"
    python = fake_program(tmp_path / "python", says)
    home = tmp_path / "environments" / "rectools"
    assert environments.make("rectools", home, python=python) == "ERROR: no version of rectools fits"
    assert not environments.is_made(home)
    assert_mentions(" ".join(missing([], tmp_path)), ["rectools", "no version of rectools fits", "cornac"])
    job = next(job for job in jobs(["rectools"], ["tiny"], [1], 1, 1) if job.entry.library == "rectools")
    run.run(tmp_path, [job])
    (line,) = run.read_results(tmp_path)
    assert_mentions(line["error"], ["environment", "no version of rectools fits"])


def test_an_interpreter_that_is_not_there_is_a_reason_too(tmp_path):
    problem = environments.make("cornac", tmp_path / "cornac", python=str(tmp_path / "nowhere"))
    assert problem == environments.reason(tmp_path / "cornac")
    assert_mentions(problem or "", ["nowhere"])


def test_lirdrec_runs_directly_after_each_library_and_only_once():
    found = jobs(["implicit", "cornac"], ["baby"], [1, 2], 2, 5)
    labels = [(job.entry.library, job.entry.label, job.threads, job.repetition) for job in found]
    assert len(set(labels)) == len(labels)
    index = labels.index(("implicit", "BPR", 1, 1))
    assert labels[index + 1 : index + 3] == [("lirdrec", "mf", 1, 1), ("lirdrec", "mf, fast", 1, 1)]
    assert {job.epochs for job in found} == {0, 5}
    assert len({job.key for job in found}) == len(found)
    known = {entry.label for entry in LIRDREC}
    assert all(set(entry.ours) <= known for entry in PEERS)


def test_runs_with_a_result_are_not_run_again(tmp_path, tiny, monkeypatch):
    ran: list[str] = []

    def pretend(python: Path, job: Job, *_: Any) -> dict[str, Any]:
        ran.append(job.entry.label)
        return {"error": "out of memory"} if job.entry.label == "mf, fast" else {"peak_mb": 1.0}

    monkeypatch.setattr(run, "run_child", pretend)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny.npz").write_bytes(tiny.read_bytes())
    wanted = [job for job in jobs(["implicit"], ["tiny"], [1], 1, 2) if job.entry.library == "lirdrec"]
    run.run(tmp_path, wanted[:2])
    with (tmp_path / run.RESULTS).open("a") as file:
        file.write('{"key": "cut by a ki')
    run.run(tmp_path, wanted)
    assert ran == ["item_knn", "mf", "mf, fast"]
    run.run(tmp_path, wanted)
    assert ran == ["item_knn", "mf", "mf, fast", "mf, fast"]  # what failed is tried again
    assert [line["label"] for line in run.read_results(tmp_path)] == ran


CHECKOUT = """
import logging
from pathlib import Path

def quick_start(model, dataset, config_dict, save_model):
    log = logging.getLogger()
    log.setLevel(logging.INFO)
    lines = Path(f"../data/{dataset}/{dataset}.inter").read_text().splitlines()
    assert lines[0] == "userID\\titemID\\tx_label" and len(lines) == 901
    assert Path(f"../data/{dataset}/text_feat.npy").is_file()
    for epoch in range(config_dict["epochs"]):
        log.info("epoch %d training [time: 0.01s, train loss: 1.0]", epoch)
        log.info("epoch %d evaluating [time: 0.01s, valid_score: 0.1]", epoch)
        log.info("valid result: \\nrecall@20: 0.2000 ndcg@20: 0.%d000 ", epoch + 1)
    assert (model, config_dict["n_ui_layers"]) == ("LIRDRec", [2])
"""


def test_a_checkout_of_the_released_code_is_measured_by_its_log(tiny, tmp_path):
    (tmp_path / "src" / "utils").mkdir(parents=True)
    (tmp_path / "src" / "utils" / "quick_start.py").write_text(CHECKOUT)
    job = next(job for job in jobs(["released"], ["tiny"], [1], 1, 2) if job.entry.library == "released")
    options = job.entry.options | {"checkout": str(tmp_path)}
    found = run.run_child(Path(sys.executable), job, tiny, options, None)
    assert found.get("error") is None
    assert found["ndcg"] == [0.1, 0.2] and len(found["epoch_times"]) == 2
    assert "top" not in found and len(found["evaluation"]) == 2 and found["final_ndcg"] == 0.2


def test_the_last_line_of_a_failed_run_is_its_error(tiny):
    job = next(job for job in jobs(["released"], ["tiny"], [1], 1, 2) if job.entry.library == "released")
    found = run.run_child(Path(sys.executable), job, tiny, job.entry.options | {"checkout": "/nowhere"}, None)
    assert_mentions(found["error"], ["FileNotFoundError", "/nowhere"])


def line(job: Job, **found: Any) -> dict[str, Any]:
    common = {"evaluation": [2.0, 1.0], "top": [4.0, 3.0], "peak_mb": 100.0, "load": 0.5, "final_ndcg": 0.3}
    return job.facts | common | {"epoch_times": [], "ndcg": [], "fit": [9.0, 8.0]} | found


def test_the_report_has_ratios_of_medians_and_the_time_to_the_lower_best(tmp_path):
    wanted = {(job.entry.label, job.repetition): job for job in jobs(["implicit"], ["baby"], [1], 2, 3)}
    theirs = {"epoch_times": [[2.0, 1.0]] * 3, "ndcg": [0.1, 0.2, 0.4], "fit": [7.0, 4.0]}
    ours = {"epoch_times": [[0.5, 0.25]] * 3, "ndcg": [0.3, 0.3, 0.2], "fit": [1.75, 1.0], "peak_mb": 250.0}
    results = [
        line(wanted["BPR", 1], **theirs),
        line(wanted["BPR", 2], **theirs, top=[8.0, 3.0]),
        line(wanted["mf", 1], **ours),
        wanted["mf, fast", 1].facts | {"error": "MemoryError: too large"},
        line(wanted["ALS", 1], epochs=3),
    ]
    rows = {(row["peer"], row["ours"]): row for row in pair_rows(results, 0)}
    assert rows.keys() == {("implicit BPR", "mf"), ("implicit ALS", None)}
    row = rows["implicit BPR", "mf"]
    assert row["target"] == 0.3 and row["runs"] == [2, 1]
    # theirs reach .3 in the third epoch, ours in the first; a second of fit is outside of their epochs, .25 of ours
    assert row["theirs"] == {"epoch": 2, "to best": 7, "evaluation": 2, "top-20 to a file": 6, "peak memory": 100}
    assert row["own"] == {"epoch": 0.5, "to best": 0.75, "evaluation": 2, "top-20 to a file": 4, "peak memory": 250}
    text = report(results, tmp_path, "wall")
    assert "**0.25** (0.5 / 2)" in text and "**2.50** (250 / 100)" in text
    gaps = " ".join(missing(results, tmp_path))
    assert_mentions(gaps, ["MemoryError: too large", "ALS: lirdrec does not have", "cornac BPR: was not", "--released"])
    assert_mentions(gaps, ["implicit ALS: says nothing after an epoch"])
    assert measures(results[-1], 1, None)["epoch"] == pytest.approx(8 / 3)


def test_the_command_line_says_what_is_missing(tmp_path, capsys):
    for arguments in (["report", str(tmp_path)], ["run", str(tmp_path), "--released", str(tmp_path / "none")]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert_mentions(str(ended.value), [tmp_path])
    with pytest.raises(SystemExit) as ended:
        main(["run", str(tmp_path), "--datasets", "nothing"])
    assert ended.value.code == 2 and "nothing" in capsys.readouterr().err
    failed = {"key": "1", "library": "implicit", "label": "BPR", "dataset": "baby", "threads": 1, "error": "killed"}
    (tmp_path / run.RESULTS).write_text(json.dumps(failed) + "\n")
    main(["report", str(tmp_path), "--clock", "processor", "--output", str(tmp_path / "report.md")])
    assert capsys.readouterr().out == (tmp_path / "report.md").read_text()
