"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def option(default: Any, help: str, *flags: str, **settings: Any) -> Any:
    """Define an option of a command: use the result as default of a parameter or of a field of an option group.

    For option groups see `grouped`.

    Args:
        default: value of the option if it is not given; `...` if it is required, or in `Annotated`.
        help: text in the help.
        flags: names on the command line; by default made of the parameter's name, `--time-format` for `time_format`.
        settings: other arguments of `typer.Option`.
    """
    return typer.Option(default, *flags, help=help, **settings)


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
DatasetArgument = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A prepared dataset, or a folder that prepare can read.")
]
FolderOption = Annotated[Path, option(..., "The folder to write.", "--output", "-o", show_default=False)]
OverwriteOption = Annotated[bool, option(..., "Replace the contents of the output folder.")]
NoResumeOption = Annotated[bool, option(..., "Discard unfinished work and start again.", "--no-resume")]
DropOption = Annotated[
    bool, option(..., "Leave out items without features, and their interactions.", "--drop-featureless-items")
]
ImagesOption = Annotated[Path | None, option(..., "Folder of the images (default: the one that prepare recorded).")]
JsonOption = Annotated[bool, option(..., "Print JSON instead of a table.", "--json")]
OutputOption = Annotated[
    Path | None, option(..., "Write to this file (.csv, .tsv, .parquet or .json).", "--output", "-o")
]
CsvSafeOption = Annotated[
    bool, option(..., "In .csv and .tsv: put ' before texts that spreadsheets take for formulas.")
]
SeedOption = Annotated[int | None, option(..., "The same seed gives the same result, bit for bit.")]
SetOption = Annotated[
    list[str] | None, option(..., "Set an option; lirdrec config lists them.", "--set", metavar="KEY=VALUE")
]
KOption = Annotated[int | None, option(..., "How many items (default: 10).", "-k", "--k")]
UsersOption = Annotated[list[str] | None, option(..., "User id; may be repeated.", "--user", "-u", metavar="USER")]
DeviceOption = Annotated[str, option(..., "auto, cpu, cuda or mps.")]
RayOption = Annotated[
    str | None, option(..., "Run on this Ray cluster (or: auto, local).", "--ray-address", metavar="ADDRESS")
]
SeparatorOption = Annotated[str | None, option(..., "Separator of the values: ';', tab, '::' … (default: detected).")]
EncodingOption = Annotated[
    str | None, option(..., "Encoding of text files that are not UTF-8: cp1252, latin-1, gb18030 …")
]
FeatureFilesOption = Annotated[
    list[str] | None,
    option(
        ...,
        "File of the feature matrix NAME: .npy, .npz, .safetensors, .parquet or .csv; may be repeated.",
        metavar="NAME=FILE",
    ),
]
YesOption = Annotated[bool, option(..., "Start without asking.", "--yes", "-y")]
PriceInputOption = Annotated[float | None, option(..., "Price per million input tokens.", metavar="PRICE", min=0)]
PerMinuteOption = Annotated[float | None, option(..., "Maximum number of requests a minute.")]
TrackOption = Annotated[
    str | None, option(..., "Log to a tracker: mlflow, or wandb (offline).", metavar="mlflow|wandb")
]
TestHistoryOption = Annotated[
    str | None,
    option(
        ...,
        "Interactions of a user that are used to recommend in the test (default: train+valid after a split by time,"
        " else train).",
        metavar="train|train+valid",
    ),
]
TestTargetOption = Annotated[
    str | None,
    option(
        ...,
        "Relevant test interactions: all, or each user's last (default: last after global_time_last, else all).",
        metavar="all|last",
    ),
]
MaskSeenOption = Annotated[
    bool, option(..., "Leave items that the user has seen out of the ranking.", "--mask-seen/--no-mask-seen")
]
RevisionOption = Annotated[str | None, option(..., "Commit, tag or branch of a model of the Hugging Face hub.")]
