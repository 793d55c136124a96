"""`lirdrec add-items | strip`: change a run folder, or write a smaller one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.cli.output import (
    print_line,
)
from lirdrec.cli.prepare import named_file
from lirdrec.cli.query import load_run
from lirdrec.cli.shared_options import (
    DeviceOption,
    EncodingOption,
    FeatureFilesOption,
    FolderOption,
    RunArgument,
    SeparatorOption,
    option,
)
from lirdrec.errors import LirdrecError
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.data.ids import IdMap
    from lirdrec.recommender.recommender import Recommender


def add_items(
    run: RunArgument,
    items: Path = option(..., "File with a table of the new items (CSV, Parquet, JSON …)."),
    features: FeatureFilesOption = None,
    item: str | None = option(None, "Column of the item ids (default: as in prepare, or item)."),
    separator: SeparatorOption = None,
    encoding: EncodingOption = None,
    images: Path | None = option(None, "Folder of the images in the table (default: the table's folder)."),
    device: DeviceOption = "cpu",
    save_as: Path | None = option(None, "Write a new run folder (default: update RUN)."),
) -> None:
    """Add items to a trained run, without retraining.

    \b
      lirdrec add-items runs/demo --items new.csv
      lirdrec add-items runs/demo --items new.csv --features text=new_text.npy

    In the table, the columns of ids and titles have the same names as in the files that were given to prepare (--item,
    --items-id, --title). Features that --features does not give are encoded from the columns of the table (title,
    description, image …), if the dataset of the run records its encoders.

    Later, lirdrec recommend has two options for these items: --new-items says how they compete with other items, and
    --candidates ranks only the items that it names.
    """
    from contextlib import nullcontext

    from lirdrec.data.column_names import ITEM
    from lirdrec.recommender.run_folder import is_run, run_lock

    # locked from reading until writing: otherwise items that another process adds meanwhile would be lost
    with run_lock(run) if save_as is None and is_run(run) else nullcontext():
        recommender = load_run(run, "cpu")
        layout = {"separator": separator, "encoding": encoding}
        names = _named_columns(recommender) | ({} if item is None else {ITEM: item})
        frame = _read_items(items, names, recommender.items, recommender.item_table, layout, item is not None)
        given: dict[str, Any] = dict(map(named_file, features or []))
        given |= _encoded(recommender, frame, given, images or items.parent, device)
        recommender.add_items(frame, given)
        target = recommender.save(save_as or run, overwrite=save_as is None)
    print_line(f"{pluralize(frame.height, 'item')} added; {target} now has {recommender.n_items:,}")


def _encoded(
    recommender: Recommender, frame: pl.DataFrame, given: dict[str, Any], images: Path, device: str
) -> dict[str, Any]:
    """Encode the features of new items that are not in `given`, with the encoders that the run's dataset records.

    Returns:
        Name → features. Features that cannot be encoded are left out, and a message says why.
    """
    from lirdrec.devices import resolve_device
    from lirdrec.features.new_items import encode_items
    from lirdrec.recommender.new_item_checks import new_table

    store = recommender.features
    if store is None or store.trained is None or store.folder is None:
        return {}
    names = [name for name in store.trained if name not in given]
    complete = new_table(frame, recommender.items, recommender.item_table)  # with the types of the run's table
    found = encode_items(store.folder, names, complete, images, str(resolve_device(device)))
    if found.features:
        print_line(f"Encoded: {', '.join(found.features)}")
    for name, reason in found.reasons.items():
        print_line(f"The features '{name}' are left out: {reason}", "yellow", errors=True)
    return dict(found.features)


def strip(run: RunArgument, output: FolderOption) -> None:
    """Write a small run of vectors and ids only, which can recommend and find similar items, and nothing else.

    \b
      lirdrec strip runs/demo --output runs/demo-small
    """
    load_run(run, "cpu").slim(output)
    print_line(
        f"{output} has only vectors and ids: it cannot leave out seen items, add items, serve new users or explain"
    )


def _named_columns(recommender: Recommender) -> dict[str, str]:
    """Return "item" or "title" → the name of this column in the files that `prepare` read; empty if not recorded."""
    from lirdrec.data.storage import read_manifest

    store = recommender.features
    if store is None or store.folder is None:
        return {}
    try:
        names = read_manifest(store.folder)["info"].get("columns", {})
    except LirdrecError:  # the dataset has moved
        return {}
    return {usual: str(name) for usual, name in names.items()} if isinstance(names, dict) else {}


def _read_items(
    path: Path,
    names: dict[str, str],
    id_map: IdMap,
    table: pl.DataFrame,
    layout: dict[str, str | None],
    is_given: bool,
) -> pl.DataFrame:
    """Read the table of new items; its ids and columns get the names and types that the run has.

    Args:
        path: the file.
        names: "item" or "title" → name of this column in the file, if it has another name.
        id_map: the item ids of the run.
        table: the item table of the run.
        layout: separator and encoding of the file; None: detected.
        is_given: whether the user gave the name of the column of ids. If not, and the file has no column of the name in
            `names`, the column `item` is read.
    """
    import polars as pl

    from lirdrec.data.alignment import same_type
    from lirdrec.data.column_names import ITEM, TITLE, unused_name
    from lirdrec.data.delimited import typed
    from lirdrec.data.raw_ids import read_ids
    from lirdrec.data.table_files import read_table

    layout = {key: value for key, value in layout.items() if value is not None}
    read = read_table(path, **layout)  # a text file gives strings; the run's item table decides about their types
    column, columns = names.get(ITEM, ITEM), read.frame.columns
    if column not in columns and ITEM in columns and not is_given:
        column = ITEM
    read.require_columns([column])
    location = f"{path}, column '{column}'"
    item_ids = read_ids(read.frame[column], location, "item", read.row_location)
    kind = pl.Int64() if id_map.is_integer else pl.String()
    rest = read.frame.drop(*{column, ITEM}, strict=False)
    if (title := names.get(TITLE)) in rest.columns:  # renamed as in the preparation
        taken = {TITLE: unused_name(TITLE, rest.columns)} if TITLE in rest.columns else {}
        rest = rest.rename({**taken, str(title): TITLE})
    if read.decimal_comma:
        numbers = [name for name in rest.columns if name in table.columns and table.schema[name].is_float()]
        rest = rest.with_columns(pl.col(numbers).str.replace(",", ".", literal=True))
    if read.text:
        rest = rest.with_columns(typed(rest[name]) for name in rest.columns if name not in table.columns)
    return rest.with_columns(same_type(item_ids, kind, location).alias(ITEM))
