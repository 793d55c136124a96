"""The training loop: when it stops, what it keeps, and how it ends when something goes wrong."""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import threading
from dataclasses import replace

import pytest
import torch

from lirdrec.config import make_config
from lirdrec.errors import ConfigError, TrainingError
from lirdrec.training.callbacks import Callback, StopTraining
from lirdrec.training.checkpoint import CheckpointStore
from lirdrec.training.config import TrainConfig
from lirdrec.training.loop import train

from ..helpers import assert_error

CONFIG = TrainConfig(epochs=12, batch_size=10, learning_rate=0.5, patience=3)


def scripted(*values: float):
    """A validation that gives these figures in turn."""
    left = iter(values)
    return lambda scorer: {"recall@20": next(left), "ndcg@20": 0.5}


class Seen(Callback):
    """Keeps `w` after each epoch, and does something at a given step."""

    def __init__(self, model, at: tuple[int, int] | None = None, do=lambda: None):
        self.model, self.at, self.do = model, at, do
        self.w: list[list[float]] = []
        self.steps: list[tuple[int, int]] = []
        self.lines: list[dict] = []

    def on_train_begin(self, history, n_steps):
        self.history, self.n_steps = list(history), n_steps

    def on_step_end(self, epoch, step):
        self.steps.append((epoch, step))
        if (epoch, step) == self.at:
            self.do()

    def on_epoch_end(self, line):
        self.w.append(self.model.w.tolist())
        self.lines.append(line)


@pytest.mark.parametrize(
    "values, patience, epochs, best",
    [
        ([0.1, 0.2, 0.3, 0.2, 0.2, 0.2, 0.2], 3, 7, 3),  # the 4th in a row without a better one
        ([0.1, 0.2, 0.3, 0.2, 0.2, 0.2, 0.4, 0.1, 0.1, 0.1, 0.1], 3, 11, 7),  # saved by the third
        ([0.3, 0.3, 0.3, 0.3, 0.3], 3, 5, 1),  # equal is not better
        ([0.3, 0.2], 0, 2, 1),
        ([0.0, 0.0], 0, 2, 1),  # a metric of zero is a metric
        ([0.1] * 22, 20, 22, 1),  # the paper's setting: the 21st in a row
    ],
)
def test_stops_at_the_epoch_after_patience_in_a_row(slope, values, patience, epochs, best):
    model = slope()
    seen = Seen(model)
    found = train(model, replace(CONFIG, epochs=50, patience=patience), scripted(*values, 9.9), callbacks=(seen,))
    assert (len(found.history), found.best_epoch, found.stopped) == (epochs, best, "patience")
    assert found.best_value == max(values)
    assert [line["valid"]["recall@20"] for line in found.history] == values
    assert model.w.tolist() == seen.w[best - 1]  # the best parameters are restored
    assert model.epochs == best  # and so are the buffers


def test_the_last_epoch_ends_it(slope):
    model = slope()
    found = train(model, replace(CONFIG, epochs=3), scripted(0.1, 0.3, 0.2))
    assert (len(found.history), found.best_epoch, found.stopped) == (3, 2, "epochs")


def test_validation_every_other_epoch_and_at_the_end(slope):
    model = slope()
    config = replace(CONFIG, epochs=7, evaluate_every=2, patience=1, metric="recall@20")
    found = train(model, config, scripted(0.1, 0.3, 0.2, 0.25))
    assert [line["epoch"] for line in found.history if "valid" in line] == [2, 4, 6, 7]
    assert (found.best_epoch, len(found.history)) == (4, 7)


def test_without_validation_the_last_is_the_best(slope, caplog):
    model = slope()
    seen = Seen(model)
    with caplog.at_level(logging.INFO, "lirdrec"):
        found = train(model, replace(CONFIG, epochs=4, patience=0), None, callbacks=(seen,))
    assert "4 epochs" in caplog.messages[-1] and CONFIG.metric not in caplog.text
    assert (found.best_epoch, found.stopped, len(found.history)) == (4, "epochs", 4)
    assert model.w.tolist() == seen.w[-1]


