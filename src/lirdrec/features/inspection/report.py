"""Show an inspected feature matrix: tables for the terminal, and an HTML report with findings and neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError, DataError
from lirdrec.features.images import ImageError, thumbnail
from lirdrec.features.sources import IMAGE, ImageSource, TextSource
from lirdrec.reporting import Card, Cards, Column, Figure, Report, Row, Section, Table, drawn
from lirdrec.reporting.figure import COLORS, GRAY, RED
from lirdrec.reporting.report import Block
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Facts = Mapping[str, Any]
MAX_TEXT = 160  # characters of an item's text
IMAGE_SIDE = 320  # pixels


def quantities(facts: Facts) -> Table:
    """Return the table of the main numbers about a matrix, such as the number of items with a vector, one per row."""
    coverage, norms, spread = facts["coverage"], facts["norms"], facts["spread"]
    duplicates, hubs, cosine = facts["duplicates"], facts["hubs"], spread["cosine"]
    present, items, near = coverage["present"], coverage["items"], duplicates["near"]
    lengths = "all the same" if len(norms["bins"]) < 2 else f"{norms['min']:.4g} to {norms['max']:.4g}"
    shares = [f"{share:.0%} in the first {n}" for n, share in spread["shares"].items() if n in ("1", "16", "128")]
    lines = [
        ("Items with a vector", f"{present:,} of {items:,}", f"{present / items:.1%}" if items else ""),
        ("Items without", f"{coverage['missing']:,}", _missing(coverage)),
        ("Columns", f"{facts['dims']:,}", facts["dtype"]),
        ("Same for all items", f"{len(facts['constant_columns']):,}", "constant columns"),
        ("Length of a vector", f"{norms['median']:.4g}", f"median; {lengths}"),
        ("Effective rank", f"{spread['effective_rank']:.1f}", f"of the variance {', '.join(shares)}" if shares else ""),
    ]
    if cosine:
        limits = f"mean; 90 % are between {cosine['low']:.3f} and {cosine['high']:.3f}"
        lines.append(("Cosine of random items", f"{cosine['mean']:.3f}", limits))
    popular = ""
    if hubs["item"] is not None:
        lists, title = f"of {hubs['asked']:,} lists of {hubs['k']}", hubs["item"]["title"]
        popular = f"{lists} hold {title} ({hubs['by_chance']:.1f} on average)"
    near_remark = f"of {near['asked']:,} have a neighbor of cosine > {near['threshold']}"
    lines += [
        ("Exact copies", f"{duplicates['items']:,}", f"items in {duplicates['groups']:,} groups with the same vector"),
        ("Near-duplicates", f"{near['items']:,}", near_remark),
        ("Most frequent neighbor", f"{hubs['most']:,}", popular),
    ]
    if hubs["never"] is not None:
        lines.append(("Never a neighbor", f"{hubs['never']:.1%}", f"of the items are in no list of {hubs['k']}"))
    rows = [Row(dict(zip(("what", "figure", "of"), line, strict=True))) for line in lines]
    columns = _text_columns(what="Quantity", figure="Value", of="Remark")
    return Table("figures", columns, rows, f"Features “{facts['modality']}” of {facts['dataset']}")


def provenance(facts: Facts) -> Table | None:
    """Return the table of the settings of the encoder that made the matrix; None if they are not recorded."""
    entry = facts["encoder"]
    if not entry:
        return None
    settings = {**entry.get("identity", {}), **entry.get("source", {})}
    settings |= {name: entry[name] for name in ("cut", "lirdrec") if name in entry}
    rows = [Row({"what": name.replace("_", " "), "value": _format(value)}) for name, value in _flat(settings)]
    return Table("encoder", _text_columns(what="Setting", value="Value"), rows, "Made by")


def copies(facts: Facts) -> Table | None:
    """Return the table of examples of duplicates, exact duplicates first; None if there are none."""
    groups = [("the same vector", items) for items in facts["duplicates"]["examples"]]
    near = facts["duplicates"]["near"]["examples"]
    groups += [(f"cosine {pair['cosine']:.5f}", pair["items"]) for pair in near]
    rows = [Row({"kind": kind, "items": ", ".join(item["title"] for item in items)}) for kind, items in groups]
    columns = _text_columns(kind="Alike by", items="Items")
    return Table("duplicates", columns, rows, "Examples of copies") if rows else None


def problems(facts: Facts) -> Table | None:
    """Return the table of the first items with an unusable input; None if there are none."""
    examples = facts["coverage"]["examples"]
    if not examples:
        return None
    columns = _text_columns(**{name: name.capitalize() for name in examples[0]})
    more = facts["coverage"]["problems"] - len(examples)
    notes = [f"And {more:,} more."] if more else []
    return Table("problems", columns, [Row(dict(example)) for example in examples], notes=notes)


def agreement(facts: Facts) -> Table | None:
    """Return the table of how much the neighbor lists of two matrices overlap, for each pair; None for one matrix."""
    if not facts["agreement"]:
        return None
    pairs = facts["agreement"]["pairs"]
    rows = [
        Row(
            {"pair": f"{pair['a']} and {pair['b']}"} | {name: pair[name] for name in ("overlap", "by_chance", "asked")},
            accent=len(pairs) > 1 and facts["modality"] in (pair["a"], pair["b"]),
        )
        for pair in pairs
    ]
    columns = [
        *_text_columns(pair="Features"),
        Column("overlap", f"Of {facts['agreement']['k']} neighbors in common", digits=3),
        Column("by_chance", "By chance", digits=3),
        Column("asked", "Sampled items", format="count"),
    ]
    return Table("agreement", columns, rows, "Agreement of nearest neighbors")


def neighbors(item: Facts) -> Table:
    """Return the table of the nearest neighbors of an item, which is an entry of `facts["neighbors"]`."""
    columns = [Column("cosine", "cosine", digits=3), *_text_columns(item="item", title="title")]
    rows = [Row({**near, "item": str(near["item"])}) for near in item["neighbors"]]
    return Table("neighbors", columns, rows, f"Nearest to {item['title']}")


class ItemCards:
    """Makes the cards of the report: an item's title, its text as the encoder read it, and a small image."""

    def __init__(self, folder: Path, encoder: Facts | None):
        self._texts = _text_source(folder, encoder or {})
        try:
            self._images: ImageSource | None = ImageSource(folder)
        except DataError:  # no column of image paths, or the folder has moved
            self._images = None

    def card(self, row: int, title: str, note: str) -> Card:
        """Return the card of the item in a row; its text is shortened, and does not repeat the title at the start.

        `note` is a short text that the card shows, too.
        """
        text, image = (
            None if source is None else source.read(row, row + 1)[0].value for source in (self._texts, self._images)
        )
        text = " ".join(str(text or "").split()).removeprefix(title).lstrip(" .,;:|/-–")
        if len(text) > MAX_TEXT:
            text = text[: MAX_TEXT - 1].rstrip() + "…"
        try:
            small = thumbnail(image, IMAGE_SIDE) if isinstance(image, Path) else None
        except ImageError:
            small = None
        return Card(title, text, small, [note])


