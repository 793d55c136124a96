"""Download the images of a catalog, whose addresses are in a column, into a folder that `lirdrec features` reads."""

from __future__ import annotations

import csv
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import polars as pl

from lirdrec.data.column_names import ITEM
from lirdrec.data.ids import describe_ids
from lirdrec.data.images import SUFFIXES
from lirdrec.data.table_files import read_table
from lirdrec.download.connection import DownloadError, Network, get, tries
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.images import HEAD_BYTES, ImageError, image_suffix
from lirdrec.features.sources import ItemRows
from lirdrec.files.atomic import atomic_write, write_errors
from lirdrec.files.locks import folder_lock
from lirdrec.files.manifest import MANIFEST
from lirdrec.files.progress_bars import progress_bar
from lirdrec.option_names import option_name
from lirdrec.wording import pluralize

log = logging.getLogger(__name__)

PROBLEMS = "problems.csv"  # file in the folder, with the columns item, url and problem
COLUMN = "image_url"
SECONDS = 120.0  # time limit of one image
MAX_BYTES = 32 * 2**20
TRIES = 4
_LONGEST_NAME = 240  # bytes of a file name


@dataclass(frozen=True)
class ImagesResult:
    """What was downloaded.

    Attributes:
        folder: the folder of the images.
        fetched: number of images that were downloaded now.
        existing: number of images that were there before.
        missing: number of items without an address.
        problems: item, address and reason of each image that failed, as in `problems.csv` of the folder.
    """

    folder: Path
    fetched: int = 0
    existing: int = 0
    missing: int = 0
    problems: list[tuple[str, str, str]] = field(default_factory=list)


