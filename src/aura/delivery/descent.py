"""The gradual way back: 75 -> 50 -> 25 -> 10 -> 0 %, with a look at each step. Pure.

    on_trip: gradual
    gradual: {steps: [75%, 50%, 25%, 10%], min_requests: 30, min_time: 1m, max_time: 10m}

Each step begins with no evidence: what led to it says nothing about how the candidate does with
less traffic. Then, whichever comes first:

  a hard limit is broken again                                  all traffic back, at once
  a test trips again                                            the next step
  the candidate is shown to be healthy, and has had             it is held there, and a person
  `min_requests` for `min_time`                                 says what to do
  `max_time` is over                                            the next step

**Healthy** is more than "nothing tripped", which little traffic is enough for. For the guards
`errors` and `latency` the null hypothesis is turned round: "at least the allowed rate of requests
fail (are late)". Against it runs the same e-process (`aura.stats.eprocess`, successes instead of
failures, null probability 1 - allowed), over the requests that were assigned since the step began.
A step begins at a stopping time and its evidence at 1, so Ville's inequality holds within the step
however often one looks: a candidate that is no better than allowed is taken for healthy with a
probability of at most alpha / steps, hence in a whole descent of at most alpha. It takes about 60
requests without a failure where 10 % are allowed, and 130 where 5 % are. When the baseline fails as
well, nothing is shown, and the way leads on down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from aura.delivery.guard import Guard, Judgement
from aura.errors import PlanError
from aura.stats.eprocess import as_evidence, log_evidence
from aura.stats.hashing import BUCKETS
from aura.yamlnodes import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """How a gradual rollback goes down. Weights 0.0 to 1.0, falling; times in seconds. Raises
    PlanError for steps that do not fall."""

    steps: tuple[float, ...] = (0.75, 0.5, 0.25, 0.1)
    min_requests: int = 30
    min_time: float = 60.0
    max_time: float = 600.0

    def __post_init__(self) -> None:
        if not self.steps:
            raise PlanError("a gradual rollback has no steps", hint="write `on_trip: rollback`")
        pairs = zip((1.0, *self.steps), (*self.steps, 0.0), strict=True)
        for higher, lower in pairs:
            if not higher > lower:
                raise PlanError(
                    f"the steps of the gradual rollback do not fall from {higher:.2%} to "
                    f"{lower:.2%}",
                    hint="write falling weights below 100%, such as [75%, 50%, 25%, 10%]; "
                    "0% comes by itself",
                )
        if any(round(step * BUCKETS) < 1 for step in self.steps):
            raise PlanError("a step is below 0.01%", hint="the finest step is 0.01%")
        if not self.max_time >= self.min_time >= 0:
            raise PlanError(
                f"max_time of the gradual rollback ({self.max_time:g} s) is shorter than its "
                f"min_time ({self.min_time:g} s)",
                hint="raise max_time or lower min_time",
            )

    def below(self, weight: float) -> int | None:
        """The index of the first step below that weight, None when only 0 is."""
        return next((n for n, step in enumerate(self.steps) if step < weight), None)


DESCENT = Descent()
"""When the plan says nothing else."""


class Counts(Protocol):
    """What one arm did, by request and by the first request of each unit."""

    requests: int
    failed: int
    late: int
    first_failed: int
    first_late: int
    units: set[str]


def health(guard: Guard, arm: Counts, steps: int) -> Judgement | None:
    """Whether the candidate is shown to be within the guard's allowed rate: `pass` or `not-enough`.

    None for guards that cannot show it (`differences`, `assignment`)."""
    if guard.kind not in ("errors", "latency"):
        return None
    if guard.per == "unit":
        bad = arm.first_failed if guard.kind == "errors" else arm.first_late
        total = len(arm.units)
    else:
        bad = arm.failed if guard.kind == "errors" else arm.late
        total = arm.requests
    allowed = guard.allowed_rate
    found = log_evidence(total - bad, bad, 1 - allowed)
    limit = steps / guard.alpha
    what = "failed" if guard.kind == "errors" else "were late"
    return Judgement(
        guard=guard.kind,
        verdict="pass" if found >= math.log(limit) else "not-enough",
        evidence=as_evidence(found),
        limit=limit,
        reason=f"{guard.kind}: {bad:,} of {total:,} {guard.per}s {what}, less than "
        f"{allowed * 100:.3g} % is to be shown (evidence {as_evidence(found):.3g}, "
        f"shown at {limit:,.0f})",
    )


def descent_of(node: Node) -> Descent:
    """The value of `gradual:`. Raises PlanError with file and line."""
    found = node.fields({"steps", "min_requests", "min_time", "max_time"})
    given: dict[str, object] = {}
    if "steps" in found:
        given["steps"] = tuple(each.percent() for each in found["steps"].items("a step"))
    if "min_requests" in found:
        given["min_requests"] = found["min_requests"].integer()
    for name in ("min_time", "max_time"):
        if name in found:
            given[name] = found[name].seconds()
    try:
        return Descent(**given)  # type: ignore[arg-type]
    except PlanError as error:
        found.get("steps", node).fail(error.message, error.hint)
