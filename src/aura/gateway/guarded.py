"""What stands around a target: a span for each call, and a circuit breaker.

A request that the breaker does not let through fails with the code `breaker-open`: the gateway then
asks the baseline at once, or answers 503 with Retry-After. Its observation says what it was, a
request of that arm that failed: the arm was not able to serve it. So a guard sees an arm that is
down as down for as long as its breaker is open, and not as an arm without requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from aura.clock import Clock
from aura.engine.traces import Trace, current
from aura.engine.watch import Watch, doing
from aura.errors import BreakerOpen, RequestRefused, TargetFailed
from aura.gateway.headers import value
from aura.gateway.targets import Answer, Request, Target
from aura.resilience.breaker import Breaker, BreakerRules, Outcome, after, decide

_OWN_FAULT = frozenset({"unsafe-header"})  # what the request was refused for, not the target's


class GuardedTarget:
    """A target behind a breaker. `state` is its breaker's, for whoever shows it."""

    def __init__(self, inner: Target, rules: BreakerRules, clock: Clock) -> None:
        self.whole = inner.whole
        self.rules = rules
        self.state = Breaker()
        self._inner = inner
        self._clock = clock

    async def call(self, request: Request) -> Answer:
        """See `Target.call`. Raises BreakerOpen, too."""
        now = self._clock.monotonic()
        permit, self.state = decide(self.rules, self.state, now)
        if not permit.allowed:
            raise BreakerOpen(
                "it has failed too often of late and is not asked for a while",
                retry_after=permit.wait,
            )
        outcome: Outcome = "unknown"
        try:
            answer = await self._inner.call(request)
            seconds = self._clock.monotonic() - now
            outcome = self.rules.outcome(seconds, failed=answer.status >= 500)
        except RequestRefused:
            outcome = "ok"
            raise
        except TargetFailed as error:
            outcome = "unknown" if error.code in _OWN_FAULT else "failed"
            raise
        else:
            return answer
        finally:
            self.state = after(
                self.rules, self.state, permit, outcome, self._clock.monotonic(),
                jitter=random.random(),  # noqa: S311
            )  # fmt: skip

    async def close(self) -> None:
        await self._inner.close()


class TracedTarget:
    """A target whose calls are spans, and who is told which trace a request belongs to."""

    def __init__(self, name: str, inner: Target, watch: Callable[[], Watch | None]) -> None:
        self.whole = inner.whole
        self.inner = inner
        self._name = name
        self._watch = watch

    async def call(self, request: Request) -> Answer:
        """See `Target.call`."""
        with doing(self._watch(), "call", self._name, method=request.method):
            here = current.get()
            if here is None:
                return await self.inner.call(request)
            answer = await self.inner.call(_in_trace(request, here))
            here.answered(answer.status)
            return answer

    async def close(self) -> None:
        await self.inner.close()


def _in_trace(request: Request, here: Trace) -> Request:
    """The request with the context of this call."""
    context, state = here.traceparent.encode(), here.tracestate.encode()
    if value(request.headers, b"traceparent") == context:
        return request
    ours = (b"traceparent", b"tracestate")
    headers = [pair for pair in request.headers if pair[0] not in ours]
    headers.append((b"traceparent", context))
    if state:
        headers.append((b"tracestate", state))
    return replace(request, headers=tuple(headers))
