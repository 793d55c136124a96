"""Writers that are killed at every file operation, and two at once."""

from __future__ import annotations

import fcntl
import re

import pytest

from .checking import Faults
from .writers import ALTERNATING, ITEM, WRITERS

AT_MOST = 4  # kills of a writer in the short form
EXCHANGING = [name for name, one in WRITERS.items() if one.exchanges and not one.hub]


@pytest.fixture(params=WRITERS)
def writer(request, faults: Faults) -> str:
    if WRITERS[request.param].hub and faults.hub is None:
        pytest.skip("sharing needs lirdrec[hub]")
    return request.param


def test_killed_where_readers_look(faults, writer):
    counts = faults.kill(writer, faults.some_points(writer, AT_MOST))
    print(counts)
    assert counts.kills > 0
    assert not counts.problems, "\n".join([str(counts), *counts.problems])


def test_acknowledged_is_on_the_disk(faults, writer):
    recording = faults.recording(writer)
    assert (recording.lost, recording.unnamed) == ([], [])


@pytest.mark.slow
def test_killed_at_every_operation(faults, writer, capsys):
    counts = faults.kill(writer, faults.every_point(writer))
    with capsys.disabled():
        print(f"\n{counts}")
    assert counts.kills > counts.operations // 2
    assert not counts.problems, "\n".join([str(counts), *counts.problems])


class TestWithoutExchange:
    """On a file system that cannot let two folders change names, two renames do it."""

    @pytest.mark.parametrize("exchanging", EXCHANGING)
    def test_killed_where_readers_look(self, faults, exchanging):
        counts = faults.kill(exchanging, faults.some_points(exchanging, AT_MOST, exchange=False), exchange=False)
        assert counts.kills > 0
        assert not counts.problems, "\n".join([str(counts), *counts.problems])

    @pytest.mark.slow
    @pytest.mark.parametrize("writer", EXCHANGING)
    def test_killed_at_every_operation(self, faults, writer, capsys):
        counts = faults.kill(writer, faults.every_point(writer, exchange=False), exchange=False)
        with capsys.disabled():
            print(f"\nwithout exchange: {counts}")
        assert not counts.problems, "\n".join([str(counts), *counts.problems])


NUMBERS = (900002, 900003, 900004, 900005)
TIMES = 20


def start_at_once(faults, gate, numbers):
    """Add items in processes that all wait for the same moment; number → what was said where it was refused."""
    with gate.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        children = {number: faults.start("add_when_allowed", gate=str(gate), number=number) for number in numbers}
    ended = {number: child.wait() for number, child in children.items()}
    assert [one.code for one in ended.values()] == [0] * len(numbers), [one.printed for one in ended.values()]
    return {number: one.answer for number, one in ended.items()}


def test_items_added_by_four_processes_at_once_are_all_there(faults, tmp_path):
    faults.restore(faults.started(ITEM))
    left, acknowledged = list(NUMBERS), {900001}
    while left:
        said = start_at_once(faults, tmp_path / "gate", left)
        added = {number for number in left if said[number] is None}
        assert added, said
        # refused because of the run, which another process holds, and not because of the item
        ends = [said[number].rpartition("exit code ")[2] for number in left if number not in added]
        assert all(re.match(r"2: lirdrec: .*\br\b", one) and "90000" not in one for one in ends), ends
        acknowledged |= added
        assert {one for one in faults.call("items") if one > 900000} == acknowledged
        left = [number for number in left if number not in added]


@pytest.mark.parametrize("case", ALTERNATING)
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_readers_see_whole_versions(faults, tmp_path, case, exchange):
    if not exchange and not ALTERNATING[case].exchanges:
        pytest.skip("it replaces no folder as a whole")
    faults.restore(faults.started(ALTERNATING[case].start))
    versions = [faults.call("alternate", case=case, step=step) for step in (0, 1)]
    assert versions[0] != versions[1]
    shared = {"case": case, "done": str(tmp_path / "done"), "exchange": exchange}
    readers = [faults.start("read_until", versions=versions, **shared) for _ in range(2)]
    writer = faults.start("replace_often", times=TIMES, **shared)
    for ended in (writer.wait(), *(reader.wait() for reader in readers)):
        assert ended.code == 0, ended.printed
        if ended.answer is not None:
            reads, wrong = ended.answer
            assert (reads > 0, wrong) == (True, [])
