"""Print what a dataset or a run contains: counts, modalities, histograms, the cost of a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lirdrec.cli.output import console, percent, print_line, table
from lirdrec.wording import pluralize

BAR = 32  # characters of the longest bar of a histogram
SPLIT_FILE = "split_file"  # column of labels that `readers.split_files` makes
LARGEST = 8  # maximum number of products of a training step that are listed
COSTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)  # shares of the hits on known items that the listed boosts may cost


def show_dataset(summary: Mapping[str, Any]) -> None:
    """Print a summary.

    It holds what `lirdrec.data.summary.summarize` and `lirdrec.data.images.described` return, and "memory_to_train",
    which has model and bytes, or is None.
    """
    splits, memory = summary["splits"], summary["memory_to_train"]
    counts = [f"{summary[name]:,}" for name in ("users", "items", "interactions")]
    row = [*counts, f"{summary['sparsity']:.2%}", *(f"{size:,}" for size in splits.values())]
    columns = ["users", "items", "interactions", "empty cells", *splits]
    console().print(table(f"Dataset {summary['name']}", columns, [row]))
    if summary["modalities"]:
        rows = [
            [name, f"{m['dims']:,}", m["dtype"], f"{m['present']:,}", f"{m['coverage']:.1%}", _size(m["bytes"])]
            for name, m in summary["modalities"].items()
        ]
        columns = ["modality", "dims", "numbers", "items", "coverage", "on disk"]
        console().print(table(None, columns, rows, right=("dims", "items", "coverage", "on disk")))
    else:
        print_line("No features: models that learn from features cannot be trained on it.\n", "yellow")

    def share(number: int) -> str:
        return f"{number:,} ({number / summary['items']:.1%})"

    if memory is not None:
        print_line(f"Memory to train {memory['model']} on the CPU: about {_size(memory['bytes'])} (see lirdrec plan)")
    print_line(_split_line(summary))
    if summary["title"] is not None:
        print_line(f"Titles: column '{summary['title']}' of the item table")
    elif summary["texts"]:
        hint = "if a column has titles, name it: prepare --title COLUMN"
        print_line(f"Titles: none, so items are shown by their ids; {hint}")
    if summary["texts"]:
        texts = ", ".join(f"{column} {share(number)}" for column, number in summary["texts"].items())
        print_line(f"Items with a text: {texts}")
    if summary["images"]:
        print_line(f"Items with an image: {share(summary['images'])}")
    prepared = summary["info"].get("preparation", {})
    _show_left_out(summary, prepared)
    if summary["weights"] is not None:
        print_line(_weights_line(summary["weights"], prepared))
    if summary["dislikes"]:
        print_line(f"{pluralize(summary['dislikes'], 'dislike')}, left out of the user's recommendations")
    for entity, others in (("user", "items"), ("item", "users")):
        _histogram(f"Training {others} per {entity}", summary[f"{entity}_degrees"])


def _show_left_out(summary: Mapping[str, Any], prepared: Mapping[str, Any]) -> None:
    """Print what has no training interactions, and which rows, items, users and columns `prepare` did not use."""
    from lirdrec.data.preprocessing import removed_rows

    for number, noun, words, style in (
        (summary["cold_items"], "item", " in validation or test only (cold)", None),
        (summary["users_without_training"], "user", " without training interactions", None),
        (prepared.get("bad_rows_skipped"), "bad row", " left out", "yellow"),
        (prepared.get("bad_item_rows_skipped"), "bad row", " of the item table left out", "yellow"),
    ):
        if number:
            print_line(pluralize(number, noun) + words, style)
    if removed := removed_rows(prepared):
        print_line(f"Left out of {pluralize(prepared['rows'], 'row')}: {', '.join(removed)}")
    if items := prepared.get("items_without_interactions_dropped"):
        print_line(f"Left out: {pluralize(items, 'item')} without an interaction; add-items adds such items to a run")
    if users := prepared.get("users_removed_by_k_core"):
        print_line(f"Left out: {pluralize(users, 'user')} with fewer than {prepared['k_core']} interactions")
    if unused := prepared.get("unused_columns"):
        print_line(
            f"Columns of the interactions without an effect: {', '.join(unused)}"
            " (see --event, --rating, --timestamp, --weight and --only of lirdrec prepare)"
        )


def _weights_line(weights: Mapping[str, float], prepared: Mapping[str, Any]) -> str:
    """Return the line about the weights of the training interactions, and where the weights come from."""
    source = [f"column '{prepared['weight']}'"] if "weight" in prepared else []
    if "event_weights" in prepared:
        kinds = ", ".join(f"{kind} {weight:g}" for kind, weight in prepared["event_weights"].items())
        source.append(f"column '{prepared['event']}': {kinds}")
    if "half_life" in prepared:
        days = prepared["half_life"]
        source.append(f"half-life {days:g} {'day' if days == 1 else 'days'}")
    numbers = ", ".join(f"{name} {weights[name]:.4g}" for name in ("min", "median", "mean", "max"))
    return f"Weights of training interactions: {numbers}" + (f" ({'; '.join(source)})" if source else "")


def _split_line(summary: Mapping[str, Any]) -> str:
    """Return the line about the split: its method and the number of interactions in each part."""
    split = summary["info"].get("split")
    split = split if isinstance(split, Mapping) else {}
    method, counts = split.get("method"), ", ".join(f"{size:,} {name}" for name, size in summary["splits"].items())
    held_out, shares = split.get("held_out"), ""
    if isinstance(held_out, float):  # shares of training, validation and test: `8:1:1`
        train, half = round(10 * (1 - held_out), 4), round(5 * held_out, 4)
        shares = f", {train:g}:{half:g}:{half:g}"
    seed = f", seed {split.get('seed')}"
    methods = {
        "random": f"random, for each user{shares}{seed}",
        "temporal": f"by time, for each user the latest interactions{shares}",
        "global_time": f"by time, one moment for all users{shares}",
        "global_time_last": "by time, test is after one moment for all users, each user's last before it is validation",
        "leave_last_out": "by time, the last interaction of each user is test, the one before it is validation",
        "cold_items": f"by item, held-out items have no training interactions{shares}{seed}",
        "none": "none, all interactions are training data",
        "label": f"as labeled in column '{split.get('column')}'",
    }
    if split.get("column") == SPLIT_FILE:
        methods["label"] = "as in the files of the split"
    return f"Split: {methods.get(str(method), 'not recorded')} ({counts})"


def show_differences(name: str, differences: Sequence[str]) -> None:
    """Print that a dataset has the counts of the published dataset `name`, or print the `differences`."""
    if not differences:
        return print_line(f"The counts are the same as in the published dataset {name}.", "green")
    for line in (f"NOT the published dataset {name}:", *(f"  {difference}" for difference in differences)):
        print_line(line, "bold red")


def show_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Print the summary of a run: `facts` is the result of `lirdrec.recommender.summary.summarize_run`."""
    out = console()
    numbers = [f"{facts[name]:,}" for name in ("users", "items", "pairs", "parameters")]
    columns = ["model", "dataset", "users", "items", "interactions", "parameters"]
    out.print(table(f"Run {folder}", columns, [[facts["model"], facts["dataset"], *numbers]]))
    added = [pluralize(facts[f"added_{kind}s"], kind) for kind in ("item", "like") if facts[f"added_{kind}s"]]
    if added:
        print_line(f"Added after the training, and counted above: {' and '.join(added)}")
    _show_new_items(facts["new_items"])
    if facts["step"] is None:
        print_line(f"{facts['model']} has a closed form: it is computed in one step, without training steps.")
    else:
        _show_step(facts["step"])


