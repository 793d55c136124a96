"""Write the best items of every user to a file, in bounded memory.

Users are ranked in shards (ranges of users). A call that was interrupted resumes with the first unfinished shard.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.column_names import USER
from lirdrec.data.ids import as_list, known_rows
from lirdrec.errors import ConfigError
from lirdrec.files.atomic import flush, is_leftover, write_errors
from lirdrec.files.locks import LOCK, folder_lock
from lirdrec.files.manifest import check_not_inside_folder
from lirdrec.files.progress_bars import progress_bar
from lirdrec.files.shards import PLAN, Shards
from lirdrec.files.table_writer import ENDINGS, table_writer
from lirdrec.recommender.new_item_encoder import NewItemPolicy
from lirdrec.recommender.query_arguments import long_frame
from lirdrec.recommender.ranking_for_workers import UserRanking
from lirdrec.recommender.ray_ranking import rank_on_ray
from lirdrec.recommender.recommender import Recommender

SHARD_USERS = 4096


@dataclass(frozen=True)
class BatchResult:
    """The result of `recommend_all`.

    Attributes:
        rows: number of rows in the file.
        new_rows: number of rows of items that were added after the training.
        users: number of users ranked in this call.
        resumed: number of users that an earlier call had ranked already.
        seconds: time in seconds that the ranking took in this call.
    """

    rows: int
    new_rows: int
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
    new_items: Any = "calibrated",
    restart: bool = False,
    progress: bool = False,
    shard_users: int = SHARD_USERS,
    csv_safe: bool = False,
    ray: str | None = None,
) -> BatchResult:
    """Write the k best items of every user, in the order of the users, as columns user, item, rank, score.

    Finished shards of users are kept in the folder `OUTPUT.parts`. When all shards are finished, they are joined into
    the file (in Parquet one row group per shard), and the folder is removed. After an interruption the same call
    resumes; the file then has the same bytes as without the interruption, with the same number of threads.

    Args:
        recommender: any run; a slim run (vectors and ids only) needs `exclude_seen=False`.
        output: .parquet, .csv, .tsv or .json; an existing file is replaced when the new one is complete.
        k, exclude_seen, candidates, new_items: as in `Recommender.recommend`.
        restart: discard unfinished work of an earlier call.
        progress: show a bar on the error stream.
        shard_users: number of users in a shard.
        csv_safe: in .csv and .tsv, write an apostrophe before ids that a spreadsheet would read as formulas.
        ray: address of a Ray cluster that ranks the shards ("auto", "local", "HOST:PORT", "ray://HOST:PORT"); this
            process writes the file, which is the same if the machines compute alike. None: this process ranks.

    Raises:
        ConfigError: an unknown file ending, a bad k, `OUTPUT.parts` has unfinished work of another call or other files.
        UnknownIdError, CapabilityError: an unknown candidate; a slim run cannot leave out seen items.
        TrainingError: processes of the Ray cluster died again and again.
        RunFolderError: another process writes the file, or it would be in a run folder, or it cannot be written.
    """
    output = Path(output)
    if output.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{output}: choose a name that ends in {', '.join(ENDINGS)}")
    check_not_inside_folder(output)
    # one user first: all errors are raised before anything is written
    policy, options = NewItemPolicy.parse(new_items), {"exclude_seen": exclude_seen, "candidates": candidates}
    recommender.recommend(recommender.users.series[:1], k, new_items=policy, **options)
    rows = None if candidates is None else np.unique(known_rows(as_list(candidates), recommender.items))
    request = _Request(k, exclude_seen, rows, policy)
    with folder_lock(
        output.with_name(output.name + ".parts"), lambda who: f"{output}: another process{who} writes it; wait for it"
    ) as parts:
        _check_own_folder(parts)
        if restart:
            _discard(parts)
        shards = Shards(parts, _plan(recommender, request), recommender.n_users, shard_users)
        started = time.perf_counter()
        ranking = UserRanking.of(recommender, k, exclude_seen, rows, policy)
        resumed = _rank_shards(ranking, shards, output.name, progress, ray)
        seconds = time.perf_counter() - started
        n_rows, n_new = _join(recommender, shards, output, csv_safe)
        shards.discard()
    return BatchResult(n_rows, n_new, recommender.n_users - resumed, resumed, seconds)


@dataclass(frozen=True)
class _Request:
    """The options of a call of `recommend_all`; `candidates` are item rows, or None for all items."""

    k: int
    exclude_seen: bool
    candidates: np.ndarray | None
    policy: NewItemPolicy


def _plan(recommender: Recommender, request: _Request) -> dict[str, Any]:
    """Return the settings of the ranking; shards that an earlier call finished are used if it had the same settings."""
    chosen = request.candidates
    return {
        "run": _identity(recommender, request.exclude_seen),
        "k": request.k,
        "exclude_seen": request.exclude_seen,
        "candidates": None if chosen is None else hashlib.sha256(chosen.tobytes()).hexdigest(),
        "new_items": asdict(request.policy),
    }


def _rank_shards(ranking: UserRanking, shards: Shards, name: str, progress: bool, ray: str | None) -> int:
    """Rank the users of all unfinished shards; return the number of users in shards that were finished before."""
    n_users, pending = shards.n_rows, shards.pending()
    resumed = n_users - sum(len(shards.rows(index)) for index in pending)
    with progress_bar(name, n_users, resumed, progress, unit="users") as advance:
        if ray is None:
            for index in pending:
                shards.seal(index, ranking.shard(shards.rows(index), advance), {})
        elif pending:
            with closing(rank_on_ray(ray, ranking, map(shards.rows, pending))) as ranked:
                for rows, arrays in ranked:
                    shards.seal(rows.start // shards.shard_rows, arrays, {})
                    advance(len(rows))
    return resumed


def _join(recommender: Recommender, shards: Shards, output: Path, csv_safe: bool) -> tuple[int, int]:
    """Write the file from the finished shards; return the number of its rows, and the number of rows of new items."""
    users, n_rows, n_new = recommender.users.series, 0, 0

    def frame(rows: range, items: np.ndarray, scores: np.ndarray) -> pl.DataFrame:
        return long_frame(USER, users[rows.start : rows.stop], items, scores, recommender.items)

    empty = frame(range(0), np.empty((0, 1), np.int32), np.empty((0, 1)))
    merged = shards.folder / "whole"  # in this folder, so that it is removed after a kill
    try:
        with write_errors(output):
            with table_writer(merged, output.suffix.lower(), empty, csv_safe) as write:
                for index in range(len(shards)):
                    arrays = shards.read(index).arrays
                    rows = frame(shards.rows(index), arrays["items"], arrays["scores"])
                    n_rows += rows.height
                    n_new += int((arrays["items"] >= recommender.n_trained_items).sum())
                    write(rows)
            flush(merged)
            os.replace(merged, output)
            flush(output.absolute().parent)
    finally:
        merged.unlink(missing_ok=True)
    return n_rows, n_new


def _identity(recommender: Recommender, exclude_seen: bool) -> str:
    """Return a hash of everything in a run that determines its recommendations: scores, ids, and items to leave out."""
    digest = hashlib.sha256()
    for name, tensor in sorted(recommender.scorer.tensors().items()):
        if not name.startswith("memory."):  # used only to add items and users
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data)
    for ids in (recommender.users, recommender.items):
        digest.update("\n".join(map(str, ids.series)).encode())
    if exclude_seen and recommender.train is not None:
        for rows in (recommender.train.users, recommender.train.items):
            digest.update(np.ascontiguousarray(rows).tobytes())
        if recommender.dislikes is not None:
            for rows in (recommender.dislikes.users, recommender.dislikes.items):
                digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()


def _check_own_folder(parts: Path) -> None:
    """Check that the folder `parts` has no files that `recommend_all` did not write, since all its files are removed.

    Raises:
        ConfigError: the folder has other files.
    """
    if not (parts / PLAN).is_file() and any(path.name != LOCK and not is_leftover(path) for path in parts.iterdir()):
        raise ConfigError(
            f"{parts} has files that are not unfinished work on this output; choose another name for the output file"
        )


def _discard(parts: Path) -> None:
    """Remove the unfinished work in the folder `parts`.

    The plan is removed last, so that a kill leaves a folder that `_check_own_folder` accepts.
    """
    for path in sorted(parts.iterdir(), key=lambda path: path.name == PLAN):
        if path.name != LOCK:
            path.unlink()
