"""Export of captions to a CSV file for editing, and import of the edited file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from lirdrec.captions.answer_parser import clean
from lirdrec.captions.captioner import CAPTION, MACHINE, read_columns
from lirdrec.data.column_names import ITEM
from lirdrec.data.table_files import read_table
from lirdrec.data.transaction import recover
from lirdrec.errors import DataError
from lirdrec.features.dataset_writer import set_item_columns
from lirdrec.features.sources import IMAGE, ItemRows
from lirdrec.files.atomic import atomic_write
from lirdrec.files.manifest import check_not_inside_folder
from lirdrec.wording import pluralize


def export_captions(folder: str | Path, path: str | Path) -> int:
    """Write the captions of a dataset to a CSV file, one row for each item, and return the number of rows.

    The columns are `item`, the title and the image path if the dataset has them, `caption` and `caption_machine` (the
    generated caption). Items without a caption have empty cells.

    Raises:
        DataError: the dataset has no captions yet.
        RunFolderError: the folder is not a prepared dataset, or the file cannot be written.
    """
    check_not_inside_folder(path)
    recover(folder)
    rows = ItemRows(folder)
    if CAPTION not in rows.schema:
        raise DataError(
            f"{folder} has no captions of its {pluralize(len(rows), 'item')} yet; make them with lirdrec caption"
        )
    shown = [name for name in ("title", "name", IMAGE) if name in rows.schema]
    table = rows.read(0, len(rows), (ITEM, *shown)).with_columns(read_columns(rows).select(CAPTION, MACHINE))
    with atomic_write(path) as temporary:
        table.write_csv(temporary)
    return table.height


def import_captions(folder: str | Path, path: str | Path) -> int:
    """Import a CSV, TSV or Parquet file with the columns `item` and `caption`; return the number of changed captions.

    Changed captions count as edited by a person, also for items that had no caption before. Items that the file lacks
    keep their captions. An empty cell deletes a caption, and the model does not make a new one.

    Raises:
        DataError: the file cannot be read, lacks a column, or has an unknown or repeated item; then nothing changes.
        RunFolderError: the folder is not a prepared dataset, or cannot be written.
    """
    recover(folder)
    rows = ItemRows(folder)
    table = read_table(path)
    table.require_columns([ITEM, CAPTION])
    old = read_columns(rows)
    ids = table.frame[ITEM].cast(old[ITEM].dtype, strict=False)
    if (bad := ids.is_null() | ~ids.is_in(old[ITEM].implode()).fill_null(False)).any():
        raise DataError(
            f"{path}, {table.first_bad_row(bad)}: no item of {folder} has the id {table.frame[ITEM].filter(bad)[0]!r};"
            " nothing was imported; correct this id"
        )
    if (bad := ids.is_duplicated() & ~ids.is_first_distinct()).any():
        raise DataError(
            f"{path}, {table.first_bad_row(bad)}: the item {ids.filter(bad)[0]} occurs twice; nothing was imported;"
            " keep one of its rows"
        )
    captions = [clean(text or "", keep_lines=True) for text in table.frame[CAPTION].cast(pl.String)]
    new = pl.DataFrame({ITEM: ids, CAPTION: captions})
    before = new.select(ITEM).join(old, on=ITEM, how="left", maintain_order="left")[CAPTION].fill_null("")
    new = new.filter(new[CAPTION] != before)
    if new.height:
        set_item_columns(folder, new)
    return new.height
