"""`lirdrec plan`: show what a training will need, before it is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lirdrec.cli.config import configuration
from lirdrec.cli.output import DOES_NOT_FIT, console, print_json, print_line, table
from lirdrec.cli.shared_options import JsonOption, SetOption, option
from lirdrec.errors import ConfigError
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from lirdrec.planning.plan import Plan
    from lirdrec.planning.workload import Sizes


def plan(
    dataset: Path | None = typer.Argument(
        None,
        metavar="[DATASET]",
        help="Folder of a prepared dataset, or of a published one, to take the sizes from.",
    ),
    users: float | None = option(None, "Number of users, such as 10e6."),
    items: float | None = option(None, "Number of items."),
    interactions: float | None = option(None, "Number of training interactions."),
    features: str | None = option(None, "Columns of each feature matrix, such as 4096,384."),
    devices: str | None = option(
        None,
        "Number and kind: 8xH100, H200, A100, L4, 16xcpu-core (default: this machine's GPUs; without GPUs, one core).",
    ),
    memory: float | None = option(None, "GB of each device, if not the usual.", metavar="GB", min=0.001, max=1e6),
    model: str = option("lirdrec", "lirdrec or lightgcn."),
    preset: str | None = option(None, "fast or paper (default: fast)."),
    assignments: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show the memory, communication and time that a training needs, and whether it fits.

    \b
      lirdrec plan mydata
      lirdrec plan --users 10e6 --items 1e6 --interactions 1e8 --features 4096,384 --devices 8xH100

    The time is computed from operations, bytes and the speeds that the devices' makers publish (docs/distributed.md).
    The exit status is 3 if the training does not fit.
    """
    from lirdrec.planning.device_speeds import Cluster
    from lirdrec.planning.plan import make_plan, remedies

    config, training = configuration(model, preset, None, assignments or [], None)
    sizes = _sizes(dataset, {"--users": users, "--items": items, "--interactions": interactions}, features)
    try:
        size = None if memory is None else memory * 1e9
        cluster = Cluster.of_this_machine(size) if devices is None else Cluster.parse(devices, size)
    except ConfigError as error:
        raise ConfigError(f"--devices: {error}") from None
    plans = [make_plan(config, training, sizes, cluster)]
    if cluster.number > 1:
        plans.append(make_plan(config, training, sizes, Cluster(1, cluster.device)))
    changes = remedies(config, training, sizes, cluster)
    if json:
        print_json({"plans": [one.to_dict() for one in plans], "changes": changes})
    else:
        console().print(_table(plans))
        _show_fit(plans[0], changes)
    if not plans[0].fits:
        raise typer.Exit(DOES_NOT_FIT)


def _sizes(dataset: Path | None, given: dict[str, float | None], features: str | None) -> Sizes:
    """Return the sizes of the data from the options; a size that is not given is taken from the dataset.

    Raises:
        ConfigError: a size is neither given nor in a dataset, or is not possible.
    """
    from lirdrec.data.readers import read_any
    from lirdrec.planning.workload import Sizes

    found = {name: _whole(name, value) for name, value in given.items() if value is not None}
    columns: tuple[int, ...] = ()
    if dataset is not None:
        data = read_any(dataset)
        of_data = Sizes.of(data)
        found = dict(zip(given, (of_data.users, of_data.items, of_data.interactions), strict=True)) | found
        columns = of_data.features
    if missing := [name for name in given if name not in found]:
        raise ConfigError(f"{missing[0]}: is missing; give a dataset, or all of {', '.join(given)}")
    users, items, interactions = (found[name] for name in given)
    if interactions > users * items:
        raise ConfigError(
            f"--interactions {interactions:g} is more than {pluralize(users, 'user')} ×"
            f" {pluralize(items, 'item')}; each pair of a user and an item counts once"
        )
    return Sizes(users, items, interactions, columns if features is None else _columns(features))


def _whole(name: str, value: float) -> int:
    if not 1 <= value < 2**53 or value != int(value):
        raise ConfigError(f"{name} {value:g} is not a number of {name[2:]}; give a whole number of 1 or more")
    return int(value)


def _columns(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--features '{text}' is not a list of numbers of columns; write it as 4096,384") from None
    for width in widths:
        if not 1 <= width < 2**53:
            raise ConfigError(f"--features {text}: {width} is not a number of columns; give 1 or more")
    return widths


def _table(plans: list[Plan]) -> object:
    """Return a table of memory, communication and time, with a column for each plan."""
    from lirdrec.available_memory import format_bytes

    def parts(values: list[dict[str, float]], unit: str) -> list[list[str]]:
        names = dict.fromkeys(name for one in values for name in one)
        shown = _seconds if unit == "s" else lambda size: format_bytes(int(size))
        return [[f"  {name}", *(shown(one[name]) if name in one else "-" for one in values)] for name in names]

    rows = [
        ["memory of a device", *(format_bytes(one.memory) for one in plans)],
        *parts([dict(one.work.memory) for one in plans], "bytes"),
        ["it has", *(format_bytes(int(one.cluster.device.memory)) for one in plans)],
        ["host memory of a device", *(format_bytes(one.work.host) for one in plans)],
        ["sent by a device in a step", *(format_bytes(int(one.sent)) for one in plans)],
        *parts([{name: size for name, (size, _) in one.work.sent.items()} for one in plans], "bytes"),
        ["time of a step", *(_seconds(one.step_seconds) for one in plans)],
        *parts([one.step for one in plans], "s"),
        ["steps of an epoch", *(f"{one.work.n_steps:,}" for one in plans)],
        ["time of sampling an epoch", *(_seconds(one.sampling_seconds) for one in plans)],
        ["time of a validation", *(_seconds(one.validation_seconds) for one in plans)],
        ["time of an epoch", *(_seconds(one.epoch_seconds) for one in plans)],
        [f"time of {pluralize(plans[0].epochs, 'epoch')}", *(_seconds(one.training_seconds) for one in plans)],
    ]
    names = [str(one.cluster) for one in plans]
    return table("Plan", ["", *names], rows, right=names)


def _seconds(value: float) -> str:
    if value >= 600:
        return f"{value / 60:,.1f} min" if value < 3600 else f"{value / 3600:,.1f} h"
    return f"{value:,.1f} s" if value >= 1 else f"{1e3 * value:,.1f} ms" if value >= 1e-3 else f"{1e6 * value:,.0f} µs"


def _show_fit(first: Plan, changes: list[dict[str, object]]) -> None:
    from lirdrec.available_memory import format_bytes

    if first.fits:
        return print_line(f"It fits: {format_bytes(first.memory)} of {format_bytes(int(first.cluster.device.memory))}.")
    print_line(
        f"It does not fit: a device needs {format_bytes(first.memory)}, and has"
        f" {format_bytes(int(first.cluster.device.memory))}, of which nine tenths can be used."
    )
    texts = {
        "feature_size": "feature matrices of at most {} columns",
        "devices": "{} devices",
        "batch_size": "--set batch_size={}",
        "device": "the same number of {}",
    }
    for change in changes:
        text = texts[str(change["change"])].format(change["value"])
        print_line(f"  It would fit with {text}: {format_bytes(int(str(change['bytes'])))} a device.")
    if not changes:
        print_line("  No single change of features, number of devices, batch or kind of device makes it fit.")