def _show_step(step: Mapping[str, Any]) -> None:
    out = console()
    rows = []
    for kind, phases in step["operations"].items():
        rows.append([f"{kind} products", *(_count(n) for n in (*phases.values(), sum(phases.values())))])
    batch = pluralize(step["batch_size"], "interaction")
    title = f"Multiply-adds of a training step ({batch}, {step['seconds']:.3g} s)"
    right = ["forward", "backward", "total"]
    out.print(table(title, ["", *right], rows, right=right))
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
    right = ["columns", "times", "multiply-adds", "share"]
    out.print(table("The largest", ["", "rows × inner (entries)", *right], rows, right=right))


def _show_new_items(info: Any) -> None:
    """Print what each setting of `--new-items` costs known items and gives new items, as measured in the training.

    It was measured in simulated launches, in which trained items are treated as new. Nothing is printed for a run that
    does not record how new items compete.
    """
    from lirdrec.recommender.new_item_encoder import LaunchStep, NewItemEncoder

    encoder = NewItemEncoder.from_info(info)
    if encoder is None:
        return
    calibrated = encoder.step()
    if calibrated is None:
        return print_line("New items: without an offset, since the run has no simulated launches.")
    steps: dict[float, tuple[str, LaunchStep]] = {}
    for cost in COSTS:
        step = encoder.step(cost)
        assert step is not None
        steps.setdefault(step.offset, (f"boost={cost:g}", step))
    if (plain := encoder.step_at(0.0)) is not None:
        steps[0.0] = ("none", plain)
    name = "calibrated, none" if calibrated.offset == 0 else "calibrated"
    steps[calibrated.offset] = (name, calibrated)
    has_limits = any(step.cost_error for step in encoder.frontier)  # older runs have none
    rows = [
        [
            name,
            f"{step.offset:+.4f}",
            percent(step.cost),
            *([percent(step.cost_limit)] if has_limits else []),
            percent(step.share),
            f"{step.recall:.4f}",
        ]
        for name, step in sorted(steps.values(), key=lambda row: row[1].offset)
    ]
    right = ["offset", "cost", *(["at most"] if has_limits else []), "share of places", "recall@20 of new items"]
    console().print(table("New items in simulated launches", ["--new-items", *right], rows, right=right))
    print_line(
        "The cost is the share of the hits on known items that is lost, compared with new items that have the vectors\n"
        "of their features alone: no offset, no mixture with similar items. Below 0 it is a gain."
        + ("\nAt most: the upper limit of the cost (95 %, over the users)." if has_limits else "")
        + "\nA tenth of the items is new in each simulated launch; fewer new items get fewer places."
    )
    print_line(
        f"The calibrated offset of new items is {encoder.offset:+.4f}.\n"
        "boost=0.05 costs about 5 % of the hits on known items in simulated launches."
    )