def report(
    facts: Facts, queries: Sequence[tuple[int, Sequence[tuple[int, float]]]], folder: Path, seed: int = 0
) -> Report:
    """Return the HTML report of an inspected matrix.

    Args:
        facts: the result of `inspect_matrix`.
        queries: the items of `facts["neighbors"]` as rows: (row, [(row of a neighbor, cosine), …]) for each.
        folder: the prepared dataset.
        seed: the seed that the items were drawn with.
    """
    name = facts["modality"]
    statistics: list[Block] = [quantities(facts)]
    if facts["norms"]["bins"] and facts["spread"]["cosine"] and facts["hubs"]["bins"]:
        statistics.append(_distributions(facts))
    sections = [Section("Nearest neighbors", _neighbors(facts, queries, folder)), Section("Statistics", statistics)]
    if (problem_table := problems(facts)) is not None:
        sections.append(Section("Unusable inputs", [problem_table]))
    if (copy_table := copies(facts)) is not None:
        sections.append(Section("Duplicates", [copy_table]))
    if (agreement_table := agreement(facts)) is not None:
        explanation = (
            "The share of nearest neighbors that two matrices have in common, on average of the items that have both."
        )
        sections.append(Section("Agreement with other features", [explanation, agreement_table]))
    unknown = "The dataset does not say how this matrix was made; `lirdrec features` records it."
    sections.append(Section("Encoder", [provenance(facts) or unknown]))
    return Report(
        title=f"Features “{name}” of {facts['dataset']}",
        question=f"How good are the {facts['dims']:,}-dimensional vectors of the items?",
        answer=_answer(facts),
        sections=sections,
        settings={"dataset": facts["dataset"], "modality": name, "seed": seed},
        commands=[f"lirdrec inspect {folder.name} --modality {name} --seed {seed} --html page.html"],
        name=f"features-{name}",
    )


def _answer(facts: Facts) -> str:
    items, present = facts["coverage"]["items"], facts["coverage"]["present"]
    share = "All" if present == items else f"**{present / items:.1%}** of"
    rank = facts["spread"]["effective_rank"]
    summary = (
        f"{share} {pluralize(items, 'item')} have a vector of {facts['dims']:,} numbers, which vary in about"
        f" **{rank:.0f}** independent directions. "
    )
    if not facts["remarks"]:
        return summary + "No problem was found."
    listed = "\n".join(f"- {_plain(sentence)}" for sentence in facts["remarks"])
    return f"{summary}Findings:\n\n{listed}"


