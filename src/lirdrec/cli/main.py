"""Entry point of the `lirdrec` command. Imports nothing heavy: `lirdrec --help` must answer at once."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lirdrec.cli import caption, demo, experiment, export, features, hub, prepare, query, serve, train
from lirdrec.cli.errors import boundary, check_arguments, write_everything
from lirdrec.cli.output import settings
from lirdrec.cli.typed_numbers import check_numbers
from lirdrec.option_names import command_line

ARGUMENTS = "lirdrec.arguments"  # where a context keeps what was typed


class Commands(TyperGroup):
    """All commands, within the boundary that turns errors into one sentence and an exit code."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        arguments = list(args)
        write_everything()
        with boundary(arguments, "--debug" in arguments):
            check_arguments(arguments)
            name = next((one for one in arguments if one in self.commands), None)
            if name is not None:
                check_numbers(self.commands[name], arguments[arguments.index(name) + 1 :])
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[ARGUMENTS] = arguments
        return context

    def invoke(self, ctx: Any) -> Any:
        with boundary(ctx.meta.get(ARGUMENTS, ()), bool(ctx.params.get("debug"))), command_line():
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # a full disk behind the output stream is noticed here
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


def _version(asked: bool) -> None:
    if asked:
        import lirdrec

        print(f"lirdrec {lirdrec.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More remarks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Recommend items by their texts and pictures: new items without retraining, and with reasons.

    \b
    First steps:
      lirdrec demo                              watch it train on real films
      lirdrec prepare FOLDER --output mydata    your own files become a dataset
      lirdrec train mydata --run runs/first     train on it
      lirdrec recommend runs/first --user 15    ask
    """
    from lirdrec.cli.output import show_remarks

    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")  # torch says so once in every process
    show_remarks(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    settings.quiet = quiet


prepare.register(app)
features.register(app)
caption.register(app)
train.register(app)
query.register(app)
serve.register(app)
hub.register(app)
export.register(app)
experiment.register(app)
demo.register(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
