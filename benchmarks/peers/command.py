"""The command line of benchmarks/peers.py."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from peers import environments
from peers.data import DATASETS
from peers.plan import PEERS, jobs
from peers.report import CLOCKS, report
from peers.run import read_results, run

LIBRARIES = tuple(dict.fromkeys(entry.library for entry in PEERS))


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    options.work(options)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="peers.py", description="Other libraries and lirdrec on the same data, by the same clock."
    )
    commands = root.add_subparsers(required=True)

    def command(name: str, work, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.add_argument("folder", type=Path, help="of environments, data and results")
        found.set_defaults(work=work)
        return found

    one = command("environments", make_environments, "Make a virtual environment for each library.")
    one.add_argument("--libraries", nargs="+", choices=tuple(environments.ENVIRONMENTS), metavar="NAME")
    one.add_argument("--pip", default="", help="further arguments of pip install, in one string")
    one.add_argument("--python", default=sys.executable, help="the interpreter to start from")
    one.add_argument("--again", action="store_true", help="also those that could not be made before")
    one = command("run", run_all, "Run what has no result yet.")
    one.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES, metavar="NAME")
    one.add_argument("--datasets", nargs="+", choices=(*DATASETS, "tiny"), default=DATASETS, metavar="NAME")
    one.add_argument("--models", nargs="+", help="only these models of the libraries: item_knn, bpr, als, ease, ials …")
    one.add_argument("--threads", nargs="+", type=int, default=[1])
    one.add_argument("--repetitions", type=int, default=1, help="of every run; the report has medians")
    one.add_argument("--epochs", type=int, help="in place of those of each model")
    one.add_argument("--released", type=Path, help="a checkout of the released LIRDRec")
    one.add_argument("--timeout", type=float, help="seconds for a run")
    one = command("report", print_report, "Print the ratios, and what is missing.")
    one.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: on a machine with other load")
    one.add_argument("--output", type=Path, help="also write it to this file")
    return root


def make_environments(options: argparse.Namespace) -> None:
    for name in options.libraries or environments.ENVIRONMENTS:
        home = options.folder / "environments" / name
        known = None if options.again else environments.reason(home)
        problem = known or environments.make(name, home, tuple(shlex.split(options.pip)), options.python)
        print(f"{name}: {problem or 'ready'}", flush=True)


def run_all(options: argparse.Namespace) -> None:
    if options.released is not None and not options.released.is_dir():
        sys.exit(f"--released {options.released}: no such folder; give a checkout of the released LIRDRec")
    wanted = (options.libraries, options.datasets, options.threads, options.repetitions, options.epochs, options.models)
    run(options.folder, jobs(*wanted), options.released, options.timeout)


def print_report(options: argparse.Namespace) -> None:
    results = read_results(options.folder)
    if not results:
        sys.exit(f"{options.folder}: no results; run first: python benchmarks/peers.py run {options.folder}")
    text = report(results, options.folder, options.clock)
    print(text, end="")
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
