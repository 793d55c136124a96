"""`lirdrec prepare | inspect`: prepare a dataset from files, and show the contents of a dataset or a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lirdrec.cli.inspect_output import show_dataset, show_differences, show_run
from lirdrec.cli.option_groups import given, integer
from lirdrec.cli.output import console, print_json, print_line
from lirdrec.cli.shared_options import (
    DropOption,
    EncodingOption,
    FeatureFilesOption,
    FolderOption,
    JsonOption,
    OverwriteOption,
    SeparatorOption,
    option,
)
from lirdrec.errors import ConfigError
from lirdrec.option_names import flag
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.data.readers.detect import Kind

FEW_ITEMS = 20_000  # most items for which EASE is proposed: it inverts a matrix of all items, here 3 GB
PYTHON_ONLY = ("image_features", "info", "keep_all_items", "label", "titles")  # options that exist in Python only


@dataclass(frozen=True)
class ColumnOptions:
    """Columns and rows of the interactions"""

    user: str | None = option(None, "Column of user ids.")
    item: str | None = option(None, "Column of item ids.")
    rating: str | None = option(None, "Column of ratings.")
    min_rating: float | None = option(None, "Keep ratings of this value or more.")
    timestamp: str | None = option(None, "Column of times.")
    order: str | None = option(
        None, "file: without a column of times, the rows of each user are in order.", metavar="file"
    )
    time_format: str | None = option(None, "Format of times: '%d/%m/%Y %H:%M'.", metavar="FORMAT")
    weight: str | None = option(
        None, "Column of weights; repeated pairs are added up; 0 or less in total is a dislike.", metavar="COLUMN"
    )
    event: str | None = option(None, "Column of event kinds; needs --event-weights.", metavar="COLUMN")
    event_weights: str | None = option(
        None,
        "Weight of each kind of event: view=1,cart=3,buy=5; with 0, its rows are left out.",
        metavar="KIND=WEIGHT,…",
    )
    half_life: float | None = option(
        None,
        "Days in which a weight halves, counted back from the last interaction; needs --timestamp.",
        metavar="DAYS",
    )
    only: list[str] | None = option(
        None, "Keep rows with one of these values: event=transaction; may be repeated.", metavar="COLUMN=VALUE[,VALUE]"
    )
    string_ids: bool = option(False, "Keep ids as strings, also if all are integers.")


@dataclass(frozen=True)
class FileOptions:
    """Format of the files"""

    separator: SeparatorOption = None
    no_header: bool = option(False, "The first line has values, not column names; give --columns.")
    columns: str | None = option(None, "With --no-header: user,item,rating,timestamp …", metavar="NAME,…")
    items_columns: str | None = option(None, "Column names of --items without a header.", metavar="NAME,…")
    encoding: EncodingOption = None
    bad_rows: str | None = option(
        None,
        "Rows without an id, a rating or a time, or with a wrong number of values: stop, or leave them out.",
        metavar="error|skip",
    )
    skip_bad_lines: bool = option(False, "Amazon reviews: leave out lines that are not a record.")


@dataclass(frozen=True)
class ItemOptions:
    """Items and their features"""

    items: Path | None = option(None, "Table with a row per item: title, price, …")
    items_id: str | None = option(None, "Column of item ids in --items (default: --item).", metavar="COLUMN")
    title: str | None = option(None, "Column of titles in --items (default: title, name, titel …).", metavar="COLUMN")
    unknown_items: str | None = option(None, "Interactions of items that are not in --items: error, drop or keep.")
    features: FeatureFilesOption = None
    unknown_features: str | None = option(None, "Feature rows with an unknown item id: error or drop.")
    vectors: list[str] | None = option(
        None, "RecBole: a float_seq column to use as a feature matrix.", metavar="COLUMN"
    )
    images: Path | None = option(None, "Folder of images: ITEM.jpg, .png, …; see also --image-column.")
    image_column: str | None = option(None, "Column of the item table with the image's path.")
    metadata: Path | None = option(None, "Amazon reviews: file of the products.")
    drop: DropOption = False


@dataclass(frozen=True)
class SplitOptions:
    """Filtering and splitting"""

    k_core: int | None = option(None, "Keep users and items with K interactions or more.")
    split: str | None = option(
        None,
        "random, cold_items, temporal, global_time, global_time_last, leave_last_out, none, or a column of labels.",
    )
    held_out: float | None = option(None, "Share of the data that validation and test get together.")
    seed: int | None = option(None, "Seed of the split.")
    train: Path | None = option(None, "Instead of SOURCE: training data of a given split.", metavar="FILE")
    validation: Path | None = option(None, "Validation data, with --train.", metavar="FILE")
    test: Path | None = option(None, "Test data, with --train.", metavar="FILE")


def prepare(
    output: FolderOption,
    columns: ColumnOptions,
    files: FileOptions,
    items: ItemOptions,
    split: SplitOptions,
    source: list[Path] | None = typer.Argument(
        None,
        metavar="SOURCE",
        help="A table: a file (CSV, Parquet, JSON lines …), several files, a folder of parts, or a pattern in"
        " quotes; a sparse matrix (.npz); or a folder of MovieLens, MicroLens, Amazon reviews, MMRec, RecBole or"
        " LightGCN.",
        show_default=False,
    ),
    benchmark: str | None = option(None, "Prepare as this published dataset, and check the counts.", metavar="NAME"),
    name: str | None = option(None, "Name of the dataset (default: the folder's name)."),
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Turn interactions, an item table and feature files into a prepared dataset: one folder.

    \b
      lirdrec prepare ratings.csv --user userId --item movieId --rating rating --min-rating 4 \\
          --items movies.csv --features text=text.npz --k-core 5 --output mydata
      lirdrec prepare ml-latest-small --images posters --min-rating 4 --output films
      lirdrec prepare reviews_Baby.json.gz --metadata meta_Baby.json.gz --benchmark baby --output baby
      lirdrec prepare sales.csv --items shop.csv --images photos --image-column photo --output shop
      lirdrec prepare tiktok/ --output prepared/tiktok
      lirdrec prepare u.data --no-header --columns user,item,rating,timestamp --timestamp timestamp --output films
      lirdrec prepare 'log-*.csv.gz' --bad-rows skip --output clicks
      lirdrec prepare events.jsonl --user visitor --item product.id --only type=purchase --output shop
      lirdrec prepare log.csv --event kind --event-weights view=1,cart=3,buy=5 --timestamp time --half-life 90 -o shop
      lirdrec prepare --train train.csv --validation valid.csv --test test.csv --output mydata
    """
    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output {output} is not empty; choose another folder or give --overwrite")
    options = _reader_options(columns, files, items, split) | ({} if name is None else {"name": name})
    dataset = _read(source[0] if source and len(source) == 1 else source or None, options, benchmark)
    if name is None:
        dataset = replace(dataset, name=output.resolve().name or dataset.name)
    differences = None
    if benchmark is not None:
        from lirdrec.data.published_datasets import check

        differences = check(dataset, benchmark)
    dataset.save(output, overwrite=overwrite)
    summary = _summary(dataset)
    if json:
        return print_json(summary if differences is None else summary | {"differences_from_published": differences})
    show_dataset(summary)
    _show_undescribed(summary)
    if differences is not None:
        show_differences(str(benchmark), differences)
    print_line(f"Written to {output}. Next: {next_command(output, summary)}")


