"""Converts saved answers to columns of the item table and a list of problems."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.captions.answer_parser import caption_of, read_answer
from lirdrec.captions.captioner import ATTRIBUTES, COLUMNS, KEY, MACHINE
from lirdrec.captions.plan import CaptionPlan
from lirdrec.data.schema import ITEM
from lirdrec.data.storage import file_entry, read_manifest
from lirdrec.data.transaction import commit
from lirdrec.files.atomic import write_errors

PROBLEMS = "captions.problems.csv"
INFO = "captions"  # entry of the manifest's info
UNUSABLE = "the answer holds none of the attributes"

Facts = Mapping[str, Any]
Problem = tuple[int, str, str, str]  # row, picture, sentence, answer


@dataclass(frozen=True)
class Results:
    """What the answers come to.

    Attributes:
        columns: `item` and the columns of captions, of the items that get new ones.
        problems: in the order of the items.
        tokens_in, tokens_out: of all answers, as far as the model reports them.
    """

    columns: pl.DataFrame
    problems: list[Problem]
    tokens_in: int
    tokens_out: int


def results(
    survey: CaptionPlan,
    table: pl.DataFrame,
    sealed: Callable[[str], Facts | None],
    failed: Mapping[str, str],
    names: Sequence[str],
) -> Results:
    """Put the answers together.

    Args:
        survey: what was wanted.
        table: the columns of captions as they are.
        sealed: gives what was sealed for a key.
        failed: key → sentence, of pictures whose answer is no lasting one.
        names: the attributes.
    """
    new: list[tuple[int, str, str, str, str]] = []
    for row in survey.reset:
        machine, attributes, key = (table[name][row] for name in (MACHINE, ATTRIBUTES, KEY))
        new.append((row, machine, attributes, machine, key))
    problems = [(row, picture, sentence, "") for row, picture, sentence in survey.unreadable]
    tokens_in = tokens_out = 0
    for key, wanted in survey.wanted.items():
        if key in failed:
            problems += [(row, wanted.path.name, failed[key], "") for row in wanted.rows]
        facts = sealed(key)
        if facts is None:
            continue
        tokens_in += facts["tokens_in"] or 0
        tokens_out += facts["tokens_out"] or 0
        text = facts["text"] or ""
        if found := read_answer(text, names):
            caption = caption_of(found)
            new += [(row, caption, json.dumps(found, ensure_ascii=False), caption, key) for row in wanted.rows]
        else:
            problems += [(row, wanted.path.name, facts["problem"] or UNUSABLE, text) for row in wanted.rows]
    rows = pl.DataFrame(sorted(new), schema={"row": pl.Int64} | dict.fromkeys(COLUMNS, pl.String), orient="row")
    ids = table[ITEM].gather(rows["row"])
    return Results(rows.select(ids, *COLUMNS), sorted(problems), tokens_in, tokens_out)


def note(folder: Path, entry: Mapping[str, Any], problems: Sequence[Problem], ids: pl.Series) -> None:
    """Say in the manifest how the captions were made, and list the problems in a file beside it.

    Args:
        folder: the prepared dataset.
        entry: goes into `info["captions"]`.
        problems: as of `results`.
        ids: of all items.
    """
    manifest = read_manifest(folder)
    files: dict[str, Path] = {}
    path = folder / f".{PROBLEMS}"
    try:
        if problems:
            with write_errors(folder), path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow([ITEM, "picture", "problem", "answer"])
                writer.writerows((ids[row], *rest) for row, *rest in problems)
            files[PROBLEMS] = path
        noted = manifest["files"].get(PROBLEMS)
        if manifest["info"].get(INFO) == entry and noted == (file_entry(path) if files else None):
            return
        commit(
            folder,
            files,
            lambda current: {"info": {**current["info"], INFO: dict(entry)}},
            gone=() if files else (PROBLEMS,),
        )
    finally:
        path.unlink(missing_ok=True)
