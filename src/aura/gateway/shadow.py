"""Copies of requests for an arm whose answers nobody sees, compared with the baseline's.

The user's request never waits for any of this: copies start after the answer was sent, only
so many at once; more of them wait in a queue, and what does not fit into it is counted. A part of
them goes to the baseline once more, so that what differs by itself is known as noise.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import re
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from aura.clock import Clock
from aura.delivery.observation import Observation
from aura.delivery.shadow import Example, Finding, Thresholds
from aura.delivery.shadows import ShadowDesk
from aura.errors import RequestRefused, TargetFailed
from aura.gateway.adapters import COST_HEADER, SUPPRESSED, Effects, WorkflowTarget
from aura.gateway.comparing import ComparerFailed, Comparers
from aura.gateway.contract import Contract, Violation
from aura.gateway.diff import Diffed, Difference, Rules, diff_documents
from aura.gateway.headers import Pairs, value
from aura.gateway.race import Attempt, attempt
from aura.gateway.targets import Request, Target

log = logging.getLogger("aura.gateway")

LARGEST = 1024 * 1024  # bytes of an answer that is compared
IN_PLACE = 16 * 1024  # bytes up to which comparing is quicker than handing over to a thread
INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """How many copies run at once, how many wait, and how many seconds one may take.

    Of the requests that are copied the part `noise` is sent to the baseline once more, and so are
    the first `first` of an arm (when `noise` is above 0); `thresholds` say what then is noise. No
    more copies are sent while those of the last `cost_window` seconds have cost `max_cost`: the sum
    of the numbers in their `cost_header`.
    """

    concurrent: int = 8
    queue: int = 100
    timeout: float = 10.0
    noise: float = 0.0
    first: int = 20
    thresholds: Thresholds = field(default_factory=Thresholds)
    max_cost: float | None = None
    cost_window: float = 3600.0
    cost_header: str = COST_HEADER


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer to compare with. `body` is None when it was too large to be kept."""

    status: int
    headers: Pairs
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One copy: the request, where it goes, what the baseline said, and the observation in
    which arm, unit, split and epoch are set already. `again` is the baseline, which may be asked
    once more; `baseline_run` the run that answered there. `contract` is what answers must fit."""

    request: Request
    target: Target
    baseline: Recorded
    observation: Observation
    rules: Rules
    again: Target | None = None
    baseline_run: str = ""
    contract: Contract | None = None


class NotComparable(Exception):
    """An answer that cannot be read as JSON, or is too large."""


class Budget:
    """What copies have cost in the last `window` seconds, against `most`."""

    def __init__(self, most: float | None, window: float) -> None:
        self._most = most
        self._window = window
        self._spent: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def spend(self, now: float, cost: float) -> None:
        """A copy has cost so much."""
        if cost and self._most is not None:
            self._spent.append((now, cost))
            self._sum += cost

    def used_up(self, now: float) -> bool:
        """Whether nothing more may be spent now."""
        while self._spent and self._spent[0][0] <= now - self._window:
            self._sum -= self._spent.popleft()[1]
        if not self._spent:
            self._sum = 0.0  # what rounding has left
        return self._most is not None and self._sum >= self._most


class Shadows:
    """Runs copies in the background.

    `sent`, `skipped` (no room, or no budget), `cut` (under way at the end) and `uncompared` count
    them; what they have shown is in the reports of `desk`.
    """

    def __init__(
        self,
        observe: Callable[[Observation], None],
        clock: Clock,
        limits: ShadowLimits,
        desk: ShadowDesk | None = None,
    ) -> None:
        self.limits = limits
        self.sent = 0
        self.skipped = 0
        self.cut = 0
        self.uncompared = 0
        self.desk = ShadowDesk(clock) if desk is None else desk
        self.desk.limits = limits.thresholds
        self.comparers = Comparers()
        self.budget = Budget(limits.max_cost, limits.cost_window)
        self._observe = observe
        self._clock = clock
        self._queue: deque[Mirrored] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def offer(self, copy: Mirrored) -> bool:
        """Send a copy now or soon; False when there is no room for it. Never waits."""
        if self.budget.used_up(self._clock.now()):
            self.skip(*_place(copy), "over the budget")
            return False
        if len(self._running) < self.limits.concurrent:
            self._start(copy)
        elif len(self._queue) < self.limits.queue:
            self._queue.append(copy)
        else:
            self.skip(*_place(copy), "no room")
            return False
        return True

    async def close(self) -> None:
        """Cancel what runs or waits, counted as `cut`."""
        running = list(self._running)
        self.cut += len(self._queue) + len(running)
        self._queue.clear()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self.comparers.close()

    def skip(self, split: str, arm: str, why: str) -> None:
        """A copy is not sent."""
        self.skipped += 1
        self.desk.skipped(split, arm, why)

    def _start(self, copy: Mirrored) -> None:
        self.sent += 1
        task = asyncio.create_task(self._run(copy))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a shadow copy failed unexpectedly", exc_info=error)
        if self._queue and len(self._running) < self.limits.concurrent:
            self._start(self._queue.popleft())

    async def _run(self, copy: Mirrored) -> None:
        outcome = await self._attempt(copy.target, copy, copy.request)
        known = await effects_of(copy.target, outcome)
        cost = cost_of(outcome, self.limits.cost_header, known)
        self.budget.spend(self._clock.now(), cost)
        stopped = outcome.failure == SUPPRESSED
        seen = replace(
            copy.observation,
            at=self._clock.now(),
            ok=outcome.good or stopped,
            latency=outcome.seconds,
            error="" if stopped else outcome.failure,
            run=outcome.run,
            metrics={"cost": cost} if cost else {},
        )
        found = Finding(effects=known.effects, cost=cost)
        try:
            theirs = await self._recorded(outcome)
            differences, uncompared = await self._differences(copy, theirs)
            broken = _broken(copy, theirs)
            noise = await self._noise(copy)
        except NotComparable as reason:
            self.uncompared += 1
            why = seen.error or str(reason)
            self.desk.found(seen.split, seen.arm, replace(found, reason=why))
            self._observe(replace(seen, error=seen.error or f"not compared: {reason}"))
            return
        finally:
            outcome.close()
        if broken:
            seen = replace(seen, ok=False, error=seen.error or "contract")
        examples = _examples([*broken, *differences], seen, copy.baseline_run)
        found = replace(found, differences=examples, noise=noise, uncompared=uncompared)
        self._observe(replace(seen, differences=self.desk.found(seen.split, seen.arm, found)))

    async def _attempt(self, target: Target, copy: Mirrored, request: Request) -> Attempt:
        arm = copy.observation.arm
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await attempt(arm, target, request, self._clock)
        except TimeoutError:
            late = TargetFailed("it took too long", code="shadow-timeout")
            return Attempt(arm, self.limits.timeout, error=late)

    async def _recorded(self, outcome: Attempt) -> Recorded:
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await recorded(outcome)
        except TimeoutError as error:
            raise NotComparable("its answer did not end") from error

    async def _differences(
        self, copy: Mirrored, theirs: Recorded
    ) -> tuple[list[Difference], tuple[str, ...]]:
        """How an answer differs from the baseline's, and in which fields nobody can tell."""
        sizes = len(copy.baseline.body or b"") + len(theirs.body or b"")
        if sizes <= IN_PLACE:
            diffed = compared(copy.baseline, theirs, copy.rules)
        else:
            diffed = await asyncio.to_thread(compared, copy.baseline, theirs, copy.rules)
        found, unknown = list(diffed.found), []
        for pending in diffed.pending:
            try:
                if not await self.comparers.same(pending.comparer, pending.left, pending.right):
                    found.append(pending.differs())
            except ComparerFailed:
                unknown.append(field_path(pending.path))
        return found, tuple(dict.fromkeys(unknown))

    async def _noise(self, copy: Mirrored) -> frozenset[str] | None:
        """In which fields the baseline differs from itself; None when it was not asked again, or
        did not answer."""
        seen = copy.observation
        if copy.again is None or not self.limits.noise:
            return None
        begins = self.desk.paired(seen.split, seen.arm) < self.limits.first
        if not begins and random.random() >= self.limits.noise:  # noqa: S311
            return None
        outcome = await self._attempt(copy.again, copy, again_of(copy.request))
        try:
            theirs = await self._recorded(outcome)
            found, _ = await self._differences(copy, theirs)
        except NotComparable:
            return None
        finally:
            outcome.close()
        return frozenset(field_paths(found))


