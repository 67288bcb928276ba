"""Fallback within the budget: the candidate first, the baseline when it is needed.

candidate ──good──► answered
    │ failed, or only the baseline's usual time is left
    ▼
candidate + baseline ──first good one──► answered
    │ both failed
    ▼
the better of two failures: a response before none, the baseline's before the candidate's
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from aura.clock import Clock
from aura.errors import RequestRefused, TargetFailed
from aura.gateway.client import ClientGone
from aura.gateway.targets import Answer, Request, Target

log = logging.getLogger("aura.gateway")

Reason = Literal["", "error", "late"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one call after `seconds`: an answer, or the error in its place. `broken` says
    that the answer breaks its contract, which makes it a failure."""

    arm: str
    seconds: float
    answer: Answer | None = None
    error: TargetFailed | RequestRefused | None = None
    broken: bool = False

    @property
    def good(self) -> bool:
        """The target did its part: a status under 500, or a refusal that the client can mend."""
        if self.broken:
            return False
        if self.answer is not None:
            return self.answer.status < 500
        return isinstance(self.error, RequestRefused)

    @property
    def failure(self) -> str:
        """Why it is not good, short; "" when it is."""
        if self.good:
            return ""
        if self.broken:
            return "contract"
        if self.answer is not None:
            return f"status-{self.answer.status}"
        return self.error.code if self.error is not None else "unknown"

    @property
    def run(self) -> str:
        """The run behind it, "" for none."""
        if self.answer is not None:
            return self.answer.run
        return self.error.run if isinstance(self.error, TargetFailed) else ""

    def close(self) -> None:
        """Let go of an answer that nobody wants."""
        if self.answer is not None:
            self.answer.close()


@dataclass(frozen=True, slots=True)
class Race:
    """Who answered, and why the baseline was started ("" when it was not).

    `candidate` is what became of the candidate; while it is still under way it is None and
    `running` is its task, which now belongs to the caller.
    """

    winner: Attempt
    reason: Reason
    candidate: Attempt | None
    running: asyncio.Task[Attempt] | None = None


Call = Callable[[], Coroutine[Any, Any, Attempt]]


async def attempt(arm: str, target: Target, request: Request, clock: Clock) -> Attempt:
    """Call a target; its failures become values, even those that it did not mean to have."""
    started = clock.monotonic()
    try:
        answer = await target.call(request)
    except (TargetFailed, RequestRefused) as error:
        return Attempt(arm, clock.monotonic() - started, error=error)
    except ClientGone:
        raise
    except Exception as error:  # a target with a bug must not take the fallback down with it
        log.exception("target %s raised what no target may raise", arm)
        broken = TargetFailed(f"it raised {type(error).__name__}", code="target-broken")
        return Attempt(arm, clock.monotonic() - started, error=broken)
    return Attempt(arm, clock.monotonic() - started, answer=answer)


async def race(candidate: Call, baseline: Call, after: float | None, clock: Clock) -> Race:
    """The first good answer; the baseline starts when the candidate failed or `after` seconds
    are over (None: only when it failed). Cancelling it cancels both."""
    first = asyncio.create_task(candidate())
    second: asyncio.Task[Attempt] | None = None
    try:
        if await within(first, after, clock):
            if first.result().good:
                return Race(first.result(), "", first.result())
            reason: Reason = "error"
        else:
            reason = "late"
        second = asyncio.create_task(baseline())
        winner = await _first_good(first, second)
    except BaseException:
        discard(first)
        if second is not None:
            discard(second)
        raise
    if winner is first:
        discard(second)
        return Race(first.result(), reason, first.result())
    if not first.done():
        return Race(second.result(), reason, None, first)
    first.result().close()
    return Race(second.result(), reason, first.result())


async def within(task: asyncio.Task[Attempt], seconds: float | None, clock: Clock) -> bool:
    """Wait for a task, but not longer than that; whether it is done. It is not cancelled."""
    if seconds is None:
        await asyncio.wait({task})
        return True
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
    return task.done()


def discard(task: asyncio.Task[Attempt]) -> None:
    """Cancel a call; an answer that came all the same is closed."""
    task.cancel()
    task.add_done_callback(_close)


def _close(task: asyncio.Task[Attempt]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _first_good(
    first: asyncio.Task[Attempt], second: asyncio.Task[Attempt]
) -> asyncio.Task[Attempt]:
    pending = {task for task in (first, second) if not task.done()}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in (first, second):
            if task in done and task.result().good:
                return task
    if second.result().answer is None and first.result().answer is not None:
        return first
    return second
