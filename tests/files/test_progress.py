"""Long jobs in a log: a line whenever another tenth is done, with the time that is left."""

from __future__ import annotations

import io

import pytest

from lirdrec.files.progress_bars import ProgressLines, duration
from lirdrec.training.callbacks import EpochLines, ProgressBar
from lirdrec.training.config import still_improving

from ..helpers import assert_mentions


def test_a_line_for_every_tenth_and_the_time_left_from_what_was_worked(capsys):
    now = 0.0
    lines = ProgressLines("captions", 200, 40, "pictures", clock=lambda: now)
    for _ in range(40):
        lines.advance(1, idle=True)  # known already: says nothing about the speed
    for _ in range(120):
        now += 2
        lines.advance(1)
    told = capsys.readouterr().err.splitlines()
    assert [line.split("(")[1].split(")")[0] for line in told] == [f"{share} %" for share in range(30, 100, 10)]
    assert_mentions(told[0], ["captions", "60 of 200 pictures", "30 %"])
    assert_mentions(told[2], ["captions", "100 of 200 pictures", "50 %", duration(200)])
    assert_mentions(told[-1], ["captions", "180 of 200 pictures", "90 %", duration(40)])


def test_every_epoch_is_a_line_in_a_log(capsys):
    lines = EpochLines("recall@20", 10)
    lines.on_train_begin([{"epoch": 1, "loss": 2.0, "seconds": 9.0, "valid": {"recall@20": 0.5}}], 4)
    for epoch, value in ((2, 0.4), (3, 0.6)):
        seconds = {"seconds": 20.0, "seconds_with_validation": 30.0}
        lines.on_epoch_end({"epoch": epoch, "loss": 1.0, "valid": {"recall@20": value}, **seconds})
    second, third = capsys.readouterr().err.splitlines()
    assert_mentions(second, ["epoch 2/10", "loss 1.0000", "recall@20 0.4000", "0.5000", "epoch 1", "30 s", "4 min"])
    assert_mentions(third, ["epoch 3/10", "loss 1.0000", "recall@20 0.6000", "epoch 3", "60 s", "4 min"])
    assert third.count("0.6000") == 2  # the latest is the best


def test_the_bar_of_a_training_fits_into_80_columns(monkeypatch):
    from rich.console import Console

    monkeypatch.setenv("COLUMNS", "80")
    bar = ProgressBar("recall@20", 1000)
    bar.on_train_begin([], 100)
    bar.on_epoch_end({"epoch": 1, "loss": 1.0, "seconds": 1.0, "valid": {"recall@20": 0.1}})
    bar.on_step_end(999, 50)
    bar.stop()
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(bar.bar.get_renderable())
    line = console.export_text().splitlines()[0]
    assert_mentions(line, ["epoch 999/1000", "recall@20 0.1000"])
    assert line.count("0.1000") == 2 and "…" not in line and len(line) <= 80


@pytest.mark.parametrize(
    ("best", "epochs", "expected"), [(6, 6, True), (5, 6, False), (991, 1000, True), (900, 1000, False), (1, 1, True)]
)
def test_a_best_epoch_among_the_last_tenth_is_still_improving(best, epochs, expected):
    assert still_improving(best, epochs) is expected