@pytest.mark.parametrize(
    "options, rates",
    [
        ({}, [0.5] * 4),
        ({"warmup_epochs": 2}, [0.5 / 3, 1.0 / 3, 0.5, 0.5]),
        ({"schedule": "cosine"}, [0.5, 0.25 * (1 + 2**-0.5), 0.25, 0.25 * (1 - 2**-0.5)]),
        ({"schedule": "cosine", "warmup_epochs": 2}, [0.5 / 3, 1.0 / 3, 0.5, 0.25]),
        ({"schedule": "exponential"}, [0.5 * 0.96 ** (epoch / 50) for epoch in range(4)]),
        ({"schedule": "exponential", "decay": 0.25, "decay_epochs": 2}, [0.5, 0.25, 0.125, 0.0625]),
        ({"schedule": "exponential", "decay": 0.5, "decay_epochs": 1, "warmup_epochs": 1}, [0.25, 0.5, 0.25, 0.125]),
    ],
    ids=["constant", "warm-up", "cosine", "both", "decay of the papers", "exponential", "exponential after warm-up"],
)
def test_learning_rate_of_each_epoch(slope, options, rates):
    """Adam under a constant gradient moves each parameter by the learning rate; one step an epoch."""
    model = slope()
    seen = Seen(model)
    train(model, replace(CONFIG, epochs=4, **options), None, callbacks=(seen,))
    places = [0.0] + [w[0] for w in seen.w]
    assert [a - b for a, b in itertools.pairwise(places)] == pytest.approx(rates, rel=1e-6)


@pytest.mark.parametrize("clip, norms", [(None, [3**0.5 * 1000, 3**0.5 * 0.01]), (1.0, [1.0, 3**0.5 * 0.01])])
def test_gradients_are_clipped_to_the_norm(slope, clip, norms):
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    model, found = slope(slopes=(1000.0, 0.01)), []
    hook = register_optimizer_step_pre_hook(lambda *_: found.append(float(model.w.grad.norm())))
    try:
        train(model, replace(CONFIG, epochs=2, gradient_clip=clip), None)
    finally:
        hook.remove()
    assert found == pytest.approx(norms, rel=1e-5)


def test_an_epoch_is_all_pairs_in_batches_and_the_loss_their_mean(slope):
    model = slope(n_pairs=7)
    seen = Seen(model)
    found = train(model, replace(CONFIG, epochs=2, batch_size=3), None, callbacks=(seen,))
    assert seen.n_steps == 3
    assert seen.steps == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert [len(users) for users, _, _ in model.batches] == [3, 3, 1, 3, 3, 1]  # the last partial batch is kept
    for epoch in (model.batches[:3], model.batches[3:]):
        assert sorted(user for users, _, _ in epoch for user in users) == list(range(7))
        assert all(i != j for _, positives, negatives in epoch for i, j in zip(positives, negatives, strict=True))
    assert model.batches[:3] != model.batches[3:]
    # a mean over pairs, not over batches of unequal size
    assert [line["users"] for line in found.history] == pytest.approx([3.0, 3.0])
    assert found.history == seen.lines


@pytest.mark.parametrize("slopes, epoch", [((1.0, float("nan")), 2), ((float("inf"),), 1)])
def test_a_loss_that_is_no_number_ends_with_one_sentence(slope, slopes, epoch, tmp_path):
    model, store = slope(slopes=slopes), CheckpointStore(tmp_path, {})
    with assert_error(TrainingError, mentions=["loss", f"epoch {epoch}", "learning_rate", 0.5, "gradient_clip"]):
        train(model, CONFIG, None, store=store)
    kept = store.load()
    assert (None if kept is None else len(kept.facts["history"])) == (epoch - 1 or None)


def test_a_metric_that_validation_does_not_give(slope):
    with assert_error(ConfigError, mentions=["metric", "'recall@10'", "recall@20, ndcg@20"]):
        train(slope(), replace(CONFIG, metric="recall@10"), scripted(0.1))