def shadow_of(request: Request, baseline_run: str = "", limit: float = 0.0) -> Request:
    """The same request as a copy: marked, and with an idempotency key of its own, so that a
    store of keys that both sides share does not answer it from the original's result.

    `baseline_run` is the run that answered the original; the copy may take `limit` seconds."""
    copy = _marked(request, "shadow-")
    return replace(copy, baseline_run=baseline_run, limit=limit)


def again_of(copy: Request) -> Request:
    """A copy as the baseline gets it once more."""
    headers = tuple(pair for pair in copy.headers if pair[0] != b"x-aura-shadow")
    return _marked(replace(copy, headers=headers), "again-")


def _marked(request: Request, prefix: str) -> Request:
    key = f"{prefix}{request.key}" if request.key else ""
    headers = [pair for pair in request.headers if pair[0] != b"idempotency-key"]
    headers.append((b"x-aura-shadow", b"1"))
    if key:
        headers.append((b"idempotency-key", key.encode("latin-1", "replace")))
    return replace(request, headers=tuple(headers), key=key, shadow=True)


async def recorded(outcome: Attempt) -> Recorded:
    """What an attempt answered. Raises NotComparable when it answered nothing or too much."""
    if isinstance(outcome.error, RequestRefused):
        return Recorded(outcome.error.status, (), b"")
    if outcome.answer is None:
        suppressed = outcome.failure == SUPPRESSED
        raise NotComparable("suppressed: no answer" if suppressed else "no answer")
    body = bytearray()
    try:
        async for part in outcome.answer.parts():
            body += part
            if len(body) > LARGEST:
                raise NotComparable("its answer is too large")
    except TargetFailed as error:
        raise NotComparable("its answer broke off") from error
    return Recorded(outcome.answer.status, outcome.answer.headers, bytes(body))


