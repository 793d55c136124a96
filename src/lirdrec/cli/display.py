"""How a dataset and a run look on the screen: counts, modalities, histograms, the cost of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lirdrec.cli.output import console, table

BAR = 32  # characters of the longest bar of a histogram
SPLIT_FILE = "split_file"  # how `readers.split_files` calls the labels of files
LARGEST = 8  # products of a training step that are listed


def show_dataset(figures: Mapping[str, Any]) -> None:
    """Print what `lirdrec.data.summary.summarise` and `lirdrec.data.images.described` found."""
    from lirdrec.data.ids import count

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

    def share(number: int) -> str:
        return f"{number:,} ({number / figures['items']:.1%})"

    for line in (split_line(figures), _titles(figures)):
        if line is not None:
            out.print(line, soft_wrap=True, markup=False)
    if figures["texts"]:
        listed = ", ".join(f"{column} {share(number)}" for column, number in figures["texts"].items())
        out.print(f"Items with a text: {listed}", soft_wrap=True, markup=False)
    if figures["pictures"]:
        out.print(f"Items that name a picture: {share(figures['pictures'])}", soft_wrap=True, markup=False)
    remarks = {
        "cold_items": ("item", "in valid or test only (cold)"),
        "users_without_training": ("user", "without a training pair"),
    }
    for key, (noun, words) in remarks.items():
        if figures[key]:
            out.print(f"{count(figures[key], noun)} {words}")
    left_out = {"bad_rows_skipped": "", "bad_item_rows_skipped": " of the item table"}
    prepared = figures["info"].get("preparation", {})
    for key, words in left_out.items():
        if prepared.get(key):
            out.print(f"{count(prepared[key], 'bad row')}{words} left out", style="yellow")
    for who, what in (("user", "items"), ("item", "users")):
        _histogram(f"Training {what} per {who}", figures[f"{who}_degrees"])


def show_undescribed(number: int) -> None:
    """Print how many items are not in the item table, if any, and what `lirdrec features` then needs."""
    if number:
        console().print(
            f"{number:,} items are not in the item table, so they have no text: unless an image or a second matrix"
            " covers them, lirdrec features needs --drop-featureless-items, which leaves them out",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )


def _titles(figures: Mapping[str, Any]) -> str | None:
    """Which column of the item table the titles are in; None where no column could hold any."""
    if figures["title"] is not None:
        return f"Titles: column '{figures['title']}' of the item table"
    if not figures["texts"]:
        return None
    return "Titles: none, so items are shown by their ids; if a column holds titles, name it: prepare --title COLUMN"


def split_line(figures: Mapping[str, Any]) -> str:
    """How the pairs were split, and how many are in each part."""
    split = figures["info"].get("split")
    split = split if isinstance(split, Mapping) else {}
    method, counts = split.get("method"), ", ".join(f"{size:,} {name}" for name, size in figures["splits"].items())
    held = split.get("held_out")
    shares = f", {_shares(held)}" if isinstance(held, float) else ""
    seed = f", seed {split.get('seed')}"
    words = {
        "random": f"random, for each user{shares}{seed}",
        "temporal": f"by time, for each user the latest pairs{shares}",
        "global_time": f"by time, one moment for all users{shares}",
        "leave_last_out": "by time, each user's last pair is test and the one before it valid",
        "cold_items": f"by item, held-out items have no training pair{shares}{seed}",
        "none": "none, all pairs are train",
        "label": f"as labeled in column '{split.get('column')}'",
    }
    if split.get("column") == SPLIT_FILE:
        words["label"] = "as in the files of the split"
    return f"Split: {words.get(str(method), 'not recorded')} ({counts})"


def _shares(held_out: float) -> str:
    """Shares of train, valid and test: `8:1:1`."""
    train, half = round(10 * (1 - held_out), 4), round(5 * held_out, 4)
    return f"{train:g}:{half:g}:{half:g}"


def show_differences(name: str, differences: Sequence[str]) -> None:
    """Print, loudly, in what a dataset is not the published one."""
    out = console()
    if not differences:
        out.print(f"The counts are those of the published dataset {name}.", style="green", markup=False)
        return
    out.print(f"NOT the published dataset {name}:", style="bold red", markup=False)
    for one in differences:
        out.print(f"  {one}", style="bold red", markup=False, soft_wrap=True)


def show_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Print what `lirdrec.recommender.summary.summarise_run` found."""
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
    letters = _plain_bar if out.options.ascii_only else _bar
    for one in shown:
        span = f"{one['from']:,}" if one["from"] == one["to"] else f"{one['from']:,}-{one['to']:,}"
        out.print(Text.assemble(f"{span:>13} ", (letters(one["count"] / most), "cyan"), f" {one['count']:,}"))


def _plain_bar(share: float) -> str:
    """A bar for streams that have no blocks."""
    return "#" * max(round(share * BAR), share > 0)


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
