"""Entry point of the `lirdrec` command. This module imports nothing heavy, so that `lirdrec --help` is fast."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from lirdrec.cli import (
    caption,
    change_run,
    config,
    demo,
    download,
    evaluate,
    experiment,
    export,
    features,
    hub,
    plan,
    prepare,
    query,
    serve,
    train,
)
from lirdrec.cli.errors import boundary, check_arguments, escape_unencodable
from lirdrec.cli.option_groups import ARGUMENTS, GroupedCommand, grouped
from lirdrec.cli.output import settings, show_log
from lirdrec.cli.shared_options import option
from lirdrec.option_names import command_line


class Commands(TyperGroup):
    """The group of all commands; an error becomes one sentence and an exit code (`errors.boundary`)."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        arguments = list(args)
        escape_unencodable()
        with boundary(arguments, "--debug" in arguments):
            check_arguments(arguments)
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[ARGUMENTS] = arguments
        return context

    def invoke(self, ctx: Any) -> Any:
        with boundary(ctx.meta.get(ARGUMENTS, ()), bool(ctx.params.get("debug"))), command_line():
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # raises if the output stream writes to a full disk
            return result


app = typer.Typer(
    cls=Commands,
    name="lirdrec",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(requested: bool) -> None:
    if requested:
        import lirdrec

        print(f"lirdrec {lirdrec.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: bool = option(False, "Show the full traceback of an error.", "--debug"),
    quiet: bool = option(False, "No progress bars and no log messages.", "--quiet", "-q"),
    verbose: bool = option(False, "More log messages.", "--verbose", "-v"),
    version: bool = option(False, "Show the version.", "--version", callback=_version, is_eager=True),
) -> None:
    """Recommend items by their texts and images: new items without retraining, with explanations.

    \b
    First steps:
      lirdrec demo                              train on real films
      lirdrec prepare FOLDER --output mydata    prepare a dataset from your files
      lirdrec train mydata --run runs/first     train a model
      lirdrec recommend runs/first --user 15    recommend items
    """
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")  # torch warns once in every process
    show_log(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    settings.quiet = quiet


COMMANDS = (
    *(prepare.prepare, prepare.inspect, features.features, caption.caption, train.train),
    *(evaluate.evaluate, config.config, plan.plan),
    *(query.recommend, query.similar, query.explain, change_run.add_items, change_run.strip, serve.serve),
    *(download.download, hub.push, hub.pull, export.export, experiment.experiment, demo.demo),
)
for command in COMMANDS:
    app.command(cls=GroupedCommand)(grouped(command))
app.add_typer(serve.keys, name="keys")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