def _reader_options(*groups: Any) -> dict[str, Any]:
    """Return the options that were given as arguments of the readers in Python: name → value."""
    options = given(*groups)
    switches: dict[str, dict[str, Any]] = {
        "no_header": {"header": False},
        "skip_bad_lines": {"bad_lines": "skip"},
        "drop": {"without_features": "drop"},
    }
    for name, switch in switches.items():
        if options.pop(name, False):
            options |= switch
    for name in {"columns", "items_columns"} & options.keys():
        options[name] = [column.strip() for column in options[name].split(",")]
    if "only" in options:
        options["only"] = _column_values(options["only"])
    if "event_weights" in options:
        options["event_weights"] = _event_weights(options["event_weights"])
    if "features" in options:
        options["features"] = dict(map(named_file, options["features"]))
    return options


def inspect(
    dataset: Path = typer.Argument(
        ..., metavar="DATASET|RUN", help="A prepared dataset, what prepare reads, or a run folder."
    ),
    verify: bool = option(False, "Compare the checksums of all files."),
    modality: str | None = option(
        None, "Show only this feature matrix, and the nearest neighbors of some items.", metavar="NAME"
    ),
    html: Path | None = option(None, "With --modality: write a page.", metavar="PAGE"),
    seed: int = option(0, "With --modality: seed for choosing items.", callback=integer(0)),
    device: str = option("cpu", "For a run: device to time a step on (cpu, cuda, mps)."),
    json: JsonOption = False,
) -> None:
    """Show what a dataset has (counts, splits, feature matrices, memory to train) or a run (size, cost of a step).

    \b
      lirdrec inspect mydata
      lirdrec inspect runs/first
      lirdrec inspect mydata --modality image --html image.html
    """
    from lirdrec.data.dataset import Dataset
    from lirdrec.recommender.run_folder import is_run

    if modality is not None:
        from lirdrec.features.inspection.inspect_matrix import inspect_matrix, show

        report = inspect_matrix(dataset, modality, html, seed)
        return print_json(report) if json else show(console(), report)
    if html is not None:
        raise ConfigError("--html: shows one feature matrix; give its name with --modality")
    if is_run(dataset):
        from lirdrec.recommender.summary import summarize_run

        facts = summarize_run(dataset, device, verify)
        return print_json(facts) if json else show_run(dataset, facts)
    summary = _summary(Dataset.load(dataset, verify=True) if verify else _read(dataset, {}))
    return print_json(summary) if json else show_dataset(summary)


