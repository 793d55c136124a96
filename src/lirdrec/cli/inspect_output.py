"""Print datasets and runs: counts, modalities, histograms, the cost of a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lirdrec.cli.output import console, table

BAR = 32  # characters of the longest bar of a histogram
SPLIT_FILE = "split_file"  # column of labels that `readers.split_files` makes
LARGEST = 8  # maximum number of listed products of a training step


def show_dataset(summary: Mapping[str, Any]) -> None:
    """Print the summary of a dataset (`lirdrec.data.summary.summarize` and `lirdrec.data.images.described`)."""
    from lirdrec.data.ids import pluralize

    out = console()
    splits = summary["splits"]
    out.print(
        table(
            f"Dataset {summary['name']}",
            ["users", "items", "interactions", "empty cells", *splits, "memory to train"],
            [
                [
                    f"{summary['users']:,}",
                    f"{summary['items']:,}",
                    f"{summary['interactions']:,}",
                    f"{summary['sparsity']:.2%}",
                    *(f"{size:,}" for size in splits.values()),
                    f"about {_size(summary['memory_to_train'])}",
                ]
            ],
        )
    )
    if summary["modalities"]:
        rows = [
            [name, f"{m['dims']:,}", m["dtype"], f"{m['present']:,}", f"{m['coverage']:.1%}", _size(m["bytes"])]
            for name, m in summary["modalities"].items()
        ]
        numbers = ("dims", "items", "coverage", "on disk")
        out.print(table(None, ["modality", "dims", "numbers", "items", "coverage", "on disk"], rows, right=numbers))
    else:
        out.print("No features: models that learn from features cannot be trained on it.\n", style="yellow")

    def share(number: int) -> str:
        return f"{number:,} ({number / summary['items']:.1%})"

    for line in (split_line(summary), _titles(summary)):
        if line is not None:
            out.print(line, soft_wrap=True, markup=False)
    if summary["texts"]:
        listed = ", ".join(f"{column} {share(number)}" for column, number in summary["texts"].items())
        out.print(f"Items with a text: {listed}", soft_wrap=True, markup=False)
    if summary["pictures"]:
        out.print(f"Items with an image: {share(summary['pictures'])}", soft_wrap=True, markup=False)
    notes = {
        "cold_items": ("item", "in validation or test only (cold)"),
        "users_without_training": ("user", "without training interactions"),
    }
    for key, (noun, words) in notes.items():
        if summary[key]:
            out.print(f"{pluralize(summary[key], noun)} {words}")
    left_out = {"bad_rows_skipped": "", "bad_item_rows_skipped": " of the item table"}
    prepared = summary["info"].get("preparation", {})
    for key, words in left_out.items():
        if prepared.get(key):
            out.print(f"{pluralize(prepared[key], 'bad row')}{words} left out", style="yellow")
    for entity, others in (("user", "items"), ("item", "users")):
        _histogram(f"Training {others} per {entity}", summary[f"{entity}_degrees"])


def show_undescribed(number: int) -> None:
    """Print how many items are not in the item table, and that `features` then needs `--drop-featureless-items`."""
    if number:
        console().print(
            f"{number:,} items are not in the item table, so they have no text: unless an image or a second matrix"
            " covers them, lirdrec features needs --drop-featureless-items, which leaves them out",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )


def _titles(summary: Mapping[str, Any]) -> str | None:
    """The line about the column of titles; None if the item table has no texts."""
    if summary["title"] is not None:
        return f"Titles: column '{summary['title']}' of the item table"
    if not summary["texts"]:
        return None
    return "Titles: none, so items are shown by their ids; if a column holds titles, name it: prepare --title COLUMN"


def split_line(summary: Mapping[str, Any]) -> str:
    """The line about the split: its method and the number of interactions in each part."""
    split = summary["info"].get("split")
    split = split if isinstance(split, Mapping) else {}
    method, counts = split.get("method"), ", ".join(f"{size:,} {name}" for name, size in summary["splits"].items())
    held = split.get("held_out")
    shares = f", {_shares(held)}" if isinstance(held, float) else ""
    seed = f", seed {split.get('seed')}"
    words = {
        "random": f"random, for each user{shares}{seed}",
        "temporal": f"by time, for each user the latest interactions{shares}",
        "global_time": f"by time, one moment for all users{shares}",
        "leave_last_out": "by time, the last interaction of each user is test, the one before it validation",
        "cold_items": f"by item, held-out items have no training interactions{shares}{seed}",
        "none": "none, all interactions are training data",
        "label": f"as labeled in column '{split.get('column')}'",
    }
    if split.get("column") == SPLIT_FILE:
        words["label"] = "as in the files of the split"
    return f"Split: {words.get(str(method), 'not recorded')} ({counts})"


def _shares(held_out: float) -> str:
    """Shares of training, validation and test: `8:1:1`."""
    train, half = round(10 * (1 - held_out), 4), round(5 * held_out, 4)
    return f"{train:g}:{half:g}:{half:g}"


def show_differences(name: str, differences: Sequence[str]) -> None:
    """Print how a dataset differs from the published one."""
    out = console()
    if not differences:
        out.print(f"The counts are those of the published dataset {name}.", style="green", markup=False)
        return
    out.print(f"NOT the published dataset {name}:", style="bold red", markup=False)
    for difference in differences:
        out.print(f"  {difference}", style="bold red", markup=False, soft_wrap=True)


def show_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Print the summary of a run (`lirdrec.recommender.summary.summarize_run`)."""
    out = console()
    numbers = [facts[name] for name in ("users", "items", "pairs", "parameters")]
    out.print(
        table(
            f"Run {folder}",
            ["model", "dataset", "users", "items", "interactions", "parameters"],
            [[facts["model"], facts["dataset"], *(f"{number:,}" for number in numbers)]],
        )
    )
    step = facts["step"]
    if step is None:
        out.print(f"{facts['model']} has a closed form: it is computed in one step, without training steps.")
        return
    rows = []
    for kind, phases in step["operations"].items():
        rows.append([f"{kind} products", *(_count(n) for n in (*phases.values(), sum(phases.values())))])
    columns = ("forward", "backward", "total")
    title = f"Multiply-adds of a training step ({step['batch_size']:,} interactions, {step['seconds']:.3g} s)"
    out.print(table(title, ["", *columns], rows, right=columns))
    total = sum(product["operations"] for product in step["products"])
    rows = [
        [
            f"{product['kind']}, {product['phase']}",
            f"{product['rows']:,} × {product['inner']:,}"
            + (f" ({product['entries']:,})" if product["kind"] == "sparse" else ""),
            f"{product['columns']:,}",
            f"{product['times']:,}",
            _count(product["operations"]),
            f"{product['operations'] / total:.0%}",
        ]
        for product in step["products"][:LARGEST]
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
    most = max((bin_["count"] for bin_ in degrees["bins"]), default=1) or 1
    bins = [bin_ for bin_ in degrees["bins"] if bin_["to"] >= degrees["min"]]
    bar = _plain_bar if out.options.ascii_only else _bar
    for bin_ in bins:
        span = f"{bin_['from']:,}" if bin_["from"] == bin_["to"] else f"{bin_['from']:,}-{bin_['to']:,}"
        out.print(Text.assemble(f"{span:>13} ", (bar(bin_["count"] / most), "cyan"), f" {bin_['count']:,}"))


def _plain_bar(share: float) -> str:
    """A bar for streams without block characters."""
    return "#" * max(round(share * BAR), share > 0)


def _bar(share: float) -> str:
    """A bar with steps of an eighth of a character, so that small counts are visible."""
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
