"""`lirdrec prepare | inspect`: files become a prepared dataset, and what is in one, or in a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lirdrec.cli.output import JsonOption, console, print_json, table
from lirdrec.errors import ConfigError

BAR = 32  # characters of the longest bar of a histogram
LARGEST = 8  # products of a training step that are listed


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(prepare)
    app.command()(inspect)


def prepare(
    source: Annotated[Path, typer.Argument(help="A CSV, TSV or Parquet file; an MMRec or RecBole folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", show_default=False)],
    user: Annotated[str | None, typer.Option("--user", help="Column of user ids.")] = None,
    item: Annotated[str | None, typer.Option("--item", help="Column of item ids.")] = None,
    rating: Annotated[str | None, typer.Option("--rating", help="Column of ratings.")] = None,
    min_rating: Annotated[float | None, typer.Option("--min-rating", help="Keep ratings of this and more.")] = None,
    timestamp: Annotated[str | None, typer.Option("--timestamp", help="Column of times.")] = None,
    string_ids: Annotated[bool, typer.Option("--string-ids", help="Keep ids as strings.")] = False,
    items: Annotated[Path | None, typer.Option("--items", help="Table with a row per item: title, price, …")] = None,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="NAME=FILE", help=".npy, .npz, .safetensors or .parquet; may be repeated."),
    ] = None,
    drop: Annotated[bool, typer.Option("--drop-without-features", help="Leave out items without any feature.")] = False,
    k_core: Annotated[int | None, typer.Option("--k-core", help="Keep users and items with K pairs or more.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="random, cold_items, temporal, global_time, leave_last_out, none, or a column of labels.",
        ),
    ] = None,
    held_out: Annotated[float | None, typer.Option("--held-out", help="Share for valid and test together.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the split.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call the dataset.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the folder holds.")] = False,
    json: JsonOption = False,
) -> None:
    """Turn interactions, an item table and feature files into a prepared dataset: one folder, whole or not at all.

    \b
      lirdrec prepare ratings.csv --user userId --item movieId --rating rating --min-rating 4 \\
          --items movies.csv --features text=text.npz --k-core 5 --output mydata
      lirdrec prepare tiktok/ --output prepared/tiktok
    """
    from lirdrec.data.summary import summarise

    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output {output}: has something in it; choose another folder or give --overwrite")
    options: dict[str, Any] = {
        "user": user,
        "item": item,
        "rating": rating,
        "min_rating": min_rating,
        "timestamp": timestamp,
        "string_ids": string_ids or None,
        "without_features": "drop" if drop else None,
        "k_core": k_core,
        "split": split,
        "held_out": held_out,
        "seed": seed,
        "items": items,
        "features": dict(named_file(one) for one in features) if features else None,
        "name": name,
    }
    dataset = _read(source, {key: value for key, value in options.items() if value is not None})
    dataset.save(output, overwrite=overwrite)
    if json:
        return print_json(summarise(dataset))
    _show(summarise(dataset))
    console().print(f"Written to {output}. Next: lirdrec train {output}", markup=False)


def inspect(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET|RUN", help="A prepared dataset, what prepare reads, or a run folder.")
    ],
    verify: Annotated[bool, typer.Option("--verify", help="Compare the checksums of all files.")] = False,
    device: Annotated[str, typer.Option("--device", help="Of a run: where a step is timed (cpu, cuda, mps).")] = "cpu",
    json: JsonOption = False,
) -> None:
    """What is in a dataset (counts, splits, modalities, degrees, memory to train), or in a run (sizes, cost of a step).

    \b
      lirdrec inspect mydata
      lirdrec inspect runs/first
    """
    from lirdrec.data.dataset import Dataset
    from lirdrec.data.summary import summarise
    from lirdrec.recommender.run_folder import is_run

    if is_run(dataset):
        from lirdrec.recommender.inspecting import summarise_run

        facts = summarise_run(dataset, device, verify)
        return print_json(facts) if json else _show_run(dataset, facts)
    data = Dataset.load(dataset, verify=True) if verify else _read(dataset, {})
    figures = summarise(data)
    if json:
        return print_json(figures)
    _show(figures)


def _read(source: Path, options: dict[str, Any]) -> Any:
    from lirdrec.data.readers import read_any, read_interactions, read_mmrec, read_recbole
    from lirdrec.data.storage import MANIFEST

    if source.is_file() or not source.exists():
        return read_interactions(source, **options)
    inters = sorted(source.glob("*.inter"))
    if not options or not inters:
        if options and (source / MANIFEST).is_file():
            raise ConfigError(f"{source}: is prepared already, so options do nothing; prepare the raw files again")
        return read_any(source)
    with inters[0].open("rb") as file:
        if b":token" in file.readline():
            return read_recbole(source, **options)
    strange = sorted(set(options) - {"user", "item", "name"})
    if strange:
        raise ConfigError(
            f"--{strange[0].replace('_', '-')}: {source} is an MMRec folder, which keeps its own split and features; "
            f"to prepare it anew, name its table: lirdrec prepare {inters[0]} --user userID --item itemID …"
        )
    return read_mmrec(source, **options)


def named_file(text: str) -> tuple[str, Path]:
    """NAME=FILE as a pair; raises a ConfigError if it is not one."""
    name, equals, file = text.partition("=")
    if not equals or not name or not file:
        raise ConfigError(f"--features {text}: write it as NAME=FILE, for instance --features image=image.npy")
    return name, Path(file)


def _show(figures: Mapping[str, Any]) -> None:
    out = console()
    splits = figures["splits"]
    out.print(
        table(
            f"Dataset {figures['name']}",
            ["users", "items", "pairs", "empty cells", *splits, "memory to train"],
            [
                [
                    f"{figures['users']:,}",
                    f"{figures['items']:,}",
                    f"{figures['interactions']:,}",
                    f"{figures['sparsity']:.2%}",
                    *(f"{size:,}" for size in splits.values()),
                    f"about {_size(figures['memory_to_train'])}",
                ]
            ],
        )
    )
    if figures["modalities"]:
        rows = [
            [name, f"{m['dims']:,}", m["dtype"], f"{m['present']:,}", f"{m['coverage']:.1%}", _size(m["bytes"])]
            for name, m in figures["modalities"].items()
        ]
        numbers = ("dims", "items", "coverage", "on disk")
        out.print(table(None, ["modality", "dims", "numbers", "items", "coverage", "on disk"], rows, right=numbers))
    else:
        out.print("No features: models that learn from features cannot be trained on it.\n", style="yellow")
    remarks = {
        "cold_items": "items occur in valid or test only (cold)",
        "users_without_training": "users have no training pair",
    }
    for key, words in remarks.items():
        if figures[key]:
            out.print(f"{figures[key]:,} {words}")
    for who, what in (("user", "items"), ("item", "users")):
        _histogram(f"Training {what} per {who}", figures[f"{who}_degrees"])


def _show_run(folder: Path, facts: Mapping[str, Any]) -> None:
    out = console()
    figures = [facts[name] for name in ("users", "items", "pairs", "parameters")]
    out.print(
        table(
            f"Run {folder}",
            ["model", "dataset", "users", "items", "pairs", "parameters"],
            [[facts["model"], facts["dataset"], *(f"{one:,}" for one in figures)]],
        )
    )
    step = facts["step"]
    if step is None:
        out.print(f"{facts['model']} has a closed form: it is computed at once, not in training steps.")
        return
    rows = []
    for kind, phases in step["operations"].items():
        rows.append([f"{kind} products", *(_count(one) for one in (*phases.values(), sum(phases.values())))])
    columns = ("forward", "backward", "together")
    title = f"Multiply-adds of a training step of {step['batch_size']:,} pairs, which takes {step['seconds']:.3g} s"
    out.print(table(title, ["", *columns], rows, right=columns))
    whole = sum(one["operations"] for one in step["products"])
    rows = [
        [
            f"{one['kind']}, {one['phase']}",
            f"{one['rows']:,} × {one['inner']:,}" + (f" ({one['entries']:,})" if one["kind"] == "sparse" else ""),
            f"{one['columns']:,}",
            f"{one['times']:,}",
            _count(one["operations"]),
            f"{one['operations'] / whole:.0%}",
        ]
        for one in step["products"][:LARGEST]
    ]
    right = ("columns", "times", "multiply-adds", "share")
    out.print(table("The largest", ["", "rows × inner (entries)", *right], rows, right=right))


def _count(n: float) -> str:
    for unit in ("", " k", " M"):
        if n < 1000:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:,.3g} G" if n < 1000 else f"{n / 1000:,.3g} T"


def _histogram(title: str, degrees: Mapping[str, Any]) -> None:
    from rich.text import Text

    out = console()
    head = f"min {degrees['min']:,}, median {degrees['median']:,g}, mean {degrees['mean']:,.1f}, max {degrees['max']:,}"
    out.print(Text.assemble("\n", (title, "bold"), f"  ({head})"))
    most = max((one["count"] for one in degrees["bins"]), default=1) or 1
    shown = [one for one in degrees["bins"] if one["to"] >= degrees["min"]]
    for one in shown:
        span = f"{one['from']:,}" if one["from"] == one["to"] else f"{one['from']:,}-{one['to']:,}"
        out.print(Text.assemble(f"{span:>13} ", (_bar(one["count"] / most), "cyan"), f" {one['count']:,}"))


def _bar(share: float) -> str:
    """A bar of eighths of a character, so that small counts still show."""
    eighths = round(share * BAR * 8)
    if share > 0:
        eighths = max(1, eighths)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _size(n: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if n < 1000:
            return f"{n:,.0f} {unit}"
        n /= 1000
    return f"{n:,.1f} GB"
