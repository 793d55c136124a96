"""The page of a look at a feature matrix: what stands out, figures, and items beside their nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lirdrec.data.ids import count
from lirdrec.features.inspection import tables as tables
from lirdrec.reporting import Card, Cards, Figure, Report, Section, drawn
from lirdrec.reporting.figure import COLOURS, GREY, RED
from lirdrec.reporting.report import Block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from lirdrec.features.inspection.matrix import InspectionViews

Facts = Mapping[str, Any]


def report(
    facts: Facts, asked: Sequence[tuple[int, Sequence[int]]], views: InspectionViews, folder: Path, seed: int = 0
) -> Report:
    """The page.

    Args:
        facts: of `looking.look`.
        asked: the rows of the items to show, with those of their neighbours, in the order of `facts["neighbours"]`.
        views: texts and pictures by row.
        folder: of the dataset, for the command.
        seed: of the items.
    """
    name = facts["modality"]
    sections = [
        Section("Who is near to whom", _neighbours(facts, asked, views)),
        Section("In figures", _figures(facts)),
    ]
    if (faulty := tables.problems(facts)) is not None:
        sections.append(Section("Inputs that could not be used", [faulty]))
    if (copied := tables.copies(facts)) is not None:
        sections.append(Section("Items that look the same", [copied]))
    if (agreed := tables.agreement(facts)) is not None:
        said = (
            "The share of nearest neighbours that two matrices have in common, on average of the items that have both."
        )
        sections.append(Section("Beside the other features", [said, agreed]))
    made_by = tables.provenance(facts)
    unknown = "Nobody noted how this matrix was made. `lirdrec features` notes encoder, revision, prompt and template."
    sections.append(Section("Who made it", [unknown if made_by is None else made_by]))
    return Report(
        title=f"Features “{name}” of {facts['dataset']}",
        question=f"What do the {facts['dims']:,} numbers of each item know, and can they be trusted?",
        answer=_answer(facts),
        sections=sections,
        settings={"dataset": facts["dataset"], "modality": name, "seed": seed},
        commands=[f"lirdrec inspect {folder.name} --modality {name} --seed {seed} --html page.html"],
        name=f"features-{name}",
    )


def _answer(facts: Facts) -> str:
    items, present = facts["coverage"]["items"], facts["coverage"]["present"]
    if present == items:
        said = f"All {count(items, 'item')} have a vector"
    else:
        said = f"**{present / items:.1%}** of {count(items, 'item')} have a vector"
    rank = facts["spread"]["effective_rank"]
    said += f" of {facts['dims']:,} numbers, which vary in about **{rank:.0f}** independent directions. "
    if not facts["remarks"]:
        return said + "Nothing looks wrong."
    listed = "\n".join(f"- {_plain(one)}" for one in facts["remarks"])
    return f"{said}What stands out:\n\n{listed}"


def _neighbours(facts: Facts, asked: Sequence[tuple[int, Sequence[int]]], views: InspectionViews) -> list[Block]:
    blocks: list[Block] = [
        "Random items, each followed by the items that these features call nearest to it, with the cosine of the two."
        " Would you have chosen them?"
    ]
    for one, (row, near) in zip(facts["neighbours"], asked, strict=True):
        cards = [
            Card(about["title"], views.text(item), views.picture(item), [f"{about['cosine']:.3f}"])
            for about, item in zip(one["neighbours"], near, strict=True)
        ]
        lead = Card(one["title"], views.text(row), views.picture(row), [f"item {one['item']}"])
        blocks.append(Cards(cards, lead=lead))
    return blocks if asked else ["No item has a vector."]


def _figures(facts: Facts) -> list[Block]:
    blocks: list[Block] = [tables.figures(facts)]
    if facts["norms"]["bins"] and facts["spread"]["cosine"] and facts["hubs"]["bins"]:
        blocks.append(_shape(facts))
    return blocks


def _shape(facts: Facts) -> Figure:
    """Histograms of lengths and cosines, and how much of the variance the first components hold."""
    spread = facts["spread"]

    def draw(drawing: Drawing) -> None:
        cosines, components, lengths = drawing.subplots(1, 3, width_ratios=(1.35, 1, 1))
        cosines.set_title("How alike are items?")
        _outline(cosines, spread["cosine"]["bins"], GREY, "random pairs")
        _outline(cosines, facts["hubs"]["bins"], RED, "nearest neighbours")
        used = [one for one in (*spread["cosine"]["bins"], *facts["hubs"]["bins"]) if one["count"]]
        cosines.set_xlim(min(one["from"] for one in used), max(one["to"] for one in used))
        cosines.set_xlabel("cosine")
        cosines.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handlelength=1.2)
        components.set_title("Variance")
        numbers = [int(n) for n in spread["shares"]]
        components.plot(
            numbers, [100 * share for share in spread["shares"].values()], color=COLOURS[0], marker="o", ms=3
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
            lengths.bar([0], [1], width=0.3, color=COLOURS[0])
            lengths.set_xticks([0], [f"all {bins[0]['from']:.3g}"])
            lengths.set_xlim(-1, 1)
        else:
            _outline(lengths, bins, COLOURS[0], "")
        lengths.set_xlabel("norm of the vector")
        for axes in (cosines, lengths):
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_ylim(0)

    return drawn(
        "shape",
        draw,
        size=(7.2, 2.5),
        caption="Left: cosines of random pairs and of items with their nearest neighbour; the further apart, the more"
        " the features tell. Middle: share of the variance in the first components. Right: lengths of the vectors.",
        alt="Histograms of cosines, the variance of the first components, and a histogram of the vectors' lengths.",
    )


def _outline(axes: Axes, bins: Sequence[Mapping[str, float]], colour: str, name: str) -> None:
    edges = [one["from"] for one in bins] + [bins[-1]["to"]]
    total = sum(one["count"] for one in bins)
    axes.stairs([one["count"] / total for one in bins], edges, color=colour, fill=True, alpha=0.25)
    axes.stairs([one["count"] / total for one in bins], edges, color=colour, label=name or None, linewidth=1.2)


def _plain(sentence: str) -> str:
    """A sentence with a title in it, so that nothing of the title is markup."""
    return sentence.replace("*", "\N{ASTERISK OPERATOR}").replace("`", "'").replace("](", "] (")
