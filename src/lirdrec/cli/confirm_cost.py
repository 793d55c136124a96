"""Show the estimated cost of a job that uses a server or a large model, and ask whether to start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import typer

from lirdrec.cli.output import console, settings, table
from lirdrec.errors import ConfigError
from lirdrec.features.remote.cost import Estimate
from lirdrec.files.progress_bars import duration
from lirdrec.wording import pluralize

P = TypeVar("P")


def agreed(
    estimate: Callable[[P | None], Estimate],
    target: str,
    remote: bool,
    question: str | None,
    measure: Callable[[], P],
    yes: bool,
) -> tuple[bool, P | None]:
    """Show the estimated cost of a job, and ask the user whether to start it.

    Without a terminal, a job on this machine starts without a question.

    Args:
        estimate: function from the measurement of a probe (None: no measurement) to the estimated cost.
        target: where the model runs, for messages.
        remote: whether inputs are sent to a server and may cost money.
        question: asks the user whether to run the probe first; None: no probe.
        measure: function that runs the probe (a few inputs) and returns the measurement.
        yes: run the probe and start without asking.

    Returns:
        Whether to start, and the measurement of the probe (None without a probe).

    Raises:
        ConfigError: inputs would be sent to a server, there is no terminal to ask the user, and `yes` is False.
    """
    if not yes and not _is_terminal():
        if not remote:
            return True, None
        cost = estimate(None)
        _show(cost, remote)
        inputs = pluralize(cost.inputs, cost.unit)
        raise ConfigError(f"{inputs} would be sent to {target}, and there is no terminal to ask; to agree, give --yes")
    probe = measure() if question is not None and (yes or _ask(question)) else None
    _show(estimate(probe), remote)
    return yes or _ask("Continue?"), probe


def _show(estimate: Estimate, remote: bool) -> None:
    if settings.quiet:
        return
    measured = f"measured on {pluralize(estimate.measured, estimate.unit)}"
    how = measured if estimate.measured else "a rough estimate; models differ much"
    rows = [[f"{estimate.unit}s", f"{estimate.inputs:,}", ""]]
    for name, tokens in (("read", estimate.tokens_in), ("written", estimate.tokens_out)):
        if tokens:
            rows.append(
                [f"tokens {name}", f"{estimate.inputs * tokens:,.0f}", f"{tokens:,.0f} a {estimate.unit}, {how}"]
            )
    if remote:
        prices = "--price-input and --price-output" if estimate.tokens_out else "--price-input"
        note = "in the currency of the prices" if estimate.cost is not None else f"unknown: give {prices}, per million"
        rows.append(["cost", "?" if estimate.cost is None else f"{estimate.cost:,.2f}", note])
    time = estimate.time
    pace = f"{pluralize(estimate.concurrency, 'parallel request')}" if remote else ""
    rows.append(["time", "?" if time is None else f"about {duration(time)}", pace if time else "not measured"])
    console(errors=True).print(table("Estimated cost", ["", "total", " "], rows, right=("total",)))


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask(question: str) -> bool:
    return typer.confirm(question, default=True, err=True)