def download_images(
    source: str | Path,
    folder: str | Path,
    *,
    column: str = COLUMN,
    item: str = ITEM,
    concurrency: int = 8,
    max_bytes: int = MAX_BYTES,
    network: Network | None = None,
    progress: bool = False,
) -> ImagesResult:
    """Download one image for each item into the file `folder/ITEM.jpg` (or .png …, depending on the content).

    Items that have an image in the folder are left out, so the same call resumes, and tries failed images again. An
    image that cannot be downloaded raises no error: the result and `problems.csv` in the folder list it. A file appears
    when it is complete. Only public addresses are opened (see `connection`).

    Args:
        source: a table (CSV, JSON, Parquet …) or a prepared dataset.
        folder: folder for the images; it may exist.
        column: column of the table that has the addresses.
        item: column of the table that has the item ids; in a prepared dataset it is `item`.
        concurrency: number of images that are downloaded at once.
        max_bytes: largest size of an image.
        network: how hosts are reached.
        progress: show a progress bar on the error stream.

    Raises:
        ConfigError: a number is out of range.
        DataError: the table cannot be read, or lacks a column.
        RunFolderError: the folder cannot be written, or another process downloads to it.
    """
    if not 1 <= concurrency <= 256:
        raise ConfigError(f"{option_name('concurrency')} is {concurrency}; it must be from 1 to 256")
    if max_bytes < 1:
        raise ConfigError(f"the largest size of an image is {max_bytes} bytes; it must be 1 or more")
    table = _addresses(Path(source), item, column)
    folder, network = Path(folder), network or Network()
    with folder_lock(folder, lambda owner: f"{folder}: another process{owner} downloads to it; wait until it ends"):
        there = {path.stem for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
        asked = [(name, url) for name, url in table if url]
        wanted = [(name, url) for name, url in asked if name not in there]
        problems: list[tuple[str, str, str]] = []
        fetch = partial(_fetch, folder=folder, max_bytes=max_bytes, network=network)
        with progress_bar("images", len(asked), len(asked) - len(wanted), progress, unit="images") as advance:
            for name, url, problem in _in_threads(fetch, wanted, concurrency):
                advance(1)
                if problem is not None:
                    problems.append((name, url, problem))
        order = {name: index for index, (name, _) in enumerate(wanted)}
        problems.sort(key=lambda problem: order[problem[0]])
        _write_problems(folder / PROBLEMS, problems)
    counts = (len(wanted) - len(problems), len(asked) - len(wanted), len(table) - len(asked))
    return ImagesResult(folder, *counts, problems)


def _addresses(source: Path, item: str, column: str) -> list[tuple[str, str]]:
    """Read the id and the address of each item, once per item; the address is empty if there is none."""
    if source.is_dir() and (source / MANIFEST).is_file():
        rows = ItemRows(source)
        rows.need(column)
        frame = rows.read(0, len(rows), (ITEM, column)).rename({ITEM: item})
    else:
        frame = read_table(source).frame
        for name in (item, column):
            if name not in frame.columns:
                option = option_name("item" if name == item else "column")
                raise DataError(f"{source} has no column '{name}', only {', '.join(frame.columns)} ({option})")
    values = frame[column]
    if isinstance(values.dtype, pl.List):
        values = values.list.first()
    if values.dtype not in (pl.String, pl.Null):
        raise DataError(f"{source}: column '{column}' holds {values.dtype}, not addresses")
    pairs = pl.DataFrame({"item": frame[item].cast(pl.String), "url": values.cast(pl.String).str.strip_chars()})
    pairs = pairs.filter(pl.col("item").is_not_null()).with_columns(pl.col("url").fill_null(""))
    twice = pairs.filter(pl.col("item").is_duplicated())["item"].unique(maintain_order=True)
    if len(twice):
        log.warning(
            "%s: %s items with several rows: %s; the first address of each is used",
            source,
            len(twice),
            describe_ids(twice),
        )
        pairs = pairs.sort(pl.col("url") == "", maintain_order=True).unique("item", keep="first", maintain_order=True)
    return list(pairs.iter_rows())


def _in_threads(
    fetch: partial[str | None], wanted: list[tuple[str, str]], concurrency: int
) -> Iterator[tuple[str, str, str | None]]:
    """Call `fetch(item, url)` in threads; when a call ends, yield its item, its url, and the problem or None."""
    rest = iter(wanted)
    stop = threading.Event()
    with ThreadPoolExecutor(concurrency) as pool:
        running: dict[Future[str | None], tuple[str, str]] = {}
        try:
            while True:
                while len(running) < 2 * concurrency and (pair := next(rest, None)) is not None:
                    running[pool.submit(fetch, *pair, stop=stop)] = pair
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name, url = running.pop(future)
                    yield name, url, future.result()
        finally:
            stop.set()  # after Ctrl+C or a full disk: running downloads end at their next block
            for future in running:
                future.cancel()


def _fetch(name: str, url: str, folder: Path, max_bytes: int, network: Network, stop: threading.Event) -> str | None:
    """Download one image into the folder; return the problem in words, or None if there is none."""
    if (fault := _bad_name(name)) is not None:
        return fault
    try:
        content = tries(TRIES, network, partial(_load, url, max_bytes, network, stop))
        suffix = image_suffix(content[:HEAD_BYTES])
    except (DownloadError, ImageError) as error:
        return str(error)
    if suffix not in SUFFIXES:
        return f"is an image of the kind {suffix}, which is not used here"
    with atomic_write(folder / f"{name}{suffix}") as temporary:
        temporary.write_bytes(content)
    return None


def _load(url: str, max_bytes: int, network: Network, stop: threading.Event) -> bytes:
    with get(url, {"Accept": "image/*"}, network, SECONDS) as response:
        if response.status != 200:
            raise DownloadError(f"{url}: the server answers {response.status} without being asked for a part")
        if response.n_bytes is not None and response.n_bytes > max_bytes:
            raise DownloadError(f"{url}: {response.n_bytes:,} bytes are too many (the limit is {max_bytes:,})")
        content = bytearray()
        for block in response.blocks():
            if not content and len(block) >= HEAD_BYTES:
                image_suffix(block[:HEAD_BYTES])  # raises at once if the content is not an image
            content += block
            if len(content) > max_bytes:
                raise DownloadError(f"{url} is larger than the limit of {max_bytes:,} bytes")
            if stop.is_set():
                raise DownloadError(f"{url} was not finished")
        return bytes(content)


def _bad_name(name: str) -> str | None:
    usable = name.isprintable() and not set(name) & set('/\\:*?"<>|') and not name.startswith(".")
    if not usable or not name.strip() or len(name.encode()) > _LONGEST_NAME:
        return "this item id cannot be the name of a file"
    return None


def _write_problems(path: Path, problems: list[tuple[str, str, str]]) -> None:
    if not problems:
        with write_errors(path):
            path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("item", "url", "problem"))
        writer.writerows(problems)


def describe(result: ImagesResult) -> str:
    """Return one sentence about what was downloaded."""
    parts = [f"{pluralize(result.fetched, 'image')} downloaded to {result.folder}"]
    if result.existing:
        parts.append(f"{result.existing:,} were there already")
    if result.missing:
        parts.append(f"{pluralize(result.missing, 'item')} without an address")
    if result.problems:
        parts.append(f"{pluralize(len(result.problems), 'problem')} in {result.folder / PROBLEMS}")
    return "; ".join(parts)