def test_nothing_to_train_on(slope):
    with assert_error(TrainingError) as caught:
        train(slope(n_pairs=1), CONFIG, None)
    assert "learning_rate" not in str(caught.value)  # this is no loss that is not a number


class TestCtrlC:
    def interrupt(self):
        os.kill(os.getpid(), signal.SIGINT)

    def test_ends_after_the_epoch_with_the_best_model(self, slope, tmp_path):
        model, before = slope(), signal.getsignal(signal.SIGINT)
        store = CheckpointStore(tmp_path, {})
        seen = Seen(model, at=(4, 1), do=self.interrupt)
        config = replace(CONFIG, checkpoint_every=100)
        found = train(model, config, scripted(0.1, 0.5, 0.2, 0.3, 0.9), callbacks=(seen,), store=store)
        assert (found.stopped, len(found.history), found.best_epoch) == ("interrupted", 4, 2)
        assert model.w.tolist() == seen.w[1]
        assert signal.getsignal(signal.SIGINT) is before
        # and can be gone on with
        assert len(store.load().facts["history"]) == 4
        again = train(slope(), replace(config, epochs=5), scripted(0.9), store=store, resume=True)
        assert (again.stopped, len(again.history), again.best_epoch) == ("epochs", 5, 5)

    def test_before_the_first_validation_the_epochs_are_kept_too(self, slope, tmp_path):
        model, store = slope(), CheckpointStore(tmp_path, {})
        seen = Seen(model, at=(2, 1), do=self.interrupt)
        config = replace(CONFIG, epochs=4, evaluate_every=4)
        found = train(model, config, scripted(), callbacks=(seen,), store=store)
        assert (found.stopped, found.best_epoch, len(found.history)) == ("interrupted", 0, 2)
        assert model.w.tolist() == seen.w[1]
        again, whole = slope(), slope()
        watched = Seen(again)
        train(again, config, scripted(0.3), callbacks=(watched,), store=store, resume=True)
        assert len(watched.history) == 2
        train(whole, config, scripted(0.3))
        assert torch.equal(again.w, whole.w)

    def test_a_second_one_stops_at_once(self, slope):
        def twice():
            self.interrupt()
            self.interrupt()

        model, before = slope(), signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train(model, CONFIG, None, callbacks=(Seen(model, at=(2, 1), do=twice),))
        assert signal.getsignal(signal.SIGINT) is before

    def test_training_works_outside_the_main_thread(self, slope):
        found = []
        thread = threading.Thread(target=lambda: found.append(train(slope(), replace(CONFIG, epochs=2), None)))
        thread.start()
        thread.join()
        assert found[0].best_epoch == 2


@pytest.mark.parametrize("checkpoint_every", [1, 2, 5])
@pytest.mark.parametrize("stop", [1, 2, 3, 6])
def test_stopped_and_resumed_is_never_stopped(slope, tmp_path, stop, checkpoint_every):
    """Bit for bit, in the parameters, Adam's moments included, and in the history."""
    values = [0.1, 0.3, 0.2, 0.25, 0.28, 0.4, 0.1, 0.1]
    config = replace(CONFIG, epochs=8, batch_size=2, learning_rate=0.01, checkpoint_every=checkpoint_every)

    class Killed(Exception):
        pass

    def kill():
        raise Killed

    whole = slope(noise=0.3)
    expected = train(whole, config, scripted(*values))
    store = CheckpointStore(tmp_path, {})
    model = slope(noise=0.3)
    with pytest.raises(Killed):
        train(model, config, scripted(*values), store=store, callbacks=(Seen(model, at=(stop, 2), do=kill),))
    done = (stop - 1) // checkpoint_every * checkpoint_every
    model = slope(noise=0.3)
    seen = Seen(model)
    found = train(model, config, scripted(*values[done:]), store=store, resume=True, callbacks=(seen,))
    assert len(seen.history) == done
    assert torch.equal(model.w, whole.w)
    assert (found.best_epoch, found.best_value) == (expected.best_epoch, expected.best_value)
    assert [without_times(line) for line in found.history] == [without_times(line) for line in expected.history]


