from __future__ import annotations

import dataclasses
import random

import pytest

from lirdrec.config import make_config
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.search_spaces import parts, space_of
from lirdrec.experiments.studies.compare import default_models
from lirdrec.experiments.trial_spec_and_result import TrialResult, canonical
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.experiments.tuning import WARM_UP, base_trial, n_trials, suggest
from lirdrec.models.lirdrec import LIRDRec
from lirdrec.models.registry import config_type, model_names
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error

METRIC = "recall@20"
FREE = {"model_options": {}}


def plan_of(model="lirdrec", data=None):
    def plan(context, results):
        yield from suggest(context, results, base_trial(context, context.datasets[0], model)).cells

    return plan


def found(context, results, model="lirdrec"):
    return suggest(context, results, base_trial(context, context.datasets[0], model))


def worth(trial) -> float:
    """A made-up truth: softmax is better, and so are a rate near 2e-3, few layers and strong regularisation."""
    options = {**trial.model_options, **trial.training}
    rates = {1e-4: 0, 2e-4: 1, 5e-4: 2, 1e-3: 3, 2e-3: 4, 5e-3: 3}
    value = 0.02 * rates[options["learning_rate"]] + 0.1 * (options["loss"] == "softmax")
    return 0.1 + value + 0.05 * (options["n_layers"] == 2) + 0.02 * options["regularization"]


def by_truth(trial) -> TrialResult:
    return TrialResult(trial, figures={"valid": {METRIC: worth(trial)}}, seconds=10.0)


def options_of(results) -> list[dict]:
    return [{**one.trial.model_options, **one.trial.training} for one in results]


def test_the_search_begins_with_the_published_settings_and_never_repeats_itself(context, inline):
    settings = context(trials=12, **FREE)
    results = inline(plan_of(), settings, by_truth)
    options = options_of(results)
    assert len(options) == 12 == len({canonical(one) for one in options})
    defaults = LIRDRec.Config()
    for one, loss, rate, batch in ((options[0], "bpr", 1e-4, 2048), (options[1], "softmax", 1e-3, 4096)):
        assert (one["loss"], one["learning_rate"], one["batch_size"]) == (loss, rate, batch)
        assert (one["n_layers"], one["regularization"]) == (defaults.n_layers, defaults.regularization)
    for one in options:
        assert set(parts(one)[1]) == {"metric", "epochs", "learning_rate", "batch_size"}
        assert ("temperature" in one) is (one["loss"] == "softmax")
    best = found(settings, results).chosen
    assert worth(best) == max(map(worth, (one.trial for one in results)))


def test_what_is_proposed_does_not_depend_on_the_order_in_which_cells_end(context, inline, tmp_path):
    def proposals(name, pick) -> list[dict]:
        return options_of(inline(plan_of(), context(trials=9, output=tmp_path / name, **FREE), by_truth, pick))

    draw = random.Random(1)
    first = proposals("first", lambda waiting: 0)
    assert proposals("last", lambda waiting: -1) == first
    assert proposals("any", lambda waiting: draw.randrange(len(waiting))) == first


def test_stopped_anywhere_it_proposes_the_same(context, inline, tmp_path):
    class Killed(Exception):
        pass

    left = [0]

    def killed_after(n):
        left[0] = n

        def compute(trial):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return by_truth(trial)

        return compute

    whole = options_of(inline(plan_of(), context(trials=8, output=tmp_path / "whole", **FREE), by_truth))
    settings = context(trials=8, **FREE)
    for n in (1, 0, 2, 3):
        with pytest.raises(Killed):
            inline(plan_of(), settings, killed_after(n))
    assert options_of(inline(plan_of(), settings, killed_after(2))) == whole


def test_more_trials_later_continue_the_earlier_ones(context, inline):
    few = options_of(inline(plan_of(), context(trials=4, **FREE), by_truth))
    many = options_of(inline(plan_of(), context(trials=10, **FREE), by_truth))
    assert many[:4] == few
    computed = list((context().output / "cells").glob("*.json"))
    assert len(computed) == 10


