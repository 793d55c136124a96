"""The best items of every user, in a file: memory stays bounded, and a kill at any moment costs one shard of users."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from lirdrec.data.ids import as_list, known_rows
from lirdrec.data.schema import USER
from lirdrec.errors import ConfigError
from lirdrec.files.atomic import flush, is_leftover, write_errors
from lirdrec.files.locks import LOCK, folder_lock
from lirdrec.files.manifest import refuse_inside
from lirdrec.files.progress import progress_bar
from lirdrec.files.shards import PLAN, Shards
from lirdrec.files.table_writer import ENDINGS, table_writer
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.top_k import rank_users
from lirdrec.recommender.queries import long_frame
from lirdrec.recommender.recommender import Recommender

SHARD_USERS = 4096


@dataclass(frozen=True)
class BatchResult:
    """What was written.

    Attributes:
        rows: of the file.
        users: how many were ranked in this call.
        resumed: how many an earlier call had ranked already.
        seconds: that the ranking took in this call.
    """

    rows: int
    users: int
    resumed: int
    seconds: float


def recommend_all(
    recommender: Recommender,
    output: str | Path,
    k: int = 10,
    *,
    exclude_seen: bool = True,
    candidates: Any = None,
    restart: bool = False,
    progress: bool = False,
    shard_users: int = SHARD_USERS,
    csv_safe: bool = False,
) -> BatchResult:
    """Write the k best items of every user, in the order of the users, as columns user, item, rank, score.

    The users are cut into shards. What a shard found is sealed in the folder `OUTPUT.parts`; when all are, the file
    is written from them, shard by shard (a row group each, in Parquet), appears by a rename, and the folder goes.
    Stopped at any moment, the same call goes on where it was, and the file has the bytes of a call that was never
    stopped (with the same number of threads: with another one, the last digit of a score may differ).

    Args:
        recommender: a run, slim only where `exclude_seen` is off.
        output: .parquet, .csv, .tsv or .json; a file of this name is replaced when the new one is whole.
        k, exclude_seen, candidates: as in `Recommender.recommend`.
        restart: forget unfinished work.
        progress: show a bar on the error stream.
        shard_users: users of a shard.
        csv_safe: in .csv and .tsv, an apostrophe before ids that spreadsheets would take for formulas.

    Raises:
        ConfigError: an ending of no known format, a bad k, unfinished work of other settings or of another run.
        UnknownIdError: an unknown candidate.
        CapabilityError: a slim run cannot leave out seen items.
        RunFolderError: another process writes this file, it would lie in a run, or it cannot be written.
    """
    output = Path(output)
    ending = output.suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"{output}: choose a name that ends in {', '.join(ENDINGS)}")
    refuse_inside(output)
    users = recommender.users.series
    # one user first: whatever cannot be done is told before anything is written
    recommender.recommend(users[:1], k, exclude_seen=exclude_seen, candidates=candidates)
    chosen = None if candidates is None else np.unique(known_rows(as_list(candidates), recommender.items))
    plan = {
        "run": _identity(recommender, exclude_seen),
        "k": k,
        "exclude_seen": exclude_seen,
        "candidates": None if chosen is None else hashlib.sha256(chosen.tobytes()).hexdigest(),
    }
    with folder_lock(output.with_name(output.name + ".parts"), lambda who: f"{output}: is being written{who}") as parts:
        _refuse_strange(parts)
        if restart:
            for path in sorted(parts.iterdir(), key=lambda path: path.name == PLAN):  # the plan last: see below
                if path.name != LOCK:
                    path.unlink()
        shards = Shards(parts, plan, len(users), shard_users)
        started, pending = time.perf_counter(), shards.pending()
        resumed = len(users) - sum(len(shards.rows(index)) for index in pending)
        with progress_bar(output.name, len(users), resumed, progress, unit="users") as advance:
            for index in pending:
                scores, items = [], []
                for block in _ranked(recommender, shards.rows(index), k, exclude_seen, chosen):
                    scores.append(block[0])
                    items.append(block[1])
                    advance(len(block[0]))
                shards.seal(index, {"scores": np.concatenate(scores), "items": np.concatenate(items)}, {})
        seconds = time.perf_counter() - started
        rows = _join(recommender, shards, output, ending, csv_safe)
        shards.discard()
    return BatchResult(rows, len(users) - resumed, resumed, seconds)


def _ranked(
    recommender: Recommender, rows: range, k: int, exclude_seen: bool, chosen: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of scores and item rows `(b, k)`."""
    device, train = recommender.device, recommender.train
    seen = None
    if exclude_seen and train is not None:
        here = (train.users >= rows.start) & (train.users < rows.stop)
        pairs = torch.tensor(train.users[here]), torch.tensor(train.items[here])
        seen = Histories(*pairs, recommender.n_users).to(device)
    candidates = None if chosen is None else torch.tensor(chosen, device=device)
    asked = torch.arange(rows.start, rows.stop, device=device)
    for _, scores, items in rank_users(recommender.scorer, asked, k, seen=seen, candidates=candidates):
        yield scores.cpu().numpy(), items.to(torch.int32).cpu().numpy()


def _join(recommender: Recommender, shards: Shards, output: Path, ending: str, csv_safe: bool) -> int:
    users, n_rows = recommender.users.series, 0

    def frame(rows: range, items: np.ndarray, scores: np.ndarray) -> pl.DataFrame:
        return long_frame(USER, users[rows.start : rows.stop], items, scores, recommender.items)

    nothing = frame(range(0), np.empty((0, 1), np.int32), np.empty((0, 1)))
    whole = shards.folder / "whole"  # not beside the output, where a kill would leave it for ever
    try:
        with write_errors(output):
            with table_writer(whole, ending, nothing, csv_safe) as write:
                for index in range(len(shards)):
                    found = shards.read(index).arrays
                    part = frame(shards.rows(index), found["items"], found["scores"])
                    n_rows += part.height
                    write(part)
            flush(whole)
            os.replace(whole, output)
            flush(output.absolute().parent)
    finally:
        whole.unlink(missing_ok=True)
    return n_rows


def _identity(recommender: Recommender, exclude_seen: bool) -> str:
    """A hash of all in a run that decides its recommendations."""
    digest = hashlib.sha256()
    for name, tensor in sorted(recommender.scorer.tensors().items()):
        if not name.startswith("memory."):  # of no use but to growing
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data)
    for known in (recommender.users, recommender.items):
        digest.update("\n".join(map(str, known.series)).encode())
    if exclude_seen and recommender.train is not None:
        for rows in (recommender.train.users, recommender.train.items):
            digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()


def _refuse_strange(parts: Path) -> None:
    """Keep someone else's folder: at the end, this one is removed with all that it holds."""
    if not (parts / PLAN).is_file() and any(path.name != LOCK and not is_leftover(path) for path in parts.iterdir()):
        raise ConfigError(f"{parts}: holds something else, and parts of the file would go there; choose another name")
