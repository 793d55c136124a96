"""`lirdrec download`: download published datasets by name, and the images of a catalog by their addresses."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lirdrec.cli.option_groups import given
from lirdrec.cli.output import console, print_json, print_line, settings, table
from lirdrec.cli.shared_options import JsonOption, option
from lirdrec.errors import ConfigError
from lirdrec.option_names import flag

if TYPE_CHECKING:
    from lirdrec.download import Network


@dataclass(frozen=True)
class ImageUrlOptions:
    """Images of a catalog"""

    image_urls: Path | None = option(None, "A table, or a prepared dataset, with addresses.", metavar="TABLE")
    column: str | None = option(None, "Column with the addresses.", show_default="image_url")
    item: str | None = option(None, "Column with the item ids.", show_default="item")
    concurrency: int | None = option(None, "Number of images downloaded at the same time.", show_default="8")
    max_mb: float | None = option(None, "Largest image, in MB.", show_default="32", min=0.001)
    private_addresses: bool = option(False, "Also open addresses of your own network.", "--allow-private-addresses")


def download(
    images: ImageUrlOptions,
    name: Annotated[str | None, typer.Argument(help="A published dataset.", show_default=False)] = None,
    output: Path | None = option(None, "The folder to write (default: NAME).", "--output", "-o"),
    sha256: list[str] | None = option(
        None, "Expected SHA-256 of a file; may be repeated.", "--sha256", metavar="[FILE=]DIGEST"
    ),
    json: JsonOption = False,
) -> None:
    """Download a published dataset, or the images of a catalog. Without NAME: list the datasets.

    \b
      lirdrec download                                    the datasets
      lirdrec download ml-latest-small --output ml
      lirdrec download --image-urls catalog.csv --output posters
      lirdrec features mydata --images posters

    If interrupted, the same command resumes. The folder of a dataset appears only when all files are downloaded and
    compared with their known digests. An image that cannot be downloaded is listed in problems.csv of the folder; the
    same command tries it again.
    """
    if images.image_urls is not None:
        if name is not None or sha256:
            raise ConfigError("--image-urls: downloads images, not a dataset; leave NAME and --sha256 out")
        if output is None:
            raise ConfigError("--image-urls: give the path of the folder for the images (--output FOLDER)")
        return _images(images, output, json)
    for other in given(images):
        raise ConfigError(f"{flag(other)}: is an option of --image-urls TABLE only; leave it out")
    if name is None:
        if output is not None or sha256:
            raise ConfigError("no dataset is given; give a NAME (lirdrec download lists the names)")
        return _list(json)
    _dataset(name, Path(name) if output is None else output, sha256 or [], json)


def _shows_progress(json: bool) -> bool:
    return not settings.quiet and not json and sys.stderr.isatty()


def _network(private: bool) -> Network:
    from lirdrec.download import Network

    return Network(allowed=lambda address: True) if private else Network()


def _dataset(name: str, folder: Path, digests: list[str], json: bool) -> None:
    from lirdrec.download.datasets import download, find

    files = find(name).files
    pairs = {}
    for text in digests:
        file, _, digest = text.rpartition("=")
        if not file and len(files) > 1:
            names = ", ".join(each.name for each in files)
            raise ConfigError(f"--sha256 {text}: {name} has several files ({names}); write FILE=DIGEST")
        pairs[file or files[0].name] = digest
    made = download(name, folder, digests=pairs, network=_network(False), progress=_shows_progress(json))
    if json:
        print_json({"folder": str(folder), "sha256": dict(made.digests), "unchecked": list(made.unchecked)})
        return
    for file in made.unchecked:
        print_line(
            f"{file} was not checked, because its digest is not known; it has the SHA-256 {made.digests[file]}",
            "yellow",
        )
    print_line(f"{name} is in {folder}. Next: {made.next}")


def _images(options: ImageUrlOptions, folder: Path, json: bool) -> None:
    from lirdrec.download.image_urls import PROBLEMS, describe, download_images

    arguments: dict[str, Any] = given(options)
    private = arguments.pop("private_addresses", False)
    if "max_mb" in arguments:
        arguments["max_bytes"] = int(arguments.pop("max_mb") * 2**20)
    source = arguments.pop("image_urls")
    result = download_images(source, folder, network=_network(private), progress=_shows_progress(json), **arguments)
    if json:
        problems = [dict(zip(("item", "url", "problem"), problem, strict=True)) for problem in result.problems]
        counts = {name: getattr(result, name) for name in ("fetched", "existing", "missing")}
        print_json({"folder": str(folder), **counts, "problems": problems})
        return
    if result.problems:
        shown = [[item, problem] for item, _, problem in result.problems[:10]]
        console().print(table(f"Problems, all in {folder / PROBLEMS}", ["item", "problem"], shown))
    print_line(f"{describe(result)}.")
    print_line(f"Next: lirdrec features DATASET --images {shlex.quote(str(folder))}")


def _list(json: bool) -> None:
    from lirdrec.download.datasets import table as datasets

    if json:
        entries = datasets().values()
        print_json(
            [
                {"name": each.name, "title": each.title, "source": each.source, "bytes": each.n_bytes}
                | {"checked": each.checked}
                for each in entries
            ]
        )
        return
    rows = []
    for each in datasets().values():
        size = "–" if each.n_bytes is None else f"{each.n_bytes / 1e6:,.0f}"
        rows.append([each.name, each.title, size, "known" if each.checked else "not known"])
    console().print(table("Published datasets", ["name", "content", "MB", "digests"], rows, right=["MB"]))
    print_line("Their terms of use are on the pages (source) that lirdrec download --json lists.")
