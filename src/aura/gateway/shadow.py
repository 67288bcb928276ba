"""Copies of requests for an arm whose answers nobody sees, compared with the baseline's.

The user's request never waits for any of this: copies start after the answer was sent, only
so many at once; more of them wait in a queue, and what does not fit into it is counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from aura.clock import Clock
from aura.delivery.observation import Observation
from aura.errors import RequestRefused, TargetFailed
from aura.gateway.diff import Difference, Rules, diff_json
from aura.gateway.headers import Pairs, value
from aura.gateway.race import Attempt, attempt
from aura.gateway.targets import Request, Target

log = logging.getLogger("aura.gateway")

LARGEST = 1024 * 1024  # bytes of an answer that is compared
IN_PLACE = 16 * 1024  # bytes up to which comparing is quicker than handing over to a thread
EXAMPLES = 200
INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """How many copies run at once, how many wait, and how many seconds one may take."""

    concurrent: int = 8
    queue: int = 100
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer to compare with. `body` is None when it was too large to be kept."""

    status: int
    headers: Pairs
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One copy: the request, where it goes, what the baseline said, and the observation in
    which arm, unit, split and epoch are set already."""

    request: Request
    target: Target
    baseline: Recorded
    observation: Observation
    rules: Rules


class NotComparable(Exception):
    """An answer that cannot be read as JSON, or is too large."""


class Shadows:
    """Runs copies in the background.

    `sent`, `skipped` (no room), `cut` (under way at the end) and `uncompared` count them;
    `examples` has the first difference seen on each arm and path.
    """

    def __init__(
        self, observe: Callable[[Observation], None], clock: Clock, limits: ShadowLimits
    ) -> None:
        self.limits = limits
        self.sent = 0
        self.skipped = 0
        self.cut = 0
        self.uncompared = 0
        self.examples: dict[tuple[str, str], Difference] = {}
        self._observe = observe
        self._clock = clock
        self._queue: deque[Mirrored] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def offer(self, copy: Mirrored) -> bool:
        """Send a copy now or soon; False when there is no room for it. Never waits."""
        if len(self._running) < self.limits.concurrent:
            self._start(copy)
        elif len(self._queue) < self.limits.queue:
            self._queue.append(copy)
        else:
            self.skipped += 1
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
        arm = copy.observation.arm
        outcome = await self._attempt(arm, copy)
        seen = replace(
            copy.observation,
            at=self._clock.now(),
            ok=outcome.good,
            latency=outcome.seconds,
            error=outcome.failure,
            run=outcome.run,
        )
        try:
            found = await self._compare(copy, outcome)
        except NotComparable as reason:
            self.uncompared += 1
            self._observe(replace(seen, error=seen.error or f"not compared: {reason}"))
            return
        finally:
            outcome.close()
        self._remember(arm, found)
        self._observe(replace(seen, differences=field_paths(found)))

    async def _attempt(self, arm: str, copy: Mirrored) -> Attempt:
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await attempt(arm, copy.target, copy.request, self._clock)
        except TimeoutError:
            late = TargetFailed("it took too long", code="shadow-timeout")
            return Attempt(arm, self.limits.timeout, error=late)

    async def _compare(self, copy: Mirrored, outcome: Attempt) -> list[Difference]:
        try:
            async with asyncio.timeout(self.limits.timeout):
                theirs = await recorded(outcome)
        except TimeoutError as error:
            raise NotComparable("its answer did not end") from error
        sizes = len(copy.baseline.body or b"") + len(theirs.body or b"")
        if sizes <= IN_PLACE:
            return compare(copy.baseline, theirs, copy.rules)
        return await asyncio.to_thread(compare, copy.baseline, theirs, copy.rules)

    def _remember(self, arm: str, found: list[Difference]) -> None:
        for difference in found:
            if len(self.examples) < EXAMPLES:
                self.examples.setdefault((arm, INDEX.sub("[*]", difference.path)), difference)


def shadow_of(request: Request) -> Request:
    """The same request as a copy: marked, and with an idempotency key of its own, so that a
    store of keys that both sides share does not answer it from the original's result."""
    key = f"shadow-{request.key}" if request.key else ""
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
        raise NotComparable("no answer")
    body = bytearray()
    try:
        async for part in outcome.answer.parts():
            body += part
            if len(body) > LARGEST:
                raise NotComparable("its answer is too large")
    except TargetFailed as error:
        raise NotComparable("its answer broke off") from error
    return Recorded(outcome.answer.status, outcome.answer.headers, bytes(body))


def compare(left: Recorded, right: Recorded, rules: Rules) -> list[Difference]:
    """Differences in status (path `status`) and body. Bodies that are not JSON on both sides are
    compared as bytes (path `body`). Raises NotComparable."""
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
            found.append(Difference("body", "value", f"{len(ours)} bytes", f"{len(theirs)} bytes"))
        return found
    return found + diff_json(*documents, rules)


def field_paths(found: list[Difference]) -> tuple[str, ...]:
    """The paths once each, in order, with every index as `[*]`: fields, not places."""
    return tuple(dict.fromkeys(INDEX.sub("[*]", difference.path) for difference in found))


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
