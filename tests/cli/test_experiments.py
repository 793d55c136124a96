"""`lirdrec experiment`: what it lists, refuses and passes on; the running itself is tested in tests/experiments."""

from __future__ import annotations

from pathlib import Path

import pytest

from lirdrec.experiments import registry as experiments
from lirdrec.experiments import scheduler
from lirdrec.experiments.registry import experiment_summaries

from ..helpers import assert_refused

NAMES = sorted(experiment_summaries())


@pytest.fixture
def asked(monkeypatch) -> list:
    """The contexts that experiments are run with; nothing is run."""
    contexts = []

    def run(experiment, context) -> Path:
        contexts.append((experiment.name, context))
        return context.output / "report.html"

    monkeypatch.setattr(scheduler, "run", run)
    return contexts


def test_without_a_name_the_experiments_are_listed(lirdrec):
    result = lirdrec("experiment")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_can_be_loaded_and_its_settings_teach(name):
    found = experiments.experiment(name)
    assert callable(found.plan) and callable(found.report)
    assert found.summary and all(doc for _, doc in found.settings.values())


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["compar", "DATA"], ["compar", "compare"]),
        (["compare"], ["lirdrec experiment compare DATASET"]),
        (["compare", "nowhere"], ["nowhere"]),
        (["compare", "DATA", "--models", "lirdrek"], ["lirdrek", "'lirdrec'"]),
        (["compare", "DATA", "--models", ","], ["--models"]),
        (["compare", "DATA", "--trials", "-1"], ["trials", -1, 0]),
        (["compare", "DATA", "--seeds", "0"], ["seeds", 0, 1]),
        (["compare", "DATA", "--jobs", "0"], ["jobs", 0, 1]),
        (["compare", "DATA", "--tuning-minutes", "0"], ["minutes", 0]),
        (["compare", "DATA", "--epochs", "0"], ["epochs", 0, 1]),
        (["compare", "DATA", "--losses", "bprr"], ["losses", "bprr", "softmax"]),
        (["compare", "DATA", "--sampler", "best"], ["sampler", "best", "tpe", "random"]),
        (["compare", "DATA", "--metric", "recall"], ["metric", "recall"]),
        (["compare", "DATA", "--set", "n_layerz=2"], ["n_layerz", "n_layers"]),
        (["compare", "DATA", "--set", "seed=2"], ["--set seed", "--seeds"]),
        (["compare", "DATA", "--set", "n_layers=-1"], ["n_layers", -1, 0]),
        (["compare", "DATA", "--features", "image,text"], ["--features", "image,text"]),
        (["compare", "DATA", "--features", "a=sound"], ["'a'", "sound"]),
        (["compare", "DATA", "--report-only"], ["compare"]),
        (["compare", "DATA", "--lists", "a=a.csv", "--metrics", "auc"], ["'auc'", "lists"]),
        (["compare", "DATA", "--lists", "a=a.csv", "--no-mask-seen"], ["--no-mask-seen", "--lists"]),
        (["compare", "DATA", "DATA", "--lists", "a=a.csv"], ["--lists", "one dataset"]),
        (["launch", "DATA", "--no-mask-seen"], ["--no-mask-seen", "'launch'"]),
        (["launch", "DATA", "-k", "5"], ["-k", "'launch'"]),
        (["launch", "DATA", "--losses", "softmax"], ["--losses", "'launch'"]),
        (["compare", "DATA", "--config-from", "DATA"], ["--config-from", "'compare'"]),
        (["launch", "DATA", "--trials", "4"], ["--trials", "'launch'"]),
        (["layers", "DATA", "--sampler", "random"], ["--sampler", "'layers'"]),
        (["startup", "DATA", "--no-prune"], ["--no-prune", "'startup'"]),
        (["ablation", "DATA", "--save-models"], ["--save-models", "'ablation'"]),
        (["ablation", "DATA", "--tuning-minutes", "2"], ["--tuning-minutes", "'ablation'"]),
        (["startup", "DATA", "--metrics", "hit"], ["--metrics", "'startup'"]),
        (["sensitivity", "DATA", "--test-history", "train"], ["--test-history", "'sensitivity'"]),
        (["gradients", "DATA", "--test-target", "last"], ["--test-target", "'gradients'"]),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_written(lirdrec, sample, arguments, facts):
    result = lirdrec("experiment", *(sample if one == "DATA" else one for one in arguments))
    assert_refused(result, facts)
    assert result.stderr.count("\n") == 1
    assert not [path for path in Path().rglob("*") if path.suffix in (".json", ".npy", ".parquet")]


def test_options_reach_the_context(lirdrec, sample, asked):
    result = lirdrec(
        *(
            "experiment",
            "compare",
            sample,
            "--models",
            "lirdrec, popularity",
            "--tuning-minutes",
            "2.5",
            "--seeds",
            "5",
        ),
        *("--jobs", "2", "--epochs", "7", "--patience", "3", "--set", "n_layers=2", "--set", "batch_size=512"),
        *(
            "--set",
            "ours=popularity",
            "--features",
            "both=image,text",
            "--features",
            "words=text",
            "--losses",
            "softmax",
        ),
        *("--metric", "ndcg@10", "--no-prune", "--save-models", "--output", "study"),
    )
    assert result.exit_code == 0 and "study/report.html" in result.stdout
    ((name, context),) = asked
    assert (name, context.datasets, context.models) == ("compare", (str(sample),), ("lirdrec", "popularity"))
    assert (context.trials, context.minutes, context.seeds, context.jobs) == (None, 2.5, 5, 2)
    assert context.training == {"epochs": 7, "patience": 3, "batch_size": 512}
    assert (context.model_options, context.settings) == ({"n_layers": 2}, {"ours": "popularity"})
    assert context.feature_sets == {"both": ("image", "text"), "words": ("text",)}
    assert (context.losses, context.metric, context.prune, context.keep) == (("softmax",), "ndcg@10", False, True)
    assert context.output == Path("study")


def test_the_defaults_are_those_of_the_help(lirdrec, sample, asked):
    assert lirdrec("experiment", "compare", sample).exit_code == 0
    context = asked[0][1]
    assert (context.trials, context.minutes, context.seeds, context.jobs) == (6, None, 3, None)
    assert (context.metric, context.sampler, context.prune) == ("recall@20", "tpe", True)
    assert context.output == Path("experiments") / "compare"
    assert context.training == {} and context.model_options == {}
