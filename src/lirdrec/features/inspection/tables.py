"""Tables of a matrix inspection, for the terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lirdrec.reporting import Column, Row, Table

Facts = Mapping[str, Any]


def quantities(facts: Facts) -> Table:
    """Scalar statistics, one per row."""
    coverage, norms, spread = facts["coverage"], facts["norms"], facts["spread"]
    duplicates, hubs = facts["duplicates"], facts["hubs"]
    near = duplicates["near"]
    lines = [
        ("Items with a vector", f"{coverage['present']:,} of {coverage['items']:,}", _share(coverage)),
        ("Items without", f"{coverage['missing']:,}", _problems(coverage)),
        ("Columns", f"{facts['dims']:,}", facts["dtype"]),
        ("Same for all items", f"{len(facts['constant_columns']):,}", "constant columns"),
        (
            "Length of a vector",
            f"{norms['median']:.4g}",
            "median; " + ("all the same" if len(norms["bins"]) < 2 else f"{norms['min']:.4g} to {norms['max']:.4g}"),
        ),
        ("Effective rank", f"{spread['effective_rank']:.1f}", _shares(spread)),
    ]
    if spread["cosine"]:
        cosine = spread["cosine"]
        lines.append(
            (
                "Cosine of random items",
                f"{cosine['mean']:.3f}",
                f"mean; 90 % are between {cosine['low']:.3f} and {cosine['high']:.3f}",
            )
        )
    lines += [
        ("Exact copies", f"{duplicates['items']:,}", f"items in {duplicates['groups']:,} groups with the same vector"),
        (
            "Near-duplicates",
            f"{near['items']:,}",
            f"of {near['asked']:,} have a neighbor of cosine > {near['threshold']}",
        ),
        ("Most frequent neighbor", f"{hubs['most']:,}", _hub(hubs)),
    ]
    if hubs["never"] is not None:
        lines.append(("Never a neighbor", f"{hubs['never']:.1%}", f"of the items are in no list of {hubs['k']}"))
    rows = [Row({"what": quantity, "figure": value, "of": remark}) for quantity, value, remark in lines]
    columns = [
        Column("what", "Quantity", format="text"),
        Column("figure", "Value", format="text"),
        Column("of", "Remark", format="text"),
    ]
    return Table("figures", columns, rows, f"Features “{facts['modality']}” of {facts['dataset']}")


def provenance(facts: Facts) -> Table | None:
    """Settings of the encoder; None if the dataset has no record of it."""
    if not facts["encoder"]:
        return None
    entry = facts["encoder"]
    settings = dict(entry.get("identity", {})) | dict(entry.get("source", {}))
    settings |= {name: entry[name] for name in ("cut", "lirdrec") if name in entry}
    rows = [Row({"what": name.replace("_", " "), "value": _format(value)}) for name, value in _flat(settings)]
    columns = [Column("what", "Setting", format="text"), Column("value", "Value", format="text")]
    return Table("encoder", columns, rows, "Made by")


def copies(facts: Facts) -> Table | None:
    """Examples of duplicates, exact ones first."""
    duplicates = facts["duplicates"]
    rows = [
        Row({"kind": "the same vector", "items": ", ".join(item["title"] for item in group)})
        for group in duplicates["examples"]
    ]
    rows += [
        Row({"kind": f"cosine {pair['cosine']:.5f}", "items": ", ".join(item["title"] for item in pair["items"])})
        for pair in duplicates["near"]["examples"]
    ]
    columns = [Column("kind", "Alike by", format="text"), Column("items", "Items", format="text")]
    return Table("duplicates", columns, rows, "Examples of copies") if rows else None


def problems(facts: Facts) -> Table | None:
    """The first items with an unusable input."""
    examples = facts["coverage"]["examples"]
    if not examples:
        return None
    columns = [Column(name, name.capitalize(), format="text") for name in examples[0]]
    more = facts["coverage"]["problems"] - len(examples)
    notes = [f"And {more:,} more."] if more else []
    return Table("problems", columns, [Row(dict(example)) for example in examples], notes=notes)


def agreement(facts: Facts) -> Table | None:
    """Mean overlap of the neighbor lists of each pair of matrices; None if there is only one matrix."""
    if not facts["agreement"]:
        return None
    pairs = facts["agreement"]["pairs"]
    rows = [
        Row(
            {
                "pair": f"{pair['a']} and {pair['b']}",
                **{name: pair[name] for name in ("overlap", "by_chance", "asked")},
            },
            accent=len(pairs) > 1 and facts["modality"] in (pair["a"], pair["b"]),
        )
        for pair in pairs
    ]
    columns = [
        Column("pair", "Features", format="text"),
        Column("overlap", f"Of {facts['agreement']['k']} neighbors in common", digits=3),
        Column("by_chance", "By chance", digits=3),
        Column("asked", "Sampled items", format="count"),
    ]
    return Table("agreement", columns, rows, "Agreement of nearest neighbors")


def neighbors(item: Facts) -> Table:
    """The nearest neighbors of an item."""
    columns = [
        Column("cosine", "cosine", digits=3),
        Column("item", "item", format="text"),
        Column("title", "title", format="text"),
    ]
    rows = [
        Row({"cosine": near["cosine"], "item": str(near["item"]), "title": near["title"]}) for near in item["neighbors"]
    ]
    return Table("neighbors", columns, rows, f"Nearest to {item['title']}")


def _share(coverage: Facts) -> str:
    return f"{coverage['present'] / coverage['items']:.1%}" if coverage["items"] else ""


def _problems(coverage: Facts) -> str:
    if not coverage["missing"]:
        return ""
    more = coverage["bare"] - len(coverage["bare_examples"])
    bare = ", ".join(coverage["bare_examples"]) + (f" and {more:,} more" if more else "")
    if not coverage["problems"]:
        return "they have no input" + (f": {bare}" if bare else "")
    faulty = f"{coverage['problems']:,} of them with an unusable input"
    return f"{faulty}; no input: {bare}" if bare else faulty


def _shares(spread: Facts) -> str:
    shares = [f"{share:.0%} in the first {n}" for n, share in spread["shares"].items() if n in ("1", "16", "128")]
    return f"of the variance {', '.join(shares)}" if shares else ""


def _hub(hubs: Facts) -> str:
    if hubs["item"] is None:
        return ""
    return (
        f"of {hubs['asked']:,} lists of {hubs['k']} hold {hubs['item']['title']} ({hubs['by_chance']:.1f} on average)"
    )


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
