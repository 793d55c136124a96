"""train, evaluate, config, add-items and the demo, on small planted data and few epochs."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.files.locks import lock_file
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_mentions, assert_refused, files
from .conftest import QUICK


def test_train_shows_its_figures_beside_popularity(lirdrec, data):
    result = lirdrec("--quiet", "train", "data", *QUICK)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.strip(" ─")]
    assert lines[0] == ["Test,", "planted"]
    assert [line[0] for line in lines[2:4]] == ["lirdrec", "popularity"]
    assert "Run folder: runs/planted-lirdrec" in result.stdout
    loaded = Recommender.load("runs/planted-lirdrec", verify=True)
    assert loaded.info["model"] == "lirdrec" and loaded.info["model_config"]["embedding_size"] == 8
    assert lirdrec("--quiet", "train", "data", *QUICK, "--json").exit_code == 0  # takes the next free name
    assert Path("runs/planted-lirdrec-2").is_dir()


def test_command_line_and_python_train_the_same(lirdrec, trained, data):
    from lirdrec.config import make_config
    from lirdrec.models.lirdrec import LIRDRecConfig
    from lirdrec.recommender.fit import fit
    from lirdrec.recommender.presets import preset

    model, training = preset("lirdrec")
    model = make_config(LIRDRecConfig, {**vars(model), "embedding_size": 8})
    training = make_config(type(training), {**vars(training), "epochs": 2})
    own = fit(Dataset.load(data), model, training, progress=False)
    assert own.recommend(k=5).equals(Recommender.load(trained).recommend(k=5))


def test_a_toml_file_sets_options_and_set_wins(lirdrec, data):
    Path("c.toml").write_text("[model]\nembedding_size = 4\nn_layers = 1\n[training]\nepochs = 1\nseed = 5\n")
    result = lirdrec("--quiet", "train", "data", "--run", "r", "--config", "c.toml", "--set", "n_layers=2", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["run"] == "r" and set(answer["test"]) == {"lirdrec", "popularity"}
    info = Recommender.load("r").info
    assert info["model_config"]["embedding_size"] == 4 and info["model_config"]["n_layers"] == 2
    assert json.loads(Path("r/environment.json").read_text())["seed"] == 5


def test_epochs_and_patience_have_options_of_their_own(lirdrec, data):
    result = lirdrec("--quiet", "train", "data", "--run", "r", "--epochs", 3, "--patience", 4, *QUICK[2:])
    assert result.exit_code == 0, result.stderr
    training = Recommender.load("r").info["training"]
    assert (training["epochs"], training["patience"]) == (3, 4)
    assert lirdrec("--quiet", "train", "data", "--from", "r", "--epochs", 1, "--run", "s").exit_code == 0
    assert Recommender.load("s").info["training"]["epochs"] == 1
    for options, facts in (
        (["--epochs", 3, "--set", "epochs=2"], ["--epochs", "--set epochs"]),
        (["--from", "r", "--epochs", 3, "--set", "epochs=2"], ["--epochs", "--set epochs"]),
        (["--refit", "r", "--epochs", 3], ["--epochs", "--refit"]),
        (["--epochs", -1], ["epochs", -1]),
        (["--model", "ease", "--patience", 3], ["--patience", "ease"]),
    ):
        assert_refused(lirdrec("train", "data", "--run", "t", *options), facts)


def test_a_training_says_what_follows_its_epochs_and_how_to_resume(lirdrec, data, monkeypatch):
    monkeypatch.setattr("lirdrec.recommender.fit.still_improving", lambda *epochs: True)
    result = lirdrec("train", "data", "--run", "r", *QUICK)
    assert result.exit_code == 0, result.stderr
    lines = result.stderr.splitlines()
    last = next(place for place, line in enumerate(lines) if line.startswith("epoch 2/2"))
    assert any("simulated launches" in line for line in lines[last + 1 :])
    assert_mentions(result.stderr, ["--set epochs=4"])


@pytest.mark.parametrize("model", ["popularity", "item_knn"])
def test_closed_form_models(lirdrec, data, model):
    result = lirdrec("--quiet", "train", "data", "--run", "r", "--model", model, "--json")
    assert result.exit_code == 0, result.stderr
    assert list(json.loads(result.stdout)["test"]) == list(dict.fromkeys([model, "popularity"]))
    assert lirdrec("recommend", "r", "--user", 1, "--json").exit_code == 0
    assert lirdrec("recommend", "r", "--history", "1,2", "--json").exit_code == 0


@pytest.mark.parametrize("model", ["ease", "item_knn", "popularity"])
@pytest.mark.parametrize("key", ["epochs", "learning_rate", "batch_size"])
def test_a_closed_form_refuses_options_of_steps(lirdrec, data, model, key):
    assert_refused(
        lirdrec("train", "data", "--run", "r", "--model", model, "--set", f"{key}=1"), [f"--set {key}", model, "seed"]
    )
    Path("steps.toml").write_text(f"[training]\n{key} = 1\n")
    result = lirdrec("train", "data", "--run", "r", "--model", model, "--config", "steps.toml")
    assert_refused(result, ["steps.toml", "[training]", key, model])
    assert not Path("r").exists()


def test_a_closed_form_lists_and_takes_the_options_that_count(lirdrec, data):
    rows = json.loads(lirdrec("config", "--model", "ease", "--json").stdout)
    assert [row["key"] for row in rows if row["table"] == "training"] == ["metric", "seed"]
    options = ["--set", "metric=recall@5", "--set", "seed=3", "--set", "regularization=20"]
    assert lirdrec("--quiet", "train", "data", "--run", "r", "--model", "ease", *options).exit_code == 0


def test_evaluate_repeats_the_figures_of_the_training(lirdrec, trained, data):
    shown = json.loads(lirdrec("evaluate", trained, "--json").stdout)
    assert lirdrec("evaluate", trained, "data", "--json").stdout == lirdrec("evaluate", trained, "--json").stdout
    assert set(shown) == {"lirdrec", "popularity"}
    narrow = json.loads(
        lirdrec("evaluate", trained, "-k", 5, "--metric", "recall", "--split", "valid", "--json").stdout
    )
    assert list(narrow["lirdrec"]) == ["recall@5"]
    both = json.loads(
        lirdrec(
            "evaluate",
            trained,
            "-k",
            5,
            "--metric",
            "recall",
            "--metric",
            "hit_rate",
            "--split",
            "validation",
            "--json",
        ).stdout
    )
    assert (
        list(both["lirdrec"]) == ["recall@5", "hit@5"] and both["lirdrec"]["recall@5"] == narrow["lirdrec"]["recall@5"]
    )
    new = json.loads(lirdrec("evaluate", trained, "--cold-users", "--json").stdout)
    assert list(new) == ["lirdrec", "lirdrec, users as new", "popularity"] and new["lirdrec"] == shown["lirdrec"]
    assert 0 < new["lirdrec, users as new"]["recall@20"] != shown["lirdrec"]["recall@20"]
    result = lirdrec("evaluate", trained, "--output", "m.csv", "--per-user-output", "users.parquet")
    assert result.exit_code == 0, result.stderr
    table = pl.read_csv("m.csv")
    assert table.columns == ["recommender", "metric", "value"]
    written = {(row["recommender"], row["metric"]): row["value"] for row in table.iter_rows(named=True)}
    assert written[("lirdrec", "recall@20")] == pytest.approx(shown["lirdrec"]["recall@20"])
    assert pl.read_parquet("users.parquet").height > 0
    for name, more in (("users.txt", []), ("none/users.csv", []), (trained / "u.csv", []), ("u.json", ["--csv-safe"])):
        result = lirdrec("evaluate", trained, "--output", "m.csv", "--per-user-output", name, *more)
        assert_refused(result, ["--per-user-output", *more])
        assert "--output" not in result.stderr.replace("--per-user-output", "")
    both = lirdrec("evaluate", trained, "--output", "same.csv", "--per-user-output", "./same.csv")
    assert_refused(both, ["--per-user-output", "--output", "same.csv"])


@pytest.mark.parametrize("model", ["popularity", "item_knn"])
@pytest.mark.parametrize("features", [True, False])
def test_evaluate_finds_the_dataset_of_its_run(lirdrec, data, tmp_path, model, features):
    if not features:
        dataclasses.replace(Dataset.load(data), features={}, folder=None).save(tmp_path / "bare")
        data = tmp_path / "bare"
    lirdrec("train", data, "--model", model, "--run", "r")
    named, found = lirdrec("evaluate", "r", data, "--json"), lirdrec("evaluate", "r", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout) == json.loads(named.stdout)
    data.rename(tmp_path / "elsewhere")
    gone = lirdrec("evaluate", "r")
    assert_refused(gone, ["lirdrec evaluate r DATASET"])


def test_added_items_do_not_change_the_figures_of_evaluate(lirdrec, trained, data):
    before = json.loads(lirdrec("evaluate", trained, data, "--json").stdout)
    (trained.parent / "new.csv").write_text("item\n900001\n900002\n")
    dims = {name: matrix.dims for name, matrix in Dataset.load(data).features.items()}
    for name, width in dims.items():
        np.save(trained.parent / f"{name}.npy", np.ones((2, width), dtype=np.float32))
    files = [part for name in dims for part in ("--features", f"{name}={trained.parent / name}.npy")]
    added = lirdrec("add-items", trained, "--items", trained.parent / "new.csv", *files, "--save-as", "grown")
    assert added.exit_code == 0, added.stderr
    after = lirdrec("evaluate", "grown", data, "--json")
    assert json.loads(after.stdout) == before
    assert re.search(r"\b2\b", after.stderr)  # the items that are new


def test_options_lists_every_key(lirdrec):
    rows = json.loads(lirdrec("config", "--json").stdout)
    keys = {row["key"]: row for row in rows}
    assert keys["n_layers"]["table"] == "model" and keys["epochs"]["table"] == "training"
    assert all(row["meaning"] for row in rows)
    assert "n_layers" in lirdrec("config").stdout


def test_items_are_added_to_a_run(lirdrec, trained):
    Path("new.csv").write_text("item,group\n100,1\n101,2\n")
    np.savez("text.npz", ids=np.array([101, 100]), x=np.ones((2, 8), np.float32))
    np.save("image.npy", np.array([[1] * 6, [0] * 6], np.float32))
    command = [
        "add-items",
        trained,
        "--items",
        "new.csv",
        "--features",
        "text=text.npz",
        "--features",
        "image=image.npy",
    ]
    assert lirdrec(*command, "--save-as", "runs/two").exit_code == 0
    assert Recommender.load(trained).n_items == 60
    result = lirdrec(*command)
    assert_mentions(result.stdout, [2, "runs/one", 62])
    assert lirdrec("similar", trained, "--item", 100, "--json").exit_code == 0
    result = lirdrec(*command)
    assert_refused(result, ["2 ", "100, 101"])


BAD = [
    (["train", "nowhere"], ["nowhere"]),
    (["train", "data", "--model", "lirdec"], ["lirdec", "'lirdrec'"]),
    (["train", "data", "--preset", "slow"], ["slow", "fast", "paper"]),
    (["train", "data", "--set", "n_layer=3"], ["--set n_layer", "n_layers"]),
    (["train", "data", "--set", "n_layers"], ["--set", "n_layers=3"]),
    (["train", "data", "--set", "n_layers=many"], ["n_layers", "many"]),
    (["train", "data", "--set", "epochs=-1"], ["epochs", -1]),
    (["train", "data", "--feature-size", "0"], ["--feature-size", 0, 1]),
    (["train", "data", "--feature-size", "image=few"], ["--feature-size", "image=few"]),
    (["train", "data", "--feature-size", "3", "--feature-size", "image=3"], ["--feature-size"]),
    (["train", "data", "--feature-size", "image=3", "--feature-size", "image=2"], ["--feature-size", "image"]),
    (["train", "data", "--feature-size", "sound=3"], ["feature_size", "sound", "image"]),
    (["train", "data", "--feature-size", "3", "--set", "feature_size=3"], ["--feature-size", "--set feature_size"]),
    (["train", "data", "--model", "ease", "--feature-size", "3"], ["--feature-size", "ease"]),
    (["train", "data", "--model", "whitenrec", "--whiten"], ["whiten", "whitenrec"]),
    (["train", "data", "--config", "no.toml"], ["no.toml"]),
    (["train", "data", "--config", "bad.toml"], ["bad.toml", "optimizer", "[model]", "[training]"]),
    (["train", "data", "--config", "typo.toml"], ["typo.toml", "[training]", "'epoch'", "'epochs'"]),
    (["train", "data", "--device", "abacus"], ["abacus"]),
    (["train", "data", "--run", "data"], ["data"]),
    (["evaluate", "data"], ["lirdrec train data"]),
    (["recommend", "data", "--user", 1], ["lirdrec train data"]),
]


@pytest.mark.parametrize(("arguments", "facts"), BAD)
def test_bad_input_gets_one_sentence_code_2_and_writes_nothing(lirdrec, data, tmp_path, arguments, facts):
    Path("bad.toml").write_text("optimizer = 'adam'\n")
    Path("typo.toml").write_text("[training]\nepoch = 3\n")
    before = files(tmp_path)
    result = lirdrec(*arguments)
    assert_refused(result, facts)
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert files(tmp_path) == before and not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--metric", "recal"], ["recal"]),
        (["-k", 61], [61, 60]),
        (["-k", 0], [0, 1]),
        (["--split", "tests"], ["--split", "tests"]),
        (["--candidates", "warm"], ["--candidates", "warm"]),
        (["--output", "m.xlsx"], ["--output", "m.xlsx", ".csv"]),
    ],
)
def test_bad_questions_to_evaluate(lirdrec, trained, tmp_path, options, facts):
    before = files(tmp_path)
    result = lirdrec("evaluate", trained, *options)
    assert_refused(result, facts)
    assert result.stderr.count("\n") == 1
    assert files(tmp_path) == before


def test_a_finished_run_is_kept(lirdrec, trained, tmp_path):
    before = files(tmp_path / trained)
    result = lirdrec("train", "data", "--run", trained, *QUICK)
    assert_refused(result, [trained])
    assert files(tmp_path / trained) == before


def test_two_trainings_cannot_share_a_folder(lirdrec, data):
    Path("busy").mkdir()
    with Path("busy/.lock").open("a+b") as handle:
        assert lock_file(handle)
        result = lirdrec("train", "data", "--run", "busy", *QUICK)
        assert_refused(result, ["busy"])
        assert result.stderr.count("\n") == 1
        assert [path.name for path in Path("busy").iterdir()] == [".lock"]


def test_ctrl_c_keeps_the_best_model_and_resume_continues(lirdrec, data, monkeypatch):
    import lirdrec.recommender.fit as home

    def stopped(*arguments, **options):
        return dataclasses.replace(train(*arguments, **options), stopped="interrupted")

    train = home.train
    monkeypatch.setattr(home, "train", stopped)
    result = lirdrec("--quiet", "train", "data", "--run", "r", *QUICK)
    assert result.exit_code == 130
    assert "--resume" in result.stderr and "Traceback" not in result.stderr
    assert Recommender.load("r").info["stopped"] == "interrupted"
    monkeypatch.setattr(home, "train", train)
    result = lirdrec("--quiet", "train", "data", "--run", "r", "--resume", *QUICK, "--set", "epochs=3")
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["epoch"] for line in Path("r/history.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_demo_explains_its_steps(lirdrec, sample):
    result = lirdrec("--quiet", "demo", "--run", "demo", "--set", "epochs=1")
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    places = [text.find(f" {number} ") for number in range(1, 6)]
    assert min(places) >= 0 and "LIRDRec" in text and "popularity" in text
    starts = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    assert starts.count("10") == 3  # lists of ten, for three people
    loaded = Recommender.load("demo", verify=True)
    assert loaded.n_items == Dataset.load(sample).n_items == loaded.n_trained_items + 1
    again = lirdrec("--quiet", "demo", "--run", "demo", "--set", "epochs=1")
    first, second = (re.sub(r"\d+ s\b", "", one.stdout) for one in (result, again))  # but for how long it took
    assert first == second


def test_demo_without_the_films_says_where_they_are(lirdrec, monkeypatch, tmp_path):
    monkeypatch.setattr("lirdrec.__file__", str(tmp_path / "site-packages" / "lirdrec" / "__init__.py"))
    result = lirdrec("demo")
    assert_refused(result)
    assert not Path("runs").exists()


def test_refit_makes_a_run_that_excludes_everything_that_a_user_has(lirdrec, trained, data):
    result = lirdrec("--quiet", "train", "data", "--refit", trained, "--run", "served")
    assert result.exit_code == 0, result.stderr
    served, first, whole = Recommender.load("served"), Recommender.load(trained), Dataset.load(data)
    assert served.info["metrics"]["epochs"] == first.info["metrics"]["best_epoch"]
    assert_mentions(result.stdout, [trained, f"{served.info['metrics']['epochs']} epoch"])
    taken = pl.concat([whole.frame(split).select("user", "item") for split in ("train", "valid", "test")])
    assert len(served.train) == taken.height
    lists = served.recommend(k=served.n_items - int(taken["user"].value_counts()["count"].max()))
    assert lists.join(taken, on=["user", "item"], how="semi").is_empty()
    assert_refused(
        lirdrec("train", "data", "--refit", trained, "--set", "epochs=3", "--run", "r"), mentions=["--set", "--refit"]
    )
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("given", "size", "whiten"),
    [
        (["--feature-size", "3"], 3, False),
        (["--feature-size", "image=3", "--feature-size", "text=2", "--whiten"], {"image": 3, "text": 2}, True),
        (["--set", "feature_size={image=3}"], {"image": 3}, False),
    ],
)
def test_sizes_of_features_reach_the_model_and_the_run(lirdrec, data, given, size, whiten):
    result = lirdrec("--quiet", "train", "data", "--run", "r", *QUICK, *given)
    assert result.exit_code == 0, result.stderr
    found = Recommender.load("r")
    config = found.info["model_config"]
    assert (config["feature_size"], config["whiten"]) == (size, whiten)
    columns = {name: projection.n_columns for name, projection in found.features.projections.items()}
    assert columns == (size if isinstance(size, dict) else dict.fromkeys(columns, size))
    widths = {name: matrix.dims for name, matrix in Dataset.load("data").features.items()}
    assert_mentions(result.stdout, [f"{name} {widths[name]} → {n}" for name, n in columns.items()])
    assert "feature_size=none" in result.stdout


def test_train_says_which_epoch_is_kept_and_why_it_ended(lirdrec, data):
    call = ["--quiet", "train", "data", "--set", "embedding_size=8", "--run"]
    for run, options in (("short", ["--set", "epochs=2"]), ("early", ["--set", "patience=0", "--set", "epochs=200"])):
        line = next(one for one in lirdrec(*call, run, *options).stdout.splitlines() if one.startswith("Epochs"))
        info = Recommender.load(run).info
        assert_mentions(line, [info["metrics"]["best_epoch"], info["metrics"]["epochs"], "recall@20"])
        assert ("patience" in line) == (info["stopped"] == "patience") == (run == "early")


def test_train_continues_from_an_earlier_run(lirdrec, trained, data):
    call = ["--quiet", "train", "data", "--from", trained, "--set", "epochs=3", "--seed", 5, "--json"]
    result = lirdrec(*call, "--run", "second")
    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)["test"]) == {"lirdrec", "popularity"}
    info, first = Recommender.load("second").info, Recommender.load(trained).info
    assert info["model_config"] == first["model_config"]
    assert (info["training"]["epochs"], info["seed"]) == (3, 5)
    assert info["training"]["learning_rate"] == first["training"]["learning_rate"]
    assert info["warm_start"]["run"] == str(trained.resolve())
    shown = lirdrec("--quiet", "train", "data", "--from", trained, "--set", "epochs=3", "--run", "third")
    assert shown.exit_code == 0
    assert_mentions(shown.stdout, ["Continued", trained, "3 epochs", Recommender.load("third").info["full_epochs"]])
    assert lirdrec("--quiet", "train", "data", "--from", trained).exit_code == 0
    assert Path("runs/planted-continued").is_dir()


@pytest.mark.parametrize(
    "options, facts",
    [
        (["--model", "ease"], ["--model", "--from"]),
        (["--preset", "paper"], ["--preset", "--from"]),
        (["--feature-size", "3"], ["--feature-size", "--from"]),
        (["--whiten"], ["--whiten", "--from"]),
        (["--set", "n_layers=2"], ["n_layers"]),
        (["--config", "c.toml"], ["c.toml", "model"]),
        (["--config", "key.toml"], ["key.toml", "n_layers"]),
        (["--config", "value.toml"], ["value.toml", "epochs", "many"]),
        (["--config", "number.toml"], ["number.toml", "training"]),
        (["--refit", "runs/one"], ["--refit", "--from"]),
    ],
)
def test_a_continued_training_keeps_the_model(lirdrec, trained, options, facts):
    Path("c.toml").write_text("[model]\nn_layers = 1\n")
    Path("key.toml").write_text("[training]\nn_layers = 1\n")
    Path("value.toml").write_text('[training]\nepochs = "many"\n')
    Path("number.toml").write_text("training = 3\n")
    result = lirdrec("train", "data", "--from", trained, "--run", "r", *options)
    assert_refused(result, mentions=facts)
    assert ("--set" in result.stderr) is ("--set" in options)
    assert not Path("r").exists()
