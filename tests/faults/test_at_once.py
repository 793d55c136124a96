"""Several processes on one folder: no change that was acknowledged is lost, and each reader sees one whole version."""

from __future__ import annotations

import fcntl
import re

import pytest

from .writers import ALTERNATING, ITEM

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
