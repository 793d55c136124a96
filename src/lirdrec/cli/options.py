"""Options shared by several commands; and option groups: dataclasses that become options and sections of the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

LARGEST = 2**63 - 1  # of an integer in a tensor


def integer(least: int = -LARGEST) -> Callable[[Any], Any]:
    """A check for options that take integers, one or several: from `least` to what a tensor can hold.

    The check raises typer.BadParameter, which names the option.
    """

    def check(value: Any) -> Any:
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if number is not None and not least <= number <= LARGEST:
                low = f"{least} or more" if number < least and least > -LARGEST else f"below 2^63 ({LARGEST + 1})"
                raise typer.BadParameter(f"{number} is out of range; it must be {low}")
        return value

    return check


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
DatasetArgument = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A prepared dataset, or a folder that prepare can read.")
]
FolderOption = Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", show_default=False)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the contents of the output folder.")]
NoResumeOption = Annotated[bool, typer.Option("--no-resume", help="Discard unfinished work and start again.")]
DropOption = Annotated[
    bool, typer.Option("--drop-featureless-items", help="Leave out items without features, and their interactions.")
]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", help="Folder of the images (default: the one that prepare recorded).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file (.csv, .tsv, .parquet or .json).")
]
CsvSafeOption = Annotated[
    bool, typer.Option("--csv-safe", help="In .csv and .tsv: put ' before texts that spreadsheets take for formulas.")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="The same seed gives the same result, bit for bit.", callback=integer())
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set an option; lirdrec config lists them.")
]
KOption = Annotated[int | None, typer.Option("-k", "--k", help="How many items (default: 10).", callback=integer())]
UsersOption = Annotated[
    list[str] | None, typer.Option("--user", "-u", metavar="USER", help="User id; may be repeated.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
SeparatorOption = Annotated[
    str | None, typer.Option("--separator", help="Between values: ';', tab, '::' … (default: detected).")
]
EncodingOption = Annotated[
    str | None,
    typer.Option("--encoding", help="Encoding of text files that are not UTF-8: cp1252, latin-1, gb18030 …"),
]
FeatureFilesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--features", metavar="NAME=FILE", help=".npy, .npz, .safetensors, .parquet or .csv; may be repeated."
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")]
PriceInputOption = Annotated[
    float | None, typer.Option("--price-input", metavar="PRICE", min=0, help="Price per million input tokens.")
]
PerMinuteOption = Annotated[float | None, typer.Option("--requests-per-minute", help="Maximum number of requests.")]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Commit, tag or branch of a model of the Hugging Face hub.")
]


class GroupedCommand(TyperCommand):
    """A command whose help has a section for each group of options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record is not None:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer takes it: parameters that are option groups are replaced by the groups' fields.

    An option group is a dataclass whose fields are annotated as options; its docstring is the title of its section in
    the help. Each option has the field's name, which is unique among the parameters of the command.

    Example:
        >>> @grouped
        ... def serve(run: RunArgument, network: NetworkOptions) -> None: ...
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        name: p.annotation for name, p in signature.parameters.items() if is_dataclass(p.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        single = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += _group_parameters(groups[name]) if name in groups else [single]

    def call(**values: Any) -> None:
        built = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **built)

    call.__name__, call.__doc__, call.__module__ = command.__name__, command.__doc__, command.__module__
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def given(*groups: Any) -> dict[str, Any]:
    """The options of groups that have a value, by the names of their fields; switches that are off have none."""
    values = {field.name: getattr(group, field.name) for group in groups for field in fields(group)}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _group_parameters(group: type) -> Iterator[inspect.Parameter]:
    """The fields of an option group as parameters of a command, in the section that has the group's title."""
    title = inspect.cleandoc(group.__doc__ or "").partition("\n")[0].rstrip(".")
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, option = get_args(hints[field.name])
        option = copy(option)
        option.rich_help_panel = title
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        keyword = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(field.name, keyword, default=default, annotation=Annotated[kind, option])