def _summary(dataset: Dataset) -> dict[str, Any]:
    from lirdrec.data.images import described
    from lirdrec.data.summary import summarize

    return summarize(dataset) | described(dataset) | {"memory_to_train": _memory_to_train(dataset)}


def _memory_to_train(dataset: Dataset) -> dict[str, Any] | None:
    """Return the model and the bytes that `lirdrec plan` computes for its training on the CPU.

    The model is LIRDRec, or LightGCN if there are no features. Returns None without training interactions.
    """
    from lirdrec.planning.device_speeds import Cluster
    from lirdrec.planning.plan import make_plan
    from lirdrec.planning.workload import Sizes
    from lirdrec.recommender.presets import preset

    if not len(dataset.train):
        return None
    model = "lirdrec" if dataset.features else "lightgcn"
    config, training = preset(model)
    plan = make_plan(config, training, Sizes.of(dataset), Cluster.parse("cpu-core"))
    return {"model": model, "bytes": plan.memory}


def next_command(folder: Path, summary: dict[str, Any] | None = None) -> str:
    """Return the command that a user usually needs next for a prepared dataset: train or features.

    Without its `summary`, the dataset is read.
    """
    from lirdrec.data.dataset import Dataset
    from lirdrec.features.template import default_template

    summary = summary or _summary(Dataset.load(folder))
    if summary["modalities"]:
        return train_command(folder, summary["info"])
    words = ["lirdrec", "features", str(folder)]
    # a template cannot contain the name of a column that has braces
    texts = {name: number for name, number in summary["texts"].items() if not set(name) & set("{}")}
    if texts:
        words += ["--text", "hashed"]
        try:
            default_template(texts)
        except ConfigError:
            words += ["--text-template", f"{{{max(texts, key=lambda name: texts[name])}}}"]
    if summary["images"]:
        words += ["--image", "descriptor"]
    if len(words) > 3:
        return shlex.join([*words, "--drop-featureless-items"] if _undescribed(summary) else words)
    # there are only interactions: EASE is exact and fast if a matrix of all items is small
    model = "ease" if summary["items"] <= FEW_ITEMS else "lightgcn"
    return shlex.join(["lirdrec", "train", str(folder), "--model", model])


def train_command(folder: Path, info: Mapping[str, Any], *options: str) -> str:
    """Return the command that trains on a prepared dataset with features.

    After a split in which the next item of each user is predicted, the model is `lirdrec_seq`.
    """
    from lirdrec.data.splits import is_split_by_time, split_method

    # the split "temporal" holds out a share of each user's interactions, which also suits models without an order
    next_item = is_split_by_time(info) and split_method(info) != "temporal"
    model = ["--model", "lirdrec_seq"] if next_item else []
    return shlex.join(["lirdrec", "train", str(folder), *model, *options])


def _undescribed(summary: Mapping[str, Any]) -> int:
    """Return the number of items without a row in the item table; 0 if the dataset has a feature matrix."""
    kept = summary["info"].get("preparation", {}).get("unknown_items_kept", 0)
    return 0 if summary["modalities"] else kept


def _show_undescribed(summary: Mapping[str, Any]) -> None:
    """Print how many items have no row in the item table, if there are some and the dataset has no feature matrix."""
    if missing := _undescribed(summary):
        print_line(
            f"{pluralize(missing, 'item')} without a row in the item table, and so without a text. If they have no"
            " images or other features either, lirdrec features needs --drop-featureless-items, to leave them out",
            "yellow",
        )