def without_times(line: dict) -> dict:
    return {key: value for key, value in line.items() if not key.startswith("seconds")}


@pytest.mark.parametrize(
    "options, facts",
    [
        ({"epochs": 0}, ["epochs", 0, 1]),
        ({"batch_size": -3}, ["batch_size", -3, 1]),
        ({"batch_size": "large"}, ["batch_size", "'large'", "an integer or 'auto'"]),
        ({"patience": -1}, ["patience", -1, 0]),
        ({"seed": -1}, ["seed", -1, 0]),
        ({"learning_rate": 0.0}, ["learning_rate", 0.0]),
        ({"learning_rate": float("nan")}, ["learning_rate", "nan", 0]),
        ({"decay": 0.0}, ["decay", 0.0, 1]),
        ({"decay": 1.5}, ["decay", 1.5, 0]),
        ({"decay_epochs": 0}, ["decay_epochs", 0, 1]),
        ({"gradient_clip": 0.0}, ["gradient_clip", 0.0, "none"]),
        ({"schedule": "step"}, ["configuration", "'schedule'", "'step'", "'constant', 'cosine', 'exponential'"]),
        ({"lerning_rate": 1.0}, ["configuration", "'lerning_rate'", "'learning_rate'"]),
    ],
    ids=str,
)
def test_options_out_of_range(options, facts):
    with assert_error(ConfigError, mentions=facts):
        make_config(TrainConfig, options)


class Enough(Callback):
    """Ends the training after an epoch, also when it begins there."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_train_begin(self, history, n_steps):
        if len(history) >= self.epoch:
            raise StopTraining

    def on_epoch_end(self, line):
        if line["epoch"] >= self.epoch:
            raise StopTraining


def test_a_callback_may_end_the_training_and_the_others_are_called_too(slope, tmp_path):
    model = slope()
    seen, store = Seen(model), CheckpointStore(tmp_path / "checkpoint", {})
    found = train(model, CONFIG, scripted(0.1, 0.4, 0.3), store=store, callbacks=(Enough(3), seen))
    assert (found.stopped, found.best_epoch, len(found.history)) == ("callback", 2, 3)
    assert [line["epoch"] for line in seen.lines] == [1, 2, 3]
    assert model.w.tolist() == seen.w[1]  # the best parameters, not the last
    again = slope()
    resumed = train(again, CONFIG, scripted(), store=store, resume=True, callbacks=(Enough(3),))
    assert (resumed.stopped, len(resumed.history)) == ("callback", 3) and again.w.tolist() == model.w.tolist()


@pytest.mark.parametrize(
    "pairs, size, factor",
    [(1, 8192, 1), (81_920, 8192, 1), (81_921, 8193, 1), (819_200, 81_920, 10**0.3), (8_192_000, 819_200, 100**0.3)],
)
def test_an_automatic_batch_gives_ten_steps_or_fewer(pairs, size, factor):
    found = TrainConfig(batch_size="auto", learning_rate=2e-3).resolved(pairs)
    assert (found.batch_size, math.ceil(pairs / size) <= 10) == (size, True)
    assert found.learning_rate == pytest.approx(2e-3 * factor, rel=1e-3)
    assert found.resolved(3) == found  # a number stays as it is


def test_the_loop_resolves_an_automatic_batch(slope, monkeypatch):
    monkeypatch.setattr("lirdrec.training.config.AUTO_BATCH", 3)
    monkeypatch.setattr("lirdrec.training.config.AUTO_STEPS", 2)
    automatic, given = (slope(n_pairs=9) for _ in range(2))
    config = replace(CONFIG, epochs=2, batch_size="auto")
    seen = Seen(automatic)
    train(automatic, config, None, callbacks=(seen,))
    assert seen.n_steps == 2 and [len(users) for users, _, _ in automatic.batches] == [5, 4, 5, 4]
    train(given, replace(config, batch_size=5, learning_rate=0.5 * (5 / 3) ** 0.3), None)
    assert torch.equal(automatic.w, given.w)
