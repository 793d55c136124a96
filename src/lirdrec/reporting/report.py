"""Reports of experiments: question, answer, tables, figures, and the commands and settings to reproduce them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lirdrec._version import __version__
from lirdrec.errors import ConfigError
from lirdrec.files.atomic import atomic_write, make_folder
from lirdrec.files.manifest import check_not_inside_folder
from lirdrec.reporting import html
from lirdrec.reporting.figure import Figure
from lirdrec.reporting.html import Cards
from lirdrec.reporting.tables import Table

if TYPE_CHECKING:
    import polars as pl
    from rich.console import RenderableType

PAGE, TEXT, RESULTS = "report.html", "report.md", "results.parquet"
Block = str | Table | Figure | Cards


class SupportsFrame(Protocol):
    """Results that `Report.write` accepts: `frame` has one value per row, `remarks` are added to the answer."""

    def frame(self) -> pl.DataFrame: ...

    def remarks(self) -> list[str]: ...


@dataclass(frozen=True)
class Section:
    """A heading with blocks below it: texts (with `code`, **bold**, "- " lists), tables, figures and grids of cards."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """The report of an experiment.

    Attributes:
        title: title of the page.
        question: the question in one sentence.
        answer: a paragraph with the main results.
        sections: tables and figures; their names must be unique, since they become file names.
        settings: name → value of the experiment's settings.
        commands: command lines that reproduce the results.
        environment: versions and machine; None: those of this process. The time is left out, so that equal reports
            have equal bytes.
        name: name of the report in messages.

    Raises:
        ConfigError: the name of a block cannot be a file name, or two blocks of one kind have the same name.
    """

    title: str
    question: str
    answer: str
    sections: Sequence[Section]
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    environment: Mapping[str, Any] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        seen: set[tuple[type, str]] = set()
        for block in self.blocks():
            if isinstance(block, str) or (isinstance(block, Cards) and not block.name):
                continue
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", block.name):
                raise ConfigError(
                    f"the block name '{block.name}' cannot be a file name; use lowercase letters, digits, - and _"
                )
            if (type(block), block.name) in seen:
                kind = type(block).__name__.lower().removesuffix("s")
                raise ConfigError(f"two {kind}s of the report are named '{block.name}'; give each its own name")
            seen.add((type(block), block.name))

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks (texts, tables, figures, cards) of all sections in order."""
        for section in self.sections:
            yield from section.blocks

    def to_html(self, alone: bool = False) -> str:
        """Return the report as one self-contained HTML page; `alone` omits the sentence about files beside the page."""
        from lirdrec.provenance import environment

        values = self.environment
        if values is None:
            values = {key: value for key, value in environment().items() if key != "written"}
        values = {key.replace("_", " "): value for key, value in values.items() if value is not None}
        return html.render(report=self, environment=values, version=__version__, alone=alone)

    def write(
        self,
        folder: str | Path,
        results: SupportsFrame | pl.DataFrame | None = None,
        formats: Sequence[str] = ("svg", "png"),
    ) -> Path:
        """Write `report.html`, `report.md`, `figures/`, `tables/`, and `results.parquet` if there are `results`.

        Args:
            folder: created if missing; files of the same names are replaced, others are kept.
            results: the values that the report shows; their remarks are added to the answer.
            formats: file formats of the figures, among "svg", "png", "pdf".

        Returns:
            The path of the page `report.html`.
        """
        folder = Path(folder)
        remarks = results.remarks() if results is not None and hasattr(results, "remarks") else []
        remarked = replace(self, answer="\n\n".join([self.answer, *remarks]))
        figures, tables = folder / "figures", folder / "tables"
        make_folder(figures)
        make_folder(tables)
        for block in self.blocks():
            if isinstance(block, Figure):
                for kind in formats:
                    _write(figures / f"{block.name}.{kind}", block.image(kind))
                if block.data is not None:
                    _write(figures / f"{block.name}.csv", block.data.write_csv().encode())
            elif isinstance(block, Table):
                _write(tables / f"{block.name}.tex", block.to_latex().encode())
                _write(tables / f"{block.name}.csv", block.to_csv().encode())
                _save(tables / f"{block.name}.parquet", block.to_frame())
        if results is not None:
            _save(folder / RESULTS, results.frame() if hasattr(results, "frame") else results)
        _write(folder / TEXT, remarked.to_markdown("svg" if "svg" in formats else "png").encode())
        _write(folder / PAGE, remarked.to_html().encode())
        return folder / PAGE

    def write_page(self, path: str | Path) -> Path:
        """Write only the HTML page, to the file `path`; return this path.

        Raises:
            RunFolderError: the page cannot be written, or `path` is inside a prepared dataset, a run or an export.
        """
        path = Path(path)
        check_not_inside_folder(path)
        make_folder(path.parent)
        _write(path, self.to_html(alone=True).encode())
        return path

    def to_markdown(self, kind: str = "svg") -> str:
        """Return the report as Markdown. Figures are links to `figures/NAME.KIND`; cards are left out."""
        parts = [f"# {self.title}", self.question, self.answer]
        for section in self.sections:
            parts.append(f"## {section.title}")
            for block in section.blocks:
                if isinstance(block, Table):
                    parts.append(block.to_markdown().rstrip())
                elif isinstance(block, Figure):
                    parts.append(f"![{block.alt or block.caption}](figures/{block.name}.{kind})")
                elif isinstance(block, str):
                    parts.append(block)
        if self.commands:
            parts += ["## How to repeat this", "\n".join(["```sh", *self.commands, "```"])]
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_rich(self) -> RenderableType:
        """Return title, answer and tables as an object of rich, to be printed in a terminal."""
        from rich.console import Group
        from rich.text import Text

        plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", self.answer).replace("**", "").replace("`", "")
        parts: list[RenderableType] = [Text(self.title, style="bold"), Text(plain), Text()]
        parts += [block.to_rich() for block in self.blocks() if isinstance(block, Table)]
        return Group(*parts)


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _save(path: Path, frame: Any) -> None:
    with atomic_write(path) as temporary:
        frame.write_parquet(temporary)
