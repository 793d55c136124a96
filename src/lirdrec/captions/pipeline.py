"""Make captions for a prepared dataset: save each answer when it arrives, and write the item columns at the end."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.captions.answer_parser import caption_of, clean, read_answer
from lirdrec.captions.captioner import (
    ATTRIBUTES,
    CAPTION,
    COLUMNS,
    INFO,
    KEY,
    MACHINE,
    Answer,
    Captioner,
    captioned,
    edited,
    read_columns,
)
from lirdrec.captions.plan import make_plan
from lirdrec.captions.prompt_attributes import Attributes
from lirdrec.data.column_names import ITEM
from lirdrec.data.storage import file_entry, read_manifest
from lirdrec.data.transaction import commit, dataset_lock, recover
from lirdrec.errors import TrainingError
from lirdrec.features.dataset_writer import set_item_columns
from lirdrec.features.sources import IMAGE, ImageSource, ItemRows
from lirdrec.files.atomic import write_errors
from lirdrec.files.locks import folder_lock
from lirdrec.files.shards import Shards, forget

WORK = Path("work", "caption")
PROBLEMS = "captions.problems.csv"
TOO_MANY = 16  # unusable answers in a row after which the run stops
UNUSABLE = "the answer has none of the attributes"

Problem = tuple[int, str, str, str]  # row, image, sentence, answer


@dataclass(frozen=True)
class Outcome:
    """Counts of a captioning run.

    Attributes:
        written: number of items whose caption this run wrote.
        captions: number of items that have a caption now.
        edited: number of items whose caption differs from the generated one, because a person edited it.
        problems: number of items that got no caption because the image or the answer is unusable;
            `captions.problems.csv` gives the reasons.
        waiting: number of images that the model was not asked about yet.
        tokens_in: number of input tokens of all answers, as far as the model reports them.
        tokens_out: number of output tokens of all answers, as far as the model reports them.
    """

    written: int
    captions: int
    edited: int
    problems: int
    waiting: int
    tokens_in: int
    tokens_out: int


@contextlib.contextmanager
def captioning(
    folder: str | Path,
    captioner: Captioner,
    attributes: Attributes,
    *,
    column: str = IMAGE,
    images: str | Path | None = None,
    restart: bool = False,
    overwrite_edited: bool = False,
) -> Iterator[Captioning]:
    """Context manager that yields a `Captioning`, to start or resume captioning a dataset.

    Inside the block, no other process can caption the dataset.

    Args:
        folder: a prepared dataset.
        captioner: the model that describes the images.
        attributes: the attributes that its prompt requests.
        column: column of the item table that has the path of each item's image.
        images: the folder that the paths start from; by default the folder recorded by `lirdrec prepare`.
        restart: discard unfinished work (answers that are not in the item table yet), also of another captioner.
        overwrite_edited: also replace captions that people wrote or changed.

    Raises:
        RunFolderError: the folder is not a prepared dataset, or another process is captioning it.
        ConfigError: there is unfinished work of another captioner, or the captioner cannot be used.
        DataError: the column of image paths or the image folder is missing.
    """
    folder = Path(folder)
    recover(folder)
    source = ImageSource(folder, column, images)
    with folder_lock(
        folder / WORK, lambda owner: f"{folder}: another process{owner} is captioning it; wait for it", tidy=True
    ):
        job = Captioning(folder, captioner, attributes, source, restart, overwrite_edited)
        try:
            yield job
        finally:
            job.discard_if_empty()
    with contextlib.suppress(OSError):  # it may contain other work
        (folder / WORK).parent.rmdir()


class Captioning:
    """The work of captioning one dataset with one captioner; created by `captioning`.

    Attributes:
        survey: the plan that was made at the start: which images need a caption.
        captioner: the model that describes the images.
    """

    def __init__(
        self,
        folder: Path,
        captioner: Captioner,
        attributes: Attributes,
        source: ImageSource,
        restart: bool,
        overwrite_edited: bool,
    ):
        self.folder, self.captioner = folder, captioner
        self._attributes = dict(attributes.attributes)
        self._table = read_columns(source.rows)
        identity = captioner.identity
        self.survey = make_plan(source, self._table, identity, overwrite_edited)
        if restart:
            forget(folder / WORK)
        # one shard per item, so that no answer is ever lost or paid twice
        self._shards = Shards(folder / WORK, {"captions": dict(identity)}, len(source), shard_rows=1)
        self._sealed = {str(self._shards.facts(index).get("key")): index for index in sorted(self._shards.sealed)}
        self._failed: dict[str, str] = {}  # key → problem; the next run tries these images again
        self._n_unusable = 0  # number of unusable answers in a row

    def waiting(self) -> list[str]:
        """Return the keys (see `caption_key`) of the images that the model was not asked about yet."""
        return [key for key in self.survey.wanted if key not in self._sealed and key not in self._failed]

    def work(self, limit: int | None = None, on_answer: Callable[[Answer], None] = lambda answer: None) -> None:
        """Ask the model for the captions of at most `limit` waiting images; by default of all.

        `on_answer` is called with each answer, which is then saved. If the image file or the server is the problem, the
        answer is not saved, so that the next run tries the image again.

        Raises:
            TrainingError: the server does not answer, one image does not fit into memory, or `TOO_MANY` answers in a
                row were unusable.
            ConfigError: the model cannot be loaded, or the server refuses all requests.
        """
        keys = self.waiting()[:limit]
        for index, answer in self.captioner.answers([self.survey.wanted[key].path for key in keys]):
            on_answer(answer)
            self._keep(keys[index], answer)

    def finish(self) -> Outcome:
        """Write the captions into the item table, remove the saved answers, and return the counts.

        The model and its settings go into the manifest, items without a usable answer into `captions.problems.csv`.
        Captions that a person changed in the meantime are kept.
        """
        columns, problems, tokens_in, tokens_out = self._collect()
        with dataset_lock(self.folder):
            now = read_columns(ItemRows(self.folder))
            # keep the captions that a person changed while the model was answering
            changed = now.filter(now[CAPTION].fill_null("") != self._table[CAPTION].fill_null(""))[ITEM]
            columns = columns.filter(~columns[ITEM].is_in(changed.implode()))
            if columns.height:
                set_item_columns(self.folder, columns)
        table = read_columns(ItemRows(self.folder))
        n_captions, n_edited = int(captioned(table).sum()), int(edited(table).sum())
        counts = {"captions": n_captions, "edited": n_edited, "problems": len(problems)}
        entry = {"model": self.captioner.model, **self.captioner.identity, "attributes": self._attributes, **counts}
        self._record(entry, problems, table[ITEM])
        self._shards.discard()
        waiting = len(self.waiting())
        return Outcome(columns.height, n_captions, n_edited, len(problems), waiting, tokens_in, tokens_out)

    def discard_if_empty(self) -> None:
        """Remove the work folder if no answer was saved in it."""
        if not self._sealed:
            self._shards.discard()

    def _collect(self) -> tuple[pl.DataFrame, list[Problem], int, int]:
        """Turn the saved answers into captions.

        Returns:
            A table of `item` and the new caption columns, the problems in item order, and the numbers of input and
            output tokens of all answers.
        """
        plan, table = self.survey, self._table
        new: list[tuple[int, str, str, str, str]] = []
        for row in plan.reset:
            machine, attributes, key = (table[name][row] for name in (MACHINE, ATTRIBUTES, KEY))
            new.append((row, machine, attributes, machine, key))
        problems = [(*problem, "") for problem in plan.unreadable]
        tokens_in = tokens_out = 0
        for key, image in plan.wanted.items():
            if key in self._failed:
                problems += [(row, image.path.name, self._failed[key], "") for row in image.rows]
            if key not in self._sealed:
                continue
            facts = self._shards.facts(self._sealed[key])
            tokens_in += facts["tokens_in"] or 0
            tokens_out += facts["tokens_out"] or 0
            text = facts["text"] or ""
            if values := read_answer(text, list(self._attributes)):
                caption = caption_of(values)
                new += [(row, caption, json.dumps(values, ensure_ascii=False), caption, key) for row in image.rows]
            else:
                problems += [(row, image.path.name, facts["problem"] or UNUSABLE, text) for row in image.rows]
        rows = pl.DataFrame(sorted(new), schema={"row": pl.Int64} | dict.fromkeys(COLUMNS, pl.String), orient="row")
        columns = rows.select(table[ITEM].gather(rows["row"]), *COLUMNS)
        return columns, sorted(problems), tokens_in, tokens_out

    def _record(self, entry: Mapping[str, Any], problems: Sequence[Problem], ids: pl.Series) -> None:
        """Record `entry` in the manifest, and the problems in `captions.problems.csv`, if one of them has changed.

        Without problems, this file is removed.
        """
        manifest = read_manifest(self.folder)
        files: dict[str, Path] = {}
        path = self.folder / f".{PROBLEMS}"
        try:
            if problems:
                with write_errors(self.folder), path.open("w", encoding="utf-8", newline="") as file:
                    writer = csv.writer(file, lineterminator="\n")
                    writer.writerow([ITEM, "image", "problem", "answer"])
                    writer.writerows((ids[row], *rest) for row, *rest in problems)
                files[PROBLEMS] = path
            recorded = manifest["files"].get(PROBLEMS)
            if manifest["info"].get(INFO) != entry or recorded != (file_entry(path) if files else None):
                removed = () if files else (PROBLEMS,)
                commit(self.folder, files, lambda now: {"info": {**now["info"], INFO: dict(entry)}}, gone=removed)
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, key: str, answer: Answer) -> None:
        text = None if answer.text is None else clean(answer.text, keep_lines=True)
        if answer.is_image_problem or answer.passing:  # the next run tries again
            self._failed[key] = answer.problem or UNUSABLE
        else:
            index = self.survey.wanted[key].rows[0]
            facts: dict[str, Any] = {"key": key, "text": text, "problem": answer.problem}
            facts |= {"tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out}
            self._shards.seal(index, {}, facts)
            self._sealed[key] = index
        if answer.is_image_problem:
            return
        self._n_unusable = 0 if text and read_answer(text, list(self._attributes)) else self._n_unusable + 1
        if self._n_unusable >= TOO_MANY:
            last = answer.problem or f"{UNUSABLE}: {' '.join((text or '').split())[:120]!r}"
            raise TrainingError(
                f"{self.captioner.model}: {TOO_MANY} images in a row got no usable answer (the last of them: {last});"
                " finished captions are kept: fix the cause, then run the same command again to continue"
            )
