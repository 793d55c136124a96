"""A report: what was asked, the answer in a paragraph, tables and figures, and all that is needed to repeat it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lirdrec._version import __version__
from lirdrec.errors import ConfigError
from lirdrec.files.atomic import atomic_write, make_folder
from lirdrec.files.manifest import refuse_inside
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
    """Results that give themselves as one tidy frame, and sentences that belong into the answer."""

    def frame(self) -> pl.DataFrame: ...

    def remarks(self) -> list[str]: ...


@dataclass(frozen=True)
class Section:
    """A heading and, in order, texts (`code`, **bold**, lists of "- " lines), tables, figures and cards below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """What an experiment found.

    Attributes:
        title: of the page.
        question: what was asked, in a sentence.
        answer: what came out, in a paragraph with its figures.
        sections: tables and figures; their names must differ, they become file names.
        settings: name → value, of what the experiment was run with.
        commands: command lines that make the same results.
        environment: versions and machine; default those of this process, without the time: the same content gives
            the same bytes, so that two reports can be compared with diff.
        name: what the report is called in messages.
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
                raise ConfigError(f"'{block.name}' is not a name for a file: use small letters, digits, - and _")
            if (type(block), block.name) in seen:
                kind = type(block).__name__.lower().removesuffix("s")
                raise ConfigError(f"two {kind}s of the report are called '{block.name}'")
            seen.add((type(block), block.name))

    def blocks(self) -> Iterator[Block]:
        """Everything in the sections, in order."""
        for section in self.sections:
            yield from section.blocks

    def to_html(self, alone: bool = False) -> str:
        """The page: one file that needs no other; `alone`: nothing else is written."""
        lead = f'<p class="question">{html.inline(self.question)}</p>'
        lead += f'<div class="answer"><span class="word">Answer</span>{html.prose(self.answer)}</div>'
        made, contents = [], []
        for place, section in enumerate(self.sections, 1):
            made.append(html.section(f"s{place}", section.title, [_block(block) for block in section.blocks]))
            contents.append((f"s{place}", section.title))
        made.append(html.section("repeat", "How to repeat this", self._repeat()))
        contents.append(("repeat", "How to repeat this"))
        foot = f"Written by lirdrec {__version__}."
        if not alone:
            foot += " The tables and figures lie beside this page, as data and for papers."
        return html.page(self.title, lead, "\n".join(made), contents, foot)

    def write(
        self,
        folder: str | Path,
        results: SupportsFrame | pl.DataFrame | None = None,
        formats: Sequence[str] = ("svg", "png"),
    ) -> Path:
        """Write `report.html`, the same as `report.md`, `figures/`, `tables/` and `results.parquet`; gives the page.

        Args:
            folder: made where it is missing; files of the same names are replaced, others stay.
            results: the tidy figures that the report was made from; what they remark is added to the answer.
            formats: of the figures' files, among "svg", "png", "pdf".
        """
        folder = Path(folder)
        remarks = results.remarks() if results is not None and hasattr(results, "remarks") else []
        if remarks:
            return replace(self, answer="\n\n".join([self.answer, *remarks]))._written(folder, results, formats)
        return self._written(folder, results, formats)

    def _written(self, folder: Path, results: SupportsFrame | pl.DataFrame | None, formats: Sequence[str]) -> Path:
        for inner in (folder / "figures", folder / "tables"):
            make_folder(inner)
        for block in self.blocks():
            if isinstance(block, Figure):
                for kind in formats:
                    _write(folder / "figures" / f"{block.name}.{kind}", block.image(kind))
                if block.data is not None:
                    _write(folder / "figures" / f"{block.name}.csv", block.data.write_csv().encode())
            elif isinstance(block, Table):
                _write(folder / "tables" / f"{block.name}.tex", block.to_latex().encode())
                _write(folder / "tables" / f"{block.name}.csv", block.to_csv().encode())
                _save(folder / "tables" / f"{block.name}.parquet", block.to_frame())
        if results is not None:
            _save(folder / RESULTS, results.frame() if hasattr(results, "frame") else results)
        _write(folder / TEXT, self.to_markdown("svg" if "svg" in formats else "png").encode())
        _write(folder / PAGE, self.to_html().encode())
        return folder / PAGE

    def write_page(self, path: str | Path) -> Path:
        """Write the page alone, as a file of any name; gives its path.

        Raises:
            RunFolderError: it cannot be written, or would lie in a prepared dataset or a run.
        """
        path = Path(path)
        refuse_inside(path)
        make_folder(path.parent)
        _write(path, self.to_html(alone=True).encode())
        return path

    def to_markdown(self, kind: str = "svg") -> str:
        """Answer, tables, and figures as links to `figures/NAME.KIND`; cards are only on the page."""
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
        """Title, answer and tables for the terminal."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [Text(self.title, style="bold"), Text(_plain(self.answer)), Text()]
        parts += [block.to_rich() for block in self.blocks() if isinstance(block, Table)]
        return Group(*parts)

    def _repeat(self) -> list[str]:
        from lirdrec.provenance import environment

        found = dict(self.environment or {})
        if self.environment is None:
            found = environment()
            del found["written"]
        found = {key.replace("_", " "): value for key, value in found.items() if value is not None}
        blocks = [html.commands(self.commands)] if self.commands else []
        if self.settings:
            blocks += ["<h3>Settings</h3>", html.pairs(self.settings)]
        return [*blocks, "<h3>Environment</h3>", html.pairs(found)]


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return html.table(block)
    if isinstance(block, Cards):
        return html.cards(block)
    return html.figure(block) if isinstance(block, Figure) else html.prose(block)


def _plain(text: str) -> str:
    return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text).replace("**", "").replace("`", "")


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _save(path: Path, frame: Any) -> None:
    with atomic_write(path) as temporary:
        frame.write_parquet(temporary)
