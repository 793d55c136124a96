"""inspect RUN: size and cost of a step, what came after the training, and what new items cost."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np

from lirdrec.cli.output import percent
from lirdrec.data.dataset import Dataset
from lirdrec.recommender.new_item_encoder import LaunchStep
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_mentions, assert_refused
from .conftest import QUICK


def test_inspect_of_a_run_shows_its_size_and_the_cost_of_a_step(lirdrec, trained, data):
    facts = json.loads(lirdrec("inspect", trained, "--json").stdout)
    assert facts["model"] == "lirdrec" and (facts["users"], facts["items"]) == (40, 60)
    weights = Recommender.load(trained).model().named_parameters()
    assert facts["parameters"] == sum(tensor.numel() for _, tensor in weights)
    pairs, step = facts["pairs"], facts["step"]
    assert pairs == len(Dataset.load(data).train)
    layers = Recommender.load(trained).info["model_config"]["n_layers"]
    user_item = next(one for one in step["products"] if one["kind"] == "sparse" and one["entries"] == pairs)
    assert (user_item["columns"], user_item["times"]) == (3 * 8, layers)
    assert step["seconds"] > 0
    result = lirdrec("inspect", trained)
    words = " ".join(result.stdout.split())
    assert f"Run {trained}" in words and f"lirdrec planted 40 60 {pairs} {facts['parameters']:,}" in words
    assert f"{layers} " in words and f"{pairs:,}" in words


def test_inspect_of_a_run_says_what_came_after_its_training(lirdrec, trained):
    recommender = Recommender.load(trained)
    n_pairs, user = len(recommender.train), recommender.users.ids[0]
    assert recommender.n_trained_items == 60
    assert not {"item", "like"} & set(re.findall(r"\d (item|like)", lirdrec("inspect", trained).stdout))
    features = {"text": np.ones((2, 8), np.float32), "image": np.ones((2, 6), np.float32)}
    recommender.add_items([100, 101], features)
    recommender.update([(user, 100)])
    recommender.save(trained, overwrite=True)
    facts = json.loads(lirdrec("inspect", trained, "--json").stdout)
    assert (facts["items"], facts["pairs"]) == (62, n_pairs + 1)
    assert (facts["added_items"], facts["added_likes"]) == (2, 1)
    words = " ".join(lirdrec("inspect", trained).stdout.split())
    assert "2 items" in words and "1 like" in words


def test_training_calibrates_new_items_and_inspect_shows_the_frontier(lirdrec, data):
    result = lirdrec("train", "data", "--run", "r", *QUICK)
    encoder = Recommender.load("r").new_item_encoder
    calibrated = encoder.step()
    assert_mentions(result.stdout, [f"{encoder.offset:+.4f}", f"{calibrated.share:.1%}", f"{calibrated.cost:.1%}"])
    facts = json.loads(lirdrec("inspect", "r", "--json").stdout)["new_items"]
    assert facts["offset"] == encoder.offset and len(facts["frontier"]) == len(encoder.frontier)
    words = " ".join(lirdrec("inspect", "r").stdout.split())
    five = encoder.step(0.05)
    assert five.offset == encoder.offset_for(0.05)
    for step in (calibrated, five):
        costs = f"{step.cost:.1%} {step.cost + 1.645 * step.cost_error:.1%}"
        assert f"{step.offset:+.4f} {costs} {step.share:.1%} {step.recall:.4f}" in words
    none = encoder.step_at(0.0)
    costs = f"{none.cost:.1%} {none.cost + 1.645 * none.cost_error:.1%}"
    assert f"none {0:+.4f} {costs} {none.share:.1%} {none.recall:.4f}" in words
    assert "calibrated" in words and "boost=0.05" in words
    plain = lirdrec("train", "data", "--run", "plain", "--no-new-item-calibration", *QUICK)
    assert plain.exit_code == 0 and Recommender.load("plain").new_item_encoder is None
    result = lirdrec("train", "data", "--run", "s", "--refit", "r", "--no-new-item-calibration")
    assert_refused(result, ["--no-new-item-calibration", "--refit"])


def test_costs_of_new_items_come_first_and_have_no_negative_zero(lirdrec, data):
    assert percent(-0.0001) == percent(0.0004) == "0.0%" and percent(-0.0006) == "-0.1%"
    assert lirdrec("train", "data", "--run", "r", *QUICK).exit_code == 0
    for cost, is_gain in ((-0.0004, False), (-0.02, True)):
        recommender = Recommender.load("r")
        step = LaunchStep(0.0, cost, 0.1, 0.2)
        encoder = dataclasses.replace(recommender.new_item_encoder, offset=0.0, frontier=(step,))
        recommender.info = recommender.info | {"new_items": encoder.to_info()}
        recommender.save("r", overwrite=True)
        shown = lirdrec("inspect", "r").stdout
        assert shown.index("--new-items") < shown.index("forward")
        assert "-0.0%" not in shown and ("-2.0%" in shown) == is_gain


def test_inspect_of_a_closed_form_and_of_runs_that_cannot_be_measured(lirdrec, trained, data):
    assert lirdrec("--quiet", "train", "data", "--model", "item_knn", "--run", "runs/knn").exit_code == 0
    assert json.loads(lirdrec("inspect", "runs/knn", "--json").stdout)["step"] is None
    closed = lirdrec("inspect", "runs/knn")
    assert closed.exit_code == 0 and "item_knn" in closed.stdout
    assert lirdrec("strip", trained, "--output", "runs/slim").exit_code == 0
    result = lirdrec("inspect", "runs/slim")
    assert_refused(result, ["slim"])
    (Path("runs/half") / "checkpoint").mkdir(parents=True)
    result = lirdrec("inspect", "runs/half")
    assert_refused(result, ["runs/half"])
