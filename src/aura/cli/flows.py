"""`aura flows`: what `aura.choose` has learnt, and what another policy would have earned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, note, print_json, show, table
from aura.delivery.learning import load_learning
from aura.server.flows import (
    Bounds,
    FlowView,
    LearningView,
    evaluate_flow,
    list_flows,
    read_weights,
    release_arm,
    show_flow,
    show_learning,
    start_learning,
    stop_learning,
)
from aura.stats.means import EARLIEST

T = TypeVar("T")

flows = typer.Typer(
    help="Choices inside workflows: what was learnt about their arms.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The choice.", show_default=False)]


@flows.command("list")
def list_(database: Database = None, as_json: Json = False) -> None:
    """List choices with the probabilities of their arms.

    \b
    Example:
      aura flows list
    """

    found = _with_app(database, list_flows).flows
    if as_json:
        print_json([asdict(one) for one in found])
        return
    if not found:
        note("No choice has been made. Make one with aura.choose in a workflow.")
        return
    rows = (
        (
            Text(clean(one.name)),
            f"{sum(arm.choices for arm in one.arms.values()):,}",
            f"{one.pending:,}",
            Text(", ".join(f"{clean(arm)} {share:.0%}" for arm, share in _ordered(one))),
        )
        for one in found
    )
    show(table(("=NAME", ">CHOICES", ">PENDING", "NOW"), rows))


@flows.command("show")
def show_(name: Name, database: Database = None, as_json: Json = False) -> None:
    """Show what is known of each arm of a choice.

    \b
    Example:
      aura flows show strategy
    """
    found = _with_app(database, lambda app: show_flow(app, name))
    if as_json:
        print_json(asdict(found))
        return
    rows = (
        (
            Text(clean(arm)),
            f"{share:.1%}",
            f"{found.arms[arm].choices:,}",
            f"{found.arms[arm].rewarded:,}",
            f"{found.arms[arm].mean:.3f}",
            f"{found.arms[arm].failed:,}",
            Text(clean(found.arms[arm].tripped)),
        )
        for arm, share in _ordered(found)
    )
    columns = ("=ARM", ">NOW", ">CHOICES", ">REWARDS", ">MEAN", ">FAILED", "TRIPPED")
    show(table(columns, rows))
    note(f"{found.pending:,} choices wait for their reward, {found.ignored:,} lines were ignored.")


@flows.command()
def evaluate(
    name: Name,
    policy: Annotated[
        str,
        typer.Option(
            help='Weights by arm, as in "fast=0.2,deep=0.8", or the name of one arm.',
            show_default=False,
        ),
    ],
    alpha: Annotated[float, typer.Option(help="How often the interval may be wrong.")] = 0.05,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Estimate, from the log, what a policy would have earned per choice.

    \b
    Examples:
      aura flows evaluate strategy --policy deep
      aura flows evaluate strategy --policy fast=0.2,deep=0.8
    """
    read_weights(policy)
    found = _with_app(database, lambda app: evaluate_flow(app, name, policy, alpha))
    if as_json:
        print_json(asdict(found))
        return
    rows = (
        (title, f"{one.estimate:.4f}", _bound(one.low), _bound(one.high))
        for title, one in (("doubly robust", found.doubly_robust), ("IPS", found.ips))
    )
    show(table(("=ESTIMATOR", ">REWARD", ">FROM", ">TO"), rows))
    note(
        f"The log's own choices earned {found.logged:.4f}. {found.n:,} choices, which are as good "
        f"as {found.effective:,.0f} of this policy. {_said(found.doubly_robust, found.logged)}"
    )


@flows.command()
def release(
    name: Name,
    arm: Annotated[str, typer.Argument(metavar="ARM", help="The arm.", show_default=False)],
    by: Annotated[str, typer.Option("--by", help="Who says so.")] = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Let an arm be taken again that was tripped; its failures count anew.

    \b
    Example:
      aura flows release strategy deep --by ada
    """
    who = by or process.user()
    _with_app(database, lambda app: release_arm(app, name, arm, by=who))
    if as_json:
        print_json({"name": name, "arm": arm, "released": True})
    else:
        note(f"Arm {arm} of {name} may be taken again.")


@flows.command()
def start(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file with `learning:`.")],
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Let a split learn: the traffic goes where it is worth most.

    \b
    Example:
      aura flows start learning.yaml
    """
    plan = load_learning(file)

    async def begin(app: Aura) -> LearningView:
        await start_learning(app, plan)
        return await show_learning(app, plan.name)

    _tell(_with_app(database, begin), as_json)


@flows.command()
def stop(
    name: Name,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the shares as they are now.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "",
    by: Annotated[str, typer.Option("--by", help="Who says so.")] = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """End the learning of a split: everybody to the baseline, or as they are now.

    \b
    Examples:
      aura flows stop model-route --reason "the small model is retired"
      aura flows stop model-route --keep
    """
    who = by or process.user()
    _with_app(database, lambda app: stop_learning(app, name, by=who, reason=reason, keep=keep))
    if as_json:
        print_json({"name": name, "stopping": True, "keep": keep})
    else:
        note(f"{name} is asked to stop.")


@flows.command()
def status(name: Name, database: Database = None, as_json: Json = False) -> None:
    """Show what a split has learnt.

    \b
    Example:
      aura flows status model-route
    """
    _tell(_with_app(database, lambda app: show_learning(app, name)), as_json)


def _tell(found: LearningView, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    rows = (
        (
            Text(clean(name)),
            f"{arm.share:.1%}",
            f"{arm.rewarded:,}",
            f"{arm.mean:.3f}",
            Text(clean(arm.tripped)),
        )
        for name, arm in sorted(found.arms.items(), key=lambda one: -one[1].share)
    )
    show(table(("=ARM", ">SHARE", ">REWARDS", ">MEAN", "TRIPPED"), rows))
    last = found.history[-1]
    note(f"{found.name} is {found.state}, split {found.split} at epoch {found.epoch}. ")
    note(f"Last: {clean(last.what)}, {clean(last.reason)}")


def _with_app(database: str | None, act: Callable[[Aura], Awaitable[T]]) -> T:
    async def inside(app: Aura) -> T:
        async with opened(app):
            return await act(app)

    return process.run(inside(bare_app(database)))


def _ordered(flow: FlowView) -> list[tuple[str, float]]:
    shares = ((name, arm.probability) for name, arm in flow.arms.items())
    return sorted(shares, key=lambda one: -one[1])


def _bound(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _said(found: Bounds, logged: float) -> str:
    if found.n < EARLIEST:
        return f"Intervals need {EARLIEST} choices with a reward."
    if found.low is not None and found.low > logged:
        return "It is better than what was done."
    if found.high is not None and found.high < logged:
        return "It is worse than what was done."
    return "That does not tell it from what was done."
