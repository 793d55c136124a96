"""Before something is sent that takes time or money: what it will take, and whether a person agrees."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import typer

from lirdrec.cli.output import console, settings, table
from lirdrec.errors import ConfigError
from lirdrec.features.remote.cost import Estimate

P = TypeVar("P")

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it starts.")]
PriceInputOption = Annotated[
    float | None, typer.Option("--price-input", metavar="PRICE", min=0, help="Of a million tokens read.")
]
PerMinuteOption = Annotated[float | None, typer.Option("--requests-per-minute", help="Server: no more than this.")]


@dataclass(frozen=True)
class Plan(Generic[P]):
    """Work that a person may want to know about before it starts.

    Attributes:
        estimate: what it takes, by what a probe has measured; by a rule where there is none.
        place: where the model runs, for people.
        remote: whether inputs leave this machine, and may cost money.
        question: whether to measure; None where there is nothing to measure.
        measure: the probe.
    """

    estimate: Callable[[P | None], Estimate]
    place: str
    remote: bool
    question: str | None
    measure: Callable[[], P]


def agreed(plan: Plan[P], yes: bool) -> tuple[bool, P | None]:
    """Whether to go on, and what was measured meanwhile.

    Raises:
        ConfigError: something would leave this machine, and there is nobody to ask.
    """
    from lirdrec.data.ids import count

    if not yes and not _is_terminal():
        if not plan.remote:
            return True, None
        one = plan.estimate(None)
        _show(one, plan.remote)
        raise ConfigError(
            f"{count(one.inputs, one.unit)} would be sent to {plan.place}, and nobody is there to agree: say --yes"
        )
    probe = plan.measure() if plan.question is not None and (yes or _asked(plan.question)) else None
    _show(plan.estimate(probe), plan.remote)
    return yes or _asked("Go on?"), probe


def _show(one: Estimate, remote: bool) -> None:
    from lirdrec.data.ids import count
    from lirdrec.files.progress import duration

    if settings.quiet:
        return
    measured = f"measured on {count(one.measured, one.unit)}"
    how = measured if one.measured else "by a rule of thumb; models differ much"
    rows = [[f"{one.unit}s", f"{one.inputs:,}", ""]]
    for name, tokens in (("read", one.tokens_in), ("written", one.tokens_out)):
        if tokens:
            rows.append([f"tokens {name}", f"{one.inputs * tokens:,.0f}", f"{tokens:,.0f} a {one.unit}, {how}"])
    if remote:
        prices = "--price-input and --price-output" if one.tokens_out else "--price-input"
        said = f"not known: give {prices}, per million tokens" if one.cost is None else "in the currency of the prices"
        rows.append(["cost", "?" if one.cost is None else f"{one.cost:,.2f}", said])
    time = one.time
    pace = f"{count(one.concurrency, 'request')} at once" if remote else ""
    rows.append(["time", "?" if time is None else f"about {duration(time)}", pace if time else "not measured"])
    console(errors=True).print(table("What it will take", ["", "altogether", " "], rows, right=("altogether",)))


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _asked(question: str) -> bool:
    return typer.confirm(question, default=True, err=True)