def _neighbors(facts: Facts, queries: Sequence[tuple[int, Sequence[tuple[int, float]]]], folder: Path) -> list[Block]:
    if not queries:
        return ["No item has a vector."]
    blocks: list[Block] = ["Random items, each followed by its nearest neighbors by these features, with their cosine."]
    cards = ItemCards(folder, facts["encoder"])
    for query, (row, nearest) in zip(facts["neighbors"], queries, strict=True):
        near = [
            cards.card(near_row, item["title"], f"{cosine:.3f}")
            for item, (near_row, cosine) in zip(query["neighbors"], nearest, strict=True)
        ]
        blocks.append(Cards(near, lead=cards.card(row, query["title"], f"item {query['item']}")))
    return blocks


def _distributions(facts: Facts) -> Figure:
    """Return the figure with histograms of lengths and cosines, and the cumulative variance of the components."""
    return drawn(
        "shape",
        lambda drawing: _draw(drawing, facts["spread"], facts["hubs"]["bins"], facts["norms"]["bins"]),
        size=(7.2, 2.5),
        caption="Left: cosines of random pairs and of items with their nearest neighbor; the further apart, the more"
        " informative the features. Middle: share of the variance in the first components. Right: vector lengths.",
        alt="Histograms of cosines, the variance of the first components, and a histogram of the vectors' lengths.",
    )


def _draw(drawing: Drawing, spread: Facts, nearest: Sequence[Facts], norms: Sequence[Facts]) -> None:
    cosines, components, lengths = drawing.subplots(1, 3, width_ratios=(1.35, 1, 1))
    random = spread["cosine"]["bins"]
    _outline(cosines, random, GRAY, "random pairs")
    _outline(cosines, nearest, RED, "nearest neighbors")
    used = [bar for bar in (*random, *nearest) if bar["count"]]
    cosines.set(title="How alike are items?", xlabel="cosine")
    cosines.set_xlim(min(bar["from"] for bar in used), max(bar["to"] for bar in used))
    cosines.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handlelength=1.2)
    numbers = [int(n) for n in spread["shares"]]
    shares = [100 * share for share in spread["shares"].values()]
    components.plot(numbers, shares, color=COLORS[0], marker="o", ms=3)
    components.set_xscale("log", base=2)
    components.set_xticks(numbers[::3], [f"{n}" for n in numbers[::3]])
    components.minorticks_off()
    components.set(title="Variance", xlabel="first components", ylim=(0, 103))
    components.set_yticks([0, 50, 100], ["0", "50 %", "100 %"])
    components.grid(axis="y")
    if len(norms) == 1:
        lengths.bar([0], [1], width=0.3, color=COLORS[0])
        lengths.set_xticks([0], [f"all {norms[0]['from']:.3g}"])
        lengths.set_xlim(-1, 1)
    else:
        _outline(lengths, norms, COLORS[0], "")
    lengths.set(title="Lengths", xlabel="norm of the vector")
    for axes in (cosines, lengths):
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(0)


def _outline(axes: Axes, bins: Sequence[Facts], color: str, name: str) -> None:
    edges = [bar["from"] for bar in bins] + [bins[-1]["to"]]
    total = sum(bar["count"] for bar in bins)
    shares = [bar["count"] / total for bar in bins]
    axes.stairs(shares, edges, color=color, fill=True, alpha=0.25)
    axes.stairs(shares, edges, color=color, label=name or None, linewidth=1.2)


def _text_columns(**headings: str) -> list[Column]:
    return [Column(key, heading, format="text") for key, heading in headings.items()]


def _missing(coverage: Facts) -> str:
    if not coverage["missing"]:
        return ""
    more = coverage["bare"] - len(coverage["bare_examples"])
    bare = ", ".join(coverage["bare_examples"]) + (f" and {more:,} more" if more else "")
    if not coverage["problems"]:
        return "they have no input" + (f": {bare}" if bare else "")
    unusable = f"{coverage['problems']:,} of them with an unusable input"
    return f"{unusable}; no input: {bare}" if bare else unusable


def _flat(values: Facts, before: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += _flat(value, f"{before}{name} ") if isinstance(value, Mapping) else [(f"{before}{name}", value)]
    return flat


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_format(element) for element in value)
    return "–" if value is None else str(value)


def _plain(sentence: str) -> str:
    """Replace Markdown characters in a sentence, since item titles in it may have some."""
    return sentence.replace("*", "\N{ASTERISK OPERATOR}").replace("`", "'").replace("](", "] (")


def _text_source(folder: Path, encoder: Facts) -> TextSource | None:
    source = encoder.get("source", {})
    column = None if source.get("column") == IMAGE else source.get("column")
    for template, name in ((source.get("template"), column), (None, None)):
        try:
            return TextSource(folder, template, name)
        except (ConfigError, DataError):  # the columns were removed, or none holds texts
            continue
    return None
