"""Entry point of the `lirdrec` command. Imports nothing heavy: `lirdrec --help` must answer at once."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lirdrec.cli import (
    caption_commands,
    data_commands,
    demo_command,
    experiment_commands,
    exporting_commands,
    feature_commands,
    server_commands,
    serving_commands,
    sharing_commands,
    training_commands,
)
from lirdrec.cli.settings import INTERRUPTED, settings
from lirdrec.errors import LirdrecError


class Commands(TyperGroup):
    """Turns the user's errors into one sentence and an exit code, for every command."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LirdrecError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                print(f"lirdrec: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print("\nlirdrec: stopped", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output went away: `lirdrec … | head`
            sys.stderr.close()
            raise typer.Exit(0) from None


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


data_commands.register(app)
feature_commands.register(app)
caption_commands.register(app)
training_commands.register(app)
serving_commands.register(app)
server_commands.register(app)
sharing_commands.register(app)
exporting_commands.register(app)
experiment_commands.register(app)
demo_command.register(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