def _read(source: str | Path | list[Path] | None, options: dict[str, Any], published: str | None = None) -> Dataset:
    from lirdrec.data.readers import kind_of, read_any, read_raw

    if source is None or "train" in options:
        return _read_split(source, options, published)
    recommended: Mapping[str, Any] = {}
    if published is not None:
        from lirdrec.data.published_datasets import recipe

        recommended = recipe(published).options
    kind = kind_of(source, options)
    if kind != "prepared":  # a prepared dataset has no options; its reader raises the error
        _check_options(source, kind, options)
    if kind == "amazon" and "features" in options:  # a file of ids and 4,096 numbers
        options["image_features"] = options.pop("features")["image"]
    if kind not in ("mmrec", "prepared"):  # these two have a split already; only their counts are checked
        options = {**recommended, **options}
    if options or kind == "table" or isinstance(source, list):
        return read_raw(source, **options)
    return read_any(source)


def _read_split(source: str | Path | list[Path] | None, options: Mapping[str, Any], published: str | None) -> Dataset:
    """Read the dataset of the files --train, --validation and --test.

    Raises:
        ConfigError: --train or --test is missing, or an option is given that does not fit them.
    """
    from lirdrec.data.readers import read_raw

    if "train" not in options:
        raise ConfigError("no data are given: give a SOURCE, or the files of a split (--train FILE --test FILE)")
    if source is not None:
        raise ConfigError(f"--train: the source {source} is given, too; give only one of them")
    if "test" not in options:
        raise ConfigError("--train: needs --test FILE, and should have --validation FILE")
    for name in ("metadata", "bad_lines", "vectors"):
        if name in options:
            raise ConfigError(f"{flag(name)}: has no effect on the files of a split (--train, --test); leave it out")
    if published is not None:
        raise ConfigError(
            "--benchmark: a published dataset has its own split; leave --benchmark out, or give no --train"
        )
    return read_raw(**options)


def _check_options(source: str | Path | list[Path], kind: Kind, options: Mapping[str, Any]) -> None:
    """Raise a ConfigError for the first option that the reader of this kind of source (a format of data) ignores."""
    from lirdrec.data.readers.detect import WORDS, options_of

    allowed = {*options_of(kind), "images", "image_column"}
    if kind == "amazon":
        allowed = (allowed | {"features"}) - {"user", "item", "rating", "items", "timestamp", "only"}
        allowed -= {"items_id", "unknown_items", "unknown_features"}  # its metadata and images are read by item id
        if other := sorted(set(options.get("features", ())) - {"image"}):
            raise ConfigError(
                f"--features {other[0]}=…: for Amazon reviews, prepare reads only the file of 'image', the published"
                f" image features; add other features later: lirdrec features DATASET --import {other[0]}=FILE"
            )
    for name in options:
        if name in allowed:
            continue
        if kind == "mmrec":
            inter = min(Path(str(source)).glob("*.inter"))
            raise ConfigError(
                f"{flag(name)}: {source} is an MMRec folder, which keeps its own split and features;"
                f" to prepare it in another way, give its table: lirdrec prepare {inter} --user userID --item itemID …"
            )
        takes = ", ".join(sorted(map(flag, allowed.difference(PYTHON_ONLY))))
        raise ConfigError(f"{flag(name)}: has no effect on {source} ({WORDS[kind]}), which takes the options {takes}")


def _column_values(texts: list[str]) -> dict[str, list[str]]:
    """Return the values COLUMN=VALUE,VALUE of --only as column → values; raise a ConfigError for another form."""
    columns: dict[str, list[str]] = {}
    for text in texts:
        column, equals, values = text.partition("=")
        if not equals or not column.strip() or not values:
            raise ConfigError(f"--only {text}: write it as COLUMN=VALUE, for instance --only event=transaction")
        columns.setdefault(column.strip(), []).extend(values.split(","))
    return columns


def _event_weights(text: str) -> dict[str, float]:
    """Return the value KIND=WEIGHT,… of --event-weights as kind → weight; raise a ConfigError for another form."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        kind, equals, number = (word.strip() for word in part.rpartition("="))
        try:
            if not equals or not kind or kind in weights:
                raise ValueError
            weights[kind] = float(number)
        except ValueError:
            raise ConfigError(
                f"--event-weights {text}: write each kind once, as KIND=WEIGHT, for instance"
                " --event-weights view=1,cart=3,buy=5"
            ) from None
    return weights


def named_file(text: str, option: str = "--features") -> tuple[str, Path]:
    """Return the name and the file of NAME=FILE, the value of `option`; raise a ConfigError for another form."""
    name, equals, file = text.partition("=")
    if not equals or not name or not file:
        raise ConfigError(f"{option} {text}: write it as NAME=FILE, for instance {option} image=image.npy")
    return name, Path(file)
