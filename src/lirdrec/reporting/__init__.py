"""Reports of experiments: tables, charts and one self-contained HTML page.

Example:
    Report(
        name="cold-start", title="Recommending unseen items", question="…", answer="…",
        sections=[
            Section("Recall by split", ["A paragraph.", Table.pivot(frame, "recall", rows="model", columns="metric")]),
            Section("Over the epochs", [lines(frame, "curves", x="epoch", y="value", series="model")]),
        ],
        settings={"epochs": 60}, commands=["lirdrec experiment cold data/tiktok"],
    ).write(folder, results)
"""

from __future__ import annotations

from lirdrec.reporting.charts.bars import bars
from lirdrec.reporting.charts.dots import dots
from lirdrec.reporting.charts.heatmap import heatmap
from lirdrec.reporting.charts.lines import lines
from lirdrec.reporting.charts.points import points
from lirdrec.reporting.figure import Figure, drawn
from lirdrec.reporting.formatting import Column, label
from lirdrec.reporting.html import Card, Cards
from lirdrec.reporting.report import Report, Section
from lirdrec.reporting.statistics import Measure
from lirdrec.reporting.tables import Row, Table

__all__ = [
    "Card",
    "Cards",
    "Column",
    "Figure",
    "Measure",
    "Report",
    "Row",
    "Section",
    "Table",
    "bars",
    "dots",
    "drawn",
    "heatmap",
    "label",
    "lines",
    "points",
]