def test_tpe_finds_what_chance_seldom_does(context, inline, tmp_path):
    """Of the configurations of the space less than 1 in 50 is as good as what 30 trials find."""
    settings = context(trials=30, **FREE)
    results = inline(plan_of(), settings, by_truth)
    best = worth(found(settings, results).chosen)
    base = base_trial(settings, settings.datasets[0], "lirdrec")

    def value(choice) -> float:
        of_model, training = parts(choice)
        return worth(base.with_(model_options=of_model, training=training))

    values = sorted(map(value, space_of("lirdrec", {}).all()), reverse=True)
    assert best >= values[len(values) // 50]


def test_the_size_of_a_space_is_the_number_of_its_configurations():
    for model in ("lirdrec", "bm3", "popularity"):
        space = space_of(model, {}, modalities=("image", "text"))
        assert space.size == sum(1 for _ in space.all())
    # what LGMRec's authors list is far too much to be counted one by one
    assert space_of("lgmrec", {}, ("bpr",)).size == 4 * 5 * 4 * 8 * 10 * 11 * 7 * 7 * 3 * 6


SEQUENTIAL = [name for name in model_names() if "similarity" in {f.name for f in dataclasses.fields(config_type(name))}]


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_sequential_models_are_searched_alike(name):
    """The same dropout, layers, rates and similarities for all; products have no other temperature than 1."""
    space = space_of(name, {}, losses=("softmax",))
    assert set(space.branches) == {"cosine", "product"}
    assert space.branches["product"]["temperature"] == (1.0,)
    cosine = space.branches["cosine"]
    assert (min(cosine["temperature"]), max(cosine["temperature"])) == (0.05, 0.2)
    for branch in space.branches.values():
        assert (min(branch["learning_rate"]), max(branch["learning_rate"])) == (5e-4, 5e-3)
    assert space.shared["dropout"] == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert space.shared.get("n_layers", (1, 2)) == (1, 2)
    assert [choice["similarity"] for choice in space.first] == ["cosine", "product"]
    draw = random.Random(1)
    for choice in [*space.first, *(space.draw(draw) for _ in range(20))]:
        assert "loss" not in choice
        of_model, _ = parts(choice)
        config = make_config(config_type(name), of_model, name)
        assert (config.temperature == 1) == (config.similarity == "product")


def test_a_similarity_or_temperature_set_by_hand_is_not_searched():
    space = space_of("sasrec", {"similarity": "product", "dropout": 0.2})
    assert list(space.branches) == ["product"]
    assert not {"similarity", "dropout"} & {*space.shared, *space.branches["product"]}
    assert "temperature" not in space_of("hstu", {"temperature": 0.3}).branches["cosine"]


def test_a_search_over_both_similarities(context, inline):
    """TPE proposes from both branches and keeps their options apart; products win in this made-up truth."""

    def truth(trial) -> TrialResult:
        value = 0.1 + 0.5 * (trial.model_options["similarity"] == "product")
        return TrialResult(trial, figures={"valid": {METRIC: value}}, seconds=1.0)

    settings = context(trials=16, models=("sasrec",), **FREE)
    results = inline(plan_of("sasrec"), settings, truth)
    options = options_of(results)
    assert [one["similarity"] for one in options[:2]] == ["cosine", "product"]
    assert {one["similarity"] for one in options[4:]} == {"cosine", "product"}
    assert all((one["temperature"] == 1) == (one["similarity"] == "product") for one in options)
    assert found(settings, results, "sasrec").chosen.model_options["similarity"] == "product"


def test_options_set_by_hand_are_not_searched(context, inline):
    settings = context(trials=8, model_options={"n_layers": 4}, training={"batch_size": 512}, losses=("softmax",))
    for one in options_of(inline(plan_of(), settings, by_truth)):
        assert (one["n_layers"], one["batch_size"], one["loss"]) == (4, 512, "softmax")


def test_a_model_has_no_more_trials_than_configurations(context, inline):
    settings = context(trials=5, models=("popularity",))
    results = inline(
        plan_of("popularity"), settings, lambda trial: TrialResult(trial, figures={"valid": {METRIC: 0.1}})
    )
    assert len(results) == 1 == n_trials(settings, base_trial(settings, settings.datasets[0], "popularity"))
    assert found(settings, results, "popularity").chosen == next(iter(results)).trial


def test_no_trials_means_the_published_defaults(context):
    settings = context(trials=0, **FREE)
    state = found(settings, Results())
    assert state.finished and state.cells == ()
    final = state.final(seed=3)
    assert (final.work, final.seed, final.final, final.variant) == ("train", 3, True, "")
    assert final.model_options["loss"] == "bpr" and final.training["learning_rate"] == 1e-4
    assert TrainConfig(**final.training).batch_size == 2048


def test_the_final_cell_has_the_best_options(context, inline):
    settings = context(trials=3, **FREE)
    results = inline(plan_of(), settings, by_truth)
    state = found(settings, results)
    final = state.final(seed=7, variant="full")
    assert (final.model_options, final.training) == (state.chosen.model_options, state.chosen.training)
    assert (final.work, final.seed, final.variant, final.extra) == ("train", 7, "full", {"final": True})


def test_trials_that_fail_are_rows_and_the_rest_decides(context, inline):
    def compute(trial) -> TrialResult:
        if trial.model_options["loss"] == "softmax":
            return TrialResult(trial, "out of memory")
        return by_truth(trial)

    settings = context(trials=6, **FREE)
    results = inline(plan_of(), settings, compute)
    state = found(settings, results)
    assert len(state.trials) == 6 and state.chosen.model_options["loss"] == "bpr"
    everything = inline(plan_of(), context(trials=3, losses=("softmax",), **FREE), compute)
    state = found(context(trials=3, losses=("softmax",), **FREE), everything)
    assert (state.finished, state.chosen, state.status) == (True, None, "out of memory")
    with assert_error(ConfigError, mentions=["lirdrec"]):
        state.final(seed=0)


def test_what_is_chosen_stays_when_a_trial_that_failed_succeeds_later(context, inline):
    settings = context(trials=4, **FREE)

    def compute(trial) -> TrialResult:
        return (
            TrialResult(trial, "failed", "the disk was full")
            if trial.model_options["loss"] == "softmax"
            else by_truth(trial)
        )

    results = inline(plan_of(), settings, compute)
    before = found(settings, results).chosen
    assert before is not None
    store = TrialStore(settings.output)
    for one in results:
        store.record(TrialResult(one.trial, figures={"valid": {METRIC: 0.99}}, attempts=2))
    assert found(settings, Results.load(store)).chosen == before


def test_a_budget_in_minutes_ends_the_search_and_limits_each_trial(context, inline):
    settings = context(trials=None, minutes=1.0, **FREE)
    results = inline(
        plan_of(), settings, lambda trial: TrialResult(trial, figures={"valid": {METRIC: worth(trial)}}, seconds=25.0)
    )
    assert [one.trial.extra["seconds"] for one in results] == [60.0, 35.0, 10.0]
    assert found(settings, results).finished


def curve(*values) -> tuple[dict, ...]:
    return tuple({"epoch": epoch, "seconds": epoch, METRIC: value} for epoch, value in enumerate(values, start=1))


def test_the_median_rule_by_hand(context, inline):
    """Trials 1 and 2 set the line that trials 3 and 4 must not fall below: the lower of their best values so far."""
    flat, rising = [0.2] * (WARM_UP + 5), [0.0] * WARM_UP + [0.1, 0.3, 0.25, 0.4]
    histories = {"trial 1": curve(*flat), "trial 2": curve(*rising)}

    def compute(trial) -> TrialResult:
        history = histories.get(trial.variant, curve(0.1))
        return TrialResult(trial, figures={"valid": {METRIC: 0.1}}, history=history)

    results = inline(plan_of(), context(trials=4, **FREE), compute)
    limits = [one.trial.extra.get("stop_below") for one in results]
    # best so far of trial 2: 0 in epoch 20, .1 in 21, .3 in 22 and 23, .4 from 24 on; trial 1 has .2 throughout
    assert limits == [None, None, *[[[WARM_UP, 0.0], [WARM_UP + 1, 0.1], [WARM_UP + 2, 0.2]]] * 2]
    again = inline(plan_of(), context(trials=4, prune=False, output=context().output / "off", **FREE), compute)
    assert not any(one.trial.extra.get("stop_below") for one in again)


def test_a_grid_with_an_unknown_option_is_refused(monkeypatch):
    monkeypatch.setattr(LIRDRec, "grid", {"n_layer": (1,)})
    with assert_error(ConfigError, mentions=["lirdrec", "'n_layer'"]):
        space_of("lirdrec", {})


def test_every_registered_model_has_a_space_of_right_options():
    for name in model_names():
        space = space_of(name, {})
        draw = random.Random(0)
        for choice in [*space.first, *(space.draw(draw) for _ in range(20))]:
            of_model, training = parts(choice)
            make_config(config_type(name), of_model, name)
            make_config(TrainConfig, training, name)


@pytest.mark.parametrize("split", ["random", "leave_last_out"])
def test_ordered_models_are_compared_where_the_split_keeps_the_order(split, tmp_path):
    data = make_synthetic_dataset(20, 15, 80, {"text": 3}, groups=3, timestamps=True, split=split)
    models = default_models(str(data.save(tmp_path / split)))
    assert ("sasrec" in models, "lirdrec_seq" in models) == (split != "random", split != "random")
    assert {"lirdrec", "ease", "mgcn"} <= set(models)
