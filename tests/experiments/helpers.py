"""Helpers of the tests of experiments: facts in the text of a report, and trials computed in the test's process."""

from __future__ import annotations

import html
import json
import re
import subprocess
import types
from collections.abc import Iterable
from pathlib import Path

import pytest

from lirdrec.experiments import worker, worker_process
from lirdrec.files.atomic import write_json


def _found(text: str, fact: object, start: int) -> int:
    """Where a fact ends that stands whole in the text after `start`; -1 where it does not."""
    word = str(fact)
    sign = r"(?<![+−-])" if word[:1].isdigit() else ""  # 0.5 is not in −0.5
    found = re.compile(rf"(?<!\w)(?<!\d\.){sign}{re.escape(word)}(?!\w|\.\d)").search(text, start)
    return found.end() if found else -1


def assert_facts(text: str, facts: Iterable[object]) -> None:
    """Check that names and numbers stand in the text in this order; those of a set may be in any order."""
    at = 0
    for group in facts:
        ends = {fact: _found(text, fact, at) for fact in (group if isinstance(group, set) else {group})}
        missing = [str(fact) for fact, end in ends.items() if end < 0]
        assert not missing, f"{missing} not mentioned, or not after the facts before them: {text}"
        at = max(ends.values())


def between(text: str, first: object, second: object) -> str:
    """What stands between a fact and another that follows it."""
    assert_facts(text, [first, second])
    start = _found(text, first, 0)
    return text[start : _found(text, second, start)]


def after_numbers(text: str) -> str:
    """What stands after the last number."""
    return re.split(r"\d", text)[-1]


def emphasized(page: Path) -> list[str]:
    """What the answer of a report prints in bold: its results."""
    found = re.search(r'<div class="answer">(.*?)</div>', page.read_text(encoding="utf-8"), flags=re.S)
    assert found is not None
    bold = re.findall(r"<strong>(.*?)</strong>", found[1], flags=re.S)
    return [re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", one))) for one in bold]


class Computed:
    """Replaces the process that computes a trial; a process for each would import torch each time."""

    stdin = None

    def __init__(self, command: list[str], **options: object):
        job, result = map(Path, command[-2:])
        write_json(result, worker.compute(worker.job_of(json.loads(job.read_text(encoding="utf-8")))))

    def poll(self) -> int:
        return 0


def compute_cells_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute trials in this process; test_scheduler.py tests what depends on processes."""
    monkeypatch.setattr(worker_process, "subprocess", types.SimpleNamespace(Popen=Computed, PIPE=subprocess.PIPE))
