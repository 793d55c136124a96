"""`lirdrec plan`: whether a training fits, in figures and sentences, and what it refuses."""

from __future__ import annotations

import json

import pytest

from lirdrec.data.synthetic import make_synthetic_dataset

from ..helpers import assert_mentions, assert_refused

SIZES = ("--users", "10e6", "--items", "1e6", "--interactions", "1e8", "--features", "4096,384")


def test_figures_of_the_devices_and_of_one(lirdrec):
    result = lirdrec("plan", *SIZES, "--devices", "8xH100", "--json")
    assert result.exit_code == 0, result.stderr
    several, one = json.loads(result.stdout)["plans"]
    assert (several["devices"], one["devices"]) == ("8 x H100", "1 x H100")
    assert several["bytes"] == sum(several["memory"].values()) < one["bytes"]
    assert several["fits"] and not one["fits"]
    assert one["sent_bytes"] == 0 < several["sent_bytes"]
    assert several["steps"] == 10 and several["epoch_seconds"] > 10 * several["step_seconds"]
    assert several["training_seconds"] == pytest.approx(several["epochs"] * several["epoch_seconds"])
    rarely = lirdrec("plan", *SIZES, "--devices", "8xH100", "--set", "evaluate_every=10", "--json")
    (rare, _) = json.loads(rarely.stdout)["plans"]
    saved = several["epochs"] * 0.9 * several["validation_seconds"]
    assert rare["training_seconds"] == pytest.approx(several["training_seconds"] - saved)


def test_further_cores_of_this_machine_add_no_memory(lirdrec, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def proposed(*devices):
        sizes = ("--users", "1e5", "--items", "1e5", "--interactions", "1e7", "--features", "4096,384")
        result = lirdrec("plan", *sizes, "--memory", 7, *devices, "--json")
        assert result.exit_code == 3, result.stderr
        return {one["change"] for one in json.loads(result.stdout)["changes"]}

    assert "devices" not in proposed()
    assert "devices" in proposed("--devices", "cpu-core")  # cores of several machines


def test_wide_features_need_memory_for_their_principal_components(lirdrec):
    def needed(width, *options):
        sizes = ("--users", "10", "--items", "15", "--interactions", "100", "--features", str(width))
        result = lirdrec("plan", *sizes, "--devices", "cpu-core", *options, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)["plans"][0]

    wide, all_columns = needed(4096), needed(4096, "--set", "feature_size=none")
    assert wide["bytes"] == 490 * 10**6 + 24 * 4096**2  # three matrices of float64
    assert "PCA, more than a step" not in {**needed(384)["memory"], **all_columns["memory"]}


def test_prepare_and_inspect_show_the_memory_of_the_plan(lirdrec, tmp_path):
    make_synthetic_dataset(40, 60, 600, {"image": 6, "text": 8}, seed=2).save(tmp_path / "shop")
    make_synthetic_dataset(40, 60, 600, {}, seed=2).save(tmp_path / "bare")
    for data, model in (("shop", "lirdrec"), ("bare", "lightgcn")):
        planned = lirdrec("plan", data, "--model", model, "--devices", "cpu-core", "--json")
        (plan,) = json.loads(planned.stdout)["plans"]
        shown = json.loads(lirdrec("inspect", data, "--json").stdout)
        assert shown["memory_to_train"] == {"model": model, "bytes": plan["bytes"]}
        assert_mentions(lirdrec("inspect", data).stdout, [model, f"{plan['bytes'] / 1e6:.0f} MB"])


def test_a_smaller_kind_is_not_proposed_at_its_usual_size(lirdrec):
    result = lirdrec("plan", *SIZES, "--users", "1e6", "--devices", "H100", "--memory", 4, "--json")
    assert result.exit_code == 3, result.stderr
    devices = [one["value"] for one in json.loads(result.stdout)["changes"] if one["change"] == "device"]
    assert devices and "H100" not in devices


def test_sizes_of_a_dataset(lirdrec, tmp_path):
    data = make_synthetic_dataset(40, 60, 600, {"image": 6, "text": 8}, seed=2)
    data.save(tmp_path / "shop")

    def planned(*arguments):
        result = lirdrec("plan", *arguments, "--devices", "H100", "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    sizes = ("--users", 40, "--items", 60, "--interactions", len(data.train), "--features", "6,8")
    assert planned("shop") == planned(*sizes)
    assert planned("shop", "--users", 4e6, "--features", "512,64") == planned(
        "--users", 4e6, *sizes[2:6], "--features", "512,64"
    )
    assert_refused(lirdrec("plan", "--users", 40), ["--items", "dataset"])
    assert_refused(lirdrec("plan", "nowhere"), ["nowhere"])


def test_what_would_make_it_fit_is_said(lirdrec):
    result = lirdrec("plan", *SIZES, "--devices", "8xL4")
    assert result.exit_code == 3, result.stderr
    assert_mentions(result.stdout, ["8 x L4", "does not fit", "24.0 GB", "batch_size", "H100"])
    assert "It fits" in lirdrec("plan", *SIZES, "--devices", "8xL4", "--memory", "1000").stdout


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (("--users", "0.5"), ["--users", "0.5"]),
        (("--features", "4096;384"), ["--features", "4096;384"]),
        (("--devices", "8xB52"), ["B52", "H100"]),
        (("--model", "ease"), ["ease", "lightgcn"]),
        (("--devices", "500xL4"), ["500", "192"]),
        (("--set", "n_layer=2"), ["n_layer"]),
        (("--features", "4096,0"), ["--features", "4096,0"]),
        (("--features", "9" * 30), ["--features", "9" * 30]),
        (("--devices", "0"), ["--devices", "'0'"]),
        (("--devices", "0xH100"), ["--devices", "0xH100"]),
        (("--interactions", "2e13"), ["--interactions", "2e+13"]),
        (("--set", "modalities=text"), ["modalities", "--features", 2]),
    ],
)
def test_bad_input_is_one_sentence(lirdrec, arguments, facts):
    assert_refused(lirdrec("plan", *SIZES, *arguments), facts)


@pytest.mark.parametrize(
    ("features", "chosen", "numbers"),
    [("4096,384", "text", ["1 feature matrix,", " 2;"]), ("4096", "image,text", ["2 feature matrices,", " 1;"])],
)
def test_one_matrix_is_not_several(lirdrec, features, chosen, numbers):
    result = lirdrec("plan", *SIZES[:6], "--features", features, "--set", f"modalities={chosen}")
    assert_refused(result, numbers)


def test_one_user_is_not_several(lirdrec):
    one = ("--users", "1", "--items", "2", "--interactions", "1", "--features", "8")
    result = lirdrec("plan", *one, "--devices", "2xL4")
    assert_refused(result, ["1 user;"])
    assert_refused(lirdrec("plan", *one, "--interactions", "3"), ["1 user ", "2 items;"])


def test_a_model_of_features_needs_their_columns(lirdrec):
    assert_refused(lirdrec("plan", *SIZES[:6]), ["--features"])


def test_memory_without_a_limit_is_refused(lirdrec):
    for value in ("inf", "1e300", "nan"):
        result = lirdrec("plan", *SIZES, "--memory", value)
        assert result.exit_code == 2
        assert_mentions(result.stderr, ["'--memory'"])
