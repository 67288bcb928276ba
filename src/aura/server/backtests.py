"""What the faces of Aura have in common about backtests: what another plan would have done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from aura.app import Aura
from aura.codec import to_json
from aura.delivery.backtest import Backtest, Replay
from aura.delivery.observation import Observation
from aura.delivery.plan import Plan
from aura.delivery.status import Event, RolloutStatus
from aura.errors import CodecError, InvalidInput, RolloutError, UnknownRollout
from aura.server.operations import storable

CAVEAT = (
    "Units were assigned by the recorded weights; how many the plan would have hit with its own "
    "is an estimate. Approvals count as given, orders of people are not repeated."
)
MOST_SENT = 50_000
"""Observations that one request may bring."""
_PAGE = 500
"""Observations that are replayed before the server looks at the time again."""

Seen = tuple[Observation, float]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a server replays for one request: observations, and seconds."""

    most: int = 500_000
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class RecordedView:
    """The rollout that was recorded, and who did what in it, when and why."""

    name: str
    run: str
    split: str
    state: str
    stage: str
    history: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class BacktestView:
    """What the plan would have done; `recorded` is None for observations that were sent. `caveat`
    is what a backtest cannot know."""

    backtest: Backtest
    recorded: RecordedView | None
    caveat: str = CAVEAT


async def backtest_rollout(
    app: Aura, plan: Plan, on: str, run: str = "", bounds: Bounds | None = None
) -> BacktestView:
    """Replay what was observed of the rollout `on`: of the one with this `run`, else of the last
    one of that name. Nothing is changed.

    Raises UnknownRollout; RolloutError when it has recorded nothing of that kind, and for more than
    the `bounds` (None: there are none) allow.
    """
    if not storable(on):
        raise UnknownRollout("there is no rollout of that name", hint="Use other characters")
    status = _chosen(await app.rollouts.past(on), run)
    made = Replay(plan, status.opened[1] if status.opened else None)
    async with _turn(app, bounds), aclosing(_pages(app, status, plan, bounds)) as pages:
        async for page in pages:
            await asyncio.to_thread(_see, made, page)
    return BacktestView(made.result(), _recorded(status))


async def backtest_sent(
    app: Aura, plan: Plan, observations: Sequence[Mapping[str, Any]], bounds: Bounds
) -> BacktestView:
    """Replay observations that were sent. Raises InvalidInput for one that cannot be read, and
    RolloutError."""
    made = Replay(plan)
    async with _turn(app, bounds):
        for begin in range(0, len(observations), _PAGE):
            page = observations[begin : begin + _PAGE]
            found = [(_read(begin + at, one), 0.0) for at, one in enumerate(page)]
            await asyncio.to_thread(_see, made, found)
    return BacktestView(made.result(), None)


async def _pages(
    app: Aura, status: RolloutStatus, plan: Plan, bounds: Bounds | None
) -> AsyncGenerator[list[Seen], None]:
    page: list[Seen] = []
    count = 0
    async for one in app.rollouts.recorded(status, plan):
        page.append(one)
        if len(page) < _PAGE:
            continue
        count += len(page)
        if bounds is not None and count > bounds.most:
            raise RolloutError(
                f"rollout {status.name} has more than {bounds.most:,} observations, which is more "
                "than a server replays for one request",
                hint="Use the command: aura rollout backtest FILE --on NAME",
            )
        yield page
        page = []
    if page:
        yield page


def _see(made: Replay, page: Sequence[Seen]) -> None:
    for one, written in page:
        made.see(one, written)


def _read(at: int, given: Mapping[str, Any]) -> Observation:
    try:
        return Observation.from_json(to_json(given))
    except CodecError as error:
        raise InvalidInput(f"observations[{at}]: {error.message}", hint=error.hint) from error


_turns: WeakKeyDictionary[Aura, asyncio.Semaphore] = WeakKeyDictionary()


@asynccontextmanager
async def _turn(app: Aura, bounds: Bounds | None) -> AsyncIterator[None]:
    """One backtest after the other in a process, each within its time. Raises RolloutError."""
    async with _turns.setdefault(app, asyncio.Semaphore()):
        try:
            async with asyncio.timeout(None if bounds is None else bounds.seconds) as time:
                yield
        except TimeoutError as error:
            if bounds is None or not time.expired():
                raise
            raise RolloutError(
                f"the backtest takes longer than {bounds.seconds:g} s, which is more than a server "
                "gives to one request",
                hint="Use the command: aura rollout backtest FILE --on NAME",
            ) from error


def _chosen(found: Sequence[RolloutStatus], run: str) -> RolloutStatus:
    for status in reversed(found):
        if not run or status.run == run:
            return status
    known = ", ".join(status.run for status in found[-5:])
    raise RolloutError(f"no rollout of that name has the run {run:.200}", hint=f"It has {known}")


def _recorded(status: RolloutStatus) -> RecordedView:
    return RecordedView(
        status.name, status.run, status.split, status.state, status.stage, status.history
    )
