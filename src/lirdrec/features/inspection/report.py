"""HTML report on a feature matrix: findings, statistics, and items with their nearest neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.data.ids import pluralize
from lirdrec.features.inspection import tables
from lirdrec.features.inspection.views import InspectionViews
from lirdrec.reporting import Card, Cards, Figure, Report, Section, drawn
from lirdrec.reporting.figure import COLORS, GRAY, RED
from lirdrec.reporting.report import Block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Facts = Mapping[str, Any]


def report(
    facts: Facts, queries: Sequence[tuple[int, Sequence[int]]], views: InspectionViews, folder: Path, seed: int = 0
) -> Report:
    """Build the report.

    Args:
        facts: result of `inspect_matrix`.
        queries: rows of the items to show, each with the rows of its neighbors, in the order of `facts["neighbors"]`.
        views: texts and images by row.
        folder: of the dataset, shown in the command.
        seed: of the random items, shown in the command.
    """
    name = facts["modality"]
    sections = [
        Section("Nearest neighbors", _neighbors(facts, queries, views)),
        Section("Statistics", _statistics(facts)),
    ]
    if (faulty := tables.problems(facts)) is not None:
        sections.append(Section("Unusable inputs", [faulty]))
    if (copied := tables.copies(facts)) is not None:
        sections.append(Section("Duplicates", [copied]))
    if (agreed := tables.agreement(facts)) is not None:
        explanation = (
            "The share of nearest neighbors that two matrices have in common, on average of the items that have both."
        )
        sections.append(Section("Agreement with other features", [explanation, agreed]))
    made_by = tables.provenance(facts)
    unknown = "The dataset does not say how this matrix was made; `lirdrec features` records it."
    sections.append(Section("Encoder", [unknown if made_by is None else made_by]))
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
    if present == items:
        summary = f"All {pluralize(items, 'item')} have a vector"
    else:
        summary = f"**{present / items:.1%}** of {pluralize(items, 'item')} have a vector"
    rank = facts["spread"]["effective_rank"]
    summary += f" of {facts['dims']:,} numbers, which vary in about **{rank:.0f}** independent directions. "
    if not facts["remarks"]:
        return summary + "No problem was found."
    listed = "\n".join(f"- {_plain(sentence)}" for sentence in facts["remarks"])
    return f"{summary}Findings:\n\n{listed}"


def _neighbors(facts: Facts, queries: Sequence[tuple[int, Sequence[int]]], views: InspectionViews) -> list[Block]:
    blocks: list[Block] = ["Random items, each followed by its nearest neighbors by these features, with their cosine."]
    for query, (row, near) in zip(facts["neighbors"], queries, strict=True):
        cards = [
            Card(about["title"], views.text(item), views.image(item), [f"{about['cosine']:.3f}"])
            for about, item in zip(query["neighbors"], near, strict=True)
        ]
        lead = Card(query["title"], views.text(row), views.image(row), [f"item {query['item']}"])
        blocks.append(Cards(cards, lead=lead))
    return blocks if queries else ["No item has a vector."]


def _statistics(facts: Facts) -> list[Block]:
    blocks: list[Block] = [tables.quantities(facts)]
    if facts["norms"]["bins"] and facts["spread"]["cosine"] and facts["hubs"]["bins"]:
        blocks.append(_shape(facts))
    return blocks


def _shape(facts: Facts) -> Figure:
    """Histograms of lengths and cosines, and how much of the variance the first components hold."""
    spread = facts["spread"]

    def draw(drawing: Drawing) -> None:
        cosines, components, lengths = drawing.subplots(1, 3, width_ratios=(1.35, 1, 1))
        cosines.set_title("How alike are items?")
        _outline(cosines, spread["cosine"]["bins"], GRAY, "random pairs")
        _outline(cosines, facts["hubs"]["bins"], RED, "nearest neighbors")
        used = [bar for bar in (*spread["cosine"]["bins"], *facts["hubs"]["bins"]) if bar["count"]]
        cosines.set_xlim(min(bar["from"] for bar in used), max(bar["to"] for bar in used))
        cosines.set_xlabel("cosine")
        cosines.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handlelength=1.2)
        components.set_title("Variance")
        numbers = [int(n) for n in spread["shares"]]
        components.plot(
            numbers, [100 * share for share in spread["shares"].values()], color=COLORS[0], marker="o", ms=3
        )
        components.set_xscale("log", base=2)
        components.set_xticks(numbers[::3], [f"{n}" for n in numbers[::3]])
        components.minorticks_off()
        components.set_ylim(0, 103)
        components.set_yticks([0, 50, 100], ["0", "50 %", "100 %"])
        components.set_xlabel("first components")
        components.grid(axis="y")
        lengths.set_title("Lengths")
        bins = facts["norms"]["bins"]
        if len(bins) == 1:
            lengths.bar([0], [1], width=0.3, color=COLORS[0])
            lengths.set_xticks([0], [f"all {bins[0]['from']:.3g}"])
            lengths.set_xlim(-1, 1)
        else:
            _outline(lengths, bins, COLORS[0], "")
        lengths.set_xlabel("norm of the vector")
        for axes in (cosines, lengths):
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_ylim(0)

    return drawn(
        "shape",
        draw,
        size=(7.2, 2.5),
        caption="Left: cosines of random pairs and of items with their nearest neighbor; the further apart, the more"
        " informative the features. Middle: share of the variance in the first components. Right: vector lengths.",
        alt="Histograms of cosines, the variance of the first components, and a histogram of the vectors' lengths.",
    )


def _outline(axes: Axes, bins: Sequence[Mapping[str, float]], color: str, name: str) -> None:
    edges = [bar["from"] for bar in bins] + [bins[-1]["to"]]
    total = sum(bar["count"] for bar in bins)
    axes.stairs([bar["count"] / total for bar in bins], edges, color=color, fill=True, alpha=0.25)
    axes.stairs([bar["count"] / total for bar in bins], edges, color=color, label=name or None, linewidth=1.2)


def _plain(sentence: str) -> str:
    """The sentence with Markdown characters of item titles replaced."""
    return sentence.replace("*", "\N{ASTERISK OPERATOR}").replace("`", "'").replace("](", "] (")