def _count(n: float) -> str:
    for unit in ("", " k", " M", " G"):
        if n < 1000:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:,.3g} T"


def _histogram(title: str, degrees: Mapping[str, Any]) -> None:
    from rich.text import Text

    out = console()
    head = f"min {degrees['min']:,}, median {degrees['median']:,g}, mean {degrees['mean']:,.1f}, max {degrees['max']:,}"
    out.print(Text.assemble("\n", (title, "bold"), f"  ({head})"))
    most = max((bin_["count"] for bin_ in degrees["bins"]), default=1) or 1
    for bin_ in degrees["bins"]:
        if bin_["to"] < degrees["min"]:
            continue
        span = f"{bin_['from']:,}" if bin_["from"] == bin_["to"] else f"{bin_['from']:,}-{bin_['to']:,}"
        bar = _bar(bin_["count"] / most, out.options.ascii_only)
        out.print(Text.assemble(f"{span:>13} ", (bar, "cyan"), f" {bin_['count']:,}"))


def _bar(share: float, ascii_only: bool) -> str:
    """Return a bar for a share from 0 to 1, in steps of an eighth of a character; in ASCII, it consists of #."""
    if ascii_only:
        return "#" * max(round(share * BAR), share > 0)
    eighths = max(round(share * BAR * 8), share > 0)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _size(n: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if n < 1000:
            return f"{n:,.0f} {unit}"
        n /= 1000
    return f"{n:,.1f} GB"