def compared(left: Recorded, right: Recorded, rules: Rules) -> Diffed:
    """Differences in status (path `status`) and body, and what is left to the user's functions.
    Bodies that are not JSON on both sides are compared as bytes (path `body`); with `rules.exact`
    all are (path `bytes`), too. Raises NotComparable."""
    found: list[Difference] = []
    if left.status != right.status:
        found.append(Difference("status", "value", str(left.status), str(right.status)))
    ours, theirs = _plain(left), _plain(right)
    try:
        documents = json.loads(ours), json.loads(theirs)
    except RecursionError as error:
        raise NotComparable("too deep") from error
    except ValueError:
        if ours != theirs:
            found.append(Difference("body", "value", *_sizes(ours, theirs)))
        return Diffed(found, [])
    if rules.exact and ours != theirs:
        found.append(Difference("bytes", "value", *_sizes(ours, theirs)))
    diffed = diff_documents(*documents, rules)
    return Diffed(found + diffed.found, diffed.pending)


def _sizes(ours: bytes, theirs: bytes) -> tuple[str, str]:
    return f"{len(ours)} bytes", f"{len(theirs)} bytes"


def _place(copy: Mirrored) -> tuple[str, str]:
    return copy.observation.split, copy.observation.arm


def _broken(copy: Mirrored, theirs: Recorded) -> list[Difference]:
    """Where an answer breaks the contract though the baseline's does not."""
    contract = copy.contract
    if contract is None:
        return []
    ours = {one.path for one in violations(contract, copy.request, copy.baseline)}
    return [
        Difference(f"contract {one.path}", "type", "", one.message)
        for one in violations(contract, copy.request, theirs)
        if one.path not in ours
    ]


def violations(contract: Contract, request: Request, answer: Recorded) -> list[Violation]:
    """Where an answer breaks a contract; nothing for one that cannot be read."""
    method, target = request.method, request.target.decode("latin-1")
    try:
        body = _plain(answer)
    except NotComparable:
        return []
    sent = request.body if isinstance(request.body, bytes) else b""
    return [
        *contract.check(method, target, answer.status, answer.headers, body),
        *contract.check_example(method, target, sent, body),
    ]


def _examples(found: list[Difference], seen: Observation, baseline_run: str) -> dict[str, Example]:
    """The first difference of each field."""
    examples: dict[str, Example] = {}
    for one in found:
        example = Example(one.left, one.right, one.kind, seen.at, seen.run, baseline_run)
        examples.setdefault(field_path(one.path), example)
    return examples


async def effects_of(target: Target, outcome: Attempt) -> Effects:
    """What the run behind an answer would have done."""
    if not isinstance(target, WorkflowTarget) or not outcome.run:
        return Effects()
    return await target.effects(outcome.run)


def cost_of(outcome: Attempt, header: str, known: Effects) -> float:
    """What an answer has cost: its field says it, or its run's state; 0.0 when neither does."""
    if outcome.answer is None:
        return known.cost
    text = value(outcome.answer.headers, header.encode())
    try:
        cost = known.cost if text is None else float(text)
    except ValueError:
        return 0.0
    return cost if math.isfinite(cost) and cost > 0 else 0.0


def field_path(path: str) -> str:
    """A path with every index as `[*]`: a field, not a place."""
    return INDEX.sub("[*]", path)


def field_paths(found: list[Difference]) -> tuple[str, ...]:
    """The paths once each, in order, as fields."""
    return tuple(dict.fromkeys(field_path(difference.path) for difference in found))


def _plain(answer: Recorded) -> bytes:
    if answer.body is None:
        raise NotComparable("the baseline's answer is too large")
    coding = (value(answer.headers, b"content-encoding") or b"identity").strip().lower()
    if coding == b"identity":
        return answer.body
    if coding not in (b"gzip", b"deflate"):
        raise NotComparable(f"content-encoding {coding.decode('latin-1')}")
    return _inflate(answer.body)


def _inflate(body: bytes) -> bytes:
    decoder: Any = zlib.decompressobj(wbits=47)  # 32 + 15: a gzip or zlib head
    try:
        plain: bytes = decoder.decompress(body, LARGEST)
    except zlib.error as error:
        raise NotComparable("its compression is broken") from error
    if not decoder.eof:
        whole = len(plain) < LARGEST
        raise NotComparable("its compression is broken" if whole else "its answer is too large")
    return plain
