"""How long the demo takes: its rate, its plans, and where the worker is killed. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aura.delivery.plan import Plan, Stage

FULL_RATE = 12.0
QUICK_RATE = 15.0
CRASH_STAGE = "50%"
QUICK_STAGES = ("shadow", "25%", "50%", "100%")
QUICK_SAMPLE = 12


@dataclass(frozen=True, slots=True)
class Script:
    """`rate` in requests per second; `calm` seconds of traffic before and between the rollouts;
    `limit` seconds that one rollout may take."""

    main: Plan
    canaries: tuple[Plan, ...]
    rate: float
    calm: float
    crash_stage: str = CRASH_STAGE
    limit: float = 150.0


def script_of(plans: tuple[Plan, ...], *, quick: bool) -> Script:
    """The plans as they are, or a shortened form of the first."""
    main, *canaries = plans
    if quick:
        return Script(shortened(main), tuple(canaries), QUICK_RATE, 0.5, limit=60.0)
    return Script(main, tuple(canaries), FULL_RATE, 1.5)


def shortened(plan: Plan) -> Plan:
    """The plan with fewer stages and less evidence.

    Without the hard limit on latency: among so few requests those that a killed worker held up
    would weigh more than they should. The statistical test stays as it is.
    """
    stages = tuple(_short(stage) for stage in plan.stages if stage.name in QUICK_STAGES)
    segments = max(1, sum(not stage.shadow for stage in stages))
    guards = tuple(
        replace(
            guard,
            segments=1 if guard.kind == "differences" else segments,
            min_sample=min(guard.min_sample, QUICK_SAMPLE),
            max_p95=None,
        )
        for guard in plan.guards
    )
    return replace(plan, stages=stages, guards=guards)


def _short(stage: Stage) -> Stage:
    requests = stage.min_requests if stage.name == CRASH_STAGE else QUICK_SAMPLE
    return replace(stage, min_requests=requests, min_time=0.5)
