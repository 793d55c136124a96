"""Captions for a prepared dataset: each answer is saved on arrival; the last step writes item columns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lirdrec.captions.answer_parser import clean, read_answer
from lirdrec.captions.captioner import CAPTION, Answer, Captioner, captioned, edited, read_columns
from lirdrec.captions.item_columns import UNUSABLE, note, results
from lirdrec.captions.plan import make_plan
from lirdrec.captions.prompt import Attributes
from lirdrec.data.schema import ITEM
from lirdrec.data.transaction import dataset_lock, recover
from lirdrec.errors import TrainingError
from lirdrec.features.dataset_writer import set_item_columns
from lirdrec.features.sources import IMAGE, ImageSource, ItemRows
from lirdrec.files.locks import folder_lock
from lirdrec.files.shards import Shards, forget

WORK = Path("work", "caption")
TOO_MANY = 16  # unusable answers in a row after which the run stops


@dataclass(frozen=True)
class Outcome:
    """Counts of a captioning run.

    Attributes:
        written: items that got a new caption.
        captions: items that have one now.
        edited: items whose caption was edited by a person.
        problems: items whose caption failed; `captions.problems.csv` gives the reasons.
        waiting: images that have no answer yet.
        tokens_in, tokens_out: of all answers, as far as the model reports them.
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
    """Open the captioning of a dataset for this process alone. What was sealed is there again the next time.

    Args:
        folder: a prepared dataset.
        captioner: who describes the pictures.
        attributes: what its prompt asks for.
        column: of the item table, with the path of each item's picture.
        images: the folder that the paths start from; by default the one that `lirdrec prepare` noted.
        restart: forget unfinished work, of whatever captioner.
        overwrite_edited: replace captions that people wrote or changed, too.

    Raises:
        RunFolderError: no prepared dataset, or another process is at it.
        ConfigError: there is unfinished work of another captioner, or the captioner cannot be used.
        DataError: the pictures are not there.
    """
    folder = Path(folder)
    recover(folder)
    source = ImageSource(folder, column, images)
    with folder_lock(folder / WORK, lambda who: f"{folder}: is being captioned already{who}; wait for it", tidy=True):
        job = Captioning(folder, captioner, attributes, source, restart, overwrite_edited)
        try:
            yield job
        finally:
            job.tidy()
    with contextlib.suppress(OSError):  # other work may lie there
        (folder / WORK).parent.rmdir()


class Captioning:
    """The captions of one dataset by one captioner; opened by `captioning`.

    Attributes:
        survey: what was to be done at the beginning.
        captioner: who does it.
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
        self._attributes, self._names = attributes, list(attributes.attributes)
        self._table = read_columns(source.rows)
        identity = captioner.identity
        self.survey = make_plan(source, self._table, identity, overwrite_edited)
        if restart:
            forget(folder / WORK)
        # one shard an item, so that no answer is ever lost or paid twice
        self._shards = Shards(folder / WORK, {"captions": dict(identity)}, len(source), shard_rows=1)
        pending = set(self._shards.pending())
        facts = ((index, self._shards.facts(index)) for index in range(len(self._shards)) if index not in pending)
        self._sealed = {str(one.get("key")): index for index, one in facts}
        self._failed: dict[str, str] = {}
        self._useless = 0

    def waiting(self) -> list[str]:
        """Keys of the images that have no answer yet."""
        return self.survey.waiting({**self._sealed, **self._failed})

    def work(self, limit: int | None = None, on_answer: Callable[[Answer], None] = lambda answer: None) -> None:
        """Ask the model for the missing captions; each answer is saved when it arrives.

        Args:
            limit: maximum number of images.
            on_answer: gets each answer.

        Raises:
            TrainingError: the server cannot be reached, or too many answers in a row were unusable. Saved answers
                are kept.
        """
        keys = self.waiting()[:limit]
        for place, answer in self.captioner.answers([self.survey.wanted[key].path for key in keys]):
            on_answer(answer)
            self._keep(keys[place], answer)

    def finish(self) -> Outcome:
        """Write the captions into the item table and remove the unfinished work.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        made = results(self.survey, self._table, self._facts, self._failed, self._names)
        with dataset_lock(self.folder):
            now = read_columns(ItemRows(self.folder))
            # a caption that a person changed while the model was asked stays
            changed = now.filter(now[CAPTION].fill_null("") != self._table[CAPTION].fill_null(""))[ITEM]
            columns = made.columns.filter(~made.columns[ITEM].is_in(changed.implode()))
            if columns.height:
                set_item_columns(self.folder, columns)
        table = read_columns(ItemRows(self.folder))
        counts = (int(captioned(table).sum()), int(edited(table).sum()), len(made.problems))
        entry = {
            "model": self.captioner.model,
            **self.captioner.identity,
            "attributes": dict(self._attributes.attributes),
            **dict(zip(("captions", "edited", "problems"), counts, strict=True)),
        }
        note(self.folder, entry, made.problems, table[ITEM])
        left = len(self.waiting())
        self._shards.discard()
        return Outcome(made.columns.height, *counts, left, made.tokens_in, made.tokens_out)

    def tidy(self) -> None:
        """Leave no folder behind where nothing is kept in it."""
        if not self._sealed:
            self._shards.discard()

    def _facts(self, key: str) -> dict[str, Any] | None:
        return self._shards.facts(self._sealed[key]) if key in self._sealed else None

    def _keep(self, key: str, answer: Answer) -> None:
        text = None if answer.text is None else clean(answer.text, keep_lines=True)
        if answer.picture or answer.passing:  # to be tried again by the next run
            self._failed[key] = answer.problem or UNUSABLE
        else:
            index = self.survey.wanted[key].rows[0]
            facts: dict[str, Any] = {"key": key, "text": text, "problem": answer.problem}
            facts |= {"tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out}
            self._shards.seal(index, {}, facts)
            self._sealed[key] = index
        if answer.picture:
            return
        self._useless = 0 if text and read_answer(text, self._names) else self._useless + 1
        if self._useless >= TOO_MANY:
            last = answer.problem or f"{UNUSABLE}: {' '.join((text or '').split())[:120]!r}"
            raise TrainingError(
                f"{self.captioner.model}: {TOO_MANY} pictures in a row without a caption, the last one because {last};"
                " finished captions are kept: fix the cause, then run the same command again to continue"
            )
