"""Every writer is killed at operations on its files: nothing that was acknowledged is lost, and the work can be done.

Whatever the operation, a reader finds the old version or the new one, each complete; the same command afterwards leads
to what it would have led to undisturbed; and nothing is left over.

    pytest tests/faults -m slow         # at every operation, before and after it, with counts
"""

from __future__ import annotations

import pytest

from .checking import Faults
from .writers import WRITERS

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
